"""Random faults in any order, in imagined time."""

from __future__ import annotations

import heapq
from itertools import count

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chords_core import (
    Evaluation,
    EvaluationResult,
    Event,
    LaneBack,
    LaneFaulty,
    LaneLost,
    LaneSlow,
    LaneTimeouts,
    lattice_starts,
    sample,
)
from chords_core.execution.driver import drive
from chords_core.execution.lane_timeout import LaneWatchdog
from chords_core.methods.accept import check_accept
from chords_core.methods.chords import Chords
from chords_core.solvers import SOLVERS
from tests.core.execution.driver_runs import assert_reported_once
from tests.core.problems import geometric, noise, nonlinear


class Imagined:
    """A pool in imagined time. ``plans``: for each call of a lane, whether it answers, fails or hangs, and when."""

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
            result = EvaluationResult(lane, evaluation, seconds, nonlinear(evaluation.x, evaluation.sigma))
        elif kind == "nan":
            result = EvaluationResult(lane, evaluation, seconds, torch.full_like(evaluation.x, torch.nan))
        else:
            result = EvaluationResult(lane, evaluation, seconds, error=RuntimeError(kind))
        if kind != "hang":
            heapq.heappush(self._coming, (self.now + seconds, next(self._numbers), result))

    def next(self, timeout: float) -> EvaluationResult | None:
        if not self._coming or self._coming[0][0] > self.now + timeout:
            self.now += timeout
            return None
        at, _, result = heapq.heappop(self._coming)
        self.now = max(self.now, at)
        self.busy.remove(result.lane)
        return result

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        assert within is not None
        end, came = self.now + within, list[EvaluationResult]()
        while self._coming and self._coming[0][0] <= end:
            result = self.next(within)
            assert result is not None
            came.append(result)
        return came


CALLS = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from([0.01, 0.1, 1.0, 3.0, 9.0])),  # the longer ones are late
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
    calls = drive(run, pool, on_event=events.append, cancel=lambda: pool.now > 1e5, watchdog=watch)
    assert torch.equal(run.accepted.x, expected.x)
    assert run.accepted.depth == expected.depth
    assert_reported_once(events)
    assert calls >= expected.evaluations
    again, gone = 0, set()  # only evaluations of slow and lost lanes are made twice
    for event in events:
        if isinstance(event, LaneSlow | LaneLost):
            again += event.lane not in gone
            gone.add(event.lane)
        elif isinstance(event, LaneBack):
            gone.remove(event.lane)
    assert pool.submitted <= expected.evaluations + again
    lost = {event.lane for event in events if isinstance(event, LaneLost)}
    assert not lost & pool.busy


def test_a_late_answer_confirms_another_lane_is_wrong() -> None:
    """A slow lane is at an evaluation for which another lane gives NaN. It answers before the third lane, which was
    asked to confirm: the NaN was wrong, and the lane that gave it is lost."""
    x, sigmas = noise(3, scale=10.0), geometric(12)
    pool = Imagined([[("answer", 2.5)], [("nan", 0.1)], [("answer", 1.5)]])
    run, events = Chords(x, sigmas, (0,), SOLVERS["euler"], 1), list[Event]()
    watch = LaneWatchdog(LaneTimeouts(floor=9.0, factor=2.0, first=2.0), lambda: pool.now)
    calls = drive(run, pool, on_event=events.append, cancel=lambda: pool.now > 1e5, watchdog=watch)
    assert torch.equal(run.accepted.x, sample(nonlinear, x, sigmas).x)
    assert calls == 12 + 2
    marks = [event for event in events if isinstance(event, LaneSlow | LaneBack | LaneLost)]
    assert [(type(event), event.lane) for event in marks] == [(LaneSlow, 0), (LaneBack, 0), (LaneLost, 1)]
    assert isinstance(marks[-1].error, LaneFaulty)
