"""The driver: lost lanes, and the order of events."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from chords_core import (
    SOLVERS,
    Accepted,
    Chords,
    Evaluated,
    Evaluation,
    Event,
    Hit,
    InlinePool,
    LaneLost,
    Rectified,
    Residual,
    RoundDone,
    ThreadPool,
)
from chords_core.execution.driver import drive
from tests.core.execution.driver_runs import SIGMAS, STARTS, STEPS, FailsAt, X, lost, run
from tests.core.problems import Counted, Slow, assert_same, corrections, nonlinear


@pytest.mark.parametrize("accept", [1, "exact"])
@pytest.mark.parametrize("call", [1, 2, 3, 5, 8, 13, 17])
def test_a_lost_lane_changes_nothing(call: int, accept: int | str) -> None:
    """A lane that raises at any call is reported, gets no more work, and does not change a bit of the result."""
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
    """If all lanes except one are lost, at once or one after another, the last one completes the run."""
    seen: list[Event] = []
    with ThreadPool([FailsAt(calls, lost)] * 4) as pool:
        assert_same(run(pool, accept="exact", on_event=seen.append), run(accept="exact"))
    assert len([event for event in seen if isinstance(event, LaneLost)]) == 3


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("first", [1, 6])
def test_all_lanes_lost_raises_the_first_error(lanes: int, first: int) -> None:
    """When the last lane has failed, the run raises the first error, and no lane is at work."""
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
    """With one lane, in the caller's thread, an error reaches the caller unchanged."""
    error = ValueError("out of memory")
    model = FailsAt({4}, lambda number: error)
    with pytest.raises(ValueError) as raised:
        run(InlinePool(model))
    assert raised.value is error and model.calls == 4


def test_a_lost_lane_is_tried_again_in_the_next_run() -> None:
    """A lane is lost for one run only: the pool keeps all its lanes."""
    model = FailsAt({2}, lost)
    lanes: set[int] = set()
    with ThreadPool([model] * 2) as pool:
        run(pool)
        run(pool, on_event=lambda event: lanes.add(event.lane) if isinstance(event, Evaluated) else None)
    assert lanes == {0, 1}


@pytest.mark.parametrize("lanes", [None, 2])
def test_a_method_that_stalls_is_an_error(lanes: int | None) -> None:
    """A method that asks for nothing more and has no accepted hit is an error. The run does not hang."""

    class Stalls(Chords):
        def ready(self) -> list[Evaluation]:
            return [evaluation for evaluation in super().ready() if evaluation.index != 7]

    with ThreadPool([nonlinear] * (lanes or 1)) as threads, pytest.raises(AssertionError, match="never asked for"):
        pool = threads if lanes else InlinePool(nonlinear)
        stalls = Stalls(X, SIGMAS, STARTS, SOLVERS["euler"], 1)
        drive(stalls, pool)


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
        if isinstance(step, RoundDone):  # no evaluation of its round or an earlier one comes after it
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
    """A core is corrected each time it has moved on by its gap, until the last index that is needed."""
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
    """A large threshold accepts the first hit, which is compared with the draft; a tiny one runs to the end."""
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
