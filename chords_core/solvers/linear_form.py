"""What a trajectory is made of: weights of the evaluations along it, as plain numbers.

With D what the model predicts, the sampling ODE dx/dsigma = (x - D) / sigma has the solution

    x_b / sigma_b = x_a / sigma_a + integral of D d(1/sigma) from sigma_a to sigma_b,

so any solver that is linear in the evaluations at its nodes 0..N-1 can be written as rows that lead from node to node,

    x_{i+1} = ratio_i * x_i + sum_j weight_ij * D_j,        i = 0..N-1, where x_N is the end.

`solver_rows` gives those of a solver of `solvers.base`, on its own grid: the rows only look back (j <= i), and
the D_j belong to the states they lead to if and only if these are the solver's. `cubic_rows` interpolates D instead,
looking one node ahead, and so aims at the ODE's own solution. Everything here is float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Solver, begin

GAUSS_POINTS = 24
"""In each interval between nodes: to rounding, for D a cubic and intervals as long as anyone takes."""

_LEAST_CHANGE = 1e-9
"""Of a state in a step, relative: below it sigmas are equal to rounding."""

_LOOKS_BACK = 8
"""Evaluations, at most: more than any solver's order asks for."""

LOWEST_SIGMA = 0.03
"""Where nodes of an eps model's schedule end if its last sigma but the 0 is higher: the least that Stable Diffusion was
trained at."""


class Row(NamedTuple):
    """From one node to the next: ``x_next = ratio * x + sum of weight * D_j`` over the pairs (j, weight)."""

    ratio: float
    weights: tuple[tuple[int, float], ...]


def solver_rows(solver: Solver, sigmas: Tensor) -> tuple[Row, ...]:
    """The rows of a ``solver`` on ``sigmas`` (N+1 values): N, the last leading to the end. The cost is linear in N.

    No formula is written twice: the solver itself runs on vectors that stand for x_0 and the evaluations, so that each
    state comes out as its own coefficients. As a solver looks back at a few evaluations only, every `_LOOKS_BACK`-th
    shares a coefficient: what older ones contribute is the same before and after a step, and cancels.
    """
    sigmas = sigmas.cpu().double()
    steps = len(sigmas) - 1
    unit = torch.eye(_LOOKS_BACK + 1, dtype=torch.float64)
    state = begin(solver, unit[0], sigmas)
    rows = []
    for i in range(steps):
        before = state.x
        state = state.step(unit[1 + i % _LOOKS_BACK])
        ratio = float(state.x[0] / before[0])
        rest = (state.x - ratio * before)[1:].tolist()
        recent = [(j, rest[j % _LOOKS_BACK]) for j in range(max(0, i - _LOOKS_BACK + 1), i + 1)]
        least = 1e-9 * max(abs(weight) for _, weight in recent)  # what is below is rounding
        rows.append(Row(ratio, tuple((j, weight) for j, weight in recent if abs(weight) > least)))
    return tuple(rows)


def in_flow_coordinates(rows: Sequence[Row], sigmas: Sequence[float]) -> tuple[Row, ...]:
    """The same rows for the states x / (1 + sigma) of an eps model, on ``sigmas`` (N+1 values).

    With t = sigma / (1 + sigma) these are the states of a flow model with the same D: a first-order step
    x' = (sigma'/sigma) x + (1 - sigma'/sigma) D is exactly x_f' = (t'/t) x_f + (1 - t'/t) D there.
    """
    sizes = [1 + sigma for sigma in sigmas]
    return tuple(
        Row(row.ratio * here / there, tuple((j, weight / there) for j, weight in row.weights))
        for row, (here, there) in zip(rows, pairwise(sizes), strict=True)
    )


def amplification(rows: Sequence[Row]) -> tuple[float, ...]:
    """How strongly the evaluation at each step enters the states after it: sum over the rows i of
    |weight_ij| / (1 - ratio_i). It is 1 for Euler, and more for solvers of higher order, which take differences."""
    factors = [0.0] * len(rows)
    for row in rows:
        for j, weight in row.weights:
            factors[j] += abs(weight) / max(1 - row.ratio, _LEAST_CHANGE)
    return tuple(factors)


def cubic_rows(levels: Sequence[float], to_zero: bool) -> tuple[tuple[Row, ...], ...]:
    """Rows for D interpolated between the nodes, and integrated with the exact kernel d(1/sigma).

    Between nodes i and i+1 it is the cubic through the nodes i-1..i+2, as far as there are such. Element e of the
    result is for the case that the nodes 0..e are known: D is constant beyond e.

    Args:
        levels: sigmas of the nodes, N >= 1 values, descending, positive.
        to_zero: the end is sigma 0, where x is D at the last node; otherwise it is the last node itself.
    """
    count = len(levels)

    @cache
    def between(i: int, known: int) -> Row:
        """From node i to i+1 if the nodes 0..known are known, at most i+2 of which count."""
        nodes = range(max(0, i - 1), known + 1) if known > i else range(known, known + 1)
        weights = _integrals([levels[j] for j in nodes], levels[i], levels[i + 1])
        scaled = tuple((j, levels[i + 1] * weight) for j, weight in zip(nodes, weights, strict=True))
        return Row(levels[i + 1] / levels[i], scaled)

    end = Row(0.0, ((count - 1, 1.0),)) if to_zero else Row(1.0, ())
    return tuple((*(between(i, min(e, i + 2)) for i in range(count - 1)), end) for e in range(count))


def is_flow(first: float) -> bool:
    """Whether a schedule that begins at sigma ``first`` is taken for a flow model's, x = (1 - sigma) x0 + sigma eps, or
    else for an eps model's, x = x0 + sigma eps."""
    return first <= 1


def curve_nodes(sigmas: Tensor, count: int, flow: bool | None = None) -> tuple[float, ...]:
    """The sigmas of ``count`` nodes for `cubic_rows`, on the curve that ``sigmas`` (N+1 values) draw.

    With u = i/N the schedule's own coordinate, which is 0 at the start and 1 at the end:

    - flow models (``flow``, or None: `is_flow`): the curve is linear between the sigmas, and the nodes crowd at its
      end, as the exact solution bends there: 1 - u = (1 - j/count)^2. Where the schedule stops before 0, the same on
      the longer schedule that it is the beginning of, with the last step as its step.
    - eps models: log-linear, u spaced evenly between the first sigma and the last that is not 0. Where
      that one is high the curve goes on to `LOWEST_SIGMA`.

    The first node is sigmas[0]; the last is above 0, and is sigmas[-1] unless that is 0.
    """
    values: list[float] = sigmas.tolist()
    to_zero = values[-1] == 0
    if count == 1:
        return (values[0],)
    if not (is_flow(values[0]) if flow is None else flow):
        if to_zero:
            values.pop()
            if values[-1] > 2 * LOWEST_SIGMA or len(values) == 1:
                values.append(min(values[-1] / 2, LOWEST_SIGMA))
        logs = [math.log(value) for value in values]
        inner = [math.exp(_on_curve(logs, j / (count - 1))) for j in range(1, count)]
    else:
        left = values[-1] / (values[-2] - values[-1])  # steps from the end of this schedule to 0
        last = math.sqrt(left / (left + len(values) - 1))
        pieces = count if to_zero else count - 1
        roots = [1 - j / pieces * (1 - last) for j in range(1, count)]
        inner = [_on_curve(values, (1 - root**2) / (1 - last**2)) for root in roots]
    if not to_zero:
        inner[-1] = values[-1]
    return (values[0], *inner)


def _on_curve(values: Sequence[float], u: float) -> float:
    """The piecewise linear function through ``values``, spaced evenly from u = 0 to 1."""
    place = min(max(u, 0.0), 1.0) * (len(values) - 1)
    i = min(int(place), len(values) - 2)
    return values[i] + (place - i) * (values[i + 1] - values[i])


def _coordinate(sigma: float) -> float:
    """In which D is taken for a polynomial: as sigma where data is seen clearly, as log sigma where hardly."""
    return math.log(sigma + 0.2)


def _integrals(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """For each node j the integral of L_j d(1/sigma) from ``start`` down to ``end``, with L_j the Lagrange polynomial
    of the nodes."""
    if len(nodes) == 1:
        return [1 / end - 1 / start]
    at = [_coordinate(node) for node in nodes]
    top, bottom = math.log(start), math.log(end)
    sums = [0.0] * len(nodes)
    for point, weight in _gauss_legendre(GAUSS_POINTS):
        log_sigma = top + (point + 1) / 2 * (bottom - top)
        kernel = weight * (top - bottom) / 2 * math.exp(-log_sigma)  # d(1/sigma) = -exp(-log sigma) d log sigma
        here = _coordinate(math.exp(log_sigma))
        for j, own in enumerate(at):
            sums[j] += kernel * math.prod((here - other) / (own - other) for k, other in enumerate(at) if k != j)
    return sums


@cache
def _gauss_legendre(count: int) -> tuple[tuple[float, float], ...]:
    """Points in [-1, 1] and their weights, by Golub and Welsch: eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return tuple(zip(points.tolist(), (2 * vectors[0] ** 2).tolist(), strict=True))
