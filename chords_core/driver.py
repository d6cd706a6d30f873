"""Connects a method with a pool: keeps free lanes busy, reports, cancels, re-issues what a lost lane had."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Protocol

import torch
from torch import Tensor

from .errors import Cancelled, InvalidInput, NonFiniteDenoised
from .events import Evaluated, Event, Hit, LaneLost, Task
from .pools import Outcome, Pool

_POLL_SECONDS = 0.02  # how long a cancel may go unseen while every lane is busy


class Method(Protocol):
    """A sampling method as a state machine; see `chords_core.chords.Chords`."""

    accepted: Hit | None

    def ready(self) -> list[Task]: ...

    def complete(self, task: Task, denoised: Tensor) -> list[Event]: ...

    def accept_newest(self) -> list[Event]: ...


def drive(
    method: Method,
    pool: Pool,
    steps: int,
    on_event: Callable[[Event], None],
    cancelled: Callable[[], bool],
    newest_will_do: Callable[[], bool],
) -> int:
    """Run ``method`` on ``pool`` until it has accepted a hit. Returns the number of model calls made.

    Once ``newest_will_do`` returns true, the run ends with the newest hit. ``on_event``, ``cancelled`` and
    ``newest_will_do`` are called in the calling thread only, the latter two after every evaluation and, while
    threads are busy, every 20 ms. Whatever is raised, no evaluation is under way any more when it
    reaches the caller.

    Raises:
        Cancelled: once ``cancelled`` returns true.
        InvalidInput: if the model returns another shape than x's.
        NonFiniteDenoised: if it returns NaN or infinity.
        BaseException: what a lane raised, at once if it is no Exception (a host's interrupt), else when
            the last lane has failed: the first failure is the one raised.
    """
    ticket = count()  # keeps the heap from comparing tasks
    waiting: list[tuple[int, int, int, Task]] = []
    idle = list(range(pool.lanes))
    lanes_left = pool.lanes
    first_failure: Exception | None = None
    evaluations = 0
    events: list[Event] = []
    try:
        while True:
            _check(cancelled)
            for task in method.ready():
                heapq.heappush(waiting, (task.depth, task.core, next(ticket), task))
            while idle and waiting and method.accepted is None:
                pool.submit(idle.pop(0), heapq.heappop(waiting)[-1])
            for event in events:  # only now: what a listener does must not keep a lane waiting
                on_event(event)
            if method.accepted is not None:
                break
            assert len(idle) < lanes_left, "the method waits for an evaluation that it never asked for"
            _check(cancelled)  # a listener may have cancelled, or asked for the newest hit
            if newest_will_do() and (events := method.accept_newest()):
                continue
            outcome = pool.next(_POLL_SECONDS)
            if outcome is None:
                events = []
            elif isinstance(outcome.error, Exception):
                first_failure = first_failure or outcome.error
                lanes_left -= 1
                if lanes_left == 0:
                    raise first_failure
                task = outcome.task
                heapq.heappush(waiting, (task.depth, task.core, next(ticket), task))
                events = [LaneLost(outcome.lane, outcome.error)]
            else:
                evaluations += 1
                idle.append(outcome.lane)
                events = _take(method, outcome, steps)
    except BaseException:
        pool.settle()
        raise
    return evaluations + pool.settle()


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("the run was cancelled")


def _take(method: Method, outcome: Outcome, steps: int) -> list[Event]:
    if outcome.error is not None:
        raise outcome.error
    task, denoised = outcome.task, outcome.denoised
    assert denoised is not None
    if denoised.shape != task.x.shape:
        raise InvalidInput("denoise", f"returned shape {tuple(denoised.shape)} for x of shape {tuple(task.x.shape)}")
    # A finite sum proves every element finite in one cheap pass; one that overflowed proves nothing.
    if not torch.isfinite(denoised.sum()) and not torch.isfinite(denoised).all():
        raise NonFiniteDenoised(task.core, task.index, steps, task.sigma)
    evaluated = Evaluated(task.core, task.index, task.depth, outcome.lane, outcome.seconds, task.x, denoised)
    return [evaluated, *method.complete(task, denoised)]
