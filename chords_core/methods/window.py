"""Window methods, Picard and secant, as a state machine without threads, devices or I/O.

A trajectory has N steps. In each round K cores evaluate the model at K of them. Each evaluated step, a *node*, has a
local model of the denoiser there (`methods.secant_model`). When all K evaluations are there, the *whole* trajectory
is solved again with these models, so that nodes that the window has left go on improving. The estimate of the end is a
hit, once a round. Then the window moves on: by how far each node has moved since it was evaluated
(`chords_core.methods.window_rule`), or by a plan made before.

A node that has moved far is known less well. Its value is w model + (1 - w) trend, with w = 1 / (1 + s^2), s its move
and the trend that of the two nodes before it. Steps without an evaluation have interpolated values
(`chords_core.methods.path`).

Picard iteration is the same without slopes: the local model is the last evaluation.

Everything is solved in the coordinates of a flow model, x_f = (1 - t) x0 + t eps. There an eps model, with
t = sigma / (1 + sigma) and x_f = x / (1 + sigma), follows the same equations.

What is evaluated next depends on the values of the rounds before alone, and within a round all evaluations are
independent. So the result is the same whichever order they come back in, and on any number of lanes. In a batch, the
most demanding sample decides what is evaluated next; an evaluation that is not finite is left out of that choice.

Memory: a state, a value, an evaluation and the state it was made at for each node, and 2 latents for each evaluation of
a node beyond its first, at most 2 * RANK a node; in float32 at least.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..solvers.linear_form import Row
from .accept import Agreement, Residual
from .events import Accepted, Evaluation, Event, Hit, RoundDone
from .path import Path, trend
from .secant_model import SecantModel
from .window_rule import Fixed, Measured, MovingRule, Progress

_SWEEPS_AHEAD = {True: 2, False: 1}
"""Over the nodes, by whether segments look ahead."""

_TRUSTED = 0.999
"""The weight of a local model from which on the trend is not looked at."""

_FIRST_TREND = 3
"""The first node whose value may be a trend of those before."""

_INHERITED = 0.5
"""The share of a neighbour's slope that a node takes over until it has one of its own."""


@dataclass(frozen=True)
class WindowSpec:
    """What a window method does: everything but the latents. See `chords_core.methods.window_spec`.

    Attributes:
        path: the trajectory, in flow coordinates.
        sigmas: of the N nodes and the end, N+1 values, as the model takes them.
        times: the same as a flow model's, in 0..1.
        cores: K, the nodes evaluated in a round, at most as many as may be evaluated.
        rule: which nodes are next, and when it is enough.
        most: the rounds after which the run ends in any case.
        all_rounds: end then and not before.
        expected: how many rounds it takes, about.
        slopes: local models have slopes (secant), or not (Picard).
    """

    path: Path
    sigmas: tuple[float, ...]
    times: tuple[float, ...]
    cores: int
    rule: MovingRule | Fixed
    most: int
    all_rounds: bool
    expected: int
    slopes: bool = True


class _Node:
    """An evaluated step: its local model, and where the trajectory passes it now."""

    def __init__(self, model: SecantModel, highest: float) -> None:
        self.model = model
        self.highest = highest
        self.state = model.at
        self.value = model.value
        self.moved: Tensor | None = None  # [B, 1], as `MovingRule` measures it; None: it has not
        self.drift: Tensor | None = None  # the same relative to the state


class Window:
    """The method as ``ready`` / ``complete``: see the module docstring.

    Args:
        x: the state at ``plan.sigmas[0]``. Dimension 0 counts samples; with fewer than two dimensions it is one.
        plan: what to do.
        accept: `Residual` or `Agreement` may end the run between two hits, once the end of the trajectory has been
            evaluated; anything else is in the plan.

    Attributes:
        hits: one a round. ``core`` is 1 if it is the sequential solver's result, to rounding, and 0 otherwise: a draft.
        accepted: the hit the run ended with, or None while it goes on.
        depth: the rounds the run is expected to take.

    Tasks: ``core`` counts the nodes of the round from 1, ``index`` is the step, ``depth`` the round.
    """

    def __init__(self, x: Tensor, plan: WindowSpec, accept: int | str | Residual | Agreement = 1) -> None:
        self._plan, self._path = plan, plan.path
        self._agreement = accept if isinstance(accept, Residual | Agreement) and not plan.all_rounds else None
        self._shape, self._dtype = x.shape, x.dtype
        start = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1 if x.ndim > 1 else 0)
        start = start if x.ndim > 1 else start[None]
        self._start = start / self._size(0)
        self._highest = tuple(1 / max(1 - time, 0.05) for time in plan.times)
        self._known: list[int] = []
        self._nodes: dict[int, _Node] = {}
        self._progress = Progress()
        self._asked: dict[int, Tensor] = {}  # the states of the present round's nodes
        self._came: dict[int, Tensor] = {}  # what it has brought, by node
        self._ready: list[Evaluation] = []
        self._new: tuple[int, ...] = ()  # nodes that the present round evaluated for the first time
        self._round = 0
        self._newest_will_do = False
        self.depth = plan.expected
        self.hits: list[Hit] = []
        self.accepted: Hit | None = None
        self._ask(plan.rule.first(plan.cores))

    def ready(self) -> list[Evaluation]:
        """The evaluations that may start now and have not been handed out before."""
        evaluations, self._ready = self._ready, []
        return evaluations

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        """Take the result of one evaluation; returns what became of it, in order.

        Results may come in any order; each evaluation of `ready` must be completed once.
        """
        if self.accepted is not None:
            return []
        self._came[evaluation.index] = denoised.to(self._start.dtype).reshape(self._start.shape)
        if len(self._came) < len(self._asked):
            return []
        self._round += 1
        self._solve(self._learn())
        measured = self._measured()
        complete = len(self._known) == self._path.steps and not self._path.looks_ahead(self._known)
        exact = complete and not any(measured.changed)
        end = self._state_at(self._path.steps) * self._size(self._path.steps)
        hit = Hit(1 if exact else 0, self._round, end.reshape(self._shape).to(self._dtype))
        before = self.hits[-1] if self.hits else None
        self.hits.append(hit)
        following = None
        if not self._enough(hit, before, exact):
            self._progress, following = self._plan.rule.following(
                self._progress, measured, self._plan.cores, self._round, self._plan.most - self._round
            )
        ends = following is None or self._newest_will_do
        of = self._round if ends else max(self._round + 1, self.depth)
        events: list[Event] = [RoundDone(self._round, of), hit]
        if ends:
            self._end_with(hit, events)
        else:
            self._ask(following or ())
        return events

    def accept_newest(self) -> list[Event]:
        """End with the newest hit; if there is none yet, with the first to come."""
        self._newest_will_do = True
        events: list[Event] = []
        if self.hits and self.accepted is None:
            self._end_with(self.hits[-1], events)
        return events

    def _size(self, node: int) -> float:
        """A state as the model takes it against the one in flow coordinates."""
        sigma, time = self._plan.sigmas[node], self._plan.times[node]
        return sigma / time if time > 0 and sigma != time else 1.0

    def _ask(self, nodes: Sequence[int]) -> None:
        self._asked, self._came = {node: self._state_at(node) for node in nodes}, {}
        for core, (node, state) in enumerate(self._asked.items(), start=1):
            x = (state * self._size(node)).reshape(self._shape).to(self._dtype)
            self._ready.append(Evaluation(core, node, self._round + 1, x, self._plan.sigmas[node]))

    def _state_at(self, step: int) -> Tensor:
        """Where the trajectory passes a step, which may be the end or lie beyond all nodes."""
        node = self._nodes.get(step)
        if node is not None:
            return node.state
        if not self._known:  # the best linear guess for data of variance 1, which at full noise is 0
            time, first = self._plan.times[step], self._plan.times[0]
            guess = (1 - first) / ((1 - first) ** 2 + first**2)
            return self._start * (time / first + (1 - time / first) * guess) if step else self._start
        before = self._known[bisect_left(self._known, step) - 1]
        return self._follow(self._path.segment(self._known, before, step), self._nodes[before].state)

    def _follow(self, row: Row, state: Tensor) -> Tensor:
        following = row.ratio * state
        for node, weight in row.weights:
            following.add_(self._nodes[node].value, alpha=weight)
        return following

    def _learn(self) -> int:
        """Into the local models with what has come. Returns the place among the known nodes from which on to solve."""
        self._new = tuple(node for node in self._asked if node not in self._nodes)
        for node, value in self._came.items():
            state = self._asked[node]
            if node not in self._nodes:
                self._nodes[node] = _Node(SecantModel(state, value), self._highest[node])
                insort(self._known, node)
            elif self._plan.slopes:
                self._nodes[node].model.learn(state, value, self._highest[node])
            else:
                self._nodes[node].model = SecantModel(state, value)
            self._nodes[node].value, self._nodes[node].moved = value, None
        known = self._known
        first = bisect_left(known, min(self._came))
        for place in range(first if self._plan.slopes else 0):
            node_there = self._nodes[known[place]]
            if node_there.model.slope is None and node_there.model.at is not node_there.state:  # it borrows a slope
                first = place
                break
        if not self._path.looks_ahead(known):
            return first
        return first - 2 if first > 3 else 0  # a cubic at the beginning goes through the first four

    def _borrowed(self) -> list[Tensor | None]:
        """For each node the slope of the nearest that has one: to the left, or else to the right; None if none has."""
        own = [self._nodes[node].model.slope for node in self._known]
        slope = next((slope for slope in own if slope is not None), None)
        borrowed = []
        for mine in own:
            slope = slope if mine is None else mine
            borrowed.append(None if slope is None else _INHERITED * slope)
        return borrowed

    def _solve(self, first: int) -> None:
        """Sweep over the known nodes from the place ``first`` on, whose state is right, with the local models."""
        known, borrowed = self._known, self._borrowed()
        for _ in range(_SWEEPS_AHEAD[self._path.looks_ahead(known)]):
            for place in range(first, len(known)):
                node = self._nodes[known[place]]
                if place > first:
                    row = self._path.segment(known, known[place - 1], known[place])
                    node.state = self._follow(row, self._nodes[known[place - 1]].state)
                self._value(place, borrowed[place])

    def _value(self, place: int, borrowed: Tensor | None) -> None:
        """What the node at this place says at its present state, and how far that is from where it was evaluated."""
        known = self._known
        node = self._nodes[known[place]]
        if place == 0 or node.state is node.model.at:
            node.value, node.moved, node.drift = node.model.value, None, None
            return
        dx = node.state - node.model.at
        moved = _norm(dx)
        node.moved = moved / self._picture(known[place], node.state)
        node.drift = moved / _norm(node.state).clamp_min(torch.finfo(dx.dtype).tiny)
        trusted = 1 / (1 + node.moved.square())
        modelled = node.model(dx, borrowed)
        blended = trusted * modelled + (1 - trusted) * self._trend(place)
        node.value = torch.where(trusted > _TRUSTED, modelled, blended)

    def _trend(self, place: int) -> Tensor:
        """What the two nodes before the one at this place let expect of it."""
        before = self._nodes[self._known[place - 1]].value
        if place < 2 or self._known[place] < _FIRST_TREND:
            return before
        ahead = trend(*self._known[place - 2 : place + 1])
        return before + ahead * (before - self._nodes[self._known[place - 2]].value)

    def _picture(self, node: int, state: Tensor) -> Tensor:
        """The size of the picture that a state implies so far: without the noise that is left. [B, 1]"""
        times = self._plan.times
        picture = torch.sub(state, self._start, alpha=times[node] / times[0])
        return _norm(picture).clamp_min(torch.finfo(state.dtype).tiny)

    def _surprise(self, node: int) -> Tensor:
        """How far the evaluation of a node is from the trend of those before it, as a move of its state. [B, 1]"""
        place = bisect_left(self._known, node)
        off = self._nodes[node].model.value - self._trend(place)
        step = 1 - self._plan.times[node] / self._plan.times[self._known[place - 1]]
        return step * _norm(off) / self._picture(node, self._nodes[node].state)

    def _measured(self) -> Measured:
        """What the rule looks at, in one transfer from the device; what is not finite counts as 0."""
        nodes = [self._nodes[node] for node in self._known]
        zero = self._start.new_zeros(len(self._start), 1)
        new = [node for node in self._new if node != self._known[0]]
        found = [zero if value is None else value for node in nodes for value in (node.moved, node.drift)]
        found += [self._surprise(node) for node in new]
        by_value = torch.cat(found, dim=1).nan_to_num(0.0, 0.0, 0.0).T.tolist()
        tolerance, count = 8 * torch.finfo(self._start.dtype).eps, 2 * len(nodes)
        drifts = by_value[1:count:2]
        moves = [  # rounding is none, however little of the picture there is
            tuple(move if drift > tolerance else 0.0 for move, drift in zip(*of_node, strict=True))
            for of_node in zip(by_value[:count:2], drifts, strict=True)
        ]
        return Measured(
            known=tuple(self._known),
            moves=tuple(moves),
            changed=tuple(any(drift > tolerance for drift in of_node) for of_node in drifts),
            surprises={node: max(found, default=0.0) for node, found in zip(new, by_value[count:], strict=True)},
        )

    def _enough(self, hit: Hit, before: Hit | None, exact: bool) -> bool:
        if self._round >= self._plan.most:
            return True
        if self._plan.all_rounds:
            return False
        reached = self._known[-1] == self._path.steps - 1
        agrees = self._agreement is not None and before is not None and self._agreement.accepts(before.x, hit.x)
        return exact or (reached and agrees)

    def _end_with(self, hit: Hit, events: list[Event]) -> None:
        self.accepted = hit
        events.append(Accepted(hit))


def _norm(x: Tensor) -> Tensor:
    """Of each sample, [B, d] -> [B, 1]."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norm
