"""Which nodes a window evaluates next, and when it is enough: from how far the evaluated ones have moved.

The *move* of a node is the distance of its state from where it was evaluated, relative to the picture that its state
implies so far: s_j = |x_j - E_j| / |x_j - (t_j / t_0) x_0|. So the measure is strict at the start, where little of the
picture is there yet. It is weighed by how strongly the solver amplifies an evaluation there
(`chords_core.solvers.linear_form.amplification`).

All moves up to a node, each over the share of the path that it stands for, must stay within a budget that grows with
the path; the first node that breaks it is where the next round begins. No constant here depends on guidance, schedule
or prediction: see docs/how-it-works.md and benchmarks/results/trust.md.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate

LARGEST_MOVE = 0.03
"""A node that has moved further is evaluated again in any case."""

BUDGET = 0.0067
"""Of all weighed moves together, times sqrt(N) for N steps, at the end of the path."""

_LONG = 64
"""Steps from which on the budget is that of so many: what finer steps add is interpolated."""

_BUDGET_POWER = 1.5
"""The budget up to the share p of the path is p to this power: an early move spoils more than a late one."""

_DENSE = 8
"""Nodes at the start between which no step is left out: there the composition is decided."""

_GROWTH, _SHRINKAGE = 2.0, 0.5
"""The distance of new nodes changes by these factors at most from round to round."""

_USUAL_MOVE = 0.1
"""Of the newest nodes, as they are first solved: below it their distance grows, above it shrinks."""

_USUAL_SURPRISE = 0.05
"""Of the newest node whose evaluation is expected best: the same."""

ROUGH = 0.1
"""The surprise from which on the prediction is taken to jump: the steps left out before the node are evaluated, too."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a round has shown.

    Attributes:
        known: the nodes evaluated so far, increasing.
        moves: of each, by sample.
        changed: whether each has moved by more than rounding.
        surprises: of each node but 0 that was evaluated for the first time, how far the evaluation is from the trend of
            the nodes before it, as a move; in the sample where it is furthest.
    """

    known: tuple[int, ...]
    moves: tuple[tuple[float, ...], ...]
    changed: tuple[bool, ...]
    surprises: Mapping[int, float]

    @property
    def first_changed(self) -> int | None:
        return next((node for node, moved in zip(self.known, self.changed, strict=True) if moved), None)


@dataclass(frozen=True)
class Progress:
    """``gap``: the distance of new nodes; ``skipped``: steps left out where the prediction turned out to be rough."""

    gap: float = 1.0
    skipped: frozenset[int] = frozenset()


@dataclass(frozen=True)
class MovingRule:
    """The window begins at the first node that has moved too far.

    Attributes:
        steps: N.
        nodes: the steps at which the model is called, increasing, the first 0 and the last N-1. Where the prediction is
            rough, it is called at steps between them, too.
        amplification: of each step.
        budget: of the moves; 0: every step has to be evaluated where it is now, to rounding.
        to_rounding: once the budget is kept, go on to that.
        pace: by round, the place in ``nodes`` at which the window begins at the earliest, so that a fixed number of
            rounds reaches the end; empty: no such number.
        widest: of the distances between new nodes.
    """

    steps: int
    nodes: tuple[int, ...]
    amplification: tuple[float, ...]
    budget: float
    to_rounding: bool = False
    pace: tuple[int, ...] = ()
    widest: int = 1

    def first(self, cores: int) -> tuple[int, ...]:
        """The nodes of the first round."""
        return self.nodes[:cores]

    def following(
        self, progress: Progress, measured: Measured, cores: int, rounds: int, left: int
    ) -> tuple[Progress, tuple[int, ...] | None]:
        """The nodes to evaluate next, ``cores`` of them if there are as many, increasing, or None if it is enough.

        Args:
            rounds: made so far.
            left: rounds that there may still be, at least 1. Before they run out the rest of the path is evaluated.
        """
        progress = self._progress(progress, measured)
        start = self._start(progress, measured)
        if start is None and self.pace:
            start = 0
        if start is None:
            return progress, None
        if self.pace:
            start = max(start, self.nodes[self.pace[min(rounds, len(self.pace) - 1)]])
        available = sorted({*measured.known, *progress.skipped})
        place = bisect_left(available, start)
        unknown = len(self.nodes) - bisect_right(self.nodes, measured.known[-1])
        due = min(cores, max(0, unknown - cores * (left - 1)))  # or else the last round does not reach the end
        chosen = available[place : place + cores - due]
        distance = self._distance(progress.gap, measured.known[-1], cores, rounds)
        chosen += self._new(measured.known[-1], distance, cores - len(chosen))
        spare = min(cores - len(chosen), place)  # the nearest to the left
        return progress, (*available[place - spare : place], *chosen)

    def _start(self, progress: Progress, measured: Measured) -> int | None:
        """The first node to evaluate, or None."""
        stale = self._first_over_budget(measured) if self.budget else measured.first_changed
        first = [node for node in (stale, *progress.skipped) if node is not None]
        if not first and measured.known[-1] < self.steps - 1:
            first = [measured.known[-1] + 1]
        if not first and self.to_rounding and measured.first_changed is not None:
            first = [measured.first_changed]
        return min(first, default=None)

    def _first_over_budget(self, measured: Measured) -> int | None:
        known = measured.known
        spent = [0.0] * len(measured.moves[0])
        ends = (*known[1:], min(known[-1] + 1, self.steps))
        for node, end, by_sample in zip(known, ends, measured.moves, strict=True):
            allowed = self.budget / math.sqrt(min(self.steps, _LONG)) * (end / self.steps) ** _BUDGET_POWER
            for sample, move in enumerate(by_sample):
                weighed = move * self.amplification[node]
                spent[sample] += weighed * (end - node) / self.steps
                if weighed > LARGEST_MOVE or spent[sample] > allowed:
                    return node
        return None

    def _progress(self, progress: Progress, measured: Measured) -> Progress:
        """How far apart the next new nodes are, and which of the steps between are to be evaluated after all."""
        known, surprises = measured.known, measured.surprises
        skipped = progress.skipped.difference(known)
        if known[-1] < _DENSE or not surprises:
            return replace(progress, skipped=skipped)
        moves = {node: max(by_sample, default=0.0) for node, by_sample in zip(known, measured.moves, strict=True)}
        weighed = {node: surprise * self.amplification[node] for node, surprise in surprises.items()}
        for node, surprise in surprises.items():
            if surprise > ROUGH and not self.pace:
                skipped |= frozenset(range(known[bisect_left(known, node) - 1] + 1, node))
        if self.to_rounding or not self.budget or self.widest == 1:
            return replace(progress, skipped=skipped)
        factors = (
            _USUAL_MOVE / max(1e-9, *(moves[node] for node in surprises)),
            _USUAL_SURPRISE / max(1e-9, min(weighed.values())),
        )
        factor = min(max(0.9 * min(factors) ** (1 / 3), _SHRINKAGE), _GROWTH)
        return Progress(min(self.widest, max(1.0, progress.gap * factor)), skipped)

    def _distance(self, gap: float, newest: int, cores: int, rounds: int) -> int:
        """From one new node to the next, counted in those that may be evaluated."""
        distance = max(1, int(gap + 0.3)) if newest >= _DENSE else 1
        if not self.pace:
            return distance
        left = len(self.nodes) - bisect_right(self.nodes, newest)
        return max(distance, math.ceil(left / (cores * max(1, len(self.pace) - rounds))))

    def _new(self, newest: int, distance: int, count: int) -> tuple[int, ...]:
        """At most ``count`` nodes after the ``newest``, which end exactly at the last."""
        place, last = bisect_right(self.nodes, newest) - 1, len(self.nodes) - 1
        new: list[int] = []
        while len(new) < count and place < last:
            left = last - place
            if distance >= left:
                place = last
            elif left - distance <= distance // 2:  # two halves rather than a whole and a rest
                place += (left + 1) // 2
            else:
                place += distance
            new.append(self.nodes[place])
        return tuple(new)


@dataclass(frozen=True)
class Fixed:
    """The window begins where a plan says: ``starts``, by round; later at the first node that has moved."""

    count: int
    starts: tuple[int, ...]

    def first(self, cores: int) -> tuple[int, ...]:
        """The nodes of the first round."""
        return tuple(range(min(cores, self.count)))

    def following(
        self, progress: Progress, measured: Measured, cores: int, rounds: int, left: int
    ) -> tuple[Progress, tuple[int, ...] | None]:
        """See `MovingRule.following`."""
        if rounds >= len(self.starts) and len(measured.known) == self.count and measured.first_changed is None:
            return progress, None
        start = self.starts[rounds] if rounds < len(self.starts) else measured.first_changed or 0
        start = min(start, self.count - cores)
        return progress, tuple(range(start, start + cores))


def paced_starts(nodes: int, cores: int, rounds: int) -> tuple[int, ...]:
    """The place of the window in each of so many ``rounds`` over so many ``nodes``, if nothing is measured. The rows of
    a solver look back only, so in each round one more node is where it will stay: it need not be evaluated again. And
    with as many rounds as nodes the window must not leave any behind that is not there yet."""
    last = nodes - cores
    settled = [min(r, last) for r in range(rounds)]
    if rounds >= nodes:
        return tuple(settled)
    ruled = window_starts(nodes, cores, rounds, rounds - 2, 1.3)
    return tuple(map(max, ruled, settled))


def window_starts(nodes: int, cores: int, rounds: int, arrival: int, exponent: float) -> tuple[int, ...]:
    """The first node of the window in each round: from 0 to ``nodes - cores``, where it is from round ``arrival`` on
    (counted from 0), advancing with the power ``exponent`` of the share of the way, or a lower one if otherwise nodes
    at the end would be left out. The first step is to node 1, if the window moves at all: in round 0 all nodes but the
    first were evaluated far from where they belong."""
    last = nodes - cores
    if last > 0:
        exponent = min(exponent, max(1.0, cores * arrival / last))
    starts = [round(last * min(1.0, r / max(arrival, 1)) ** exponent) for r in range(rounds)]
    if arrival > 1:
        starts[1] = min(1, last)
    closed = list(accumulate(starts, lambda before, start: min(start, before + cores)))
    return tuple(closed if closed[-1] == last else starts)  # else too few rounds to evaluate every node
