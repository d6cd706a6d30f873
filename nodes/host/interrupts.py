"""A cancel of the prompt, for several threads.

The host tells a cancel to the first thread that asks, and then forgets it. Here the cancel stays until the next prompt
begins, so that every thread that works for the prompt sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from comfy.model_management import (
    InterruptProcessingException,
    interrupt_current_processing,
    processing_interrupted,
)


def check_interrupt() -> bool:
    """Raise the host's interrupt if the prompt is cancelled, and keep it for the other threads; otherwise False."""
    if processing_interrupted():
        raise InterruptProcessingException
    return False


@contextmanager
def passed_on() -> Iterator[None]:
    """For work in a thread of ours: an interrupt that the host raises there is kept for the other threads."""
    try:
        yield
    except InterruptProcessingException:
        interrupt_current_processing()
        raise
