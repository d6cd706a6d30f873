"""Lanes that raise, run out of memory, die or hang: the run completes with the same bits, and nothing is left over."""

from __future__ import annotations

import gc
import heapq
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import (
    Accepted,
    Cancelled,
    Evaluated,
    Evaluation,
    EvaluationResult,
    Event,
    LaneBack,
    LaneFaulty,
    LaneLost,
    LaneSlow,
    LaneStuck,
    LaneTimeouts,
    Recorder,
    Result,
    ThreadPool,
    hit_depth,
    lattice_starts,
    sample,
)
from chords_core.execution.driver import drive
from chords_core.execution.lane_timeout import LaneWatchdog
from chords_core.methods.accept import check_accept
from chords_core.methods.chords import Chords
from chords_core.solvers import SOLVERS
from tests.core.problems import geometric, noise, nonlinear

STEPS = 20
X, SIGMAS = noise(6, scale=10.0), geometric(STEPS)
KINDS = ["raise", "oom", "die", "hang"]
HASTE = LaneTimeouts(floor=0.03, factor=3.0, first=0.03)
"""So short that on a busy machine sound lanes are taken for slow now and then: that must do no harm either."""

WATCHDOG_SECONDS = 120  # far more than any run here takes


def rounds(cores: int, accept: int = 1) -> range:
    return range(1, hit_depth(STEPS, lattice_starts(STEPS, cores), cores - accept + 1) + 1)


@pytest.fixture(autouse=True)
def _nothing_is_left_over() -> Iterator[None]:
    """No lane's thread, and no frozen test."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(WATCHDOG_SECONDS)
    assert set(threading.enumerate()) <= before


@contextmanager
def watchdog(release: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Gives a ``cancel`` that ends a run which hangs, and calls ``release`` in any case."""
    end = time.monotonic() + WATCHDOG_SECONDS
    try:
        yield lambda: time.monotonic() > end
    finally:
        release()


def assert_same(result: Result, expected: Result) -> None:
    """The same hits and depth, bit for bit; calls may have been made twice."""
    assert result.depth == expected.depth
    assert [(hit.core, hit.depth) for hit in result.hits] == [(hit.core, hit.depth) for hit in expected.hits]
    assert all(torch.equal(hit.x, other.x) for hit, other in zip(result.hits, expected.hits, strict=True))
    assert torch.equal(result.x, expected.x)


def assert_told_once(events: list[Event]) -> None:
    """Whatever the lanes do, each evaluation is told once, and the end comes last."""
    evaluated = [(event.core, event.index) for event in events if isinstance(event, Evaluated)]
    assert len(evaluated) == len(set(evaluated))
    assert isinstance(events[-1], Accepted)
    gone: set[int] = set()
    for event in events:  # a lane that is gone does nothing before it is back
        if isinstance(event, LaneSlow | LaneLost):
            gone.add(event.lane)
        elif isinstance(event, LaneBack):
            assert event.lane in gone
            gone.remove(event.lane)
        elif isinstance(event, Evaluated):
            assert event.lane not in gone


class OutOfMemory(RuntimeError):
    """As torch's."""


class Faulty(ThreadPool):
    """Lanes of which ``victims`` fail: those that get the first evaluations of round ``depth`` or a later one."""

    def __init__(self, lanes: int, kind: str, depth: int, victims: int) -> None:
        self.release = threading.Event()
        self.failed: dict[int, str] = {}
        self._kind, self._depth, self._victims = kind, depth, victims
        super().__init__([self._denoiser(lane) for lane in range(lanes)])

    def _denoiser(self, lane: int) -> Callable[[Tensor, float], Tensor]:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            kind = self.failed.get(lane)
            if kind == "raise":
                raise RuntimeError("broken on purpose")
            if kind == "oom":
                raise OutOfMemory("Tried to allocate more than there is")
            if kind == "hang":
                assert self.release.wait(2 * WATCHDOG_SECONDS)
            return nonlinear(x, sigma)

        return denoise

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        if evaluation.depth >= self._depth and len(self.failed) < self._victims:
            self.failed.setdefault(lane, self._kind)
        if self.failed.get(lane) == "die":  # the call is not even made
            self._busy.add(lane)
            self._outcomes.put(EvaluationResult(lane, evaluation, 0.0, error=ConnectionError("the process is gone")))
        else:
            super().submit(lane, evaluation)


EXPECTED = {cores: sample(nonlinear, X, SIGMAS, cores=cores) for cores in (1, 4, 8)}
EXACT = sample(nonlinear, X, SIGMAS, cores=4, accept="exact")

CASES = [
    pytest.param(cores, depth, kind, victims, id=f"K={cores}-round{depth}-{kind}-{victims}")
    for cores in (4, 8)
    for depth in rounds(cores)
    for kind in KINDS
    for victims in (1, 2)
]


@pytest.mark.parametrize(("cores", "depth", "kind", "victims"), CASES)
def test_any_fault_in_any_round(cores: int, depth: int, kind: str, victims: int) -> None:
    """One lane, then two, in every round: the same bits, and an event for each lane."""
    events: list[Event] = []
    with Faulty(cores, kind, depth, victims) as pool, watchdog(pool.release.set) as cancel:
        timeouts = HASTE if kind == "hang" else None  # a lane that is taken for slow may fail after the end, unheard
        result = sample(
            None, X, SIGMAS, cores=cores, pool=pool, on_event=events.append, cancel=cancel, timeouts=timeouts
        )
        assert_same(result, EXPECTED[cores])
        assert_told_once(events)
        slow = {event.lane for event in events if isinstance(event, LaneSlow)}
        lost = {event.lane for event in events if isinstance(event, LaneLost)}
        assert lost == (set() if kind == "hang" else set(pool.failed))
        if kind == "hang":
            assert set(pool.failed) <= set(pool.hung)
            assert set(pool.failed) <= slow or slow - set(pool.failed)  # unless a sound lane came back late
        # In the last round there may be but one evaluation to make, and so, if it is not made twice, one victim.
        assert 1 <= len(pool.failed) <= victims
        assert len(pool.failed) == victims or depth >= rounds(cores)[-1]


@pytest.mark.parametrize("depth", rounds(4, accept=4))
@pytest.mark.parametrize("kind", KINDS)
def test_all_lanes_but_one(kind: str, depth: int) -> None:
    """The last lane finishes the run alone, to the exact result."""
    with Faulty(4, kind, depth, 3) as pool, watchdog(pool.release.set) as cancel:
        result = sample(None, X, SIGMAS, cores=4, accept="exact", pool=pool, cancel=cancel, timeouts=HASTE)
        assert_same(result, EXACT)


# --- lanes that hang


class Gate:
    """A model whose calls hang on lanes that are shut."""

    def __init__(self, lanes: int) -> None:
        self._open = [threading.Event() for _ in range(lanes)]
        self.denoisers = [self._denoiser(lane) for lane in range(lanes)]
        self.release()

    def _denoiser(self, lane: int) -> Callable[[Tensor, float], Tensor]:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            assert self._open[lane].wait(2 * WATCHDOG_SECONDS)
            return nonlinear(x, sigma)

        return denoise

    def shut(self, *lanes: int) -> None:
        for lane in lanes:
            self._open[lane].clear()

    def release(self, *lanes: int) -> None:
        for lane in lanes or range(len(self._open)):
            self._open[lane].set()


def test_the_last_lane_is_waited_for() -> None:
    """With no other lane a slow one is no failure: the run goes on when it answers."""
    gate, events = Gate(1), []

    def listener(event: Event) -> None:
        events.append(event)
        if isinstance(event, LaneSlow):
            gate.release()
        elif isinstance(event, Evaluated) and event.index in (1, 9):
            gate.shut(0)

    with ThreadPool(gate.denoisers) as pool, watchdog(gate.release) as cancel:
        result = sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener, cancel=cancel, timeouts=HASTE)
    assert_same(result, EXPECTED[4])
    assert_told_once(events)
    assert result.evaluations == EXPECTED[4].evaluations
    slow = [event for event in events if isinstance(event, LaneSlow | LaneBack)]
    assert len(slow) >= 2 and {event.lane for event in slow} == {0}


def test_slow_lanes_count_when_the_others_fail() -> None:
    """One lane hangs and the other fails: what is left is waited for."""
    gate, failed = Gate(2), threading.Event()
    gate.shut(0)

    def failing(x: Tensor, sigma: float) -> Tensor:
        failed.set()
        raise RuntimeError("broken on purpose")

    def listener(event: Event) -> None:
        if isinstance(event, LaneLost):
            gate.release()

    with ThreadPool([gate.denoisers[0], failing]) as pool, watchdog(gate.release) as cancel:
        result = sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener, cancel=cancel, timeouts=HASTE)
    assert_same(result, EXPECTED[4])
    assert failed.is_set()


def test_the_first_failure_is_raised_when_a_slow_lane_fails_last() -> None:
    """A lane that hung and then failed was the last one: the error is that of the first."""
    release = threading.Event()

    def hangs_and_fails(x: Tensor, sigma: float) -> Tensor:
        assert release.wait(2 * WATCHDOG_SECONDS)
        raise RuntimeError("second")

    def fails(x: Tensor, sigma: float) -> Tensor:
        raise RuntimeError("first")

    def listener(event: Event) -> None:
        if isinstance(event, LaneLost):
            release.set()

    with (
        ThreadPool([hangs_and_fails, fails]) as pool,
        watchdog(release.set) as cancel,
        pytest.raises(RuntimeError, match="first"),
    ):
        sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener, cancel=cancel, timeouts=HASTE)


@pytest.mark.parametrize("known_as_slow", [True, False])
def test_cancel_does_not_wait_for_a_lane_that_hangs(known_as_slow: bool) -> None:
    """Cancelling returns although a lane hangs: at once if that is known, else when it is overdue."""
    gate, cancel = Gate(2), threading.Event()
    gate.shut(1)

    def listener(event: Event) -> None:
        # Both lanes are at work when the first evaluation is told.
        if isinstance(event, Evaluated) and not known_as_slow or isinstance(event, LaneSlow) and event.lane == 1:
            cancel.set()

    with ThreadPool(gate.denoisers) as pool, watchdog(gate.release):
        with pytest.raises(Cancelled):
            sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener, cancel=cancel, timeouts=HASTE)
        assert 1 in pool.hung


def test_a_lane_that_hangs_is_out_of_use_until_it_is_back() -> None:
    """The next run on the pool loses the lane at once, for its model is in use; once back, it has work again. What
    it came back with goes nowhere."""
    gate = Gate(2)
    with ThreadPool(gate.denoisers) as pool, watchdog(gate.release) as cancel:
        gate.shut(1)
        assert_same(sample(None, X, SIGMAS, cores=4, pool=pool, cancel=cancel, timeouts=HASTE), EXPECTED[4])
        assert pool.hung == (1,)

        events: list[Event] = []
        result = sample(None, 2 * X, SIGMAS, cores=4, pool=pool, on_event=events.append, cancel=cancel)
        assert_same(result, sample(nonlinear, 2 * X, SIGMAS, cores=4))
        (lost,) = (event for event in events if isinstance(event, LaneLost))
        assert lost.lane == 1 and isinstance(lost.error, LaneStuck)

        gate.release()
        while pool.hung and not cancel():
            time.sleep(0.001)
        events.clear()
        assert_same(sample(None, X, SIGMAS, cores=4, pool=pool, on_event=events.append), EXPECTED[4])
        assert {event.lane for event in events if isinstance(event, Evaluated)} == {0, 1}
        assert not any(isinstance(event, LaneLost | LaneSlow) for event in events)


def test_a_pool_that_hangs_can_be_closed() -> None:
    """Closing does not wait for a lane that hangs, and its thread ends when the call returns."""
    gate = Gate(3)
    gate.shut(0, 2)
    pool = ThreadPool(gate.denoisers)
    with watchdog(gate.release) as cancel:
        assert_same(sample(None, X, SIGMAS, cores=4, pool=pool, cancel=cancel, timeouts=HASTE), EXPECTED[4])
        pool.close()
        assert pool.hung == (0, 2)
    while pool.hung and not cancel():
        time.sleep(0.001)
    assert pool.hung == ()


def test_what_a_lost_lane_held_is_freed() -> None:
    """A lane that runs out of memory must not keep its activations to the end of the run in the error's frames."""
    held: list[weakref.ref[Tensor]] = []

    def fails(x: Tensor, sigma: float) -> Tensor:
        try:
            activations = torch.zeros(4)
            held.append(weakref.ref(activations))
            raise OutOfMemory("first try")
        except OutOfMemory as error:
            raise RuntimeError("second try") from error

    def listener(event: Event) -> None:
        if isinstance(event, LaneLost):
            gc.collect()
            assert held and all(tensor() is None for tensor in held)
            assert "second try" in str(event.error) and event.error.__traceback__ is not None

    with ThreadPool([fails, nonlinear]) as pool:
        assert_same(sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener), EXPECTED[4])


def test_the_record_of_a_lane_that_was_slow() -> None:
    """While a lane is slow it is marked as lost, and no longer once it is back."""
    recorder = Recorder()
    recorder(LaneSlow(1, 20.123))
    recorder(LaneSlow(2, 30.0))
    assert [(mark.lane, mark.error) for mark in recorder.timeline().lost] == [
        (1, "no answer for 20.1 s"),
        (2, "no answer for 30 s"),
    ]
    recorder(LaneBack(1, 25.0))
    recorder(LaneLost(2, ValueError("broken")))
    assert [(mark.lane, mark.error) for mark in recorder.timeline().lost] == [(2, "ValueError: broken")]


# --- the rule


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def allowed(watch: LaneWatchdog, clock: Clock, lane: int) -> float:
    """The seconds after which ``lane`` would be slow; it does nothing before or after."""
    watch.begin(lane)
    left = watch.left()
    clock.now += left
    assert not watch.overdue() and watch.slow() == []
    clock.now += 1e-6
    assert watch.overdue()
    ((slow, seconds),) = watch.slow()
    assert slow == lane and seconds == pytest.approx(left)
    assert not watch.overdue() and watch.slow() == [] and watch.left() == 0
    clock.now -= left + 1e-6
    assert watch.end(lane) is not None
    return left


def took(watch: LaneWatchdog, clock: Clock, lane: int, seconds: float) -> float | None:
    watch.begin(lane)
    clock.now += seconds
    if watch.overdue():
        watch.slow()
    return watch.end(lane)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ([], 300.0),  # it may load or compile
        ([0.1], 20.0),  # jitter is no matter
        ([60.0], 600.0),  # the first counts for the second, lest a slow device be suspected
        ([60.0, 3.0], 30.0),  # and no more after that
        ([60.0, 3.0, 7.0, 1.0], 70.0),  # the slowest counts
        ([1.0, 1.0, 50.0], 100.0),  # it was late: twice as long next time
        ([1.0, 1.0, 50.0, 40.0], 400.0),  # in time by that: a device that has become slow
        ([400.0], 800.0),  # late already the first time
    ],
)
def test_a_lane_is_judged_by_its_own_times(times: list[float], seconds: float) -> None:
    clock = Clock()
    watch = LaneWatchdog(LaneTimeouts(), clock)
    for other in (0.01, 0.01, 9.0):  # another lane's times
        assert took(watch, clock, 1, other) is None
    for own in times:
        took(watch, clock, 0, own)
    assert allowed(watch, clock, 0) == pytest.approx(seconds)


def test_the_first_evaluation_has_more_time_where_all_are_slow() -> None:
    clock = Clock()
    watch = LaneWatchdog(LaneTimeouts(), clock)
    assert took(watch, clock, 1, 100.0) is None
    assert allowed(watch, clock, 0) == 1000.0


def test_what_is_left_is_the_longest() -> None:
    """Settling waits until the last of the lanes at work is overdue, but not for those that are."""
    clock = Clock()
    watch = LaneWatchdog(LaneTimeouts(), clock)
    assert watch.left() == 0
    took(watch, clock, 0, 1.0)
    watch.begin(0)
    watch.begin(1)
    clock.now += 50
    assert watch.slow() == [(0, 50.0)]
    assert watch.left() == 250
    clock.now += 1000
    assert watch.left() == 0


# --- any faults in any order, in a time of their own


class Imagined:
    """A pool whose lanes work in imagined time: a call takes what ``plan`` says, and may fail then, or never come."""

    def __init__(self, plans: list[list[tuple[str, float]]]) -> None:
        self.now = 0.0
        self._plans = [iter(plan) for plan in plans]
        self._coming: list[tuple[float, int, EvaluationResult]] = []
        self._numbers = count()
        self.busy: set[int] = set()
        self.submitted = 0

    @property
    def lanes(self) -> int:
        return len(self._plans)

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        assert lane not in self.busy, "the lane is at work"
        self.busy.add(lane)
        self.submitted += 1
        kind, seconds = next(self._plans[lane], ("answer", 0.1))
        if kind == "answer":
            outcome = EvaluationResult(lane, evaluation, seconds, nonlinear(evaluation.x, evaluation.sigma))
        elif kind == "nan":
            outcome = EvaluationResult(lane, evaluation, seconds, torch.full_like(evaluation.x, torch.nan))
        else:
            outcome = EvaluationResult(lane, evaluation, seconds, error=RuntimeError(kind))
        if kind != "hang":
            heapq.heappush(self._coming, (self.now + seconds, next(self._numbers), outcome))

    def next(self, timeout: float) -> EvaluationResult | None:
        if not self._coming or self._coming[0][0] > self.now + timeout:
            self.now += timeout
            return None
        at, _, outcome = heapq.heappop(self._coming)
        self.now = max(self.now, at)
        self.busy.remove(outcome.lane)
        return outcome

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        assert within is not None
        end, came = self.now + within, list[EvaluationResult]()
        while self._coming and self._coming[0][0] <= end:
            outcome = self.next(within)
            assert outcome is not None
            came.append(outcome)
        return came


CALLS = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from([0.01, 0.1, 1.0, 3.0, 9.0])),  # beyond the timeouts: late
    st.tuples(st.just("raise"), st.sampled_from([0.0, 0.1, 5.0])),
    st.tuples(st.just("hang"), st.just(0.0)),
)
PLANS = st.lists(st.lists(CALLS, max_size=12), min_size=0, max_size=6)


@given(
    plans=PLANS,
    cores=st.sampled_from([1, 4, 8]),
    solver=st.sampled_from(sorted(SOLVERS)),
    slowest=st.sampled_from([0.05, 0.5, 20.0]),
)
@settings(deadline=None, max_examples=150)
def test_any_schedule_of_faults(plans: list[list[tuple[str, float]]], cores: int, solver: str, slowest: float) -> None:
    """As long as one lane goes on answering, however late, the run completes with the same bits."""
    x, sigmas = noise(3, scale=10.0), geometric(12)
    starts = lattice_starts(12, cores)
    expected = sample(nonlinear, x, sigmas, starts=starts, solver=solver)
    pool = Imagined([*plans, [("answer", slowest)] * 1000])
    run, events = Chords(x, sigmas, starts, SOLVERS[solver], check_accept(1, len(starts))), []
    watch = LaneWatchdog(LaneTimeouts(floor=0.3, factor=2.0, first=2.0), lambda: pool.now)
    calls = drive(run, pool, 12, events.append, lambda: pool.now > 1e5, lambda: False, watch)
    assert torch.equal(run.accepted.x, expected.x)
    assert run.accepted.depth == expected.depth
    assert_told_once(events)
    assert calls >= expected.evaluations
    again, gone = 0, set()  # nothing is made twice but what a lane kept too long, or lost
    for event in events:
        if isinstance(event, LaneSlow | LaneLost):
            again += event.lane not in gone
            gone.add(event.lane)
        elif isinstance(event, LaneBack):
            gone.remove(event.lane)
    assert pool.submitted <= expected.evaluations + again
    lost = {event.lane for event in events if isinstance(event, LaneLost)}
    assert not lost & pool.busy


def test_a_late_answer_settles_a_doubt() -> None:
    """A slow lane is at an evaluation that another lane gives NaN for. It answers before the third lane does, which
    was asked about it: the NaN was wrong, and the lane that gave it is lost."""
    x, sigmas = noise(3, scale=10.0), geometric(12)
    pool = Imagined([[("answer", 2.5)], [("nan", 0.1)], [("answer", 1.5)]])
    run, events = Chords(x, sigmas, (0,), SOLVERS["euler"], 1), list[Event]()
    watch = LaneWatchdog(LaneTimeouts(floor=9.0, factor=2.0, first=2.0), lambda: pool.now)
    calls = drive(run, pool, 12, events.append, lambda: pool.now > 1e5, lambda: False, watch)
    assert torch.equal(run.accepted.x, sample(nonlinear, x, sigmas).x)
    assert calls == 12 + 2
    told = [event for event in events if isinstance(event, LaneSlow | LaneBack | LaneLost)]
    assert [(type(event), event.lane) for event in told] == [(LaneSlow, 0), (LaneBack, 0), (LaneLost, 1)]
    assert isinstance(told[-1].error, LaneFaulty)
