"""A cancel of the prompt. The host tells it to the first thread that asks, and forgets it then; here it stays until the
next prompt begins, so that every thread at work for the prompt hears of it, and none can lose it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from comfy.model_management import (
    InterruptProcessingException,
    interrupt_current_processing,
    processing_interrupted,
)


def check_interrupt() -> bool:
    """Raise the host's interrupt if the prompt is cancelled, and leave it for the other threads; else false."""
    if processing_interrupted():
        raise InterruptProcessingException
    return False


@contextmanager
def passed_on() -> Iterator[None]:
    """For the work of a thread of ours: an interrupt that the host raises in it is left for the other threads."""
    try:
        yield
    except InterruptProcessingException:
        interrupt_current_processing()
        raise
