"""Connects a method with a pool: gives work to idle lanes, reports events, and replaces lanes that fail or are slow."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from torch import Tensor

from .._types import Method, Pool
from ..errors import Cancelled, LaneFaulty, NonFiniteDenoised
from ..methods.accept import OnDemand
from ..methods.events import Evaluated, Evaluation, Event, LaneBack, LaneLost, LaneSlow
from .lane_timeout import LaneWatchdog
from .nonfinite import check_denoised, has_finite_item, merge, newly_nonfinite
from .pools import EvaluationResult, Waits, clear_frames

_SLOW_FACTOR = 1.5  # a lane that takes this many times the fastest lane's seconds gets work only if no other is idle
_POLL_SECONDS = 0.02  # between two checks for a cancel while every lane is busy
_STOP_SECONDS = 1.5  # that lanes have to stop after a cancel; a lane that is still at work then is given up


def drive(
    method: Method,
    pool: Pool,
    steps: int | None = None,
    *,
    on_event: Callable[[Event], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    on_demand: OnDemand | None = None,
    watchdog: LaneWatchdog | None = None,
) -> int:
    """Run ``method`` on ``pool`` until it has accepted a hit.

    A lane that raises an Exception gets no more work, and its evaluation goes to another lane. A lane that
    ``watchdog`` finds overdue is slow: another lane gets its evaluation too, and the first answer counts. A slow lane
    that answers gets work again. The run does not wait for slow lanes at its end.

    An item of a batch that comes back with NaN or infinity, and had none before, is evaluated once more on another
    lane, if there is one. If the second answer is finite it counts, and the first lane is lost. An item that is not
    finite in both answers goes on as it is. See `chords_core.execution.nonfinite` for what an item is.

    Whatever is raised, no evaluation is under way when it reaches the caller, except on lanes that hang. After a
    cancel the lanes have 1.5 s to stop; this is so too for a cancel while the run waits for its last lanes.

    Args:
        method: the state machine; it is used up.
        pool: where evaluations run.
        steps: the number of steps, for error messages only.
        on_event: called with each event, in this thread.
        cancel: ends the run once it returns true or raises. Called in this thread after every evaluation, and every
            20 ms while all lanes are busy.
        on_demand: asked, as often as ``cancel``, whether the run is to end with a hit. The method itself has the
            rule for what happens otherwise.
        watchdog: decides when a lane is slow; None: one with the usual `LaneTimeouts`.

    Returns:
        The number of model calls that came back with a result.

    Raises:
        Cancelled: once ``cancel`` returns true.
        InvalidInput: if the model returns anything but a tensor like x.
        NonFiniteDenoised: if no item of the batch is finite any more.
        Exception: the first failure of a lane, when the last lane has failed.
        BaseException: what a lane raised, at once, if it is no Exception (a host's interrupt, for example), also
            while the run waits for its last lanes.
    """
    listener, cancelled = on_event or _ignore, cancel or _never
    run = _Run(method, pool, steps, listener, cancelled, on_demand, watchdog or LaneWatchdog())
    try:
        run.go()
    except BaseException as error:
        interrupt = run.wind_down(hurried=isinstance(error, Cancelled) or not isinstance(error, Exception))
        if isinstance(error, Exception) and not isinstance(interrupt, Exception | None):
            raise interrupt from error
        raise
    interrupt = run.wind_down(hurried=False)
    if interrupt is not None:
        raise interrupt
    return run.evaluations


def _ignore(event: Event) -> None:
    pass


def _never() -> bool:
    return False


class _Job(NamedTuple):
    """An evaluation in the order of its urgency. The number keeps the heap from comparing evaluations."""

    depth: int
    core: int
    number: int
    evaluation: Evaluation


@dataclass(frozen=True, eq=False)
class _Unconfirmed:
    """An answer with NaN or infinity that another lane has to confirm."""

    job: _Job
    result: EvaluationResult
    denoised: Tensor


class _Run:
    """One run of a method on a pool: see `drive`."""

    def __init__(
        self,
        method: Method,
        pool: Pool,
        steps: int | None,
        on_event: Callable[[Event], None],
        cancelled: Callable[[], bool],
        on_demand: OnDemand | None,
        watchdog: LaneWatchdog,
    ) -> None:
        self._method, self._pool, self._steps, self._watchdog = method, pool, steps, watchdog
        self._on_event, self._cancelled, self._on_demand = on_event, cancelled, on_demand
        self._numbers = count()
        self._waiting: list[_Job] = []
        self._idle = list(range(pool.lanes))
        self._under_way: dict[int, _Job] = {}  # by lane
        self._seconds: dict[int, float] = {}  # of each lane's fastest answer since it was slow
        self._slow: set[int] = set()  # lanes that are overdue and have not answered
        self._lost: set[int] = set()  # lanes that get no more work; one of them may still be at work
        self._answered: set[int] = set()  # numbers of jobs: a slow lane's job may be answered twice
        self._unconfirmed: dict[int, _Unconfirmed] = {}  # by the number of the job
        self._first_failure: Exception | None = None
        self.evaluations = 0

    def go(self) -> None:
        """Run until a hit is accepted."""
        events: list[Event] = []
        while True:
            self._check_cancel()
            for evaluation in self._method.ready():
                heapq.heappush(self._waiting, _Job(evaluation.depth, evaluation.core, next(self._numbers), evaluation))
            self._submit_waiting()
            for event in events:  # after the lanes have work, so that a listener does not keep them waiting
                self._on_event(event)
            if self._method.accepted is not None:
                return
            if events := self._take_unconfirmable():
                continue
            assert self._under_way, "the method waits for an evaluation that it never asked for"
            self._check_cancel()  # a listener may have cancelled, or asked for a hit
            if events := self._take_asked():
                continue
            # A lane is slow only if its answer is not there. A listener may have delayed us, so take answers first.
            result = self._pool.next(0.0 if self._watchdog.overdue() else _POLL_SECONDS)
            events = self._repeat_overdue() if result is None else self._receive(result)

    def wind_down(self, hurried: bool) -> BaseException | None:
        """Wait for the lanes that are at work, but not for slow ones; if ``hurried``, or after a cancel, wait only for
        `_STOP_SECONDS`.

        Returns:
            A cancel that came meanwhile, or what a lane raised that is no Exception; else None.
        """
        interrupt: BaseException | None = None
        try:
            while not hurried and isinstance(self._pool, Waits) and self._watchdog.left() > 0:
                if self._pool.wait(min(_POLL_SECONDS, self._watchdog.left())):
                    break
                self._check_cancel()
        except BaseException as error:
            interrupt, hurried = error, True
        left = self._watchdog.left()
        for result in self._pool.settle(min(left, _STOP_SECONDS) if hurried else left):
            if result.error is None:
                self.evaluations += 1
            elif not isinstance(result.error, Exception) and isinstance(interrupt, Exception | None):
                interrupt = result.error
        return interrupt

    def _take_asked(self) -> list[Event]:
        """End the run with the hit that is asked for, if one is and it is there."""
        asked = self._on_demand
        return self._method.accept_hit(asked.index()) if asked is not None and asked.asked() else []

    def _check_cancel(self) -> None:
        if self._cancelled():
            raise Cancelled("the run was cancelled")

    def _submit_waiting(self) -> None:
        """Give work to the idle lanes, the most urgent evaluation first."""
        held: list[_Job] = []
        while self._idle and self._waiting and self._method.accepted is None:
            job = heapq.heappop(self._waiting)
            if job.number in self._answered:
                continue
            unconfirmed = self._unconfirmed.get(job.number)
            lanes = [lane for lane in self._idle if unconfirmed is None or lane != unconfirmed.result.lane]
            if not lanes:
                held.append(job)
                continue
            lane = _choose_lane(lanes, self._seconds)
            self._idle.remove(lane)
            self._watchdog.begin(lane)
            self._pool.submit(lane, job.evaluation)
            self._under_way[lane] = job
        for job in held:
            heapq.heappush(self._waiting, job)

    def _repeat_overdue(self) -> list[Event]:
        """Give the evaluations of lanes that have become slow to other lanes too."""
        events: list[Event] = []
        for lane, seconds in self._watchdog.slow():
            if lane not in self._lost:
                self._slow.add(lane)
                heapq.heappush(self._waiting, self._under_way[lane])
                events.append(LaneSlow(lane, seconds))
        return events

    def _receive(self, result: EvaluationResult) -> list[Event]:
        """Take what a lane came back with, an answer or an error."""
        lane, job = result.lane, self._under_way.pop(result.lane)
        late = self._watchdog.end(lane)
        self._slow.discard(lane)
        if result.error is not None and not isinstance(result.error, Exception):
            raise result.error
        if lane in self._lost:  # another lane got its evaluation when the lane was lost
            self.evaluations += result.error is None
            return []
        if isinstance(result.error, Exception):
            return [self._lose_failed(lane, job, result.error, late)]
        self.evaluations += 1
        self._idle.append(lane)
        fastest = math.inf if late is not None else self._seconds.get(lane, math.inf)
        self._seconds[lane] = min(result.seconds, fastest)
        events: list[Event] = [] if late is None else [LaneBack(lane, late)]
        return events if job.number in self._answered else events + self._take_or_confirm(job, result)

    def _lose_failed(self, lane: int, job: _Job, error: Exception, late: float | None) -> LaneLost:
        """Give a lane that raised no more work, and its evaluation to another lane.

        Raises:
            Exception: the first failure, if this was the last lane.
        """
        self._first_failure = self._first_failure or error
        self._lost.add(lane)
        if not self._others(lane, set()):
            raise self._first_failure
        clear_frames(error)
        if late is None:  # a slow lane's evaluation waits for another lane already, or is at work there
            heapq.heappush(self._waiting, job)
        return LaneLost(lane, error)

    def _take_or_confirm(self, job: _Job, result: EvaluationResult) -> list[Event]:
        """Take an answer; if it has NaN or infinity and there is another lane, ask that lane first."""
        denoised = check_denoised(job.evaluation.x, result.denoised)
        if (first := self._unconfirmed.pop(job.number, None)) is not None:
            return self._take_both(first, result, denoised)
        if newly_nonfinite(job.evaluation.x, denoised) is None:
            return self._take(job, result, denoised)
        self._unconfirmed[job.number] = _Unconfirmed(job, result, denoised)
        at_work = self._under_way.keys() - self._slow - self._lost
        if all(self._under_way[lane].number != job.number for lane in at_work):
            heapq.heappush(self._waiting, job)
        return []

    def _take_unconfirmable(self) -> list[Event]:
        """Take an answer with NaN or infinity that no other lane can confirm: they are lost, or hang."""
        for number, answer in self._unconfirmed.items():
            if not self._others(answer.result.lane, self._slow):
                del self._unconfirmed[number]
                return self._take(answer.job, answer.result, answer.denoised)
        return []

    def _take_both(self, first: _Unconfirmed, second: EvaluationResult, denoised: Tensor) -> list[Event]:
        """Take the finite items of two lanes' answers. A lane is lost if it alone gave NaN or infinity."""
        merged = merge(first.job.evaluation.x, first.denoised, denoised)
        events: list[Event] = []
        if merged.first_alone != merged.second_alone:
            lane = first.result.lane if merged.first_alone else second.lane
            if lane not in self._lost and self._others(lane, self._slow):
                events.append(self._lose_faulty(lane))
        return events + self._take(first.job, second, merged.denoised)

    def _lose_faulty(self, lane: int) -> LaneLost:
        """Give a faulty lane no more work, and the evaluation that it is at to another lane."""
        self._lost.add(lane)
        if lane in self._idle:
            self._idle.remove(lane)
        elif lane in self._under_way and lane not in self._slow:
            heapq.heappush(self._waiting, self._under_way[lane])
        return LaneLost(lane, LaneFaulty(lane))

    def _others(self, lane: int, without: set[int]) -> set[int]:
        """The other lanes that may still answer."""
        return {*self._idle, *self._under_way} - self._lost - without - {lane}

    def _take(self, job: _Job, result: EvaluationResult, denoised: Tensor) -> list[Event]:
        """Give an answer to the method."""
        evaluation = job.evaluation
        self._answered.add(job.number)
        if not has_finite_item(denoised):
            raise NonFiniteDenoised(evaluation.core, evaluation.index, self._steps, evaluation.sigma)
        evaluated = Evaluated(
            evaluation.core, evaluation.index, evaluation.depth, result.lane, result.seconds, evaluation.x, denoised
        )
        return [evaluated, *self._method.complete(evaluation, denoised)]


def _choose_lane(idle: list[int], seconds: dict[int, float]) -> int:
    """Of the lanes that are not much slower than the fastest of all, the one that has been idle the longest.

    ``seconds``: of each lane's fastest answer.
    """
    limit = _SLOW_FACTOR * min(seconds.values(), default=0.0)
    fast = [lane for lane in idle if seconds.get(lane, 0.0) <= limit]
    return fast[0] if fast else min(idle, key=lambda lane: seconds[lane])
