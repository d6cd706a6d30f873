"""Connects a method with a pool: keeps free lanes busy, reports, cancels, re-issues what a lost or slow lane had."""

from __future__ import annotations

import heapq
import math
import traceback
from collections.abc import Callable
from itertools import count
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..errors import Cancelled, InvalidInput, LaneFaulty, NonFiniteDenoised
from ..methods.events import Evaluated, Evaluation, Event, Hit, LaneBack, LaneLost, LaneSlow
from .lane_timeout import LaneWatchdog
from .pools import EvaluationResult, Pool, Waits

_SLOWER = 1.5  # times the fastest lane's seconds: from there on a lane gets work only when no other is idle
_POLL_SECONDS = 0.02  # how long a cancel may go unseen while every lane is busy
_STOP_SECONDS = 1.5  # that lanes have to stop after a cancel; one that is still at work then is given up


@runtime_checkable
class Method(Protocol):
    """A sampling method as a state machine; see `chords_core.methods.chords.Chords`.

    The items of a batch must not influence one another: what is NaN in one item stays in that item.
    """

    accepted: Hit | None

    def ready(self) -> list[Evaluation]: ...

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]: ...

    def accept_newest(self) -> list[Event]: ...


def drive(
    method: Method,
    pool: Pool,
    steps: int,
    on_event: Callable[[Event], None],
    cancelled: Callable[[], bool],
    newest_will_do: Callable[[], bool],
    watch: LaneWatchdog | None = None,
) -> int:
    """Run ``method`` on ``pool`` until it has accepted a hit. Returns the number of model calls that came back with
    a result.

    Once ``newest_will_do`` returns true, the run ends with the newest hit. ``on_event``, ``cancelled`` and
    ``newest_will_do`` are called in the calling thread only, the latter two after every evaluation and, while
    threads are busy, every 20 ms. Whatever is raised, no evaluation is under way any more when it
    reaches the caller, but one that hangs. A cancel, also one that comes while the run waits for its last lanes,
    gives them 1.5 s.

    A lane that is overdue by ``watch`` is slow: its evaluation waits for another lane too, and whichever answers first
    counts. If it answers late after all it gets work again; if it never does, the run ends without it.

    Items of a batch (dimension 0 of x, where it has two dimensions or more; otherwise x is one item) that come back
    with NaN or infinity, and had none before, are evaluated once more on another lane, if there is one. What that
    one gives counts, and a lane that was alone with its NaN is lost. Items that are NaN on both go on as they are.

    Raises:
        Cancelled: once ``cancelled`` returns true.
        InvalidInput: if the model returns anything but a tensor like x.
        NonFiniteDenoised: if no item of the batch is finite any more.
        BaseException: what a lane raised, at once if it is no Exception (a host's interrupt), also while the run
            waits for its last lanes; else when the last lane has failed: the first failure is the one raised.
    """
    run = _Run(method, pool, steps, on_event, cancelled, newest_will_do, watch or LaneWatchdog())
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


class _Job(NamedTuple):
    """A evaluation in the order of its urgency; the number keeps the heap from comparing evaluations."""

    depth: int
    core: int
    number: int
    evaluation: Evaluation


class _Run:
    """One run of a method on a pool: see `drive`."""

    def __init__(
        self,
        method: Method,
        pool: Pool,
        steps: int,
        on_event: Callable[[Event], None],
        cancelled: Callable[[], bool],
        newest_will_do: Callable[[], bool],
        watch: LaneWatchdog,
    ) -> None:
        self._method, self._pool, self._steps, self._watch = method, pool, steps, watch
        self._on_event, self._cancelled, self._newest_will_do = on_event, cancelled, newest_will_do
        self._numbers = count()
        self._waiting: list[_Job] = []
        self._idle = list(range(pool.lanes))
        self._under_way: dict[int, _Job] = {}  # by lane
        self._pace: dict[int, float] = {}  # seconds of each lane's quickest answer since it was slow
        self._slow: set[int] = set()  # lanes that are overdue and not back
        self._lost: set[int] = set()  # lanes that get no more work; one of them may still be at something
        self._answered: set[int] = set()  # numbers of jobs: one that a slow lane had may be answered twice
        self._doubted: dict[
            int, tuple[_Job, EvaluationResult]
        ] = {}  # by number: answers with NaN, for another lane to confirm
        self._first_failure: Exception | None = None
        self.evaluations = 0

    def go(self) -> None:
        """Until a hit is accepted."""
        events: list[Event] = []
        while True:
            self._check()
            for evaluation in self._method.ready():
                heapq.heappush(self._waiting, _Job(evaluation.depth, evaluation.core, next(self._numbers), evaluation))
            self._hand_out()
            for event in events:  # only now: what a listener does must not keep a lane waiting
                self._on_event(event)
            if self._method.accepted is not None:
                return
            if events := self._believed():
                continue
            assert self._under_way, "the method waits for an evaluation that it never asked for"
            self._check()  # a listener may have cancelled, or asked for the newest hit
            if self._newest_will_do() and (events := self._method.accept_newest()):
                continue
            # A lane is slow only if it has not answered: a listener may have kept us from taking what is there.
            outcome = self._pool.next(0.0 if self._watch.overdue() else _POLL_SECONDS)
            events = self._overdue() if outcome is None else self._came(outcome)

    def wind_down(self, hurried: bool) -> BaseException | None:
        """Wait for the lanes at work, but not for those that hang; ``hurried``, or once the run is cancelled, only for
        a moment. Returns a cancel that came meanwhile, or what a lane came back with that is no Exception."""
        interrupt: BaseException | None = None
        try:
            while not hurried and isinstance(self._pool, Waits) and self._watch.left() > 0:
                if self._pool.wait(min(_POLL_SECONDS, self._watch.left())):
                    break
                self._check()
        except BaseException as error:
            interrupt, hurried = error, True
        left = self._watch.left()
        for outcome in self._pool.settle(min(left, _STOP_SECONDS) if hurried else left):
            if outcome.error is None:
                self.evaluations += 1
            elif not isinstance(outcome.error, Exception) and isinstance(interrupt, Exception | None):
                interrupt = outcome.error
        return interrupt

    def _check(self) -> None:
        if self._cancelled():
            raise Cancelled("the run was cancelled")

    def _hand_out(self) -> None:
        """Give the idle lanes work, the most urgent first."""
        held: list[_Job] = []
        while self._idle and self._waiting and self._method.accepted is None:
            job = heapq.heappop(self._waiting)
            if job.number in self._answered:
                continue
            doubted = self._doubted.get(job.number)
            lanes = [lane for lane in self._idle if doubted is None or lane != doubted[1].lane]
            if not lanes:
                held.append(job)
                continue
            lane = _next_of(lanes, self._pace)
            self._idle.remove(lane)
            self._watch.begin(lane)
            self._pool.submit(lane, job.evaluation)
            self._under_way[lane] = job
        for job in held:
            heapq.heappush(self._waiting, job)

    def _overdue(self) -> list[Event]:
        """Have what the lanes that have become slow are at waiting for another lane, too."""
        events: list[Event] = []
        for lane, seconds in self._watch.slow():
            if lane not in self._lost:
                self._slow.add(lane)
                heapq.heappush(self._waiting, self._under_way[lane])
                events.append(LaneSlow(lane, seconds))
        return events

    def _came(self, outcome: EvaluationResult) -> list[Event]:
        lane, job = outcome.lane, self._under_way.pop(outcome.lane)
        late = self._watch.end(lane)
        self._slow.discard(lane)
        if outcome.error is not None and not isinstance(outcome.error, Exception):
            raise outcome.error
        if lane in self._lost:  # its evaluation was given to another lane when that was found out
            self.evaluations += outcome.error is None
            return []
        if isinstance(outcome.error, Exception):
            self._first_failure = self._first_failure or outcome.error
            self._lost.add(lane)
            if not self._others(lane, set()):
                raise self._first_failure
            _free(outcome.error)
            if late is None:  # else it waits for another lane already, or one is at it
                heapq.heappush(self._waiting, job)
            return [LaneLost(lane, outcome.error)]
        self.evaluations += 1
        self._idle.append(lane)
        self._pace[lane] = min(outcome.seconds, math.inf if late is not None else self._pace.get(lane, math.inf))
        events: list[Event] = [] if late is None else [LaneBack(lane, late)]
        return events if job.number in self._answered else events + self._answer(job, outcome)

    def _answer(self, job: _Job, outcome: EvaluationResult) -> list[Event]:
        """Take an answer, unless it has NaN or infinity that another lane can be asked about."""
        denoised = _checked(outcome)
        broken = _newly_broken(job.evaluation.x, denoised)
        if job.number in self._doubted:
            _, first = self._doubted.pop(job.number)
            return self._compared(job, first, outcome, denoised, broken)
        if broken is None:
            return self._take(job, outcome, denoised)
        self._doubted[job.number] = job, outcome
        at_work = self._under_way.keys() - self._slow - self._lost
        if all(self._under_way[lane].number != job.number for lane in at_work):
            heapq.heappush(self._waiting, job)
        return []

    def _believed(self) -> list[Event]:
        """Take an answer with NaN that no other lane will confirm: the others are lost, or hang."""
        for number, (job, outcome) in self._doubted.items():
            if not self._others(outcome.lane, self._slow):
                del self._doubted[number]
                return self._take(job, outcome, _checked(outcome))
        return []

    def _compared(
        self, job: _Job, first: EvaluationResult, second: EvaluationResult, denoised: Tensor, broken: Tensor | None
    ) -> list[Event]:
        """Take what two lanes gave, of each item what is finite, and lose a lane that was alone with its NaN."""
        before = _checked(first)
        was_broken = _newly_broken(job.evaluation.x, before)
        assert was_broken is not None
        if broken is None:
            broken = torch.zeros_like(was_broken)
        worse = broken & ~was_broken
        if bool(worse.any()):
            denoised = torch.where(worse.reshape(-1, *(1,) * (denoised.ndim - 1)), before, denoised)
        alone = {lane for lane, items in ((first.lane, was_broken & ~broken), (second.lane, worse)) if items.any()}
        events: list[Event] = []
        if len(alone) == 1 and (lane := alone.pop()) not in self._lost and self._others(lane, self._slow):
            events.append(self._lose(lane))
        return events + self._take(job, second, denoised)

    def _lose(self, lane: int) -> LaneLost:
        """Give a faulty lane no more work, and what it is at to another one."""
        self._lost.add(lane)
        if lane in self._idle:
            self._idle.remove(lane)
        elif lane in self._under_way and lane not in self._slow:
            heapq.heappush(self._waiting, self._under_way[lane])
        return LaneLost(lane, LaneFaulty(lane))

    def _others(self, lane: int, without: set[int]) -> set[int]:
        """The lanes but this one that may still answer."""
        return {*self._idle, *self._under_way} - self._lost - without - {lane}

    def _take(self, job: _Job, outcome: EvaluationResult, denoised: Tensor) -> list[Event]:
        evaluation = job.evaluation
        self._answered.add(job.number)
        if not _surely_finite(denoised) and not bool(_finite_items(denoised).any()):
            raise NonFiniteDenoised(evaluation.core, evaluation.index, self._steps, evaluation.sigma)
        evaluated = Evaluated(
            evaluation.core, evaluation.index, evaluation.depth, outcome.lane, outcome.seconds, evaluation.x, denoised
        )
        return [evaluated, *self._method.complete(evaluation, denoised)]


def _next_of(idle: list[int], pace: dict[int, float]) -> int:
    """The lane that has been idle longest of those that are not notably slower than the fastest of all."""
    limit = _SLOWER * min(pace.values(), default=0.0)
    fast = [lane for lane in idle if pace.get(lane, 0.0) <= limit]
    return fast[0] if fast else min(idle, key=lambda lane: pace[lane])


def _free(error: BaseException | None) -> None:
    """Let go of what the frames hold in which ``error`` was raised: on a device that ran out of memory, a lot."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _checked(outcome: EvaluationResult) -> Tensor:
    """What the model returned, if it is a tensor like x."""
    x, denoised = outcome.evaluation.x, outcome.denoised
    if not isinstance(denoised, Tensor):
        raise InvalidInput("denoise", f"must return a tensor, not {type(denoised).__name__}")
    if denoised.shape != x.shape:
        raise InvalidInput("denoise", f"returned shape {tuple(denoised.shape)} for x of shape {tuple(x.shape)}")
    if not torch.is_floating_point(denoised):
        raise InvalidInput("denoise", f"returned {denoised.dtype}; it must be floating point, as x is")
    if denoised.device != x.device:
        raise InvalidInput("denoise", f"returned a tensor on {denoised.device} for x on {x.device}")
    return denoised


def _newly_broken(x: Tensor, denoised: Tensor) -> Tensor | None:
    """Which items [B] of ``denoised`` have NaN or infinity while those of ``x`` have none; None if no item."""
    if _surely_finite(denoised):
        return None
    broken = _finite_items(x) & ~_finite_items(denoised)
    return broken if bool(broken.any()) else None


def _surely_finite(x: Tensor) -> bool:
    """A finite sum proves every element finite in one cheap pass; one that overflowed proves nothing."""
    return bool(torch.isfinite(x.sum()))


def _finite_items(x: Tensor) -> Tensor:
    """[B]: which items have neither NaN nor infinity."""
    return torch.isfinite(_items(x)).flatten(1).all(1)


def _items(x: Tensor) -> Tensor:
    """[B, ...]: the items of a batch are counted by dimension 0; with fewer than two dimensions it is one item."""
    return x if x.ndim > 1 else x.reshape(1, -1)
