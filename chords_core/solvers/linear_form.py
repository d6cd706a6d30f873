"""A solver as linear updates: weights of the evaluations along a trajectory, as plain numbers.

Let D be the model's prediction. The sampling ODE dx/dsigma = (x - D) / sigma has the solution

    x_b / sigma_b = x_a / sigma_a + integral of D d(1/sigma) from sigma_a to sigma_b.

So a solver that is linear in the evaluations D_j at its nodes 0..N-1 is a list of updates from node to node,

    x_{i+1} = ratio_i * x_i + sum_j weight_ij * D_j,        i = 0..N-1, where x_N is the end.

`solver_updates` gives the updates of a `Solver` on its own sigmas. They only look back (j <= i).
`chords_core.solvers.cubic` interpolates D instead. Everything here is on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Solver

_MIN_CHANGE = 1e-9
"""The relative change of a state in a step below which two sigmas are equal apart from rounding."""

_MAX_LOOK_BACK = 8
"""No solver looks back at more evaluations than this."""


class LinearUpdate(NamedTuple):
    """From one node to the next: ``x_next = ratio * x + sum of weight * D_j`` over the pairs (j, weight)."""

    ratio: float
    weights: tuple[tuple[int, float], ...]


def solver_updates(solver: Solver, sigmas: Tensor) -> tuple[LinearUpdate, ...]:
    """The N updates of a ``solver`` on ``sigmas`` (N+1 values); the last leads to the end. The cost is linear in N.

    The weights are those that the solver computes from sigmas of this dtype, with their rounding: ``uni_pc`` takes
    differences of logarithms, whose rounding in float32 can change a guided picture by some percent.

    No formula is written twice: the solver itself runs on unit vectors that stand for x_0 and the evaluations, so that
    each state is its own coefficients. A solver looks back at few evaluations, so evaluations that are
    `_MAX_LOOK_BACK` apart share a vector: the part of the older one is the same before and after a step, and cancels.
    """
    sigmas = sigmas.cpu()
    unit = torch.eye(_MAX_LOOK_BACK + 1, dtype=torch.float64)
    state = solver.begin(unit[0], sigmas)
    updates = []
    for i in range(len(sigmas) - 1):
        before = state.x
        state = state.step(unit[1 + i % _MAX_LOOK_BACK])
        ratio = float(state.x[0] / before[0])
        rest = (state.x - ratio * before)[1:].tolist()
        recent = [(j, rest[j % _MAX_LOOK_BACK]) for j in range(max(0, i - _MAX_LOOK_BACK + 1), i + 1)]
        threshold = 1e-9 * max(abs(weight) for _, weight in recent)  # smaller weights are rounding
        updates.append(LinearUpdate(ratio, tuple((j, weight) for j, weight in recent if abs(weight) > threshold)))
    return tuple(updates)


def in_flow_coordinates(updates: Sequence[LinearUpdate], sigmas: Sequence[float]) -> tuple[LinearUpdate, ...]:
    """The same updates for the states x / (1 + sigma) of an eps model, on ``sigmas`` (N+1 values).

    With t = sigma / (1 + sigma) these are the states of a flow model with the same D: a first-order step
    x' = (sigma'/sigma) x + (1 - sigma'/sigma) D is exactly x_f' = (t'/t) x_f + (1 - t'/t) D there.
    """
    sizes = [1 + sigma for sigma in sigmas]
    return tuple(
        LinearUpdate(update.ratio * here / there, tuple((j, weight / there) for j, weight in update.weights))
        for update, (here, there) in zip(updates, pairwise(sizes), strict=True)
    )


def amplification(updates: Sequence[LinearUpdate]) -> tuple[float, ...]:
    """How strongly the evaluation at each step j enters the states after it: sum over i of |weight_ij| / (1 - ratio_i).

    It is 1 for Euler, and more for solvers of higher order, which take differences of evaluations.
    """
    factors = [0.0] * len(updates)
    for update in updates:
        for j, weight in update.weights:
            factors[j] += abs(weight) / max(1 - update.ratio, _MIN_CHANGE)
    return tuple(factors)


def is_flow(first_sigma: float) -> bool:
    """Whether a schedule with this first sigma is taken for that of a flow model, x = (1 - sigma) x0 + sigma eps; else
    it is an eps model's, x = x0 + sigma eps."""
    return first_sigma <= 1
