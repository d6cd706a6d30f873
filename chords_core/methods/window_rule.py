"""Which nodes a window evaluates next, and when the run ends: by how far the evaluated nodes have moved.

The *move* of a node is the distance of its state x_j from the state E_j where it was evaluated, relative to the picture
that its state implies so far: s_j = |x_j - E_j| / |x_j - (t_j / t_0) x_0|. So the measure is strict at the start, where
there is little of the picture yet. A move is weighted by how strongly the solver amplifies an evaluation there
(`chords_core.solvers.linear_form.amplification`).

The sum of all moves up to a node, each times the share of the path until the next node, must stay within a budget that
grows along the path. The next round begins at the first node that exceeds it. No constant here depends on guidance,
schedule or prediction: see docs/how-it-works.md and benchmarks/results/trust.md.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

MAX_MOVE = 0.03
"""A node with a larger weighted move is evaluated again in any case."""

BUDGET = 0.0067
"""Of the sum of all weighted moves at the end of the path, times sqrt(N) for N steps."""

BUDGET_PER_TOLERANCE = 1.34
"""The budget for a tolerance of the result, over that tolerance."""

MAX_MOVE_PER_TOLERANCE = 3.0
"""`MAX_MOVE` for a tolerance of the result, over that tolerance."""

MOVE_PER_SURPRISE = 0.35
"""With a tolerance: the move of the newest nodes that leaves their gap as it is, over the allowed surprise and the
number of cores. With larger moves every second round would only evaluate the nodes of the round before again."""

MAX_EFFECT_PER_TOLERANCE = 3.0
"""What all moves together may change the end by, as estimated, over the tolerance of the result."""

_MAX_BUDGET_STEPS = 64
"""More steps than this have the budget of so many, because what finer steps add is interpolated."""

_BUDGET_EXPONENT = 1.5
"""The budget up to the share p of the path grows with this power of p: an early move does more harm than a late one."""

_MAX_GROWTH, _MIN_GROWTH = 2.0, 0.5
"""The gap between new nodes changes at most by these factors from round to round."""

ROUGH = 0.1
"""From this surprise on the prediction is taken to jump, unless a tolerance says how much it may."""


UNEVEN = 2.0
"""From this factor between the lengths of two neighbouring steps, in time, the step between them is not left out. In
most schedules the factor is at most 1.3, and a little more at the end."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured in a round.

    Attributes:
        known: the nodes evaluated so far, increasing.
        moves: for each known node its moves, one for each sample.
        changed: for each known node whether it has moved by more than rounding.
        surprises: for each node except 0 that was evaluated for the first time, how far the evaluation is from the
            trend of the nodes before it, as a move, one for each sample.
        rates: for each known node its defect and response, one pair for each sample, or None if it was evaluated once;
            see `chords_core.methods.sensitivity`.
        effects: once the last step is known, for each known node about how far its move changes the end, one for each
            sample; see `chords_core.methods.sensitivity`.
        estimates: then also about how far the end is from the solver's own, one for each sample; see
            `chords_core.methods.estimate`.
    """

    known: tuple[int, ...]
    moves: tuple[tuple[float, ...], ...]
    changed: tuple[bool, ...]
    surprises: Mapping[int, tuple[float, ...]]
    rates: tuple[tuple[tuple[float, float], ...] | None, ...] = ()
    effects: tuple[tuple[float, ...], ...] = ()
    estimates: tuple[float, ...] = ()

    @property
    def first_changed(self) -> int | None:
        """The first node that has moved by more than rounding."""
        return next((node for node, moved in zip(self.known, self.changed, strict=True) if moved), None)


@dataclass(frozen=True)
class Progress:
    """What the rule keeps from round to round.

    Attributes:
        gap: the distance between new nodes, in steps.
        skipped: steps that were left out where the prediction turned out to be rough.
    """

    gap: float = 1.0
    skipped: frozenset[int] = frozenset()


@dataclass(frozen=True)
class GapControl:
    """How far apart new nodes are: further where the prediction turned out to be smooth.

    Attributes:
        max_gap: the largest distance between new nodes, in steps.
        move: the largest move of the newest nodes when they are first solved. If it is smaller the gap grows, else it
            shrinks.
        surprise: the same for the smallest weighted surprise of the newest nodes.
        rough: from this surprise on the prediction is taken to jump: the steps left out before the node are evaluated
            too.
        dense_nodes: between the first nodes, so many, no step is left out: there the composition is decided.
    """

    max_gap: int = 1
    move: float = 0.1
    surprise: float = 0.05
    rough: float = ROUGH
    dense_nodes: int = 8


@dataclass(frozen=True)
class MovingRule:
    """The window begins at the first node that has moved too far.

    Attributes:
        steps: N.
        nodes: the steps at which the model is called, increasing, the first 0 and the last N-1. Where the prediction is
            rough, it is called at steps between them too.
        amplification: of each step; see `chords_core.solvers.linear_form.amplification`.
        budget: of the moves. With 0 every step has to be evaluated where it is now, apart from rounding.
        to_rounding: whether to go on to that once the budget is kept.
        pace: for each round the lowest place in ``nodes`` at which the window may begin, so that a fixed number of
            rounds reaches the end. Empty: there is no fixed number.
        gaps: how far apart new nodes are.
        required: steps that are not left out; see `uneven_steps`.
        max_move: a node with a larger weighted move is evaluated again in any case.
        max_effect: the run does not end while all moves together may change the end by more; see
            `chords_core.methods.sensitivity`.
    """

    steps: int
    nodes: tuple[int, ...]
    amplification: tuple[float, ...]
    budget: float
    to_rounding: bool = False
    pace: tuple[int, ...] = ()
    gaps: GapControl = GapControl()
    required: frozenset[int] = frozenset()
    max_move: float = MAX_MOVE
    max_effect: float = math.inf

    def first(self, cores: int) -> tuple[int, ...]:
        """The nodes of the first round."""
        return self.nodes[:cores]

    def following(
        self, progress: Progress, measured: Measured, cores: int, rounds: int, left: int
    ) -> tuple[Progress, tuple[int, ...] | None]:
        """The nodes to evaluate next.

        Args:
            progress: what was returned before.
            measured: what this round has shown.
            cores: K.
            rounds: how many rounds were made.
            left: how many may still follow, at least 1. Before they end, the rest of the path is evaluated.

        Returns:
            The progress to pass next, and ``cores`` nodes, increasing, or fewer if there are no more; None to end.
        """
        progress = self._progress(progress, measured)
        start = self._start(progress, measured)
        if start is None and self.pace:
            start = 0
        if start is None:
            return progress, self._largest_effects(measured, cores)
        if self.pace:
            start = max(start, self.nodes[self.pace[min(rounds, len(self.pace) - 1)]])
        available = sorted({*measured.known, *progress.skipped})
        place = bisect_left(available, start)
        unknown = len(self.nodes) - bisect_right(self.nodes, measured.known[-1])
        due = min(cores, max(0, unknown - cores * (left - 1)))  # so that the last round reaches the end
        chosen = available[place : place + cores - due]
        distance = self._distance(progress.gap, measured.known[-1], cores, rounds)
        chosen += self._new(measured.known[-1], distance, cores - len(chosen))
        spare = min(cores - len(chosen), place)  # the nearest to the left
        return progress, (*available[place - spare : place], *chosen)

    def _largest_effects(self, measured: Measured, cores: int) -> tuple[int, ...] | None:
        """The nodes whose moves may change the end most, if all together may change it too much."""
        together = max(map(sum, zip(*measured.effects, strict=True)), default=0.0)
        if together <= self.max_effect:
            return None
        largest = sorted(zip(map(max, measured.effects), measured.known, strict=True), reverse=True)
        return tuple(sorted(node for effect, node in largest[:cores] if effect > 0))

    def _start(self, progress: Progress, measured: Measured) -> int | None:
        """The first node to evaluate, or None to end."""
        stale = self._first_over_budget(measured) if self.budget else measured.first_changed
        first = [node for node in (stale, *progress.skipped) if node is not None]
        if not first and measured.known[-1] < self.steps - 1:
            first = [measured.known[-1] + 1]
        if not first and self.to_rounding and measured.first_changed is not None:
            first = [measured.first_changed]
        return min(first, default=None)

    def _first_over_budget(self, measured: Measured) -> int | None:
        """The first node up to which the moves exceed the budget, in any sample."""
        known = measured.known
        spent = [0.0] * len(measured.moves[0])
        budget = self.budget / math.sqrt(min(self.steps, _MAX_BUDGET_STEPS))
        ends = (*known[1:], min(known[-1] + 1, self.steps))
        for node, end, by_sample in zip(known, ends, measured.moves, strict=True):
            allowed = budget * (end / self.steps) ** _BUDGET_EXPONENT
            for sample, move in enumerate(by_sample):
                weighted = move * self.amplification[node]
                spent[sample] += weighted * (end - node) / self.steps
                if weighted > self.max_move or spent[sample] > allowed:
                    return node
        return None

    def _progress(self, progress: Progress, measured: Measured) -> Progress:
        """How far apart the next new nodes are, and which of the steps between them have to be evaluated after all."""
        known = measured.known
        skipped = progress.skipped.difference(known)
        if known[-1] < self.gaps.dense_nodes or not measured.surprises:
            return replace(progress, skipped=skipped)
        moves = {node: max(by_sample, default=0.0) for node, by_sample in zip(known, measured.moves, strict=True)}
        largest = {node: max(by_sample, default=0.0) for node, by_sample in measured.surprises.items()}
        weighted = {node: surprise * self.amplification[node] for node, surprise in largest.items()}
        for node, surprise in largest.items():
            if surprise > self.gaps.rough and not self.pace:
                skipped |= frozenset(range(known[bisect_left(known, node) - 1] + 1, node))
        if self.to_rounding or not self.budget or self.gaps.max_gap == 1:
            return replace(progress, skipped=skipped)
        factors = (
            self.gaps.move / max(1e-9, *(moves[node] for node in largest)),
            self.gaps.surprise / max(1e-9, min(weighted.values())),
        )
        factor = min(max(0.9 * min(factors) ** (1 / 3), _MIN_GROWTH), _MAX_GROWTH)
        return Progress(min(self.gaps.max_gap, max(1.0, progress.gap * factor)), skipped)

    def _distance(self, gap: float, newest: int, cores: int, rounds: int) -> int:
        """From one new node to the next, counted in places of ``nodes``."""
        distance = max(1, int(gap + 0.3)) if newest >= self.gaps.dense_nodes else 1
        if not self.pace:
            return distance
        left = len(self.nodes) - bisect_right(self.nodes, newest)
        return max(distance, math.ceil(left / (cores * max(1, len(self.pace) - rounds))))

    def _new(self, newest: int, distance: int, count: int) -> tuple[int, ...]:
        """At most ``count`` nodes after the ``newest``. They end exactly at the last."""
        place, last = bisect_right(self.nodes, newest) - 1, len(self.nodes) - 1
        new: list[int] = []
        while len(new) < count and place < last:
            began = place
            left = last - place
            if distance >= left:
                place = last
            elif left - distance <= distance // 2:  # two halves instead of a whole and a short rest
                place += (left + 1) // 2
            else:
                place += distance
            between = range(began + 1, place)
            place = next((each for each in between if self.nodes[each] in self.required), place)
            new.append(self.nodes[place])
        return tuple(new)


def uneven_steps(times: Sequence[float]) -> frozenset[int]:
    """The steps that lie between a long and a short step of a schedule. What is interpolated in the step must not go
    across them.

    The schedule `normal` of Stable Diffusion has such a step before its last two.

    Args:
        times: N+1 values, descending, as a flow model has them.
    """
    lengths = [here - there for here, there in pairwise(times)]
    return frozenset(
        step
        for step, (before, after) in enumerate(pairwise(lengths), start=1)
        if max(before, after) > UNEVEN * min(before, after)
    )


@dataclass(frozen=True)
class ScheduledRule:
    """The window begins where a schedule says, and after that at the first node that has moved.

    Attributes:
        count: how many nodes there are.
        starts: for each round the first node of the window.
    """

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
    """The lowest place of the window in each of so many ``rounds`` over so many ``nodes``.

    The updates of a solver only look back, so in each round one more node has reached its final state and need not be
    evaluated again. With as many rounds as nodes, the window must not leave any other node behind.
    """
    last = nodes - cores
    settled = [min(r, last) for r in range(rounds)]
    if rounds >= nodes:
        return tuple(settled)
    ruled = window_starts(nodes, cores, rounds, rounds - 2, 1.3)
    return tuple(map(max, ruled, settled))


def window_starts(nodes: int, cores: int, rounds: int, arrival: int, exponent: float) -> tuple[int, ...]:
    """The first node of the window in each round, from 0 to ``nodes - cores``.

    If the window moves at all, it moves to node 1 first: in round 0 all nodes except the first were evaluated far from
    their final states.

    Args:
        nodes: how many there are.
        cores: K.
        rounds: how many there are.
        arrival: the round, counted from 0, from which on the window is at the end.
        exponent: the window advances with this power of the share of the rounds. It is lowered if otherwise nodes at
            the end would be left out.
    """
    last = nodes - cores
    if last > 0:
        exponent = min(exponent, max(1.0, cores * arrival / last))
    starts = [round(last * min(1.0, r / max(arrival, 1)) ** exponent) for r in range(rounds)]
    if arrival > 1:
        starts[1] = min(1, last)
    closed = list(accumulate(starts, lambda before, start: min(start, before + cores)))
    return tuple(closed if closed[-1] == last else starts)  # else too few rounds to evaluate every node
