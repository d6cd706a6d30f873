"""Whether the rounds of a window become calls of several rows on one device. Pure; needs torch only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ....chords_core import ROW_COUNTS, AdaptivePlan, plan
from ..phrases import Phrase
from .options import SamplerOptions
from .placement import Facts, Placement

MIN_GAIN = 0.1
"""The share of the time on one core that rows have to save. The bits of a row depend on how many rows its call has, so
that it is not worth less."""

_SOLVING_A_ROW = 1.8e-3
"""Seconds that solving a window takes a round for each of its rows, on a GPU: many small operations, however fast the
GPU is (benchmarks/results/gpu_h200.md, section 6; on a slow processor). So a model whose calls take 10 ms gains nothing
by rows."""

_TRIAL_CALLS = 6
"""What a trial of all numbers of rows makes, two warming calls of one row among them."""

_RUNS = 2
"""The runs that have to save what the trial costs: most users make at least two pictures of a size."""


def may_use_rows(placed: Placement, options: SamplerOptions, facts: Facts) -> bool:
    """Whether rows come into question: if nothing but a fidelity is asked for that is not KSampler's own picture, on
    one device, with enough steps that a window can gain."""
    asked = options.fidelity in ("near", "fast") and options.cores == 0
    asked = asked and options.method is None and options.accept is None
    alone = isinstance(placed.plan, AdaptivePlan) and placed.plan.cores == 1
    if not asked or not alone or facts.devices != (facts.primary,) or placed.groups != ((facts.primary,),):
        return False
    return place_rows(placed, facts, dict.fromkeys(ROW_COUNTS, 1.0)).rows > 1


def worth_a_trial(placed: Placement, facts: Facts) -> bool:
    """Whether a trial of rows pays within `_RUNS` runs, if rows take no time at all."""
    fewest = min(_window(placed, facts, rows).depth for rows in ROW_COUNTS if rows <= facts.steps)
    return _RUNS * (placed.plan.depth - fewest) >= _TRIAL_CALLS


def may_gain(placed: Placement, facts: Facts, rows: int, seconds: Mapping[int, float]) -> bool:
    """Whether so many rows or more can be the fastest, after these seconds of calls of fewer rows: if more rows take no
    longer."""
    hoped = {**seconds, **{count: max(seconds.values()) for count in ROW_COUNTS if count >= rows}}
    return place_rows(placed, facts, hoped).rows >= rows


def place_rows(placed: Placement, facts: Facts, seconds: Mapping[int, float]) -> Placement:
    """The placement with the window that takes the least time, or as it is if none gains `MIN_GAIN`.

    Args:
        placed: adaptive steps on one core.
        facts: of the run.
        seconds: of a call by its number of rows, 1 among them; empty: none can be used.
    """

    def takes(rows: int) -> float:
        return _window(placed, facts, rows).depth * (seconds[rows] + _SOLVING_A_ROW * rows)

    usable = [rows for rows in seconds if rows <= facts.steps]
    best = min(usable, key=lambda rows: (takes(rows), rows), default=1)
    if best == 1 or takes(best) > (1 - MIN_GAIN) * takes(1):
        return placed
    return replace(
        placed, plan=replace(_window(placed, facts, best), reasons=(_gain(best, seconds, takes),)), rows=best
    )


def _window(placed: Placement, facts: Facts, rows: int) -> AdaptivePlan:
    """The plan for so many rows; for one row the given one."""
    alone = placed.plan
    assert isinstance(alone, AdaptivePlan)
    if rows == 1:
        return alone
    chosen = plan(facts.steps, rows, rows, tolerance=alone.tolerance, solver=facts.solver)
    assert isinstance(chosen, AdaptivePlan)
    return chosen


def _gain(rows: int, seconds: Mapping[int, float], takes: Callable[[int], float]) -> Phrase:
    """What rows gain, in a sentence."""
    saved = 1 - takes(rows) / takes(1)
    return Phrase(
        "{rows} rows take {factor} times as long as one, which saves about {percent} % of the time",
        rows=rows,
        factor=f"{seconds[rows] / seconds[1]:.2f}",
        percent=f"{100 * saved:.0f}",
    )
