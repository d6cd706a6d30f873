"""State that the host keeps for each thread, ended by our own threads.

Newer hosts keep memory for the thread that calls a model, by the thread's id, and let go of it at the end of a node, in
the host's main thread. Nobody would do that for threads of ours: the memory would stay in use, and a later thread with
the same id would get what belongs to a dead one.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_MODULE = "comfy.model_prefetch"
_OF_THREAD = "cleanup_malloc_graph"
_OF_QUEUES = "cleanup_prefetch_queues"
_QUEUES = "PREFETCH_QUEUES"

_log = logging.getLogger("chords")


def end_thread_state() -> None:
    """Let go of what the host keeps for the calling thread, where it keeps anything. It never raises."""
    module = sys.modules.get(_MODULE)
    _call(module, _OF_THREAD)
    if not isinstance(getattr(module, _QUEUES, None), list):  # a list is of all threads, of which others may be at work
        _call(module, _OF_QUEUES)


def end_process_state() -> None:
    """The same for a process with a single thread that calls models, such as that of a Ray worker. There nobody else
    ends anything."""
    module = sys.modules.get(_MODULE)
    for name in (_OF_THREAD, _OF_QUEUES):
        _call(module, name)


@contextmanager
def ended_on_failure() -> Iterator[None]:
    """For one call in a thread that lives on: a call that fails or is cancelled leaves nothing."""
    try:
        yield
    except BaseException:
        end_thread_state()
        raise


@contextmanager
def thread_life() -> Iterator[None]:
    """The whole life of a thread of ours: it begins without the state of a dead thread, and leaves none."""
    end_thread_state()
    try:
        yield
    finally:
        end_thread_state()


def _call(module: Any, name: str) -> None:
    function: Callable[[], object] | None = getattr(module, name, None)
    if function is None:
        return
    try:
        function()
    except BaseException as error:  # the run does not depend on it
        _tell(name, f"{type(error).__name__}: {error}")


@functools.cache
def _tell(name: str, problem: str) -> None:
    _log.warning("CHORDS: the host could not end what it keeps for a thread (%s: %s)", name, problem)
