"""What the planner would do, in the form that several benchmarks need."""

from __future__ import annotations

from chords_core import ChordsPlan, plan


def planned_starts(steps: int, lanes: int, cores: int = 0) -> tuple[int, ...]:
    """The start indices of CHORDS to its first hit: one for each core, and (0,) where the planner takes one core."""
    chosen = plan(steps, lanes, cores, accept=1, method="chords")
    return chosen.starts if isinstance(chosen, ChordsPlan) else (0,)
