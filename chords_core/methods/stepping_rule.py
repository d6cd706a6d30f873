"""Which step one core calls next, so that the result stays within a tolerance of the solver's own: adaptive steps.

After each call, the *surprise* of the new node tells how smooth the prediction is: how far the call is from what the
two nodes before it led to expect, as a move of its state, relative to the picture implied so far
(`methods.window.Window`). While it is small, the next call may be further away. The first steps have hardly any picture
yet, so that the measure is strict there by itself, where the composition is decided. This is the step size control of
ODE solvers (Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", II.4), with the steps of the solver
as the finest ones.

The *move* of the new node is measured too: how far its state is, once the path is solved with the new call, from where
the call was made. At a jump of the prediction (a prompt range, guidance in a part of the schedule) the surprise or the
move is far larger than the tolerance. Then all steps left out before the node are called. If it is still far from where
it was called, it is called once more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .window_rule import Measured, Progress

_SURPRISE, _SURPRISE_EXPONENT = 34.6, -2 / 3
"""The surprise that the newest node may have, in tolerances, is 34.6 N^(-2/3) for N steps. From a larger one on, gaps
shrink. It is 4.7 for 20 steps and 2.5 for 50: the more steps there are, the more of them are left out."""

_MAX_SURPRISE_STEPS = 200
"""More steps than this allow the surprise of so many, because what finer steps add is interpolated."""

_STRICTER = 0.5
"""A surprise is weighted by this power of the amplification once more. A single step left out can spoil a picture with
a solver of higher order: it takes differences of evaluations."""

JUMP = 4.0
"""From so many times the allowed surprise on the prediction is taken to jump."""

_FAR = 8.0
"""From this weighted move on, in tolerances, the steps left out before a node are called, and then the node again."""

_GROWTH, _GROWTH_EXPONENT, _MAX_GROWTH_STEPS = 0.76, -1 / 3, 64
"""From call to call the gap grows at most by the factor 1 + 0.76 N^(-1/3), with at most 64 for N: 1.28 for 20 steps.
Faster growth is blind to what comes."""

_MIN_GROWTH = 0.4
"""And it shrinks at most by this."""

_SAFETY, _EXPONENT = 0.85, 1 / 2
"""The gap is multiplied by safety * (allowed / measured)^exponent: a surprise grows with about its square."""

_FIRST_GAP = 3
"""Until this step every step is called."""


@dataclass(frozen=True)
class SteppingRule:
    """One core calls the model at steps as far apart as the tolerance allows. See the module docstring.

    Attributes:
        steps: N.
        amplification: of each step; see `chords_core.solvers.linear_form.amplification`.
        tolerance: the relative RMS difference from the solver's own result that is aimed at.
        required: steps that are called in any case; see `chords_core.methods.window_rule.uneven_steps`.
    """

    steps: int
    amplification: tuple[float, ...]
    tolerance: float
    required: frozenset[int] = frozenset()

    def first(self, cores: int) -> tuple[int, ...]:
        """The nodes of the first round."""
        return (0,)

    def following(
        self, progress: Progress, measured: Measured, cores: int, rounds: int, left: int
    ) -> tuple[Progress, tuple[int, ...] | None]:
        """The node to call next, or None to end; see `chords_core.methods.window_rule.MovingRule.following`."""
        known, newest, last = measured.known, measured.known[-1], self.steps - 1
        skipped = progress.skipped.difference(known)
        gap = progress.gap
        if newest in measured.surprises:
            gap, jumps = self._regulated(gap, measured)
            if jumps:  # nor can what lies just before a jump be interpolated across it
                skipped |= frozenset(range(known[max(0, len(known) - 3)] + 1, newest)).difference(known)
        progress = Progress(gap, skipped)
        spare = left > last - newest  # no more calls than steps, and always enough to reach the last one
        if skipped and spare:
            return progress, (min(skipped),)
        again = self._far(measured) if spare else None
        if again is None and newest == last:
            return progress, None
        if again is not None:
            return progress, (again,)
        following = self._next(newest, gap)
        return progress, (min((step for step in self.required if newest < step < following), default=following),)

    def _surprise(self, measured: Measured) -> float:
        """The weighted surprise of the newest node, in tolerances; 0 if it was not called for the first time."""
        newest = measured.known[-1]
        stricter: float = self.amplification[newest] ** _STRICTER
        return stricter * self._weighted(measured.surprises.get(newest, ()), newest)

    def _weighted(self, by_sample: Sequence[float], node: int) -> float:
        """The largest of the samples, weighted, in tolerances."""
        return max(by_sample, default=0.0) * self.amplification[node] / self.tolerance

    def _regulated(self, gap: float, measured: Measured) -> tuple[float, bool]:
        """The next gap, and whether the prediction jumps before the newest node."""
        newest = measured.known[-1]
        if newest < _FIRST_GAP:
            return 1.0, False
        surprise = self._surprise(measured)
        allowed = allowed_surprise(self.steps, 1.0)
        far = self._weighted(measured.moves[-1], newest) > _FAR
        if (surprise > JUMP * allowed or far) and newest - measured.known[-2] > 1:
            return 1.0, True
        max_growth = 1 + _GROWTH * math.pow(min(self.steps, _MAX_GROWTH_STEPS), _GROWTH_EXPONENT)
        factor = _SAFETY * (allowed / max(surprise, 1e-9)) ** _EXPONENT
        return max(1.0, gap * min(max(factor, _MIN_GROWTH), max_growth)), False

    def _far(self, measured: Measured) -> int | None:
        """The first node that has moved too far since it was called."""
        for node, by_sample in zip(measured.known, measured.moves, strict=True):
            if self._weighted(by_sample, node) > _FAR:
                return node
        return None

    def _next(self, newest: int, gap: float) -> int:
        """The step about a ``gap`` after the newest node. The last is always called; the gap before it is halved
        instead of a whole one and a short rest."""
        last = self.steps - 1
        distance = max(1, round(gap))
        rest = last - newest - distance
        if rest <= 0:
            return last
        return newest + (last - newest + 1) // 2 if rest <= distance // 2 else newest + distance


def allowed_surprise(steps: int, tolerance: float) -> float:
    """The weighted surprise that a new node of N ``steps`` may have if the gaps are to stay as they are."""
    return _SURPRISE * tolerance * math.pow(min(steps, _MAX_SURPRISE_STEPS), _SURPRISE_EXPONENT)
