"""The driver and its pools: lost lanes, interrupts, cancelling, events, threads and modes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from chords_core import (
    SOLVERS,
    Accepted,
    Cancelled,
    Chords,
    Denoise,
    Evaluated,
    Evaluation,
    EvaluationResult,
    Event,
    Hit,
    InlinePool,
    LaneLost,
    LaneTimeouts,
    OnDemand,
    Rectified,
    Residual,
    Result,
    RoundDone,
    ThreadPool,
    sample,
)
from chords_core.execution import driver
from chords_core.execution.driver import drive
from tests.core.problems import Counted, Slow, assert_same, corrections, geometric, noise, nonlinear

STEPS = 12
STARTS = [0, 3, 6, 8]
X, SIGMAS = noise(6, scale=10.0), geometric(STEPS)


def run(pool: ThreadPool | InlinePool | None = None, **arguments) -> Result:
    return sample(nonlinear, X, SIGMAS, **{"starts": STARTS, "solver": "dpmpp_2m", "pool": pool, **arguments})


class HostInterrupt(BaseException):
    """As hosts define it: no Exception, so that no node swallows it."""


class FailsAt(Counted):
    """Raises at the given calls, counted over all lanes."""

    def __init__(self, calls: set[int], error: Callable[[int], BaseException]) -> None:
        super().__init__(Slow(0, 0.0005))
        self._calls, self._error = calls, error

    def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
        if number in self._calls:
            raise self._error(number)
        return super().call(number, x, sigma)


def lost(number: int) -> Exception:
    return RuntimeError(f"lane lost at call {number}")


# --- lost lanes


@pytest.mark.parametrize("accept", [1, "exact"])
@pytest.mark.parametrize("call", [1, 2, 3, 5, 8, 13, 17])
def test_a_lost_lane_changes_nothing(call: int, accept: int | str) -> None:
    """A lane that raises at any call is reported, gets no more work, and costs no bit of the result."""
    expected = run(accept=accept)
    assert expected.evaluations >= call
    seen: list[Event] = []
    with ThreadPool([FailsAt({call}, lost)] * 3) as pool:
        result = run(pool, accept=accept, on_event=seen.append)
    assert_same(result, expected)
    losses = [(place, event) for place, event in enumerate(seen) if isinstance(event, LaneLost)]
    assert len(losses) == 1
    place, event = losses[0]
    assert str(event.error) == f"lane lost at call {call}"
    assert all(later.lane != event.lane for later in seen[place:] if isinstance(later, Evaluated))


@pytest.mark.parametrize("calls", [{1, 2, 3}, {2, 3, 4}, {4, 9, 17}, {20, 21, 22}])
def test_one_lane_is_enough(calls: set[int]) -> None:
    """With all lanes but one lost, at the same time or one by one, the last one finishes the run."""
    seen: list[Event] = []
    with ThreadPool([FailsAt(calls, lost)] * 4) as pool:
        assert_same(run(pool, accept="exact", on_event=seen.append), run(accept="exact"))
    assert len([event for event in seen if isinstance(event, LaneLost)]) == 3


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("first", [1, 6])
def test_all_lanes_lost_raises_the_first_error(lanes: int, first: int) -> None:
    """When the last lane has failed the run ends with what went wrong first, and no lane is at work."""
    model = FailsAt(set(range(first, 1000)), lost)
    seen: list[Event] = []
    with ThreadPool([model] * lanes) as pool, pytest.raises(RuntimeError) as raised:
        run(pool, on_event=seen.append)
    losses = [event.error for event in seen if isinstance(event, LaneLost)]
    assert len(losses) == lanes - 1
    assert all(raised.value is error for error in losses[:1])
    if lanes == 1 or first == 1:  # only one evaluation is open at the start, so the order is known
        assert str(raised.value) == f"lane lost at call {first}"
    assert model.active == 0 and model.calls == first - 1 + lanes


def test_the_only_lane_raises_as_it_is() -> None:
    """Without lanes to fall back on, in the caller's thread, an error comes through unchanged."""
    error = ValueError("out of memory")
    model = FailsAt({4}, lambda number: error)
    with pytest.raises(ValueError) as raised:
        run(InlinePool(model))
    assert raised.value is error and model.calls == 4


def test_a_lost_lane_is_tried_again_in_the_next_run() -> None:
    """A loss lasts for the run: the pool itself keeps all its lanes."""
    model = FailsAt({2}, lost)
    lanes: set[int] = set()
    with ThreadPool([model] * 2) as pool:
        run(pool)
        run(pool, on_event=lambda event: lanes.add(event.lane) if isinstance(event, Evaluated) else None)
    assert lanes == {0, 1}


# --- interrupts and other errors


@pytest.mark.parametrize("call", [1, 2, 7])
@pytest.mark.parametrize("lanes", [None, 1, 3])
@pytest.mark.parametrize("kind", [HostInterrupt, KeyboardInterrupt, SystemExit])
def test_an_interrupt_stops_the_run(kind: type[BaseException], lanes: int | None, call: int) -> None:
    """What is no Exception is never taken for a lost lane: it ends the run and reaches the caller as it is."""
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
    """Says when the driver waits for its last lanes, however it does that."""

    def __init__(self, denoisers: list[Denoise], begun: threading.Event | None = None) -> None:
        self.begun = begun or threading.Event()
        super().__init__(denoisers)

    def wait(self, timeout: float) -> bool:
        self.begun.set()
        return super().wait(timeout)

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        self.begun.set()
        return super().settle(within)


def test_an_interrupt_waits_for_the_other_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets the interrupt only when the evaluation under way on another lane has ended."""
    monkeypatch.setattr(driver, "_STOP_SECONDS", 60.0)  # a busy machine may need more than the usual
    both = threading.Barrier(2, timeout=30)

    class Interrupted(Counted):
        def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
            if number > 1 and both.wait() == 0:
                raise HostInterrupt
            if number > 1:
                assert pool.begun.wait(30)
            return nonlinear(x, sigma)

    model = Interrupted()
    with Settling([model] * 2) as pool:
        with pytest.raises(HostInterrupt):
            run(pool)
        assert model.active == 0 and model.calls == 3 and not pool.hung


def all_ended() -> None:
    """Wait for lanes that a run has set aside."""
    for thread in lane_threads():
        thread.join(60)


class AtTheEnd(Counted):
    """The draft comes while two lanes and more are at work; these wait for ``goes_on`` and do what ``then`` says."""

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
        elif index in (5, 7):  # the second core's and the third one's beside it
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
    """Ends with the draft; ``seen`` are the events until then."""

    def __init__(self) -> None:
        self.seen: list[Event]
        object.__setattr__(self, "seen", [])
        super().__init__("exact", lambda: any(isinstance(event, Hit) for event in self.seen))


@pytest.mark.parametrize("kind", [HostInterrupt, KeyboardInterrupt, SystemExit])
def test_an_interrupt_after_the_last_hit_is_not_lost(kind: type[BaseException]) -> None:
    """Accept has ended the run, and a lane that is still at work takes the host's interrupt: it reaches the caller."""
    error, accept = kind("stop"), AcceptsTheDraft()
    model = AtTheEnd(raising(error))
    with Settling([model] * 4, model.goes_on) as pool:
        with pytest.raises(kind) as raised:
            run(pool, accept=accept, on_event=accept.seen.append)
        assert raised.value is error and model.active == 0
    assert isinstance(accept.seen[-1], Accepted)


@pytest.mark.parametrize("then", [raising(RuntimeError("broken")), lambda x: x], ids=["failing", "sound"])
def test_only_calls_with_a_result_count(then: Callable[[Tensor], Tensor]) -> None:
    """Also those that come back after the end, which nobody is told of; one that fails then loses no lane."""
    model, accept = AtTheEnd(then), AcceptsTheDraft()
    with Settling([model] * 4, model.goes_on) as pool:
        result = run(pool, accept=accept, on_event=accept.seen.append)
    told = sum(isinstance(event, Evaluated) for event in accept.seen)
    assert told < model.calls and result.evaluations == model.returned
    assert not any(isinstance(event, LaneLost) for event in accept.seen)


@pytest.mark.parametrize("first", [LookupError("listener"), Cancelled("by the caller")])
def test_an_interrupt_outdoes_an_error(first: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails already, and a lane takes an interrupt meanwhile: that is what the caller gets, with its cause."""
    monkeypatch.setattr(driver, "_STOP_SECONDS", 60.0)  # a busy machine may need more than the usual
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
    """The run is over but for lanes that hang, and have all time in the world for their calls: a cancel ends it, and
    they are set aside."""
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
    """In its first call or a later one, and whatever time it would have: it is set aside."""
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


def test_a_pool_survives_every_end() -> None:
    """After an interrupt, a cancel and a listener's error the same pool gives the same result as ever."""
    model = FailsAt({3}, lambda number: HostInterrupt())
    with ThreadPool([model] * 3) as pool:
        with pytest.raises(HostInterrupt):
            run(pool)
        with pytest.raises(Cancelled):
            run(pool, cancel=lambda: model.calls > 9)
        with pytest.raises(ZeroDivisionError):
            run(pool, on_event=lambda event: 1 / 0)
        assert_same(run(pool), run())


@pytest.mark.parametrize("lanes", [None, 2])
def test_a_method_that_stalls_is_an_error(lanes: int | None) -> None:
    """A method that asks for nothing more without having accepted a hit ends in an error, not in a hang."""

    class Stalls(Chords):
        def ready(self) -> list[Evaluation]:
            return [evaluation for evaluation in super().ready() if evaluation.index != 7]

    with ThreadPool([nonlinear] * (lanes or 1)) as threads, pytest.raises(AssertionError, match="never asked for"):
        pool = threads if lanes else InlinePool(nonlinear)
        stalls = Stalls(X, SIGMAS, STARTS, SOLVERS["euler"], 1)
        drive(stalls, pool)


# --- cancelling


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
def test_cancel_stops_within_one_evaluation(call: int, lanes: int | None, as_callable: bool) -> None:
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
    """A cancel that is there already costs no evaluation at all."""
    model, cancel = Counted(), threading.Event()
    cancel.set()
    with ThreadPool([model] * (lanes or 1)) as threads, pytest.raises(Cancelled):
        run(threads if lanes else InlinePool(model), cancel=cancel)
    assert model.calls == 0


def test_cancel_from_a_listener() -> None:
    """A listener that has seen enough cancels at once: nothing begins after the event it reacted to."""
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
    """The caller's thread goes on asking while a long evaluation runs, in the caller's thread only."""
    asked: list[int] = []
    enough = threading.Event()

    def long(x: Tensor, sigma: float) -> Tensor:
        assert enough.wait(30)
        return nonlinear(x, sigma)

    def cancel() -> bool:
        asked.append(threading.get_ident())
        if len(asked) == 5:
            enough.set()
        return len(asked) >= 5

    with ThreadPool([long]) as pool, pytest.raises(Cancelled):
        run(pool, cancel=cancel)
    assert set(asked) == {threading.get_ident()}


def test_events_are_told_once_however_long_a_call_takes() -> None:
    """While the driver waits for a long evaluation, and looks for a cancel, it repeats nothing."""
    asked = 0
    seen: list[Event] = []

    def cancel() -> bool:
        nonlocal asked
        asked += 1
        return False

    def long(x: Tensor, sigma: float) -> Tensor:
        before, began = asked, time.monotonic()
        while asked < before + 4 and time.monotonic() < began + 30:
            time.sleep(0.001)
        return nonlinear(x, sigma)

    with ThreadPool([long]) as pool:
        result = run(pool, starts=[0, 6, 9], cancel=cancel, on_event=seen.append)
    evaluated = [(event.core, event.index) for event in seen if isinstance(event, Evaluated)]
    assert len(evaluated) == len(set(evaluated)) == result.evaluations
    assert len({id(event) for event in seen}) == len(seen)


def test_a_cancel_that_never_comes_changes_nothing() -> None:
    """A run that could be cancelled but is not gives the same result."""
    assert_same(run(cancel=threading.Event()), run())


# --- events


@pytest.mark.parametrize("accept", [1, 2, "exact"])
@pytest.mark.parametrize("lanes", [None, 1, 3])
def test_events_in_order(lanes: int | None, accept: int | str) -> None:
    """The draft, then hits from the fastest core down; steps count up to the depth; Accepted comes last."""
    seen: list[Event] = []
    with ThreadPool([Slow(seed) for seed in range(lanes or 1)]) as threads:
        result = run(threads if lanes else None, accept=accept, on_event=seen.append)
    hits = [event for event in seen if isinstance(event, Hit)]
    assert [hit.core for hit in hits] == [0, 4, 3, 2, 1][: len(hits)]
    assert len(hits) == 1 + (4 if accept == "exact" else accept)
    assert all(hit is other for hit, other in zip(hits, result.hits, strict=True))

    steps = [event for event in seen if isinstance(event, RoundDone)]
    depths = [step.depth for step in steps]
    assert all(a < b for a, b in zip(depths, depths[1:], strict=False))
    assert depths[-1] == result.depth and {step.of for step in steps} == {result.depth}

    evaluated = [event for event in seen if isinstance(event, Evaluated)]
    assert len(evaluated) == result.evaluations
    for place, step in enumerate(seen):
        if isinstance(step, RoundDone):  # it says that nothing of its round or an earlier one is still to come
            later = [event for event in seen[place:] if isinstance(event, Evaluated)]
            assert all(event.depth > step.depth for event in later)
            assert step.depth == result.depth or any(event.depth == step.depth + 1 for event in later)
    assert {event.lane for event in evaluated} <= set(range(lanes or 1))
    assert all(event.seconds >= 0 for event in evaluated)
    assert all(torch.equal(event.denoised, nonlinear(event.x, float(SIGMAS[event.index]))) for event in evaluated)

    assert [event for event in seen if isinstance(event, Accepted)] == [seen[-1]]
    assert seen[-1].hit is result.hits[-1] and seen[-1].hit.x is result.x


@pytest.mark.parametrize("accept", [1, 2, 3, "exact"])
@pytest.mark.parametrize("starts", [STARTS, [0, 1, 2, 3], [0, 5], [0]])
def test_rectified_as_often_as_the_rule_says(starts: list[int], accept: int | str) -> None:
    """A core is corrected each time it has gone its gap further, until the last index needed of it."""
    number = len(starts) if accept == "exact" else min(accept, len(starts))
    seen: list[Event] = []
    run(starts=starts, accept=number, on_event=seen.append)
    rectified = [event.core for event in seen if isinstance(event, Rectified)]
    assert [rectified.count(core + 1) for core in range(len(starts))] == corrections(STEPS, starts, number)
    if accept == "exact":
        gaps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        by_formula = [(STEPS - start) // gap for start, gap in zip(starts[1:], gaps, strict=True)]
        assert corrections(STEPS, starts, number) == [0, *by_formula]


def test_residual_ends_early_or_with_the_slowest_core() -> None:
    """A wide threshold takes the first hit, the draft being the hit before; a tight one goes to the end."""
    seen: list[Event] = []
    wide = run(accept=Residual(1e9), on_event=seen.append)
    assert [hit.core for hit in wide.hits] == [0, 4]
    assert isinstance(seen[-1], Accepted)
    tight = run(accept=Residual(1e-300))
    assert [hit.core for hit in tight.hits] == [0, 4, 3, 2, 1]
    middle = run(accept="exact").hits
    change = float((middle[2].x - middle[1].x).norm()) / middle[1].x.numel()
    assert [hit.core for hit in run(accept=Residual(change * 1.01)).hits] == [0, 4, 3]
    assert len(run(accept=Residual(change * 0.99)).hits) > 3


@pytest.mark.parametrize("lanes", [None, 3])
def test_reports_come_in_the_callers_thread(lanes: int | None) -> None:
    """Lanes never call a listener; evaluations never run in the caller's thread if there are lanes."""
    reports: set[int] = set()
    workers: set[int] = set()

    class Watched(Counted):
        def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
            workers.add(threading.get_ident())
            if number == 5 and lanes:
                raise lost(number)
            return nonlinear(x, sigma)

    model = Watched()
    with ThreadPool([model] * (lanes or 1)) as threads:
        pool = threads if lanes else InlinePool(model)
        run(pool, on_event=lambda event: reports.add(threading.get_ident()))
    assert reports == {threading.get_ident()}
    assert (threading.get_ident() in workers) == (lanes is None)


# --- threads and modes


def lane_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("chords-lane")]


def test_close_ends_every_thread() -> None:
    """A pool has a thread a lane while open and none after, however its last run ended; closing twice is fine."""
    pool = ThreadPool([FailsAt({5, 6}, lost)] * 3)
    assert pool.lanes == len(lane_threads()) == 3
    run(pool)
    pool.close()
    pool.close()
    assert not lane_threads()

    with pytest.raises(HostInterrupt), ThreadPool([FailsAt({4}, lambda number: HostInterrupt())] * 3) as pool:
        run(pool)
    assert not lane_threads()


def test_inline_starts_no_thread() -> None:
    """Without a pool everything happens in the caller's thread."""
    before = set(threading.enumerate())
    during: set[threading.Thread] = set()
    run(on_event=lambda event: during.update(threading.enumerate()))
    assert during <= before


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, torch.no_grad, torch.enable_grad], ids=["inference", "no_grad", "grad"]
)
def test_lanes_work_in_the_callers_mode(mode: Callable) -> None:
    """Inference and gradient mode belong to a thread; a lane takes over the caller's, run by run."""
    modes: set[tuple[bool, bool]] = set()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        modes.add((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return nonlinear(x, sigma)

    with ThreadPool([denoise] * 3) as pool:
        run(pool)
        modes.clear()
        with mode():
            run(pool)
            assert modes == {(torch.is_inference_mode_enabled(), torch.is_grad_enabled())}


def test_gradients_flow_through_lanes() -> None:
    """With gradients on, the result depends on the starting state through every lane, as it does inline.

    Backpropagation adds up in an order of its own, so this is equal up to rounding.
    """
    gradients = []
    with ThreadPool([nonlinear] * 3) as threads:
        for pool in (None, threads):
            x = X.clone().requires_grad_()
            sample(nonlinear, x, SIGMAS, starts=STARTS, pool=pool).x.sum().backward()
            gradients.append(x.grad)
    assert gradients[0] is not None
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


def test_lane_context_is_entered_in_the_lane() -> None:
    """Each evaluation runs inside the context of its lane, in its lane's thread; an error there loses the lane."""
    inside = threading.local()
    seen: set[int] = set()
    broken: set[int] = set()

    @contextmanager
    def context(lane: int) -> Iterator[None]:
        if lane in broken:
            raise RuntimeError("device gone")
        inside.lane = lane
        yield
        del inside.lane

    def denoise_on(lane: int) -> Callable[[Tensor, float], Tensor]:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            assert inside.lane == lane
            seen.add(lane)
            return nonlinear(x, sigma)

        return denoise

    with ThreadPool([denoise_on(lane) for lane in range(3)], context) as pool:
        assert_same(run(pool), run())
        assert seen == {0, 1, 2}
        broken.add(1)
        losses: list[Event] = []
        result = run(pool, on_event=lambda event: losses.append(event) if isinstance(event, LaneLost) else None)
        assert_same(result, run())
        assert [event.lane for event in losses] == [1]


def test_idle_lanes_do_nothing() -> None:
    """More lanes than cores: no evaluation is made twice or in vain."""
    model = Counted()
    with ThreadPool([model] * 8) as pool:
        result = run(pool, accept=2)
    assert result.evaluations == model.calls == run(accept=2).evaluations


@pytest.mark.parametrize("threshold", [1e9, 1e-2, 1e-3])
def test_nothing_begins_after_the_accepted_hit(threshold: float) -> None:
    """Once the residual rule is content, evaluations that only slower cores would need are not begun."""
    model = Counted()
    with ThreadPool([model]) as pool:
        result = run(pool, accept=Residual(threshold))
    assert model.calls == result.evaluations == run(accept=Residual(threshold)).evaluations


def test_the_caller_is_told_of_every_lane() -> None:
    """With a lane a core, all lanes get work."""
    lanes: set[int] = set()
    with ThreadPool([Slow(seed) for seed in range(4)]) as pool:
        run(pool, on_event=lambda event: lanes.add(event.lane) if isinstance(event, Evaluated) else None)
    assert lanes == {0, 1, 2, 3}
