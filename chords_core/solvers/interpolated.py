"""A solver that calls the model at some of its steps: the result of N steps for M < N evaluations.

The model's prediction D changes slowly along a trajectory, far more slowly than the state. A solver that is linear in
the evaluations (`solvers.linear_form`) can therefore take interpolated values of D where the model was not called:

    x_{i+1} = ratio_i * x_i + sum_j weight_ij * D(j),    D(j) a cubic in the step j through the nearest evaluations.

The updates are those of the solver on its own N steps. So the aim is the *solver's* result with its discretisation
error, and not the solution of the ODE: the same picture for fewer calls. Beyond the newest evaluation, D goes on
linearly for the distance of the last two, and is constant from there. With each new evaluation all states are solved
again from the first, so that what was extrapolated is corrected without another call.

To `methods.chords.Chords` it is a solver like any other, on any number of cores. Its schedule are the nodes' sigmas.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from torch import Tensor

from ..errors import InvalidInput
from .base import Solver, State, jump
from .linear_form import LinearUpdate, solver_updates

_POINTS = 4
"""Evaluations of the interpolation: a cubic."""

_REACH = 1.0
"""How far the extrapolation goes on linearly, in distances of the last two evaluations."""


def interpolation_nodes(steps: int, calls: int) -> tuple[int, ...]:
    """The steps at which to call the model: ``calls`` increasing indices from 0 to steps - 1.

    They are spaced as the extrema of a Chebyshev polynomial, densest at both ends. For those interpolation is nearly
    best.

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
    """A good number of evaluations for ``steps``: 13 of 20, 15 of 30, 18 of 50.

    With the demo model at CFG 4 the result is usually within about 2 % of that of every step where the prompt leaves
    places and sizes open, and within 0.2 % where it names them. Single pictures are up to 10 % off.
    """
    return min(steps, round(4.5 + 1.9 * math.sqrt(steps)))


def interpolated_solver(solver: Solver, sigmas: Tensor, calls: int) -> tuple[Solver, Tensor]:
    """``solver`` on ``sigmas`` (N+1 values) with ``calls`` evaluations, as a solver on a shorter schedule.

    Returns:
        The solver, and its schedule: the sigmas of the nodes and of the end (``calls`` + 1 values).

    Raises:
        InvalidInput: unless 2 <= calls <= N.
    """
    nodes = interpolation_nodes(len(sigmas) - 1, calls)
    begin = partial(begin_interpolated, solver_updates(solver, sigmas), nodes)
    return Solver(f"{solver.name} with {calls} calls", begin, solver.order), sigmas[[*nodes, -1]]


def begin_interpolated(
    updates: tuple[LinearUpdate, ...], nodes: tuple[int, ...], x: Tensor, sigmas: Tensor
) -> InterpolatedState:
    """The state at the first node.

    Args:
        updates: of the solver on its N steps.
        nodes: the steps at which the model is called, increasing indices from 0 to N-1.
        x: the state at ``sigmas[0]``.
        sigmas: those of the nodes and of the end.
    """
    return InterpolatedState(updates, nodes, sigmas, 0, x, 0, x, ())


@dataclass(frozen=True, eq=False)
class InterpolatedState:
    """The state ``x`` at the node number ``index``.

    It follows from the state ``begun`` at the node number ``origin`` and from the evaluations in ``past``, pairs of a
    node number and a result.
    """

    updates: tuple[LinearUpdate, ...]
    nodes: tuple[int, ...]
    sigmas: Tensor
    index: int
    x: Tensor
    origin: int
    begun: Tensor
    past: tuple[tuple[int, Tensor], ...]

    def step(self, denoised: Tensor) -> InterpolatedState:
        past = (*self.past, (self.index, denoised))
        known = tuple(self.nodes[node] for node, _ in past)
        first, last = (self._step_of(node) for node in (self.origin, self.index + 1))
        ratio, weights = _coefficients(self.updates, known, first, last, _REACH)
        x = ratio * self.begun
        for (_, evaluated), weight in zip(past, weights, strict=True):
            if weight != 0:
                x = x.add(evaluated, alpha=weight)
        return replace(self, index=self.index + 1, x=x, past=past)

    def jump(self, denoised: Tensor, target: int) -> State:
        """The state at the node ``target``, to first order. A trajectory of its own begins there."""
        x = jump(self.x, denoised, self.sigmas[self.index], self.sigmas[target])
        return replace(self, index=target, x=x, origin=target, begun=x, past=((self.index, denoised),))

    def moved(self, dx: Tensor, ddenoised: Tensor, base: int) -> State:
        """The state on the trajectory that differs by ``dx`` and ``ddenoised`` at ``base``. All of the trajectory moves
        along the straight line of the difference, from where it began, so that it can still be solved as a whole."""
        sigma = self.sigmas[base]
        return replace(
            self,
            x=self.x + jump(dx, ddenoised, sigma, self.sigmas[self.index]),
            begun=self.begun + jump(dx, ddenoised, sigma, self.sigmas[self.origin]),
            past=tuple((node, evaluated + ddenoised) for node, evaluated in self.past),
        )

    def _step_of(self, node: int) -> int:
        return self.nodes[node] if node < len(self.nodes) else len(self.updates)


@lru_cache(maxsize=4096)
def _coefficients(
    updates: tuple[LinearUpdate, ...], known: tuple[int, ...], first: int, last: int, reach: float
) -> tuple[float, tuple[float, ...]]:
    """x at step ``last`` as ratio * (x at step ``first``) + sum of weight_k * D at step known_k."""
    ratio, weights = 1.0, [0.0] * len(known)
    for update in updates[first:last]:
        ratio *= update.ratio
        weights = [update.ratio * weight for weight in weights]
        for j, own in update.weights:
            for k, share in interpolation_weights(known, j, reach):
                weights[k] += own * share
    return ratio, tuple(weights)


def interpolation_weights(known: Sequence[int], at: int, reach: float) -> list[tuple[int, float]]:
    """D at the step ``at`` as a weighted sum of D at the ``known`` steps: pairs (place in ``known``, weight).

    Args:
        known: increasing steps, at least one.
        at: a step, which may be any.
        reach: beyond the last known step D goes on linearly for so many distances of the last two.
    """
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
