"""Specifications for `methods.window.Window`: from sigmas and a solver to nodes, rule and rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ..checks import check_whole, is_number, shown
from ..errors import InvalidInput
from ..solvers import EULER, Solver
from ..solvers.cubic import cubic_updates, curve_nodes
from ..solvers.interpolated import interpolation_nodes
from ..solvers.linear_form import amplification, in_flow_coordinates, is_flow, solver_updates
from .accept import AcceptRule, Agreement, Residual
from .path import CubicPath, SolverPath
from .stepping_rule import JUMP, SteppingRule, allowed_surprise
from .window import WindowSpec
from .window_rule import (
    BUDGET,
    BUDGET_PER_TOLERANCE,
    MAX_EFFECT_PER_TOLERANCE,
    MAX_MOVE_PER_TOLERANCE,
    MOVE_PER_SURPRISE,
    GapControl,
    MovingRule,
    ScheduledRule,
    paced_starts,
    uneven_steps,
    window_starts,
)

STRICTER = 4.0
"""The budget of moves is divided by this for each later hit that is asked for."""

_MAX_STRICTER = 60
"""How many times at most. A smaller budget allows no move at all."""

_MAX_COUNTED_STEPS = 25
"""More steps than this hardly take more rounds: some of them are left out."""

_NODES_ON_A_PATH = 50
"""New nodes are at most 1 + N / 50 steps apart: about 50 nodes on the path, however many steps it has."""

_FLOW_EXPONENT = 1.6
"""`methods.window_rule.window_starts` advances with this power over the nodes of a flow model's schedule. Above 1, the
window stays longer at the start."""

_EPS_EXPONENT = 1.0
"""The same for eps models. Their first nodes are easy: at sigmas far above the data nothing is decided."""


def solver_window(
    sigmas: Tensor,
    cores: int,
    solver: Solver,
    *,
    flow: bool | None = None,
    calls: int | None = None,
    slopes: bool = True,
    rounds: int | None = None,
    accept: AcceptRule = 1,
) -> WindowSpec:
    """A window that comes close to the ``solver``'s own result on ``sigmas``, by measured moves.

    Args:
        sigmas: N+1 values, strictly descending.
        cores: K, the nodes evaluated in a round.
        solver: whose result is the aim.
        flow: True for the states of a flow model, False for those of an eps model. None: the first sigma decides.
        calls: at how many of the steps to call the model (`interpolation_nodes`); None: at each.
        slopes: whether local models have slopes (secant) or not (Picard).
        rounds: how many to make, with a window that moves by schedule. After N rounds the result is exactly the
            solver's. None: ``accept`` decides. A number n asks for the budget of `methods.window_rule`, divided n - 1
            times by `STRICTER`. "exact" goes on until every node was evaluated where it is now, apart from rounding.
            `Residual` and `Agreement` do too, unless they accept a hit before.
        accept: see ``rounds``.

    Raises:
        InvalidInput: unless 2 <= calls <= N.
    """
    values: list[float] = sigmas.tolist()
    steps = len(values) - 1
    nodes = tuple(range(steps)) if calls is None else interpolation_nodes(steps, calls)
    cores = min(cores, len(nodes))
    times, updates = _times(values, flow), solver_updates(solver, sigmas)
    if times[0] != values[0]:
        updates = in_flow_coordinates(updates, values)
    hit = accept if isinstance(accept, int) else 1
    exact = rounds is None and accept == "exact"
    rule = MovingRule(
        steps,
        nodes,
        amplification(updates),
        budget=0.0 if exact or rounds is not None else BUDGET / STRICTER ** min(hit - 1, _MAX_STRICTER),
        to_rounding=isinstance(accept, Residual | Agreement),
        pace=paced_starts(len(nodes), cores, rounds) if rounds is not None else (),
        gaps=GapControl(1 + steps // _NODES_ON_A_PATH if calls is None and cores > 1 else 1),
    )
    expected = rounds or (len(nodes) if exact else expected_rounds(len(nodes), cores, slopes, hit, solver))
    max_rounds = rounds or steps
    if isinstance(accept, Residual | Agreement) and rounds is None:
        max_rounds += steps  # once the budget is kept it goes on
    path = SolverPath(updates)
    return WindowSpec(path, tuple(values), times, cores, rule, max_rounds, rounds is not None, expected, slopes)


def tolerance_window(
    sigmas: Tensor, cores: int, solver: Solver, tolerance: float, *, flow: bool | None = None
) -> WindowSpec:
    """A window whose result is within about ``tolerance`` of the ``solver``'s own on ``sigmas``.

    One core takes adaptive steps (`chords_core.methods.stepping_rule`), several move by a budget that is proportional
    to the tolerance (`chords_core.methods.window_rule`).

    Args:
        sigmas: N+1 values, strictly descending.
        cores: K, the nodes evaluated in a round.
        solver: whose result is the aim.
        tolerance: the relative RMS difference, above 0.
        flow: as for `solver_window`.
    """
    steps = len(sigmas) - 1
    cores = min(cores, steps)
    spec = solver_window(sigmas, cores, solver, flow=flow)
    assert isinstance(spec.rule, MovingRule)
    expected = expected_calls(steps, cores, solver, tolerance)
    if cores == 1:
        stepping = SteppingRule(steps, spec.rule.amplification, tolerance, uneven_steps(spec.times))
        return replace(spec, rule=stepping, expected_rounds=expected)
    surprise = allowed_surprise(steps, tolerance)
    moving = replace(
        spec.rule,
        budget=BUDGET_PER_TOLERANCE * tolerance,
        max_move=MAX_MOVE_PER_TOLERANCE * tolerance,
        gaps=GapControl(
            max_gap=steps,
            move=MOVE_PER_SURPRISE * cores * surprise,
            surprise=surprise,
            rough=JUMP * surprise,
            dense_nodes=4,
        ),
        required=uneven_steps(spec.times),
        max_effect=MAX_EFFECT_PER_TOLERANCE * tolerance,
    )
    return replace(spec, rule=moving, expected_rounds=expected)


def accuracy_window(
    sigmas: Tensor,
    cores: int,
    *,
    flow: bool | None = None,
    rounds: int | None = None,
    accept: int | Residual | Agreement = 1,
    nodes: int | None = None,
) -> WindowSpec:
    """A window that aims at the ODE's own solution: nodes on the curve that ``sigmas`` draw, and cubic quadrature.

    The window moves by schedule, as there is no solver's result that moves could be measured against.

    Args:
        sigmas: N+1 values, strictly descending.
        cores: K, the nodes evaluated in a round.
        flow: as for `solver_window`.
        rounds: how many to make. None: ``accept`` decides. A number takes `accuracy_rounds`, and more for a later hit.
            `Residual` and `Agreement` take at most as many and 1.3 times the nodes, because the quadrature looks ahead
            and need not converge.
        accept: see ``rounds``.
        nodes: how many; None: max(K + 1, round(K rounds / (2 + K/4))).
    """
    ruled = accuracy_rounds(len(sigmas) - 1)
    planned = rounds or ruled
    if rounds is None and isinstance(accept, int):
        planned += (accept - 1) * max(1, round(ruled / 5))
    count = nodes or max(cores + 1, round(cores * planned / (2 + cores / 4)))
    flows = is_flow(float(sigmas[0])) if flow is None else flow
    values = (*curve_nodes(sigmas, count, flows), float(sigmas[-1]))
    cores = min(cores, count)
    final_rounds = 1 if planned <= 6 else 2
    exponent = _FLOW_EXPONENT if flows else _EPS_EXPONENT
    starts = window_starts(count, cores, planned, max(planned - final_rounds, 2) - 1, exponent)
    max_rounds = planned
    if rounds is None and isinstance(accept, Residual | Agreement):
        max_rounds += math.ceil(1.3 * count)
    updates = cubic_updates(values[:-1], values[-1] == 0)
    if not flows:
        updates = tuple(in_flow_coordinates(each, values) for each in updates)
    path, rule = CubicPath(updates), ScheduledRule(count, starts)
    return WindowSpec(path, values, _times(values, flows), cores, rule, max_rounds, rounds is not None, planned)


def expected_rounds(nodes: int, cores: int, slopes: bool = True, accept: int = 1, solver: Solver = EULER) -> int:
    """About how many rounds a window takes; the picture decides how many they are.

    Fitted to guided pictures of the demo model with CFG 3.5 to 8 and 12 to 100 steps (benchmarks/results/trust.md).

    Args:
        nodes: how many.
        cores: K; one core takes a round for each node.
        slopes: see `solver_window`.
        accept: the number of the hit, 1 or more.
        solver: see `solver_window`.
    """
    if cores == 1:
        return nodes
    counted = min(nodes, _MAX_COUNTED_STEPS)
    rounds = (2.5 + 15.3 / cores) * math.log(nodes) - 34 / cores + 1 + solver.extra_rounds * counted
    ruled = max(round(rounds if slopes else 1.4 * rounds), math.ceil(counted / cores) + 2)
    return min(nodes, ruled + (accept - 1) * max(1, round(ruled / 12)))


def expected_calls(steps: int, cores: int, solver: Solver, tolerance: float) -> int:
    """About how many calls in a row a run within a ``tolerance`` takes; the picture decides how many they are.

    Fitted to guided pictures of the demo model with CFG 3.5 to 8 and 20 to 50 steps (benchmarks/results/tolerance.md).
    """
    at_twenty = 14 / math.pow(cores, 0.18) + solver.extra_rounds * min(steps, _MAX_COUNTED_STEPS)
    calls = (at_twenty + 9.3 / math.sqrt(cores) * math.log(steps / 20)) * math.pow(0.01 / tolerance, 0.18)
    return min(steps, max(2, math.ceil(steps / (10 * cores)) + 2, round(calls)))


def check_tolerance(tolerance: object) -> float:
    """``tolerance`` if it is a number above 0 and below 1.

    Raises:
        InvalidInput: for any other value.
    """
    if not is_number(tolerance) or not 0 < tolerance < 1:
        raise InvalidInput("tolerance", f"must be a number above 0 and below 1, or None, not {shown(tolerance)}")
    return float(tolerance)


def solve_seconds(steps: int, elements: int) -> float:
    """About how long solving a window takes a round, in seconds, for a latent of so many ``elements``.

    The latents of the nodes, at most about a hundred, are read some twenty times
    (benchmarks/results/driver_overhead.md).
    """
    return min(steps, 100) * (60e-6 + 3e-9 * elements)


def accuracy_rounds(steps: int) -> int:
    """Half as many rounds as the schedule has steps, at least 11, and at most ``steps``."""
    return min(max(11, steps // 2), steps)


def check_rounds(rounds: int | None) -> None:
    """Raise `InvalidInput` unless ``rounds`` is None or a whole number of at least 1."""
    if rounds is not None:
        check_whole("rounds", rounds, 1, " or None")


def _times(sigmas: Sequence[float], flow: bool | None) -> tuple[float, ...]:
    """The sigmas as a flow model's: t = sigma, or for an eps model t = sigma / (1 + sigma)."""
    flows = is_flow(sigmas[0]) if flow is None else flow
    return tuple(sigmas) if flows else tuple(sigma / (1 + sigma) for sigma in sigmas)
