"""Lanes that raise, run out of memory, die or hang: the run ends with the same bits, and nothing is left over."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from chords_core import (
    Cancelled,
    Evaluated,
    Evaluation,
    EvaluationResult,
    Event,
    LaneBack,
    LaneLost,
    LaneSlow,
    LaneStuck,
    LaneTimeouts,
    ThreadPool,
    hit_depth,
    lattice_starts,
    sample,
)
from tests.core.execution.driver_runs import assert_reported_once, assert_same_hits
from tests.core.problems import geometric, noise, nonlinear

STEPS = 20
X, SIGMAS = noise(6, scale=10.0), geometric(STEPS)
KINDS = ["raise", "oom", "die", "hang"]
SHORT_TIMEOUTS = LaneTimeouts(floor=0.03, factor=3.0, first=0.03)
"""So short that on a busy machine a working lane counts as slow from time to time. That must not matter either."""

WATCHDOG_SECONDS = 120  # far more than any run here takes


def rounds(cores: int, accept: int = 1) -> range:
    return range(1, hit_depth(STEPS, lattice_starts(STEPS, cores), cores - accept + 1) + 1)


@pytest.fixture(autouse=True)
def _nothing_is_left_over() -> Iterator[None]:
    """No thread of a lane is left, and no test hangs."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(WATCHDOG_SECONDS)
    assert set(threading.enumerate()) <= before


@contextmanager
def watchdog(release: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """A ``cancel`` that ends a run which hangs. At the end it always calls ``release``."""
    end = time.monotonic() + WATCHDOG_SECONDS
    try:
        yield lambda: time.monotonic() > end
    finally:
        release()


class OutOfMemory(RuntimeError):
    """Like torch's."""


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
            self._results.put(EvaluationResult(lane, evaluation, 0.0, error=ConnectionError("the process is gone")))
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
        timeouts = (
            SHORT_TIMEOUTS if kind == "hang" else None
        )  # a slow lane may fail after the end of the run, without an event
        result = sample(
            None, X, SIGMAS, cores=cores, pool=pool, on_event=events.append, cancel=cancel, timeouts=timeouts
        )
        assert_same_hits(result, EXPECTED[cores])
        assert_reported_once(events)
        slow = {event.lane for event in events if isinstance(event, LaneSlow)}
        lost = {event.lane for event in events if isinstance(event, LaneLost)}
        assert lost == (set() if kind == "hang" else set(pool.failed))
        if kind == "hang":
            assert set(pool.failed) <= set(pool.hung)
            assert set(pool.failed) <= slow or slow - set(pool.failed)  # unless a working lane came back late
        # The last round may have only one evaluation. If it is not made twice, only one lane fails.
        assert 1 <= len(pool.failed) <= victims
        assert len(pool.failed) == victims or depth >= rounds(cores)[-1]


@pytest.mark.parametrize("depth", rounds(4, accept=4))
@pytest.mark.parametrize("kind", KINDS)
def test_all_lanes_but_one(kind: str, depth: int) -> None:
    """The last lane completes the run alone, with the exact result."""
    with Faulty(4, kind, depth, 3) as pool, watchdog(pool.release.set) as cancel:
        result = sample(None, X, SIGMAS, cores=4, accept="exact", pool=pool, cancel=cancel, timeouts=SHORT_TIMEOUTS)
        assert_same_hits(result, EXACT)


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
    """If there is no other lane, a slow lane is not a failure: the run goes on when it answers."""
    gate, events = Gate(1), []

    def listener(event: Event) -> None:
        events.append(event)
        if isinstance(event, LaneSlow):
            gate.release()
        elif isinstance(event, Evaluated) and event.index in (1, 9):
            gate.shut(0)

    with ThreadPool(gate.denoisers) as pool, watchdog(gate.release) as cancel:
        result = sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener, cancel=cancel, timeouts=SHORT_TIMEOUTS)
    assert_same_hits(result, EXPECTED[4])
    assert_reported_once(events)
    assert result.evaluations == EXPECTED[4].evaluations
    slow = [event for event in events if isinstance(event, LaneSlow | LaneBack)]
    assert len(slow) >= 2 and {event.lane for event in slow} == {0}


def test_slow_lanes_count_when_the_others_fail() -> None:
    """One lane hangs and the other fails: the run waits for the lane that hangs."""
    gate, failed = Gate(2), threading.Event()
    gate.shut(0)

    def failing(x: Tensor, sigma: float) -> Tensor:
        failed.set()
        raise RuntimeError("broken on purpose")

    def listener(event: Event) -> None:
        if isinstance(event, LaneLost):
            gate.release()

    with ThreadPool([gate.denoisers[0], failing]) as pool, watchdog(gate.release) as cancel:
        result = sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener, cancel=cancel, timeouts=SHORT_TIMEOUTS)
    assert_same_hits(result, EXPECTED[4])
    assert failed.is_set()


def test_the_first_failure_is_raised_when_a_slow_lane_fails_last() -> None:
    """The last lane hung and then failed: the error is that of the lane that failed first."""
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
        sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener, cancel=cancel, timeouts=SHORT_TIMEOUTS)


@pytest.mark.parametrize("known_as_slow", [True, False])
def test_cancel_does_not_wait_for_a_lane_that_hangs(known_as_slow: bool) -> None:
    """A cancel ends the run although a lane hangs, whether or not the lane is known as slow."""
    gate, cancel = Gate(2), threading.Event()
    gate.shut(1)

    def listener(event: Event) -> None:
        # Both lanes are at work when the first evaluation is reported. On a busy machine lane 0 may have been slow, and
        # lane 1 may be at the same evaluation: then the other lane could make all the others before lane 1 is slow.
        if known_as_slow:
            gate.shut(0)
        if isinstance(event, Evaluated) and not known_as_slow or isinstance(event, LaneSlow) and event.lane == 1:
            cancel.set()
            gate.release(0)

    with ThreadPool(gate.denoisers) as pool, watchdog(gate.release):
        with pytest.raises(Cancelled):
            sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener, cancel=cancel, timeouts=SHORT_TIMEOUTS)
        assert 1 in pool.hung


def test_a_lane_that_hangs_is_out_of_use_until_it_is_back() -> None:
    """The next run on the pool loses the lane at once, because its model is in use. When the lane is back, it gets
    work again. Its late result is dropped."""
    gate = Gate(2)
    with ThreadPool(gate.denoisers) as pool, watchdog(gate.release) as cancel:
        gate.shut(1)
        assert_same_hits(
            sample(None, X, SIGMAS, cores=4, pool=pool, cancel=cancel, timeouts=SHORT_TIMEOUTS), EXPECTED[4]
        )
        assert pool.hung == (1,)

        events: list[Event] = []
        result = sample(None, 2 * X, SIGMAS, cores=4, pool=pool, on_event=events.append, cancel=cancel)
        assert_same_hits(result, sample(nonlinear, 2 * X, SIGMAS, cores=4))
        (lost,) = (event for event in events if isinstance(event, LaneLost))
        assert lost.lane == 1 and isinstance(lost.error, LaneStuck)

        gate.release()
        while pool.hung and not cancel():
            time.sleep(0.001)
        events.clear()
        assert_same_hits(sample(None, X, SIGMAS, cores=4, pool=pool, on_event=events.append), EXPECTED[4])
        assert {event.lane for event in events if isinstance(event, Evaluated)} == {0, 1}
        assert not any(isinstance(event, LaneLost | LaneSlow) for event in events)


def test_a_pool_that_hangs_can_be_closed() -> None:
    """Closing does not wait for a lane that hangs, and its thread ends when the call returns."""
    gate = Gate(3)
    gate.shut(0, 2)
    pool = ThreadPool(gate.denoisers)
    with watchdog(gate.release) as cancel:
        assert_same_hits(
            sample(None, X, SIGMAS, cores=4, pool=pool, cancel=cancel, timeouts=SHORT_TIMEOUTS), EXPECTED[4]
        )
        pool.close()
        assert pool.hung == (0, 2)
    while pool.hung and not cancel():
        time.sleep(0.001)
    assert pool.hung == ()


def test_what_a_lost_lane_held_is_freed() -> None:
    """A lane that runs out of memory must not keep its activations in the frames of its error until the run ends."""
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
        assert_same_hits(sample(None, X, SIGMAS, cores=4, pool=pool, on_event=listener), EXPECTED[4])
