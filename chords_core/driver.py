"""Connects a method with a pool: keeps free lanes busy, reports, cancels, re-issues what a lost or slow lane had."""

from __future__ import annotations

import heapq
import math
import traceback
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import Cancelled, InvalidInput, NonFiniteDenoised
from .events import Evaluated, Event, Hit, LaneBack, LaneLost, LaneSlow, Task
from .patience import Watch
from .pools import Outcome, Pool

_SLOWER = 1.5  # times the fastest lane's seconds: from there on a lane gets work only when no other is idle
_POLL_SECONDS = 0.02  # how long a cancel may go unseen while every lane is busy


class Method(Protocol):
    """A sampling method as a state machine; see `chords_core.chords.Chords`."""

    accepted: Hit | None

    def ready(self) -> list[Task]: ...

    def complete(self, task: Task, denoised: Tensor) -> list[Event]: ...

    def accept_newest(self) -> list[Event]: ...


class _Job(NamedTuple):
    """A task in the order of its urgency; the number keeps the heap from comparing tasks."""

    depth: int
    core: int
    number: int
    task: Task


def drive(
    method: Method,
    pool: Pool,
    steps: int,
    on_event: Callable[[Event], None],
    cancelled: Callable[[], bool],
    newest_will_do: Callable[[], bool],
    watch: Watch | None = None,
) -> int:
    """Run ``method`` on ``pool`` until it has accepted a hit. Returns the number of model calls that came back with
    a result.

    Once ``newest_will_do`` returns true, the run ends with the newest hit. ``on_event``, ``cancelled`` and
    ``newest_will_do`` are called in the calling thread only, the latter two after every evaluation and, while
    threads are busy, every 20 ms. Whatever is raised, no evaluation is under way any more when it
    reaches the caller, but one that hangs.

    A lane that is overdue by ``watch`` is slow: its evaluation waits for another lane too, and whichever answers first
    counts. If it answers late after all it gets work again; if it never does, the run ends without it.

    Raises:
        Cancelled: once ``cancelled`` returns true.
        InvalidInput: if the model returns another shape than x's.
        NonFiniteDenoised: if it returns NaN or infinity.
        BaseException: what a lane raised, at once if it is no Exception (a host's interrupt), else when
            the last lane has failed: the first failure is the one raised.
    """
    watch = watch or Watch()
    numbers = count()
    waiting: list[_Job] = []
    idle = list(range(pool.lanes))
    under_way: dict[int, _Job] = {}  # by lane
    pace: dict[int, float] = {}  # seconds of each lane's quickest answer since it was slow
    answered: set[int] = set()  # numbers of jobs: one that a slow lane had may be answered twice
    first_failure: Exception | None = None
    evaluations = 0
    events: list[Event] = []
    try:
        while True:
            _check(cancelled)
            for task in method.ready():
                heapq.heappush(waiting, _Job(task.depth, task.core, next(numbers), task))
            while idle and waiting and method.accepted is None:
                job = heapq.heappop(waiting)
                if job.number not in answered:
                    lane = _next_of(idle, pace)
                    idle.remove(lane)
                    watch.begin(lane)
                    pool.submit(lane, job.task)
                    under_way[lane] = job
            for event in events:  # only now: what a listener does must not keep a lane waiting
                on_event(event)
            if method.accepted is not None:
                break
            assert under_way, "the method waits for an evaluation that it never asked for"
            _check(cancelled)  # a listener may have cancelled, or asked for the newest hit
            if newest_will_do() and (events := method.accept_newest()):
                continue
            # A lane is slow only if it has not answered: a listener may have kept us from taking what is there.
            outcome = pool.next(0.0 if watch.overdue() else _POLL_SECONDS)
            if outcome is None:
                slow = watch.slow()
                for lane, _ in slow:
                    heapq.heappush(waiting, under_way[lane])
                events = [LaneSlow(lane, seconds) for lane, seconds in slow]
                continue
            lane, job = outcome.lane, under_way.pop(outcome.lane)
            late = watch.end(lane)
            if isinstance(outcome.error, Exception):
                first_failure = first_failure or outcome.error
                if not idle and not under_way:
                    raise first_failure
                _free(outcome.error)
                if late is None:  # else it waits for another lane already, or one is at it
                    heapq.heappush(waiting, job)
                events = [LaneLost(lane, outcome.error)]
            elif outcome.error is not None:
                raise outcome.error
            else:
                evaluations += 1
                idle.append(lane)
                pace[lane] = min(outcome.seconds, math.inf if late is not None else pace.get(lane, math.inf))
                events = [] if late is None else [LaneBack(lane, late)]
                if job.number not in answered:
                    answered.add(job.number)
                    events += _take(method, outcome, steps)
    except BaseException:
        pool.settle(watch.left())
        raise
    return evaluations + pool.settle(watch.left())


def _next_of(idle: list[int], pace: dict[int, float]) -> int:
    """The lane that has been idle longest of those that are not notably slower than the fastest of all."""
    limit = _SLOWER * min(pace.values(), default=0.0)
    fast = [lane for lane in idle if pace.get(lane, 0.0) <= limit]
    return fast[0] if fast else min(idle, key=lambda lane: pace[lane])


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("the run was cancelled")


def _free(error: BaseException | None) -> None:
    """Let go of what the frames hold in which ``error`` was raised: on a device that ran out of memory, a lot."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _take(method: Method, outcome: Outcome, steps: int) -> list[Event]:
    task, denoised = outcome.task, outcome.denoised
    assert denoised is not None
    if denoised.shape != task.x.shape:
        raise InvalidInput("denoise", f"returned shape {tuple(denoised.shape)} for x of shape {tuple(task.x.shape)}")
    # A finite sum proves every element finite in one cheap pass; one that overflowed proves nothing.
    if not torch.isfinite(denoised.sum()) and not torch.isfinite(denoised).all():
        raise NonFiniteDenoised(task.core, task.index, steps, task.sigma)
    evaluated = Evaluated(task.core, task.index, task.depth, outcome.lane, outcome.seconds, task.x, denoised)
    return [evaluated, *method.complete(task, denoised)]
