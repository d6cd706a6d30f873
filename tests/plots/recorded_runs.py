"""Records such as the samplers make, of runs on lanes of about a millisecond a call, for pictures of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from chords_core import (
    AdaptivePlan,
    BatchPool,
    ChordsPlan,
    OnDemand,
    Plan,
    Recorder,
    Result,
    SequentialPlan,
    ThreadPool,
    lattice_starts,
    sample,
)
from tests.core.problems import Slow, geometric, noise, nonlinear

OTHER_LETTERS = ("ray://a-host-with-a-long-name:10001/0", "Gerät 1 \N{HIGH VOLTAGE SIGN}")
CARD = SimpleNamespace(
    title=("about 14 of 20 calls in a row", "1.4x fewer"),
    detail=("4 cores on cuda:0, cuda:1, cuda:2, cuda:3", "about 0.4 % from KSampler's picture; " * 9),
    advice=("set cores to 0 for the fastest choice",),
)


def _broken(x: Any, sigma: float) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\n" * 50)


def recorded_run(
    steps: int, cores: int, accept: int = 1, lanes: int | None = None, *, lose: bool = False, end_at: int = 99
) -> SimpleNamespace:
    """A record such as the samplers make, of a run on lanes of about a millisecond a call; it may lose the first
    lane, and is ended by its user once hit ``end_at`` is there."""
    lanes = lanes or cores
    recorder, starts = Recorder(), lattice_starts(steps, cores)
    with ThreadPool([_broken if lose and lane == 0 else Slow(lane) for lane in range(lanes)]) as pool:
        result = sample(
            nonlinear,
            noise(6, scale=10.0),
            geometric(steps),
            starts=starts,
            accept=OnDemand(accept, lambda: len(recorder.hits) > end_at),
            pool=pool,
            on_event=recorder,
        )
    plan = ChordsPlan(steps, ("so many were asked for",), tuple(starts), accept)
    return _record(recorder, result, plan, "chords" if cores > 1 else "sequential", lanes, len(recorder.hits) > end_at)


def _within(steps: int, cores: int) -> SimpleNamespace:
    """The same within a tolerance."""
    recorder = Recorder()
    with ThreadPool([Slow(lane) for lane in range(cores)]) as pool:
        x, sigmas = noise(6, scale=10.0), geometric(steps)
        plan = AdaptivePlan(steps, ("so many were asked for",), cores, 8, 0.01)
        result = sample(nonlinear, x, sigmas, pool=pool, on_event=recorder, **plan.sample_options())
    return _record(recorder, result, plan, plan.method, cores)


def _in_rows(steps: int, rows: int) -> SimpleNamespace:
    """The same with the cores as rows of one call."""
    recorder, slow = Recorder(), Slow(0)
    pool = BatchPool(lambda xs, sigmas: [slow(x, sigma) for x, sigma in zip(xs, sigmas, strict=True)], rows)
    plan = AdaptivePlan(steps, ("so many were asked for",), rows, 8, 0.01)
    sigmas = geometric(steps)
    result = sample(None, noise(6, scale=10.0), sigmas, pool=pool, on_event=recorder, **plan.sample_options())
    return _record(recorder, result, plan, plan.method, rows, rows=rows)


def _record(
    recorder: Recorder,
    result: Result,
    plan: Plan,
    method: str,
    lanes: int,
    by_request: bool = False,
    rows: int = 1,
) -> SimpleNamespace:
    return SimpleNamespace(
        message=f"{plan.cores} cores ({method}): a result after {result.depth} model calls",
        method=method,
        solver="euler",
        plan=plan,
        lanes=("cuda:0",) * lanes if rows > 1 else tuple(f"cuda:{lane}" for lane in range(lanes)),
        rows=rows,
        depth=result.depth,
        evaluations=result.evaluations,
        seconds=2 * recorder.timeline().seconds,
        timeline=recorder.timeline(),
        by_request=by_request,
        estimate=result.estimate,
        card=CARD,
    )


def _stock(**changes: Any) -> SimpleNamespace:
    record = {
        "message": "one core, exactly as in KSampler: euler_ancestral is not one of those that run in parallel. " * 4,
        "method": "stock",
        "solver": "euler_ancestral",
        "plan": SequentialPlan(20, ()),
        "lanes": ("cpu",),
        "rows": 1,
        "depth": 20,
        "evaluations": 0,
        "seconds": 4.2,
        "timeline": None,
        "by_request": False,
        "estimate": 0.0,
    }
    return SimpleNamespace(**{**record, "card": None, **changes})


PICTURES: dict[str, Callable[[], SimpleNamespace]] = {
    "4 cores": lambda: recorded_run(20, 4),
    "8 cores": lambda: recorded_run(50, 8),
    "to the exact result": lambda: recorded_run(50, 8, accept=8),
    "one core": lambda: recorded_run(20, 1),
    "one step": lambda: recorded_run(1, 1),
    "2 cores": lambda: recorded_run(10, 2),
    "2 cores, 200 steps": lambda: recorded_run(200, 2),
    "16 cores": lambda: recorded_run(50, 16, accept=16),
    "64 cores": lambda: recorded_run(200, 64),
    "cores that take turns": lambda: recorded_run(20, 4, lanes=2),
    "ended early": lambda: recorded_run(20, 4, accept=4, end_at=1),
    "ended with the draft": lambda: recorded_run(50, 8, accept=8, end_at=0),
    "a lost lane": lambda: recorded_run(20, 4, accept=4, lose=True),
    "one core, fewer calls": lambda: _within(20, 1),
    "a window of 4 cores": lambda: _within(20, 4),
    "a window of 8 cores": lambda: _within(50, 8),
    "4 rows in one call": lambda: _in_rows(20, 4),
    "8 rows in one call": lambda: _in_rows(50, 8),
    "stock": _stock,
    "nothing sampled": lambda: _stock(message="", method="", solver="", plan=SequentialPlan(0, ()), seconds=0.0),
    "other letters": lambda: SimpleNamespace(
        **{
            **vars(recorded_run(20, 2)),
            "lanes": ("ray://a-host-with-a-long-name:10001/0", "Gerät 1 \N{HIGH VOLTAGE SIGN}"),
        }
    ),
}
