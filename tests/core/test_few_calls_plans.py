"""What the planner says of runs with fewer calls than steps: its words, counts and choice agree."""

from __future__ import annotations

import pytest

from chords_core import plan
from chords_core.planning import ACCEPTS

CASES = [
    (steps, calls, cores) for steps in (4, 8, 20, 30, 50) for calls in ("auto", "1/2") for cores in (0, 1, 2, 4, 8)
]


@pytest.mark.parametrize(("steps", "calls", "cores"), CASES)
@pytest.mark.parametrize("accept", [accept for accept in ACCEPTS if accept != "exact"])
def test_its_counts_and_words_agree(steps: int, calls: str, cores: int, accept: str) -> None:
    chosen = plan(steps, 8, cores=cores, calls=calls, accept=accept)
    if chosen.calls is None:  # too few steps to leave any out
        assert chosen.length == steps
        return
    assert 2 <= chosen.length == chosen.calls < steps
    assert chosen.depth <= chosen.calls
    if chosen.cores == 1:
        assert chosen.depth == chosen.calls
        assert (f"{cores} cores would be no faster" in chosen.reason) == (cores > 1)
    else:
        assert chosen.depth < chosen.calls
        assert (f"{cores} cores were asked for" in chosen.reason) == (cores > 0)


def test_a_run_of_every_step_calls_the_model_at_every_step() -> None:
    assert plan(30, 4).length == 30
    assert plan(30, 4, accept="exact", calls="auto").length == 30
