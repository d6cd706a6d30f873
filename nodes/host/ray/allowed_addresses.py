"""Which Ray clusters this server may connect to. The owner of the server decides that, never a workflow."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ....chords_core import InvalidInput
from ....chords_core.execution.ray.address import AUTO, LOCAL, canonical
from ..phrases import Phrase

VARIABLE = "CHORDS_RAY_ADDRESSES"
FILE = "chords/ray_addresses.txt"


def reason_against(address: str) -> Phrase | None:
    """Why this server does not use the cluster at this canonical address, or None if its owner allows it. A Ray that
    the server starts is allowed, and the cluster in the server's environment variable RAY_ADDRESS."""
    if address in (LOCAL, AUTO) or address in set(_allowed()):
        return None
    return Phrase(
        "the owner of this server has not allowed the Ray address {address}. To allow it, write it into the "
        "environment variable {variable} before ComfyUI starts (several with commas between), or on a line of "
        "{file} in ComfyUI's user folder",
        address=address,
        variable=VARIABLE,
        file=FILE,
    )


def _allowed() -> Iterator[str]:
    for text in _entries():
        try:
            yield canonical(text, VARIABLE)
        except InvalidInput as error:
            logging.getLogger("chords").warning("CHORDS: left out of the allowed Ray addresses: %s", error)


def _entries() -> Iterator[str]:
    yield from (text for text in os.environ.get(VARIABLE, "").split(",") if text.strip())
    try:
        lines = (Path(folder_paths.get_user_directory()) / FILE).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        logging.getLogger("chords").warning("CHORDS: %s in ComfyUI's user folder cannot be read: %s", FILE, error)
        return
    yield from (text for line in lines if (text := line.partition("#")[0]).strip())
