"""Errors about arguments of the core, as errors about inputs of a node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ....chords_core import InvalidInput


@contextmanager
def renamed_inputs(**names: str) -> Iterator[None]:
    """Within, an `InvalidInput` about an argument names the node's input instead: ``argument="input"``."""
    try:
        yield
    except InvalidInput as error:
        if error.name not in names:
            raise
        raise error.renamed(names[error.name]) from error
