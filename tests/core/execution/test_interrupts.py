"""What ends a run: an interrupt or another error of a lane or a listener, and a cancel."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import pytest
from torch import Tensor

from chords_core import (
    Accepted,
    Cancelled,
    Denoise,
    Evaluated,
    EvaluationResult,
    Event,
    Hit,
    InlinePool,
    LaneLost,
    LaneTimeouts,
    OnDemand,
    Rectified,
    ThreadPool,
)
from chords_core.execution import driver
from tests.core.execution.driver_runs import SIGMAS, STARTS, FailsAt, HostInterrupt, lane_threads, run
from tests.core.problems import Counted, Slow, assert_same, nonlinear


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that do not hang have time to stop: a busy machine may need more than the usual."""
    monkeypatch.setattr(driver, "_STOP_SECONDS", 60.0)


@pytest.mark.parametrize("call", [1, 2, 7])
@pytest.mark.parametrize("lanes", [None, 1, 3])
@pytest.mark.parametrize("kind", [HostInterrupt, KeyboardInterrupt, SystemExit])
def test_an_interrupt_stops_the_run(kind: type[BaseException], lanes: int | None, call: int, patient: None) -> None:
    """What is no Exception does not count as a lost lane: it ends the run and reaches the caller unchanged."""
    error = kind("stop")
    model = FailsAt({call}, lambda number: error)
    seen: list[Event] = []
    with ThreadPool([model] * (lanes or 1)) as threads:
        with pytest.raises(kind) as raised:
            run(threads if lanes else InlinePool(model), on_event=seen.append)
        assert raised.value is error
        assert model.active == 0
        assert model.calls == call or lanes == 3
    assert not any(isinstance(event, LaneLost | Accepted) for event in seen)


class Settling(ThreadPool):
    """``begun`` is set when the driver waits for its last lanes, by either of the two methods."""

    def __init__(self, denoisers: list[Denoise], begun: threading.Event | None = None) -> None:
        self.begun = begun or threading.Event()
        super().__init__(denoisers)

    def wait(self, timeout: float) -> bool:
        self.begun.set()
        return super().wait(timeout)

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        self.begun.set()
        return super().settle(within)


def test_an_interrupt_waits_for_the_other_lanes(patient: None) -> None:
    """The caller gets the interrupt after the evaluation on the other lane has ended."""
    both = threading.Barrier(2, timeout=120)

    class Interrupted(Counted):
        def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
            if number > 1 and both.wait() == 0:
                raise HostInterrupt
            if number > 1:
                assert pool.begun.wait(120)
            return nonlinear(x, sigma)

    model = Interrupted()
    with Settling([model] * 2) as pool:
        with pytest.raises(HostInterrupt):
            run(pool)
        assert model.active == 0 and model.calls == 3 and not pool.hung


def all_ended() -> None:
    """Wait for the lanes that a run has given up."""
    for thread in lane_threads():
        thread.join(60)


class AtTheEnd(Counted):
    """At the draft at least two lanes are at work. They wait for ``goes_on`` and return ``then`` of their result."""

    def __init__(self, then: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.goes_on = threading.Event()
        self.returned = 0
        self._then, self._held = then, threading.Semaphore(0)

    def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
        index = SIGMAS.tolist().index(sigma)
        denoised = nonlinear(x, sigma)
        if index == STARTS[3]:  # the fastest core's first evaluation, which gives the draft
            assert self._held.acquire(timeout=60) and self._held.acquire(timeout=60)
        elif index in (5, 7):  # evaluations of the second and the third core at the same time
            self._held.release()
            assert self.goes_on.wait(120)
            denoised = self._then(denoised)
        with self._lock:
            self.returned += 1
        return denoised


def raising(error: BaseException) -> Callable[[Tensor], Tensor]:
    def then(x: Tensor) -> Tensor:
        raise error

    return then


class AcceptsTheDraft(OnDemand):
    """Accepts the draft; ``seen`` has the events until then."""

    def __init__(self) -> None:
        self.seen: list[Event]
        object.__setattr__(self, "seen", [])
        super().__init__("exact", lambda: any(isinstance(event, Hit) for event in self.seen))


@pytest.mark.parametrize("kind", [HostInterrupt, KeyboardInterrupt, SystemExit])
def test_an_interrupt_after_the_last_hit_is_not_lost(kind: type[BaseException]) -> None:
    """The run has accepted a hit, and a lane that is still at work gets the host's interrupt: it reaches the caller."""
    error, accept = kind("stop"), AcceptsTheDraft()
    model = AtTheEnd(raising(error))
    with Settling([model] * 4, model.goes_on) as pool:
        with pytest.raises(kind) as raised:
            run(pool, accept=accept, on_event=accept.seen.append)
        assert raised.value is error and model.active == 0
    assert isinstance(accept.seen[-1], Accepted)


@pytest.mark.parametrize("then", [raising(RuntimeError("broken")), lambda x: x], ids=["failing", "sound"])
def test_only_calls_with_a_result_count(then: Callable[[Tensor], Tensor]) -> None:
    """Calls that end after the accepted hit count too, without an event. If one fails then, no lane is lost."""
    model, accept = AtTheEnd(then), AcceptsTheDraft()
    with Settling([model] * 4, model.goes_on) as pool:
        result = run(pool, accept=accept, on_event=accept.seen.append)
    reported = sum(isinstance(event, Evaluated) for event in accept.seen)
    assert reported < model.calls and result.evaluations == model.returned
    assert not any(isinstance(event, LaneLost) for event in accept.seen)


@pytest.mark.parametrize("first", [LookupError("listener"), Cancelled("by the caller")])
def test_an_interrupt_has_priority_over_an_error(first: Exception, patient: None) -> None:
    """The run fails, and meanwhile a lane gets an interrupt. The caller gets the interrupt, caused by the failure."""
    model = AtTheEnd(raising(HostInterrupt()))

    def listener(event: Event) -> None:
        if isinstance(event, Hit):
            raise first

    with Settling([model] * 4, model.goes_on) as pool:
        with pytest.raises(HostInterrupt) as raised:
            run(pool, accept="exact", on_event=listener)
        assert raised.value.__cause__ is first and model.active == 0


@pytest.mark.parametrize("error", [LookupError("listener"), None], ids=["after an error", "after the end"])
@pytest.mark.parametrize("raises", [True, False], ids=["raised", "true"])
def test_a_cancel_is_seen_while_the_last_lanes_hang(error: Exception | None, raises: bool) -> None:
    """The run waits only for lanes that hang, and that have no time limit. A cancel ends the run, and the lanes are
    given up."""
    accept, model = AcceptsTheDraft(), AtTheEnd()

    def cancel() -> bool:
        if pool.begun.is_set() and raises:
            raise HostInterrupt
        return pool.begun.is_set()

    def listener(event: Event) -> None:
        accept.seen.append(event)
        if error is not None and isinstance(event, Hit):
            raise error

    timeouts = LaneTimeouts(floor=math.inf, first=math.inf)
    with Settling([model] * 4) as pool:
        with pytest.raises(HostInterrupt if raises else LookupError if error else Cancelled):
            run(pool, accept=accept, on_event=listener, cancel=cancel, timeouts=timeouts)
        assert len(pool.hung) >= 2 and model.active == len(pool.hung)
        model.goes_on.set()
    all_ended()


@pytest.mark.parametrize("after", [0, 1], ids=["first call", "later call"])
@pytest.mark.parametrize("kind", [HostInterrupt, None], ids=["raised", "true"])
def test_a_cancel_does_not_wait_for_a_lane_that_hangs(after: int, kind: type[BaseException] | None) -> None:
    """In its first call or a later one, and without a time limit: the lane is given up."""
    hangs, over = threading.Event(), threading.Event()
    calls = [0, 0]

    def denoiser(lane: int) -> Denoise:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            calls[lane] += 1
            if lane == 1 and calls[lane] > after:
                hangs.set()
                assert over.wait(120)
            return nonlinear(x, sigma)

        return denoise

    def cancel() -> bool:
        if hangs.is_set() and kind is not None:
            raise kind
        return hangs.is_set()

    with ThreadPool([denoiser(0), denoiser(1)]) as pool:
        with pytest.raises(kind or Cancelled):
            run(pool, accept="exact", cancel=cancel, timeouts=LaneTimeouts(floor=math.inf, first=math.inf))
        assert pool.hung == (1,)
        over.set()
    all_ended()


@pytest.mark.parametrize("lanes", [None, 3])
def test_an_error_in_on_event_stops_the_run(lanes: int | None) -> None:
    """A listener that raises ends the run like any other error, with all lanes idle."""
    model = Counted(Slow(0))

    def listener(event: Event) -> None:
        if isinstance(event, Rectified):
            raise LookupError("listener")

    with ThreadPool([model] * (lanes or 1)) as threads:
        with pytest.raises(LookupError):
            run(threads if lanes else InlinePool(model), on_event=listener)
        assert model.active == 0


def test_a_pool_survives_every_end(patient: None) -> None:
    """After an interrupt, a cancel and a listener's error the same pool still gives the same result."""
    model = FailsAt({3}, lambda number: HostInterrupt())
    with ThreadPool([model] * 3) as pool:
        with pytest.raises(HostInterrupt):
            run(pool)
        with pytest.raises(Cancelled):
            run(pool, cancel=lambda: model.calls > 9)
        with pytest.raises(ZeroDivisionError):
            run(pool, on_event=lambda event: 1 / 0)
        assert_same(run(pool), run())


class CancelsAt(Counted):
    """Sets an event in its n-th call and counts the calls that begin after that."""

    def __init__(self, call: int) -> None:
        super().__init__(Slow(0))
        self.cancel = threading.Event()
        self._at = call
        self.later: list[str] = []

    def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
        if self.cancel.is_set():
            self.later.append(threading.current_thread().name)
        if number == self._at:
            self.cancel.set()
        return super().call(number, x, sigma)


@pytest.mark.parametrize("call", [1, 2, 5, 11])
@pytest.mark.parametrize("lanes", [None, 1, 2, 4])
@pytest.mark.parametrize("as_callable", [True, False], ids=["callable", "event"])
def test_cancel_stops_within_one_evaluation(call: int, lanes: int | None, as_callable: bool, patient: None) -> None:
    """After the cancel each lane begins at most one more evaluation, and none is under way at the end."""
    model = CancelsAt(call)
    cancel = model.cancel.is_set if as_callable else model.cancel
    with ThreadPool([model] * (lanes or 1)) as threads:
        with pytest.raises(Cancelled):
            run(threads if lanes else InlinePool(model), accept="exact", cancel=cancel)
        assert model.active == 0
    assert len(model.later) == len(set(model.later)) <= (lanes or 1)
    if lanes in (None, 1):
        assert model.calls == call


@pytest.mark.parametrize("lanes", [None, 2])
def test_cancelled_before_it_begins(lanes: int | None) -> None:
    """If the cancel comes before the run, no evaluation is made."""
    model, cancel = Counted(), threading.Event()
    cancel.set()
    with ThreadPool([model] * (lanes or 1)) as threads, pytest.raises(Cancelled):
        run(threads if lanes else InlinePool(model), cancel=cancel)
    assert model.calls == 0


def test_cancel_from_a_listener() -> None:
    """A listener can cancel: no evaluation begins after that event."""
    cancel, seen = threading.Event(), []
    model = Counted()

    def listener(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Hit):
            cancel.set()

    with pytest.raises(Cancelled):
        run(InlinePool(model), on_event=listener, cancel=cancel)
    assert len([event for event in seen if isinstance(event, Evaluated)]) == model.calls


def test_cancel_is_seen_while_all_lanes_are_busy() -> None:
    """``cancel`` is called while a long evaluation runs, in the caller's thread only."""
    asked: list[int] = []
    enough = threading.Event()

    def long(x: Tensor, sigma: float) -> Tensor:
        assert enough.wait(120)
        return nonlinear(x, sigma)

    def cancel() -> bool:
        asked.append(threading.get_ident())
        if len(asked) == 5:
            enough.set()
        return len(asked) >= 5

    with ThreadPool([long]) as pool, pytest.raises(Cancelled):
        run(pool, cancel=cancel)
    assert set(asked) == {threading.get_ident()}


def test_events_are_reported_once_however_long_a_call_takes() -> None:
    """While the driver waits for a long evaluation and checks for a cancel, it repeats no event."""
    asked = 0
    seen: list[Event] = []

    def cancel() -> bool:
        nonlocal asked
        asked += 1
        return False

    def long(x: Tensor, sigma: float) -> Tensor:
        before, began = asked, time.monotonic()
        while asked < before + 4 and time.monotonic() < began + 120:
            time.sleep(0.001)
        return nonlinear(x, sigma)

    with ThreadPool([long]) as pool:
        result = run(pool, starts=[0, 6, 9], cancel=cancel, on_event=seen.append)
    evaluated = [(event.core, event.index) for event in seen if isinstance(event, Evaluated)]
    assert len(evaluated) == len(set(evaluated)) == result.evaluations
    assert len({id(event) for event in seen}) == len(seen)


def test_a_cancel_that_never_comes_changes_nothing() -> None:
    """A run with a ``cancel`` that is never set gives the same result."""
    assert_same(run(cancel=threading.Event()), run())
