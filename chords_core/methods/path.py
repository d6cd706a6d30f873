"""A trajectory as linear maps between the steps at which the model was called.

A solver that is linear in the evaluations is a list of updates (`solvers.linear_form`): step i leads from x_i to
x_{i+1} = ratio_i * x_i + sum_j weight_ij * D_j. Where the model was not called, D_j is a combination of known
evaluations. Between two of them it is a cubic in the step. Beyond the newest it follows the trend of the last two,
which halves with each distance of the two. So each segment of the trajectory is again one linear update, in terms of
known evaluations.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

from ..solvers.interpolated import interpolation_weights
from ..solvers.linear_form import LinearUpdate

_FIRST_TREND = 2
"""The first step whose evaluation may show a trend. Before it the prediction changes too much."""


class Path(Protocol):
    """What a window needs to know about a trajectory of N steps."""

    @property
    def steps(self) -> int:
        """N. The nodes are 0..N-1, and N is the end."""

    def segment(self, known: Sequence[int], first: int, last: int) -> LinearUpdate:
        """The update from node ``first`` to node ``last``, with weights of known nodes only.

        Args:
            known: the nodes that were evaluated, increasing.
            first: one of them.
            last: greater than ``first``, at most N.
        """

    def noncausal(self, known: Sequence[int]) -> bool:
        """Whether a segment between known nodes has weights of nodes after its beginning."""


class SolverPath:
    """The updates of a solver on its own steps. The aim is the solver's result, whatever was evaluated."""

    def __init__(self, updates: Sequence[LinearUpdate]) -> None:
        self._updates = updates
        self._back = max((i - j for i, update in enumerate(updates) for j, _ in update.weights), default=0)
        self._segments: dict[tuple[Sequence[int], int, int], LinearUpdate] = {}

    @property
    def steps(self) -> int:
        return len(self._updates)

    def noncausal(self, known: Sequence[int]) -> bool:
        return known[-1] - known[0] >= len(known)

    def segment(self, known: Sequence[int], first: int, last: int) -> LinearUpdate:
        place = bisect_left(known, first)
        # A segment depends on the nodes around the steps that its updates look back at.
        around = tuple(known[max(0, place - self._back - 2) : place + 4])
        if last == first + 1 and around[-1] - around[0] == len(around) - 1:
            return self._updates[first]  # nothing is interpolated
        if last > known[-1]:
            return self._composed(known, first, last)
        key = around, first, last
        if key not in self._segments:
            self._segments[key] = self._composed(around, first, last)
        return self._segments[key]

    def _composed(self, known: Sequence[int], first: int, last: int) -> LinearUpdate:
        ratio, weights = 1.0, dict.fromkeys(known, 0.0)
        for update in reversed(self._updates[first:last]):
            for j, weight in update.weights:
                for node, share in prediction_weights(known, j):
                    weights[node] += ratio * weight * share
            ratio *= update.ratio
        return LinearUpdate(ratio, tuple((node, weight) for node, weight in weights.items() if weight != 0))


class CubicPath:
    """The updates of `chords_core.solvers.cubic.cubic_updates`; element e is for the known nodes 0..e."""

    def __init__(self, updates: Sequence[Sequence[LinearUpdate]]) -> None:
        self._updates = updates

    @property
    def steps(self) -> int:
        return len(self._updates)

    def noncausal(self, known: Sequence[int]) -> bool:
        return True

    def segment(self, known: Sequence[int], first: int, last: int) -> LinearUpdate:
        ratio, weights = 1.0, dict[int, float]()
        for update in reversed(self._updates[known[-1]][first:last]):
            for j, weight in update.weights:
                node = min(j, known[-1])
                weights[node] = weights.get(node, 0.0) + ratio * weight
            ratio *= update.ratio
        return LinearUpdate(ratio, tuple((node, weight) for node, weight in weights.items() if weight != 0))


def prediction_weights(known: Sequence[int], step: int) -> list[tuple[int, float]]:
    """D at a ``step`` as a weighted sum of D at the ``known`` steps (increasing): pairs (known step, weight)."""
    newest = known[-1]
    if step <= newest:
        return [(known[place], share) for place, share in interpolation_weights(known, step, 0.0)]
    if len(known) == 1 or newest < _FIRST_TREND:
        return [(newest, 1.0)]
    ahead = trend(known[-2], newest, step)
    return [(newest, 1.0 + ahead), (known[-2], -ahead)]


def trend(before: int, newest: int, step: int) -> float:
    """How much of the change of D from the known step ``before`` to ``newest`` is expected again until ``step``.

    It is 1/2 after the same distance, 3/4 after twice the distance, and goes to 1.
    """
    return 1.0 - float(0.5 ** ((step - newest) / (newest - before)))
