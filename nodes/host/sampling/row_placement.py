"""Whether the rounds of a window become calls of several rows on one device. Pure; needs torch only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ....chords_core import ROW_COUNTS, AdaptivePlan, plan
from .options import SamplerOptions
from .placement import Facts, Placement

MIN_GAIN = 0.1
"""The share of the time on one core that rows have to save. The bits of a row depend on how many rows its call has, so
that it is not worth less."""


def may_use_rows(placed: Placement, options: SamplerOptions, facts: Facts) -> bool:
    """Whether rows come into question: if nothing but a fidelity is asked for that is not KSampler's own picture, on
    one device, with enough steps that a window can gain."""
    asked = options.fidelity in ("near", "fast") and options.cores == 0
    asked = asked and options.method is None and options.accept is None
    alone = isinstance(placed.plan, AdaptivePlan) and placed.plan.cores == 1
    if not asked or not alone or facts.devices != (facts.primary,) or placed.groups != ((facts.primary,),):
        return False
    return place_rows(placed, facts, dict.fromkeys(ROW_COUNTS, 1.0)).rows > 1


def place_rows(placed: Placement, facts: Facts, seconds: Mapping[int, float]) -> Placement:
    """The placement with the window that takes the least time, or as it is if none gains `MIN_GAIN`.

    Args:
        placed: adaptive steps on one core.
        facts: of the run.
        seconds: of a call by its number of rows, 1 among them; empty: none can be used.
    """
    alone = placed.plan
    assert isinstance(alone, AdaptivePlan)

    def within(rows: int) -> AdaptivePlan:
        chosen = plan(facts.steps, rows, rows, tolerance=alone.tolerance, solver=facts.solver)
        assert isinstance(chosen, AdaptivePlan)
        return chosen

    def takes(rows: int) -> float:
        chosen = alone if rows == 1 else within(rows)
        return chosen.depth * (seconds[rows] + facts.solving_seconds)

    usable = [rows for rows in seconds if rows <= facts.steps]
    best = min(usable, key=lambda rows: (takes(rows), rows), default=1)
    if best == 1 or takes(best) > (1 - MIN_GAIN) * takes(1):
        return placed
    saved = 1 - takes(best) / takes(1)
    longer = f"{best} rows take {seconds[best] / seconds[1]:.2f} times as long as one"
    reason = f"{longer}, which saves about {100 * saved:.0f} % of the time"
    return replace(placed, plan=replace(within(best), reasons=(reason,)), rows=best)
