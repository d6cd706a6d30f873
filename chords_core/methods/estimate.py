"""About how far a window's result is from the solver's own, from what the run has measured itself.

Two things are known at its end. The moves of the nodes say how far the model was called from where the path is now. The
change between the last two hits says what the last round still brought. Neither is the error: how strongly a later step
amplifies an earlier error differs from picture to picture. But the error is between 0 and a few moves, and the more
sensitive the picture, the more the last round still changed. So the estimate is proportional to the geometric mean of
the two (how often it is within a factor of 3 of the error: benchmarks/results/tolerance.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .window_rule import Measured

_PROPORTION = 0.06
"""The error over the geometric mean and the root of N. Fitted (benchmarks/tolerance.py)."""


def estimated_error(moves: Sequence[float], amplification: Sequence[float], change: float, steps: int) -> float:
    """The estimated relative RMS difference of one item of the batch from the solver's own result.

    Args:
        moves: of the item's nodes at the end of the run, as `chords_core.methods.window_rule.Measured` has them.
        amplification: of each of these nodes; see `chords_core.solvers.linear_form.amplification`.
        change: the relative RMS change from the hit before the last to the last.
        steps: N. The more there are, the more of them lie between two nodes, and the smaller the moves are.

    Returns:
        At least 0. It is 0 if no node has moved: then every step was called where it is.
    """
    squares = sum((factor * move) ** 2 for factor, move in zip(amplification, moves, strict=True))
    return _PROPORTION * math.sqrt(steps * math.sqrt(squares) * change)


def estimates(measured: Measured, amplification: Sequence[float], changes: Sequence[float]) -> tuple[float, ...]:
    """The estimate of each sample; infinite where a sample is not finite.

    Args:
        measured: what the last round has shown.
        amplification: of each step.
        changes: of each sample, from the hit before the last to the last.
    """
    weights, steps = [amplification[node] for node in measured.known], len(amplification)
    return tuple(
        estimated_error(moves, weights, change, steps) if change < math.inf else math.inf
        for moves, change in zip(zip(*measured.moves, strict=True), changes, strict=True)
    )
