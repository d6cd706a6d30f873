"""The timeline of a run has the events of the run, at the times of a known clock."""

from __future__ import annotations

import gc
import math
import weakref
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from chords_core import (
    Accepted,
    Evaluated,
    EvaluationResult,
    Event,
    Hit,
    InlinePool,
    LaneLost,
    Recorder,
    Rectified,
    Residual,
    Result,
    RoundDone,
    ThreadPool,
    Timeline,
    relative_change,
    sample,
)
from tests.core.problems import Counted, Slow, corrections, geometric, needed, noise, nonlinear

STEPS = 12
STARTS = [0, 3, 6, 8]
X, SIGMAS = noise(6, scale=10.0), geometric(STEPS)
CORES = len(STARTS)


def record(pool: InlinePool | ThreadPool | None = None, **arguments) -> tuple[Result, Timeline, list[Event]]:
    """A run with a recorder, and all events."""
    recorder, seen = Recorder(), []

    def on_event(event: Event) -> None:
        recorder(event)
        seen.append(event)

    arguments = {"starts": STARTS, **arguments}
    result = sample(None if pool else nonlinear, X, SIGMAS, pool=pool, on_event=on_event, **arguments)
    return result, recorder.timeline(), seen


class Clock:
    """A clock that shows the time to which it is set."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def evaluated(lane: int = 0, seconds: float = 1.0, core: int = 1, index: int = 0, depth: int = 1) -> Evaluated:
    return Evaluated(core, index, depth, lane, seconds, X, X)


def record_by_hand(*events: tuple[float, Event], began: float = 100.0) -> Timeline:
    """The timeline of events at given seconds of a run that began at ``began`` on its clock."""
    clock = Clock(began)
    recorder = Recorder(clock)
    for seconds, event in events:
        clock.now = began + seconds
        recorder(event)
    clock.now += 1000  # time after the run does not count
    return recorder.timeline()


# --- the events of the run


@pytest.mark.parametrize("accept", [1, 2, 3, "exact"])
@pytest.mark.parametrize("lanes", [None, 2, 4])
def test_evaluations_are_those_of_the_run(lanes: int | None, accept: int | str) -> None:
    """Exactly the evaluations that the hit depends on, each once, with its core, index and round."""
    if lanes is None:
        result, timeline, _ = record(InlinePool(nonlinear), accept=accept)
    else:
        with ThreadPool([Slow(lane) for lane in range(lanes)]) as pool:
            result, timeline, _ = record(pool, accept=accept)
    places = [(evaluation.core, evaluation.index) for evaluation in timeline.evaluations]
    assert len(set(places)) == len(places) == result.evaluations
    assert set(places) == needed(STEPS, STARTS, CORES if accept == "exact" else int(accept))
    for evaluation in timeline.evaluations:
        assert evaluation.depth == evaluation.index - STARTS[evaluation.core - 1] + evaluation.core
        assert evaluation.lane in range(lanes or 1)
    assert max(evaluation.depth for evaluation in timeline.evaluations) == result.depth


@pytest.mark.parametrize("threshold", [1e9, 1e-2])
def test_what_was_under_way_at_the_end_is_not_in_it(threshold: float) -> None:
    """A residual rule ends the run while slower cores are at work: their calls count, but have no event."""

    class Watched(ThreadPool):
        dropped = 0

        def settle(self, within: float | None = None) -> list[EvaluationResult]:
            came = super().settle(within)
            self.dropped += len(came)
            return came

    model = Counted(Slow(0))
    with Watched([model] * CORES) as pool:
        result, timeline, _ = record(pool, accept=Residual(threshold))
    assert len(timeline.evaluations) == result.evaluations - pool.dropped
    assert result.evaluations == model.calls


@pytest.mark.parametrize("accept", [1, 2, "exact"])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_hits_are_those_of_the_result(solver: str, accept: int | str) -> None:
    """Numbered in their order, each with its distance from the hit before, relative to its own size."""
    result, timeline, _ = record(accept=accept, solver=solver)
    assert [(mark.index, mark.core, mark.depth) for mark in timeline.hits] == [
        (index, hit.core, hit.depth) for index, hit in enumerate(result.hits)
    ]
    assert timeline.hits[0].change is None
    for mark, before, after in zip(timeline.hits[1:], result.hits, result.hits[1:], strict=False):
        difference, own = (after.x - before.x).square().mean().sqrt(), after.x.square().mean().sqrt()
        assert mark.change == pytest.approx(float(difference / own), rel=1e-12)
    assert timeline.accuracy_estimate == timeline.hits[-1].change
    assert timeline.hits[-1].seconds <= timeline.seconds


@pytest.mark.parametrize("starts", [STARTS, [0, 1, 2, 3], [0, 2, 4, 7], [0, 6]])
@pytest.mark.parametrize("lanes", [None, 3])
def test_a_rectification_ends_the_round_of_its_two_evaluations(lanes: int | None, starts: list[int]) -> None:
    """It needs the core's own evaluation one index before, and the neighbour's at the last correction."""
    if lanes is None:
        _, timeline, _ = record(starts=starts, accept="exact")
    else:
        with ThreadPool([Slow(lane) for lane in range(lanes)]) as pool:
            _, timeline, _ = record(pool, starts=starts, accept="exact")
    rounds = {(evaluation.core, evaluation.index): evaluation.depth for evaluation in timeline.evaluations}
    for mark in timeline.rectified:
        gap = starts[mark.core - 1] - starts[mark.core - 2]
        assert rounds[mark.core, mark.index - 1] == rounds[mark.core - 1, mark.index - gap] == mark.depth
    counts = Counter(mark.core for mark in timeline.rectified)
    assert [counts[core + 1] for core in range(len(starts))] == corrections(STEPS, starts, len(starts))


def test_one_core() -> None:
    """The sequential sampler: one round for each step, no rectification, the draft and the result."""
    result, timeline, _ = record(starts=None)
    assert [(evaluation.index, evaluation.depth) for evaluation in timeline.evaluations] == [
        (index, index + 1) for index in range(STEPS)
    ]
    assert timeline.rectified == ()
    assert [mark.core for mark in timeline.hits] == [0, 1]
    assert timeline.hits[1].depth == result.depth == STEPS


def test_times_in_one_thread_follow_each_other() -> None:
    """A lane makes one evaluation at a time, so its evaluations do not overlap."""
    _, timeline, seen = record(InlinePool(Slow(0)), accept="exact")
    assert timeline.evaluations[0].began >= 0
    for evaluation, following in pairwise(timeline.evaluations):
        assert evaluation.began + evaluation.seconds <= following.began
    durations = [event.seconds for event in seen if isinstance(event, Evaluated)]
    assert [evaluation.seconds for evaluation in timeline.evaluations] == durations
    assert sum(durations) <= timeline.seconds
    assert timeline.busy()[0] == pytest.approx(sum(durations) / timeline.seconds)


def test_lanes_at_work_together_overlap() -> None:
    """Four lanes make more evaluations in the time of the run than one lane can."""
    with ThreadPool([Slow(lane, 0.02) for lane in range(4)]) as pool:
        _, timeline, _ = record(pool, accept="exact")
    assert set(timeline.busy()) == {0, 1, 2, 3}
    assert sum(timeline.busy().values()) > 1
    moments = [mark.seconds for mark in timeline.hits]
    assert moments == sorted(moments)


class Broken:
    """Works for a number of calls, and then raises."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("device gone")
        return nonlinear(x, sigma)


@pytest.mark.parametrize("calls", [0, 3])
def test_a_lost_lane(calls: int) -> None:
    """It is marked with its error when it fails. Its evaluation has one mark, on another lane."""
    with ThreadPool([Broken(calls), Slow(1), Slow(2)]) as pool:
        result, timeline, _ = record(pool, accept="exact")
    (mark,) = timeline.lost
    assert (mark.lane, mark.error) == (0, "RuntimeError: device gone")
    own = [evaluation for evaluation in timeline.evaluations if evaluation.lane == 0]
    assert len(own) == calls
    assert all(evaluation.began + evaluation.seconds <= mark.seconds <= timeline.seconds for evaluation in own)
    assert len(timeline.evaluations) == result.evaluations
    assert (0 in timeline.seconds_per_evaluation()) == (calls > 0)
    assert 0 in timeline.busy()


# --- the times


def test_times_count_from_the_beginning_of_the_run() -> None:
    """An evaluation began its own duration before its event; a hit arrived at its event."""
    timeline = record_by_hand(
        (2.0, evaluated(seconds=1.5)),
        (2.5, Hit(0, 1, X)),
        (5.0, evaluated(lane=1, seconds=2.0)),
        (6.0, RoundDone(1, 2)),
    )
    assert [(e.lane, e.began, e.seconds) for e in timeline.evaluations] == [(0, 0.5, 1.5), (1, 3.0, 2.0)]
    assert timeline.hits[0].seconds == 2.5
    assert timeline.seconds == 6.0


def test_pace_and_share_of_each_lane() -> None:
    """Means over a lane's own evaluations; fractions of the whole run, also after a lane was lost."""
    timeline = record_by_hand(
        (2.0, evaluated(0, 2.0)),
        (3.0, evaluated(1, 1.0)),
        (4.0, LaneLost(2, ValueError("broken"))),
        (6.0, evaluated(0, 4.0)),
        (8.0, evaluated(1, 1.0)),
    )
    assert timeline.seconds_per_evaluation() == {0: 3.0, 1: 1.0}
    assert timeline.busy() == {0: 0.75, 1: 0.25, 2: 0.0}
    assert [(mark.lane, mark.error, mark.seconds) for mark in timeline.lost] == [(2, "ValueError: broken", 4.0)]


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_speedup_of_ideal_lanes_is_their_number(lanes: int) -> None:
    """With evaluations of one second on lanes that are never idle, the speedup is the number of lanes."""
    rounds = 4
    events = [(float(done), evaluated(lane)) for done in range(1, rounds + 1) for lane in range(lanes)]
    timeline = record_by_hand(*events)
    assert timeline.speedup(rounds * lanes) == lanes
    assert timeline.sequential_seconds(rounds * lanes) == rounds * lanes
    assert timeline.busy() == dict.fromkeys(range(lanes), 1.0)


def test_a_slow_start_does_not_make_the_sequential_run_slow() -> None:
    """The time of an undisturbed evaluation counts, not that of the first one, in which the device warms up."""
    timeline = record_by_hand((10.0, evaluated(seconds=10.0)), *((10.0 + i, evaluated()) for i in range(1, 11)))
    assert timeline.sequential_seconds(20) == 20
    assert timeline.speedup(20) == 1


def test_nothing_is_known_before_anything_happened() -> None:
    timeline = Recorder().timeline()
    assert timeline == Timeline()
    assert timeline.speedup(20) is timeline.sequential_seconds(20) is timeline.accuracy_estimate is None
    assert timeline.busy() == timeline.seconds_per_evaluation() == {}


def test_the_record_so_far_stays_as_it_is() -> None:
    """A timeline from the middle of a run is a part of the later one, and does not change any more."""
    recorder = Recorder()
    parts: list[tuple[Timeline, tuple]] = []

    def on_event(event: Event) -> None:
        recorder(event)
        parts.append((recorder.timeline(), recorder.hits))

    sample(nonlinear, X, SIGMAS, starts=STARTS, accept="exact", on_event=on_event)
    whole = recorder.timeline()
    for part, hits in parts:
        assert part.evaluations == whole.evaluations[: len(part.evaluations)]
        assert part.hits == hits == whole.hits[: len(hits)]
        assert part.rectified == whole.rectified[: len(part.rectified)]
        assert part.seconds <= whole.seconds
    assert [len(part.evaluations) for part, _ in parts] == sorted(len(part.evaluations) for part, _ in parts)


# --- changes between hits


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9, 2.0, -1.0])
def test_relative_change_of_multiples(ratio: float) -> None:
    """From r x to x it is |1 - r|, for any x, shape and scale."""
    for x in (X, 1e-6 * X, noise(2, 3, 4, seed=1), torch.ones(1)):
        assert relative_change(x, ratio * x) == pytest.approx(abs(1 - ratio), rel=1e-6)


def test_relative_change_of_zeros() -> None:
    zeros = torch.zeros_like(X)
    assert relative_change(X, X) == relative_change(zeros, zeros) == 0
    assert relative_change(X, zeros) == 1
    assert relative_change(zeros, X) == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_relative_change_in_half_precision(dtype: torch.dtype) -> None:
    """Large values do not overflow, and small differences do not vanish."""
    before, after = (torch.full((4096,), value, dtype=dtype) for value in (30000.0, 31000.0))
    expected = float(after[0] - before[0]) / float(after[0])
    assert relative_change(after, before) == pytest.approx(expected, rel=1e-5)


def test_a_change_is_a_finite_number() -> None:
    """If only the newer hit is all zeros, there is no relative change."""
    timeline = record_by_hand((1.0, Hit(0, 1, X)), (2.0, Hit(2, 2, 0 * X)), (3.0, Hit(1, 3, X)))
    assert [mark.change for mark in timeline.hits] == [None, None, 1.0]


# --- memory


def test_no_latent_is_kept_but_the_newest_hit() -> None:
    """States and evaluations of a run are freed as in a run without a recorder."""
    recorder = Recorder()
    alive: dict[str, weakref.ref[Tensor]] = {}

    def tell(name: str, make) -> None:
        x = X.clone()
        alive[name] = weakref.ref(x)
        recorder(make(x))

    tell("evaluated", lambda x: Evaluated(2, 3, 2, 0, 1.0, x, x))
    tell("rectified", lambda x: Rectified(2, 4))
    tell("first", lambda x: Hit(0, 1, x))
    tell("second", lambda x: Hit(1, 2, x))
    tell("accepted", lambda x: Accepted(Hit(1, 2, x)))
    gc.collect()
    assert not any(alive[name]() is not None for name in ("evaluated", "rectified", "first", "accepted"))
    assert recorder.timeline().rectified[0].depth == 2
    recorder(Hit(1, 3, 2 * X))
    assert recorder.hits[-1].change == 0.5


class Graph(torch.autograd.Function):
    """Returns its input, and keeps an object in memory while the result can be differentiated."""

    @staticmethod
    def forward(ctx, x: Tensor, held: object) -> Tensor:
        ctx.held = held
        return x.clone()


def test_no_graph_is_kept() -> None:
    """With gradients on, the recorder keeps the newest hit without its graph."""

    class Held:
        pass

    held = Held()
    alive = weakref.ref(held)
    recorder = Recorder()
    recorder(Hit(0, 1, Graph.apply(X.clone().requires_grad_(), held)))
    del held
    gc.collect()
    assert alive() is None
    recorder(Hit(1, 2, 2 * X))
    assert recorder.hits[-1].change == 0.5
