"""A trajectory as linear maps between the steps at which the model was called.

A solver that is linear in the evaluations is a list of rows (`solvers.linear_form`): step i leads from x_i to
x_{i+1} = ratio_i * x_i + sum_j weight_ij * D_j. Where the model was not called, D_j is a combination of those
evaluations that there are: between two of them a cubic in the step, beyond the newest the trend of the last two, which
halves with each distance of the two. So each segment of the trajectory is again one row, in terms of known evaluations.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

from ..solvers.interpolated import interpolation_weights
from ..solvers.linear_form import Row

_FIRST_TREND = 2
"""The first step whose evaluation may show a trend: before it the prediction changes too much."""


class Path(Protocol):
    """What a window needs to know of a trajectory of N steps."""

    @property
    def steps(self) -> int:
        """N: nodes are 0..N-1, and N is the end."""

    def segment(self, known: Sequence[int], first: int, last: int) -> Row:
        """The row from node ``first``, one of the ``known`` (increasing), to node ``last`` > first, at most N, with
        weights of known nodes only."""

    def looks_ahead(self, known: Sequence[int]) -> bool:
        """Whether a segment between known nodes has weights of nodes after its beginning."""


class SolverPath:
    """The rows of a solver on its own steps: the result aimed at is the solver's, whatever was evaluated."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._back = max((i - j for i, row in enumerate(rows) for j, _ in row.weights), default=0)
        self._segments: dict[tuple[Sequence[int], int, int], Row] = {}

    @property
    def steps(self) -> int:
        return len(self._rows)

    def looks_ahead(self, known: Sequence[int]) -> bool:
        return known[-1] - known[0] >= len(known)

    def segment(self, known: Sequence[int], first: int, last: int) -> Row:
        place = bisect_left(known, first)
        # What a segment depends on: the nodes around the steps that its rows look back at.
        around = tuple(known[max(0, place - self._back - 2) : place + 4])
        if last == first + 1 and around[-1] - around[0] == len(around) - 1:
            return self._rows[first]  # nothing is interpolated
        if last > known[-1]:
            return self._composed(known, first, last)
        key = around, first, last
        if key not in self._segments:
            self._segments[key] = self._composed(around, first, last)
        return self._segments[key]

    def _composed(self, known: Sequence[int], first: int, last: int) -> Row:
        ratio, weights = 1.0, dict.fromkeys(known, 0.0)
        for row in reversed(self._rows[first:last]):
            for j, weight in row.weights:
                for node, share in shares(known, j):
                    weights[node] += ratio * weight * share
            ratio *= row.ratio
        return Row(ratio, tuple((node, weight) for node, weight in weights.items() if weight != 0))


class CubicPath:
    """`chords_core.solvers.linear_form.cubic_rows`, whose element e is for the case that the nodes 0..e are known."""

    def __init__(self, rows: Sequence[Sequence[Row]]) -> None:
        self._rows = rows

    @property
    def steps(self) -> int:
        return len(self._rows)

    def looks_ahead(self, known: Sequence[int]) -> bool:
        return True

    def segment(self, known: Sequence[int], first: int, last: int) -> Row:
        ratio, weights = 1.0, dict[int, float]()
        for row in reversed(self._rows[known[-1]][first:last]):
            for j, weight in row.weights:
                node = min(j, known[-1])
                weights[node] = weights.get(node, 0.0) + ratio * weight
            ratio *= row.ratio
        return Row(ratio, tuple((node, weight) for node, weight in weights.items() if weight != 0))


def shares(known: Sequence[int], step: int) -> list[tuple[int, float]]:
    """D at a ``step`` as shares of the evaluations at the ``known`` steps (increasing): pairs (known step, share)."""
    newest = known[-1]
    if step <= newest:
        return [(known[place], share) for place, share in interpolation_weights(known, step, 0.0)]
    if len(known) == 1 or newest < _FIRST_TREND:
        return [(newest, 1.0)]
    ahead = trend(known[-2], newest, step)
    return [(newest, 1.0 + ahead), (known[-2], -ahead)]


def trend(before: int, newest: int, step: int) -> float:
    """How much of the change of D from the known step ``before`` to ``newest`` is expected again until ``step``: a half
    after the same distance, then half as much with each, 1 in the end."""
    return 1.0 - float(0.5 ** ((step - newest) / (newest - before)))
