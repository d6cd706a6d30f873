"""The ODE's own solution by cubic quadrature: D interpolated between nodes on the curve that a schedule draws.

This is the solver "cubic" of the secant window. It has no steps of its own: it chooses the nodes (`curve_nodes`) and
gives the updates between them (`cubic_updates`), which look one node ahead. Everything here is float64 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from .linear_form import LinearUpdate, is_flow

LOWEST_SIGMA = 0.03
"""Where the nodes of an eps model end if the last sigma above 0 is higher: the lowest sigma of Stable Diffusion's
training."""

_GAUSS_POINTS = 24
"""Points of the quadrature in each interval between nodes. It is exact apart from rounding for a cubic D."""

_LOG_OFFSET = 0.2
"""See `_coordinate`."""


def cubic_updates(sigmas: Sequence[float], to_zero: bool) -> tuple[tuple[LinearUpdate, ...], ...]:
    """The updates for D interpolated between the nodes and integrated with the exact kernel d(1/sigma).

    Between the nodes i and i+1, D is the cubic through the nodes i-1..i+2, as far as they exist.

    Args:
        sigmas: of the N >= 1 nodes, descending, positive.
        to_zero: the end is sigma 0, where x is D at the last node. Otherwise the end is the last node itself.

    Returns:
        N tuples of N updates. Element e is for the case that the nodes 0..e are known; beyond e, D is constant.
    """
    count = len(sigmas)

    @cache
    def between(i: int, known: int) -> LinearUpdate:
        """From node i to i+1, if the nodes 0..known are known, at most i+2 of which count."""
        nodes = range(max(0, i - 1), known + 1) if known > i else range(known, known + 1)
        weights = _integrals([sigmas[j] for j in nodes], sigmas[i], sigmas[i + 1])
        scaled = tuple((j, sigmas[i + 1] * weight) for j, weight in zip(nodes, weights, strict=True))
        return LinearUpdate(sigmas[i + 1] / sigmas[i], scaled)

    end = LinearUpdate(0.0, ((count - 1, 1.0),)) if to_zero else LinearUpdate(1.0, ())
    return tuple((*(between(i, min(e, i + 2)) for i in range(count - 1)), end) for e in range(count))


def curve_nodes(sigmas: Tensor, count: int, flow: bool | None = None) -> tuple[float, ...]:
    """The sigmas of ``count`` nodes on the curve that ``sigmas`` (N+1 values) draw.

    With u = i/N the schedule's own coordinate, which is 0 at the start and 1 at the end:

    - flow models: the curve is linear between the sigmas. The nodes are dense at its end, where the exact solution
      bends: 1 - u = (1 - j/count)^2. A schedule that stops before 0 is taken for the beginning of a longer one, which
      goes on to 0 with steps as long as the last.
    - eps models: log-linear, with u spaced evenly between the first sigma and the last that is not 0. Where that one
      is high the curve goes on to `LOWEST_SIGMA`.

    Args:
        sigmas: 1-D, strictly descending.
        count: how many nodes, 1 or more.
        flow: whether it is a flow model's schedule; None: `is_flow` decides.

    Returns:
        ``count`` sigmas. The first is sigmas[0]. The last is above 0, and is sigmas[-1] unless that is 0.
    """
    values: list[float] = sigmas.tolist()
    to_zero = values[-1] == 0
    if count == 1:
        return (values[0],)
    if is_flow(values[0]) if flow is None else flow:
        inner = _flow_nodes(values, count)
    else:
        inner = _eps_nodes(values, count)
    if not to_zero:
        inner[-1] = values[-1]
    return (values[0], *inner)


def _flow_nodes(values: list[float], count: int) -> list[float]:
    """The nodes after the first, for a flow model."""
    remaining = values[-1] / (values[-2] - values[-1])  # steps from the end of this schedule to 0
    last = math.sqrt(remaining / (remaining + len(values) - 1))
    pieces = count if values[-1] == 0 else count - 1
    roots = [1 - j / pieces * (1 - last) for j in range(1, count)]
    return [_on_curve(values, (1 - root**2) / (1 - last**2)) for root in roots]


def _eps_nodes(values: list[float], count: int) -> list[float]:
    """The nodes after the first, for an eps model."""
    positive = [value for value in values if value > 0]
    if values[-1] == 0 and (positive[-1] > 2 * LOWEST_SIGMA or len(positive) == 1):
        positive.append(min(positive[-1] / 2, LOWEST_SIGMA))
    logs = [math.log(value) for value in positive]
    return [math.exp(_on_curve(logs, j / (count - 1))) for j in range(1, count)]


def _on_curve(values: Sequence[float], u: float) -> float:
    """The piecewise linear function through ``values``, which are spaced evenly from u = 0 to 1."""
    place = min(max(u, 0.0), 1.0) * (len(values) - 1)
    i = min(int(place), len(values) - 2)
    return values[i] + (place - i) * (values[i + 1] - values[i])


def _coordinate(sigma: float) -> float:
    """The variable in which D is taken for a polynomial: like sigma at low noise, like log sigma at high noise."""
    return math.log(sigma + _LOG_OFFSET)


def _integrals(nodes: Sequence[float], start: float, end: float) -> list[float]:
    """For each node j the integral of L_j d(1/sigma) from ``start`` down to ``end``. L_j: Lagrange polynomial of the
    nodes."""
    if len(nodes) == 1:
        return [1 / end - 1 / start]
    at = [_coordinate(node) for node in nodes]
    top, bottom = math.log(start), math.log(end)
    sums = [0.0] * len(nodes)
    for point, weight in _gauss_legendre(_GAUSS_POINTS):
        log_sigma = top + (point + 1) / 2 * (bottom - top)
        kernel = weight * (top - bottom) / 2 * math.exp(-log_sigma)  # d(1/sigma) = -exp(-log sigma) d log sigma
        here = _coordinate(math.exp(log_sigma))
        for j, own in enumerate(at):
            sums[j] += kernel * math.prod((here - other) / (own - other) for k, other in enumerate(at) if k != j)
    return sums


@cache
def _gauss_legendre(count: int) -> tuple[tuple[float, float], ...]:
    """Points in [-1, 1] and their weights by Golub and Welsch: eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / (4 * k**2 - 1).sqrt()
    points, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return tuple(zip(points.tolist(), (2 * vectors[0] ** 2).tolist(), strict=True))
