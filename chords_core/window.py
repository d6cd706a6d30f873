"""Window methods, Picard and secant, as a state machine without threads, devices or I/O.

A trajectory is N nodes and the rows of `chords_core.quadrature` that lead from one to the next. In each round K cores
evaluate K neighbouring nodes. When all K are there, each evaluated node j has a local model of the denoiser,

    D_j(x) = D_j + c_j (x - E_j) + sum_m <x - E_j, v_m> w_m,

with D_j its last evaluation, made at E_j, and what earlier ones tell of the slope: c_j, a number per sample, is the
secant <dx, dD> / <dx, dx> of the last two; v_m are up to `RANK` orthonormal directions in which the node has moved, the
newest first, and w_m is what the model did there beyond c_j v_m. The *whole* trajectory is then solved again with these
models, so that nodes that the window has left go on improving. Nodes not evaluated yet take the value of the nearest
one before them. The estimate of the end is a hit, once a round. Then the window moves on, by a plan.

Picard iteration is the same without slopes: D_j(x) = D_j.

Solving is a sweep over the nodes in their order: for rows that only look back that is exact. For rows that look ahead
it is repeated (Gauss-Seidel).

What an evaluation depends on is fixed by the rounds before; within a round all are independent. The results are
therefore the same whichever order the evaluations come back in.

Memory: N+1 states, N values of the local models, D_j and E_j of each evaluated node, and 2 latents for each evaluation
of a node beyond its first, at most 2 * RANK a node: between 4 N and 4 N + 2 min(N * RANK, K * rounds - N) latents, in
float32 at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .accept import Residual
from .errors import InvalidInput
from .events import Accepted, Event, Hit, Step, Task
from .quadrature import Row, cubic_rows, curve_nodes, is_flow, solver_rows
from .solvers import Solver
from .sparse import sparse_rows

RANK = 4
"""Directions a node remembers."""

LARGEST_IMAGE = 1.0
"""The length of w_m at most, v_m having length 1. Without a bound the difference of two evaluations close together,
which is mostly noise, would tell what happens far away."""

INHERITED = 0.5
"""The share of a neighbour's slope that a node takes over until it has one of its own."""

LOWEST_SLOPE = -3.0
"""Without guidance slopes are positive; with it they come out negative, too."""

LINGER = 1.3
"""The window's start is at (nodes - K) * (share of the rounds gone)^linger: above 1, it lingers at the start."""

LINGER_CUBIC = 1.6
"""The same for the nodes of `curve_nodes` on a flow model's schedule."""

LINGER_EPS = 1.0
"""The same for eps models, where the first nodes are easy: at sigmas far above the data nothing is decided."""

SWEEPS_AHEAD = 3
"""Over rows that look ahead."""


@dataclass(frozen=True)
class WindowPlan:
    """What a window method will do: everything but the latents.

    Attributes:
        levels: the sigmas of the nodes, N values.
        rows: element e holds the N rows to use when the nodes 0..e have been evaluated.
        looks_ahead: the rows do.
        cores: K, the nodes evaluated in a round, at most N.
        starts: the first node of the window in each round. In later rounds it is the first node that is not as it
            was when it was evaluated.
        most: the number of rounds after which the run ends in any case, at least ``len(starts)``.
        all_rounds: end then and not before. Otherwise the run also ends when nothing is left to improve.
        slopes: local models have slopes (secant), or not (Picard).
    """

    levels: tuple[float, ...]
    rows: tuple[tuple[Row, ...], ...]
    looks_ahead: bool
    cores: int
    starts: tuple[int, ...]
    most: int
    all_rounds: bool
    slopes: bool = True


def fidelity_plan(
    sigmas: Tensor,
    cores: int,
    solver: Solver,
    *,
    slopes: bool = True,
    rounds: int | None = None,
    accept: int | str | Residual = 1,
) -> WindowPlan:
    """A plan that converges to the ``solver``'s own result on ``sigmas`` (N+1 values): exactly after N rounds.

    Args:
        rounds: how many to make; None: by ``accept``. A number takes `fidelity_rounds`, "exact" as many as it takes
            until every node was evaluated where it is now, to rounding; `Residual` the same, unless it accepts before.
    """
    levels: list[float] = sigmas[:-1].tolist()
    steps = len(levels)
    cores = min(cores, steps)
    most = rounds or fidelity_rounds(steps, cores, slopes, accept if isinstance(accept, int) else 1)
    starts = _fidelity_starts(steps, cores, most, _linger(levels, LINGER))
    if rounds is None and accept == "exact":
        starts, most = (), steps
    elif rounds is None and isinstance(accept, Residual):
        most += steps
    rows = (solver_rows(solver, sigmas),) * steps
    return WindowPlan(tuple(levels), rows, False, cores, starts, most, rounds is not None, slopes)


def sparse_plan(
    sigmas: Tensor,
    cores: int,
    solver: Solver,
    calls: int,
    *,
    slopes: bool = True,
    rounds: int | None = None,
    accept: int | Residual = 1,
) -> WindowPlan:
    """A plan that aims at the ``solver``'s result on ``sigmas`` (N+1 values) with evaluations at ``calls`` of the N
    steps only, and its prediction interpolated at the others (`chords_core.sparse`).

    Args:
        rounds: how many to make; None: by ``accept``, where a number takes `sparse_rounds`, and `Residual` at most as
            many and 1.3 times the calls.

    Raises:
        InvalidInput: unless 2 <= calls <= N.
    """
    nodes, rows = sparse_rows(solver, sigmas, calls)
    levels = tuple(sigmas[list(nodes)].tolist())
    cores = min(cores, calls)
    planned = rounds or sparse_rounds(calls, cores, accept if isinstance(accept, int) else 1)
    starts = window_starts(calls, cores, planned, max(planned - 2, 2) - 1, _linger(levels, LINGER))
    most = planned
    if rounds is None and isinstance(accept, Residual):
        most += math.ceil(1.3 * calls)
    return WindowPlan(levels, rows, True, cores, starts, most, rounds is not None, slopes)


def accuracy_plan(
    sigmas: Tensor,
    cores: int,
    *,
    rounds: int | None = None,
    accept: int | Residual = 1,
    nodes: int | None = None,
) -> WindowPlan:
    """A plan that aims at the ODE's own solution: nodes on the curve that ``sigmas`` draw, cubic quadrature.

    Args:
        rounds: how many to make; None: by ``accept``, where a number takes `accuracy_rounds`, and `Residual` at most
            as many and 1.3 times the nodes, for the quadrature looks ahead and need not converge.
        nodes: how many; None: the rule max(K + 1, round(K rounds / (2 + K/4))).
    """
    ruled = accuracy_rounds(len(sigmas) - 1)
    planned = rounds or ruled
    if rounds is None and isinstance(accept, int):
        planned += (accept - 1) * _extra(ruled)
    count = nodes or max(cores + 1, round(cores * planned / (2 + cores / 4)))
    levels = curve_nodes(sigmas, count)
    cores = min(cores, count)
    polish = 1 if planned <= 6 else 2
    starts = window_starts(count, cores, planned, max(planned - polish, 2) - 1, _linger(levels, LINGER_CUBIC))
    most = planned
    if rounds is None and isinstance(accept, Residual):
        most += math.ceil(1.3 * count)
    rows = cubic_rows(levels, float(sigmas[-1]) == 0)
    return WindowPlan(levels, rows, True, cores, starts, most, rounds is not None)


def fidelity_rounds(steps: int, cores: int, slopes: bool = True, accept: int = 1) -> int:
    """How many rounds are enough as a rule, for the n-th hit to ``accept``: with those, guided samples of the demo
    model differ from the sequential ones by about 1 % (median; uni_pc at 20 steps by 3 %) where the prompt leaves
    places and sizes open, and by about .1 % where it names them (benchmarks/results/prompts.md). At least as many as it
    takes to evaluate every node once, and three more."""
    rounds = max(6.2 + steps * (0.085 + 0.5 / cores), 3.5 + (steps - cores) / cores)
    ruled = min(steps, math.ceil(rounds if slopes else 1.4 * rounds))
    return min(steps, ruled + (accept - 1) * _extra(ruled))


def sparse_rounds(calls: int, cores: int, accept: int = 1) -> int:
    """The same for `sparse_plan`, so that the result is about as far off as that of one core with so many calls is;
    enough to evaluate every node. On one core a round is a call, and `chords_core.sparse.Sparse` has all that can be
    gained."""
    ruled = math.ceil(5.7 + calls * (0.15 + 0.75 / cores))
    ruled = max(ruled, 3 + math.ceil((calls - cores) / cores))
    return ruled + (accept - 1) * _extra(ruled)


def accuracy_rounds(steps: int) -> int:
    """Half as many rounds as the schedule has steps, but 11 at least, and no more than steps."""
    return min(max(11, steps // 2), steps)


def window_starts(nodes: int, cores: int, rounds: int, arrival: int, linger: float) -> tuple[int, ...]:
    """The first node of the window in each round: from 0 to ``nodes - cores``, where it is from round ``arrival`` on
    (counted from 0), advancing with the power ``linger`` of the share of the way, or a lower one if otherwise nodes at
    the end would be left out. The first step is to node 1, if the window moves at all: in round 0 all nodes but the
    first were evaluated far from where they belong."""
    last = nodes - cores
    if last > 0:
        linger = min(linger, max(1.0, cores * arrival / last))
    starts = [round(last * min(1.0, r / max(arrival, 1)) ** linger) for r in range(rounds)]
    if arrival > 1:
        starts[1] = min(1, last)
    closed = list(accumulate(starts, lambda before, start: min(start, before + cores)))
    return tuple(closed if closed[-1] == last else starts)  # else too few rounds to evaluate every node


def _fidelity_starts(steps: int, cores: int, rounds: int, linger: float) -> tuple[int, ...]:
    """The rows look back only, so in each round one more node is where it will stay: it need not be evaluated again.
    And with as many rounds as nodes the window must not leave any behind that is not there yet."""
    last = steps - cores
    settled = [min(r, last) for r in range(rounds)]
    if rounds >= steps:
        return tuple(settled)
    ruled = window_starts(steps, cores, rounds, rounds - 2, linger)
    return tuple(map(max, ruled, settled))


def _extra(ruled: int) -> int:
    """Rounds more for each hit later that is asked for."""
    return max(1, round(ruled / 5))


def _linger(levels: Sequence[float], flow: float) -> float:
    return flow if is_flow(levels[0]) else LINGER_EPS


def check_rounds(rounds: int | None) -> None:
    """Raise `InvalidInput` unless ``rounds`` is None or a whole number of at least 1."""
    if rounds is not None and (isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1):
        raise InvalidInput("rounds", f"must be None or a whole number of at least 1, not {rounds!r}")


class _Local:
    """The model of the denoiser at one node, from its evaluations; all tensors [B, d], numbers per sample [B, 1]."""

    def __init__(self, at: Tensor, value: Tensor) -> None:
        self.at = at  # E: the state of the last evaluation
        self.value = value  # D: what it gave
        self.slope: Tensor | None = None  # c, once there are two
        self._directions: list[tuple[Tensor, Tensor]] = []  # (v, w), newest first

    def __call__(self, x: Tensor, slope: Tensor | None) -> Tensor:
        """D(x); ``slope`` is for a node that has none itself, None for 0."""
        slope = slope if self.slope is None else self.slope
        if slope is None:
            return self.value
        moved = x - self.at
        predicted = self.value + slope * moved
        for direction, rest in self._directions:
            predicted += _dot(moved, direction) * rest
        return predicted

    def learn(self, at: Tensor, value: Tensor, highest: float) -> None:
        """Take an evaluation more; slopes are at most ``highest``."""
        dx, dvalue = at - self.at, value - self.value
        known = torch.zeros_like(dx[:, :1]) if self.slope is None else self.slope
        square = _dot(dx, dx)
        # A difference between states that are equal to rounding says nothing.
        moved = square > (16 * torch.finfo(at.dtype).eps) ** 2 * _dot(at, at)
        inverse = torch.where(moved, square, torch.ones_like(square)).reciprocal()
        estimate = (_dot(dx, dvalue) * inverse).clamp(LOWEST_SLOPE, highest)
        new_slope = torch.where(moved, estimate, known)
        length = torch.where(moved, inverse.sqrt(), torch.zeros_like(inverse))
        found = [(dx * length, dvalue * length)]
        for direction, rest in self._directions:  # the older ones, as far as they are not along newer ones
            image = rest + known * direction
            for newer, newer_image in found:
                along = _dot(direction, newer)
                direction, image = direction - along * newer, image - along * newer_image
            square = _dot(direction, direction)
            length = torch.where(square > 0.04, square.clamp_min(0.04).rsqrt(), torch.zeros_like(square))
            found.append((direction * length, image * length))
        self.at, self.value, self.slope = at, value, new_slope
        self._directions = []
        for direction, image in found[:RANK]:
            rest = image - new_slope * direction
            size = _dot(rest, rest).sqrt().clamp_min(LARGEST_IMAGE)
            self._directions.append((direction, rest * (LARGEST_IMAGE / size)))


class Window:
    """The method as ``ready`` / ``complete``: see the module docstring.

    Args:
        x: the state at ``plan.levels[0]``. Dimension 0 counts samples, which do not influence one another; with
            fewer than two dimensions it is one sample.
        plan: what to do.
        accept: `Residual` may end the run between two hits, once every node has been evaluated; anything else is in
            the plan.

    Attributes:
        hits: one a round. ``core`` is 1 if it is the sequential solver's result, to rounding, and 0 otherwise: a draft.
        accepted: the hit the run ended with, or None while it goes on.
        depth: the most rounds the run can take.

    Tasks: ``core`` counts the window's nodes from 1, ``index`` the trajectory's from 0, ``depth`` is the round.
    """

    def __init__(self, x: Tensor, plan: WindowPlan, accept: int | str | Residual = 1) -> None:
        self._plan = plan
        self._residual = accept if isinstance(accept, Residual) and not plan.all_rounds else None
        self._shape, self._dtype = x.shape, x.dtype
        start = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1 if x.ndim > 1 else 0)
        start = start if x.ndim > 1 else start[None]
        self._nodes = len(plan.levels)
        flow = is_flow(plan.levels[0])
        self._highest = [1 / max(1 - level, 0.05) if flow else 1.0 for level in plan.levels]
        self._models: list[_Local | None] = [None] * self._nodes
        # Before any evaluation: the best linear guess for data of variance 1, which at full noise is 0.
        alpha = 1 - plan.levels[0] if flow else 1.0
        guess = alpha / (alpha**2 + plan.levels[0] ** 2) * start
        self._values = [guess] * self._nodes  # of the local models, at the present states
        self._states = [start]
        for row in plan.rows[0][:-1]:
            self._states.append(self._follow(row, self._states[-1]))
        self.depth = plan.most
        self.hits: list[Hit] = []
        self.accepted: Hit | None = None
        self._newest_will_do = False
        self._round = 0
        self._came: dict[int, Tensor] = {}  # what the present round has brought, by node
        self._ready: list[Task] = []
        self._request(plan.starts[0] if plan.starts else 0)

    def ready(self) -> list[Task]:
        """The evaluations that may start now and have not been handed out before."""
        tasks, self._ready = self._ready, []
        return tasks

    def complete(self, task: Task, denoised: Tensor) -> list[Event]:
        """Take the result of one evaluation; returns what became of it, in order.

        Results may come in any order; each task of `ready` must be completed once.
        """
        if self.accepted is not None:
            return []
        self._came[task.index] = denoised.to(self._states[0].dtype).reshape(self._states[0].shape)
        if len(self._came) < self._plan.cores:
            return []
        self._round += 1
        first = 0 if self._plan.looks_ahead else self._first_changed()
        self._learn()
        end = self._solve(first)
        stale = self._first_stale()
        exact = stale is None and not self._plan.looks_ahead
        hit = Hit(1 if exact else 0, self._round, end.reshape(self._shape).to(self._dtype))
        before = self.hits[-1] if self.hits else None
        self.hits.append(hit)
        events: list[Event] = [Step(self._round, self.depth), hit]
        if self._newest_will_do or self._enough(hit, before, stale):
            self._end_with(hit, events)
        else:
            starts = self._plan.starts
            self._request(starts[self._round] if self._round < len(starts) else stale or 0)
        return events

    def accept_newest(self) -> list[Event]:
        """End with the newest hit; if there is none yet, with the first to come."""
        self._newest_will_do = True
        events: list[Event] = []
        if self.hits and self.accepted is None:
            self._end_with(self.hits[-1], events)
        return events

    def _request(self, start: int) -> None:
        start = min(start, self._nodes - self._plan.cores)
        for core in range(1, self._plan.cores + 1):
            index = start + core - 1
            x = self._states[index].reshape(self._shape).to(self._dtype)
            self._ready.append(Task(core, index, self._round + 1, x, self._plan.levels[index]))

    def _learn(self) -> None:
        """Into the local models with what has come."""
        for j, value in self._came.items():
            model, state = self._models[j], self._states[j]
            if model is None or not self._plan.slopes:
                self._models[j] = _Local(state, value)
            else:
                model.learn(state, value, self._highest[j])
            self._values[j] = value
        self._came = {}

    def _borrowed(self) -> list[Tensor | None]:
        """For each node the slope of the nearest that has one: to the left, or else to the right; None if none has."""
        own = [None if model is None else model.slope for model in self._models]
        slope = next((slope for slope in own if slope is not None), None)
        borrowed = []
        for mine in own:
            slope = slope if mine is None else mine
            borrowed.append(None if slope is None else INHERITED * slope)
        return borrowed

    def _first_changed(self) -> int:
        """The first node whose local model may say something else after this round than before, at the same state."""
        first = min(self._came)
        for j in range(first):
            model = self._models[j]
            if model is None or (model.slope is None and model.at is not self._states[j]):  # it borrows a slope
                return j
        return first

    def _solve(self, first: int) -> Tensor:
        """Sweep over the trajectory from node ``first`` on, whose state is right, with the local models; returns the
        state at the end."""
        last = max(j for j, model in enumerate(self._models) if model is not None)
        rows = self._plan.rows[last]
        borrowed = self._borrowed()
        for _ in range(SWEEPS_AHEAD if self._plan.looks_ahead else 1):
            for j in range(first, self._nodes):
                model = self._models[j]
                if j > first:
                    self._states[j] = self._follow(rows[j - 1], self._states[j - 1])
                if model is None:
                    self._values[j] = self._values[j - 1]
                else:
                    self._values[j] = model(self._states[j], borrowed[j])
        return self._follow(rows[-1], self._states[-1])

    def _follow(self, row: Row, state: Tensor) -> Tensor:
        following = row.ratio * state
        for j, weight in row.weights:
            following.add_(self._values[j], alpha=weight)
        return following

    def _first_stale(self) -> int | None:
        """The first node that was never evaluated, or that is elsewhere now, by more than rounding."""
        tolerance = (8 * torch.finfo(self._states[0].dtype).eps) ** 2
        for j, (model, state) in enumerate(zip(self._models, self._states, strict=True)):
            if model is None:
                return j
            if model.at is not state:
                moved = state - model.at
                if bool((_dot(moved, moved) > tolerance * _dot(state, state)).any()):
                    return j
        return None

    def _enough(self, hit: Hit, before: Hit | None, stale: int | None) -> bool:
        if self._round >= self._plan.most:
            return True
        if self._plan.all_rounds:
            return False
        if stale is None:
            return True
        reached = all(model is not None for model in self._models)
        agrees = self._residual is not None and before is not None and self._residual.accepts(before.x, hit.x)
        return reached and agrees

    def _end_with(self, hit: Hit, events: list[Event]) -> None:
        self.accepted = hit
        events.append(Accepted(hit))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Per sample: [B, d], [B, d] -> [B, 1]."""
    return (a * b).sum(1, keepdim=True)
