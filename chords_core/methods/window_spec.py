"""Plans for `methods.window.Window`: from sigmas, a solver and what is asked for to nodes, rule and rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..checks import check_whole
from ..solvers.base import Solver
from ..solvers.interpolated import interpolation_nodes
from ..solvers.linear_form import amplification, cubic_rows, curve_nodes, in_flow_coordinates, is_flow, solver_rows
from .accept import Agreement, Residual
from .path import CubicPath, SolverPath
from .window import WindowSpec
from .window_rule import BUDGET, Fixed, MovingRule, paced_starts, window_starts

STRICTER = 4.0
"""The budget is divided by this for each later hit that is asked for."""

_STRICTEST = 60  # times: beyond, nothing is within the budget

_MORE_ROUNDS = {"dpmpp_2m": 0.12, "res_multistep": 0.12, "uni_pc": 0.27, "uni_pc_bh2": 0.27}
"""For each of at most `_MOST_STEPS` steps, for solvers that amplify more than Euler does."""

_MOST_STEPS = 25
"""Of more steps some are left out."""

_FINE = 50
"""New nodes are at most 1 + N / 50 steps apart: some 50 nodes on the path, however many steps it has."""

_EXPONENT_CUBIC = 1.6
"""The power of the window's way over the nodes of `curve_nodes` on a flow model's schedule: above 1, it stays longer at
the start."""

_EXPONENT_EPS = 1.0
"""The same for eps models, where the first nodes are easy: at sigmas far above the data nothing is decided."""


def solver_window(
    sigmas: Tensor,
    cores: int,
    solver: Solver,
    *,
    flow: bool | None = None,
    calls: int | None = None,
    slopes: bool = True,
    rounds: int | None = None,
    accept: int | str | Residual | Agreement = 1,
    name: str = "euler",
) -> WindowSpec:
    """A plan that comes close to the ``solver``'s own result on ``sigmas`` (N+1 values), by measured moves.

    Args:
        flow: the model predicts as a flow model does, or, if False, as an eps model; None: by the first sigma.
        calls: at how many of the steps the model is called (`interpolation_nodes`); None: at each.
        rounds: how many to make, with a window that moves by plan: after N rounds the result is exactly the solver's.
            None: by ``accept``. A number n asks for the budget of `methods.window_rule`, divided n - 1 times by
            `STRICTER`. "exact" asks for as many rounds as it takes until every node was evaluated where it is now, to
            rounding; `Residual` and `Agreement` for the same, unless they accept before.

        name: the solver's, by which `expected_rounds` knows it.

    Raises:
        InvalidInput: unless 2 <= calls <= N.
    """
    levels: list[float] = sigmas.tolist()
    steps = len(levels) - 1
    nodes = tuple(range(steps)) if calls is None else interpolation_nodes(steps, calls)
    cores = min(cores, len(nodes))
    times, rows = _times(levels, flow), solver_rows(solver, sigmas)
    if times[0] != levels[0]:
        rows = in_flow_coordinates(rows, levels)
    rank = accept if isinstance(accept, int) else 1
    exact = rounds is None and accept == "exact"
    rule = MovingRule(
        steps,
        nodes,
        amplification(rows),
        0.0 if exact or rounds is not None else BUDGET / STRICTER ** min(rank - 1, _STRICTEST),
        isinstance(accept, Residual | Agreement),
        paced_starts(len(nodes), cores, rounds) if rounds is not None else (),
        1 + steps // _FINE if calls is None and cores > 1 else 1,
    )
    expected = rounds or (len(nodes) if exact else expected_rounds(len(nodes), cores, slopes, rank, name))
    most, all_rounds = rounds or steps, rounds is not None
    if isinstance(accept, Residual | Agreement) and not all_rounds:
        most += steps  # once the budget is kept it goes on
    return WindowSpec(SolverPath(rows), tuple(levels), times, cores, rule, most, all_rounds, expected, slopes)


def accuracy_window(
    sigmas: Tensor,
    cores: int,
    *,
    flow: bool | None = None,
    rounds: int | None = None,
    accept: int | Residual | Agreement = 1,
    nodes: int | None = None,
) -> WindowSpec:
    """A plan that aims at the ODE's own solution: nodes on the curve that ``sigmas`` draw, cubic quadrature, and a
    window that moves by plan, as there is no solver's result to be measured against.

    Args:
        rounds: how many to make; None: by ``accept``, where a number takes `accuracy_rounds`, and `Residual` at most
            as many and 1.3 times the nodes, for the quadrature looks ahead and need not converge.
        nodes: how many; None: the rule max(K + 1, round(K rounds / (2 + K/4))).
    """
    ruled = accuracy_rounds(len(sigmas) - 1)
    planned = rounds or ruled
    if rounds is None and isinstance(accept, int):
        planned += (accept - 1) * max(1, round(ruled / 5))
    count = nodes or max(cores + 1, round(cores * planned / (2 + cores / 4)))
    flows = is_flow(float(sigmas[0])) if flow is None else flow
    levels = (*curve_nodes(sigmas, count, flows), float(sigmas[-1]))
    times = _times(levels, flows)
    cores = min(cores, count)
    polish = 1 if planned <= 6 else 2
    exponent = _EXPONENT_CUBIC if flows else _EXPONENT_EPS
    starts = window_starts(count, cores, planned, max(planned - polish, 2) - 1, exponent)
    most = planned
    if rounds is None and isinstance(accept, Residual | Agreement):
        most += math.ceil(1.3 * count)
    rows = cubic_rows(levels[:-1], levels[-1] == 0)
    if not flows:
        rows = tuple(in_flow_coordinates(each, levels) for each in rows)
    rule = Fixed(count, starts)
    return WindowSpec(CubicPath(rows), levels, times, cores, rule, most, rounds is not None, planned)


def expected_rounds(nodes: int, cores: int, slopes: bool = True, accept: int = 1, solver: str = "euler") -> int:
    """How many rounds it takes, about, for the n-th hit to ``accept``: fitted to guided pictures of the demo model, CFG
    3.5 to 8, 12 to 100 steps (benchmarks/results/trust.md). How many it takes is decided by the picture."""
    if cores == 1:
        return nodes
    rounds = (2.5 + 15.3 / cores) * math.log(nodes) - 34 / cores + 1
    rounds += _MORE_ROUNDS.get(solver, 0.0) * min(nodes, _MOST_STEPS)
    ruled = max(round(rounds if slopes else 1.4 * rounds), math.ceil(min(nodes, _MOST_STEPS) / cores) + 2)
    return min(nodes, ruled + (accept - 1) * max(1, round(ruled / 12)))


def solve_seconds(steps: int, elements: int) -> float:
    """What solving a window takes a round, about, for a latent of so many elements: its nodes, about a hundred at most,
    pass the latent some twenty times each (benchmarks/results/driver_overhead.md)."""
    return min(steps, 100) * (60e-6 + 3e-9 * elements)


def accuracy_rounds(steps: int) -> int:
    """Half as many rounds as the schedule has steps, but 11 at least, and no more than steps."""
    return min(max(11, steps // 2), steps)


def check_rounds(rounds: int | None) -> None:
    """Raise `InvalidInput` unless ``rounds`` is None or a whole number of at least 1."""
    if rounds is not None:
        check_whole("rounds", rounds, 1, " or None")


def _times(sigmas: Sequence[float], flow: bool | None) -> tuple[float, ...]:
    """The sigmas as a flow model's: t = sigma, or for an eps model t = sigma / (1 + sigma)."""
    flows = is_flow(sigmas[0]) if flow is None else flow
    return tuple(sigmas) if flows else tuple(sigma / (1 + sigma) for sigma in sigmas)
