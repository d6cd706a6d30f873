"""A solver that calls the model at some of its steps only: the result of N steps for M < N evaluations.

What the model predicts, D, changes slowly along a trajectory, far more so than the state itself. A solver that is
linear in the evaluations (`solvers.linear_form.solver_rows`) can therefore be given interpolated ones where none was
made:

    x_{i+1} = ratio_i * x_i + sum_j weight_ij * D(j),    D(j) a cubic in the step j through the nearest evaluations.

The rows are those of the solver on its own N steps, so what is aimed at is *its* result, discretisation error and all,
and not the solution of the ODE: the same picture for fewer calls. Beyond the newest evaluation D goes on linearly, no
further than the last two lie apart, and constant from there. As each new evaluation arrives, the states are solved
again from the first on, so that what had been extrapolated is corrected without another call.

It is a solver like any other to `methods.chords.Chords`: on the nodes' sigmas as its schedule, on any number of
cores.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from torch import Tensor

from ..errors import InvalidInput
from .base import Solver, State, jump
from .linear_form import Row, solver_rows

_POINTS = 4  # of the interpolation: a cubic
_REACH = 1.0  # of the extrapolation, in distances of the last two evaluations


def interpolation_nodes(steps: int, calls: int) -> tuple[int, ...]:
    """The steps at which to call the model: ``calls`` increasing indices from 0 to steps - 1, spaced as the
    extrema of a Chebyshev polynomial, densest at both ends, for which interpolation is nearly best.

    Raises:
        InvalidInput: unless 2 <= calls <= steps.
    """
    if not 2 <= calls <= steps:
        raise InvalidInput("calls", f"must be 2 to the number of steps ({steps}), not {calls}")
    nodes: list[int] = []
    for k in range(calls):
        place = (1 - math.cos(math.pi * k / (calls - 1))) / 2
        lowest = nodes[-1] + 1 if nodes else 0
        nodes.append(min(max(round(place * (steps - 1)), lowest), steps - calls + k))
    return tuple(nodes)


def default_calls(steps: int) -> int:
    """How many evaluations give a result within about 2 % of that of ``steps`` on the guided demo model where the
    prompt leaves places and sizes open, and within .2 % where it names them (benchmarks/results/prompts.md): 13 of 20,
    15 of 30, 18 of 50."""
    return min(steps, round(4.5 + 1.9 * math.sqrt(steps)))


def interpolated_solver(solver: Solver, sigmas: Tensor, calls: int) -> tuple[InterpolatedSolver, Tensor]:
    """``solver`` on ``sigmas`` (N+1 values) with so many ``calls``, and the sigmas of these and of the end.

    Raises:
        InvalidInput: unless 2 <= calls <= N.
    """
    nodes = interpolation_nodes(len(sigmas) - 1, calls)
    return InterpolatedSolver(solver_rows(solver, sigmas), nodes), sigmas[[*nodes, -1]]


@dataclass(frozen=True)
class InterpolatedSolver:
    """The solver with these ``rows`` (N of them), evaluated at ``nodes``: increasing indices from 0 to N-1."""

    rows: tuple[Row, ...]
    nodes: tuple[int, ...]

    def begin(self, x: Tensor, sigmas: Tensor) -> InterpolatedState:
        """At x, the state at sigmas[0]; ``sigmas``: the nodes', and the last, where it ends (M+1 values)."""
        return InterpolatedState(self, sigmas, 0, x, 0, x, ())


@dataclass(frozen=True, eq=False)
class InterpolatedState:
    """At the node ``index``, in the state ``x``: the one ``begun`` with, at the node ``origin``, and what the
    evaluations in ``past`` (by node) make of it."""

    solver: InterpolatedSolver
    sigmas: Tensor
    index: int
    x: Tensor
    origin: int
    begun: Tensor
    past: tuple[tuple[int, Tensor], ...]

    def step(self, denoised: Tensor) -> InterpolatedState:
        past = (*self.past, (self.index, denoised))
        known = tuple(self.solver.nodes[node] for node, _ in past)
        first, last = (self._step_of(node) for node in (self.origin, self.index + 1))
        ratio, weights = _coefficients(self.solver.rows, known, first, last, _REACH)
        x = ratio * self.begun
        for (_, evaluated), weight in zip(past, weights, strict=True):
            if weight != 0:
                x = x.add(evaluated, alpha=weight)
        return replace(self, index=self.index + 1, x=x, past=past)

    def jump(self, denoised: Tensor, target: int) -> State:
        """To first order to the node ``target``, where a trajectory of its own begins."""
        x = jump(self.x, denoised, self.sigmas[self.index], self.sigmas[target])
        return InterpolatedState(self.solver, self.sigmas, target, x, target, x, ((self.index, denoised),))

    def moved(self, dx: Tensor, ddenoised: Tensor, base: int) -> State:
        """Onto the trajectory that differs from this one by ``dx`` and ``ddenoised`` at ``base``: all of it, from where
        it began, moves along the straight line of the difference, so that it is still solved as a whole."""
        sigma = self.sigmas[base]
        return replace(
            self,
            x=self.x + jump(dx, ddenoised, sigma, self.sigmas[self.index]),
            begun=self.begun + jump(dx, ddenoised, sigma, self.sigmas[self.origin]),
            past=tuple((node, evaluated + ddenoised) for node, evaluated in self.past),
        )

    def _step_of(self, node: int) -> int:
        return self.solver.nodes[node] if node < len(self.solver.nodes) else len(self.solver.rows)


@lru_cache(maxsize=4096)
def _coefficients(
    rows: tuple[Row, ...], known: tuple[int, ...], first: int, last: int, reach: float
) -> tuple[float, tuple[float, ...]]:
    """x at step ``last`` as ratio * (x at step ``first``) + sum of weight_k * D at step known_k."""
    ratio, weights = 1.0, [0.0] * len(known)
    for row in rows[first:last]:
        ratio *= row.ratio
        weights = [row.ratio * weight for weight in weights]
        for j, of_row in row.weights:
            for k, share in interpolation_weights(known, j, reach):
                weights[k] += of_row * share
    return ratio, tuple(weights)


def interpolation_weights(known: Sequence[int], at: int, reach: float) -> list[tuple[int, float]]:
    """D at the step ``at`` as shares of those at the ``known`` steps, increasing: pairs (number, share). Beyond the
    last it goes on linearly for ``reach`` distances of the last two."""
    right = bisect_right(known, at)
    if right == 0 or len(known) == 1:
        return [(0, 1.0)]
    if right == len(known) and reach == 0:
        return [(right - 1, 1.0)]
    if right == len(known):
        gap = known[-1] - known[-2]
        beyond = min((at - known[-1]) / gap, reach)
        return [(right - 1, 1.0 + beyond), (right - 2, -beyond)]
    lowest = min(max(right - _POINTS // 2, 0), max(len(known) - _POINTS, 0))
    numbers = range(lowest, min(lowest + _POINTS, len(known)))
    return [
        (k, math.prod((at - known[other]) / (known[k] - known[other]) for other in numbers if other != k))
        for k in numbers
    ]
