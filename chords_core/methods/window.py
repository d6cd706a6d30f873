"""Window methods, Picard and secant, as a state machine without threads, devices or I/O.

A trajectory has N steps. In each round K cores evaluate the model at K of them, the window. Each evaluated step, a
*node*, has a local model of the denoiser (`methods.secant_model`). When all K evaluations are there, the *whole*
trajectory is solved again with these models, so that nodes outside the window improve too. Each round gives a hit: the
estimate of the end. Then the window moves on, by how far each node has moved since it was evaluated
(`chords_core.methods.window_rule`), or by a schedule made before.

A node that has moved far is known less well. Its value is w model + (1 - w) trend with w = 1 / (1 + s^2), where s is
its move, and the trend is that of the two nodes before it. Steps without an evaluation have interpolated values
(`chords_core.methods.path`).

Picard iteration (ParaDiGMS, arXiv 2305.16317) is the same without slopes: the local model is the last evaluation.

Everything is solved in the coordinates of a flow model, x_f = (1 - t) x0 + t eps. There an eps model, with
t = sigma / (1 + sigma) and x_f = x / (1 + sigma), follows the same equations.

The next evaluations depend only on the values of earlier rounds, and the evaluations of a round are independent. So the
result is the same in whatever order they come back, on any number of lanes. In a batch, the most demanding sample
decides what is evaluated next. An evaluation that is not finite is left out of that choice.

Memory: each node keeps a state, a value, an evaluation and the state where it was made, and 2 latents for each of its
evaluations after the first, at most 2 * RANK. The precision is float32 or higher.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..solvers.linear_form import LinearUpdate
from .accept import AcceptRule, Agreement, Residual, asked_hit
from .estimate import estimates
from .events import Accepted, Evaluation, Event, Hit, RoundDone
from .path import Path, trend
from .secant_model import SecantModel
from .sensitivity import effects
from .stepping_rule import SteppingRule
from .window_rule import Measured, MovingRule, Progress, ScheduledRule

_SWEEPS_NONCAUSAL, _SWEEPS_CAUSAL = 2, 1
"""Sweeps over the nodes, where segments look ahead and where they do not."""

_TRUSTED = 0.999
"""From this weight of a local model on, the trend is not used."""

_FIRST_TREND = 3
"""The first node whose value may be a trend of those before."""

_INHERITED = 0.5
"""The share of a neighbour's slope that a node uses until it has a slope of its own."""


@dataclass(frozen=True)
class WindowSpec:
    """All that a window method needs besides the latents. `chords_core.methods.window_spec` makes them.

    Attributes:
        path: the trajectory, in flow coordinates.
        sigmas: of the N nodes and the end, N+1 values, as the model takes them.
        times: the same as a flow model's, in 0..1.
        cores: K, the nodes evaluated in a round, at most as many as there are.
        rule: decides which nodes are next, and when the run ends.
        max_rounds: after which the run ends in any case.
        fixed_rounds: whether it ends then and not before.
        expected_rounds: about how many rounds it takes.
        slopes: whether local models have slopes (secant) or not (Picard).
    """

    path: Path
    sigmas: tuple[float, ...]
    times: tuple[float, ...]
    cores: int
    rule: MovingRule | SteppingRule | ScheduledRule
    max_rounds: int
    fixed_rounds: bool
    expected_rounds: int
    slopes: bool = True


class _Node:
    """An evaluated step: its local model, and its present state on the trajectory."""

    def __init__(self, model: SecantModel, highest: float) -> None:
        self.model = model
        self.highest = highest
        self.state = model.at
        self.value = model.value
        self.move: Tensor | None = None  # [B, 1], as `MovingRule` measures it; None: it has not moved
        self.drift: Tensor | None = None  # the same relative to the state
        self.rates: tuple[Tensor, Tensor] | None = None  # see `compare`; None: not evaluated again

    def compare(self, at: Tensor, value: Tensor) -> None:
        """Measure the defect of the model and the response of the prediction to the move since the last evaluation,
        [B, 1] each; see `methods.sensitivity`."""
        distance = _norm(at - self.model.at)
        moved = distance > 16 * torch.finfo(at.dtype).eps * _norm(at)
        distance = distance.clamp_min(torch.finfo(at.dtype).tiny)
        found = _norm(value - self.value) / distance, _norm(value - self.model.value) / distance
        before = (torch.ones_like(distance),) * 2 if self.rates is None else self.rates
        defect, response = (torch.where(moved, new, old) for new, old in zip(found, before, strict=True))
        self.rates = defect, response


class Window:
    """The method as ``ready`` / ``complete``: see the module docstring.

    Args:
        x: the state at ``spec.sigmas[0]``. Dimension 0 counts samples; with fewer than two dimensions x is one sample.
        spec: nodes, rule and rounds.
        accept: `Residual` or `Agreement` may end the run when two hits agree, once the last node has been evaluated.
            Anything else is in ``spec`` already.

    Attributes:
        hits: one a round. ``core`` is 1 if it is the sequential solver's result, apart from rounding, and else 0.
        accepted: the hit that ended the run, or None while it goes on.
        depth: the rounds that the run is expected to take.

    In an evaluation ``core`` counts the nodes of the round from 1, ``index`` is the step, and ``depth`` the round.
    """

    def __init__(self, x: Tensor, spec: WindowSpec, accept: AcceptRule = 1) -> None:
        self._spec, self._path = spec, spec.path
        self._agreement = accept if isinstance(accept, Residual | Agreement) and not spec.fixed_rounds else None
        self._shape, self._dtype = x.shape, x.dtype
        start = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1 if x.ndim > 1 else 0)
        start = start if x.ndim > 1 else start[None]
        self._start = start / self._size(0)
        self._highest = tuple(1 / max(1 - time, 0.05) for time in spec.times)
        self._known: list[int] = []
        self._nodes: dict[int, _Node] = {}
        self._progress = Progress()
        self._asked: dict[int, Tensor] = {}  # the states of this round's nodes
        self._results: dict[int, Tensor] = {}  # its evaluations so far, by node
        self._ready: list[Evaluation] = []
        self._new: tuple[int, ...] = ()  # nodes that this round evaluates for the first time
        self._round = 0
        self._end_at: int | None = None  # the index of the hit that was asked for and has not come
        self._latest: Measured | None = None  # what the last round has shown
        self.depth = spec.expected_rounds
        self.hits: list[Hit] = []
        self.accepted: Hit | None = None
        self._ask(spec.rule.first(spec.cores))

    @property
    def steps(self) -> int:
        """The steps of the trajectory, N."""
        return self._path.steps

    def ready(self) -> list[Evaluation]:
        """The evaluations that may start now and have not been returned before."""
        evaluations, self._ready = self._ready, []
        return evaluations

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        """Take the result of one evaluation. Returns the events that follow from it, in order.

        Results may come in any order. Each evaluation of `ready` must be completed once.
        """
        if self.accepted is not None:
            return []
        self._results[evaluation.index] = denoised.to(self._start.dtype).reshape(self._start.shape)
        if len(self._results) < len(self._asked):
            return []
        self._round += 1
        self._solve(self._learn())
        measured = self._measured()
        complete = len(self._known) == self._path.steps and not self._path.noncausal(self._known)
        exact = complete and not any(measured.changed)
        end = self._state_at(self._path.steps) * self._size(self._path.steps)
        hit = Hit(1 if exact else 0, self._round, end.reshape(self._shape).to(self._dtype))
        before = self.hits[-1] if self.hits else None
        self.hits.append(hit)
        measured = self._latest = self._judged(measured)
        following = None
        if not self._enough(hit, before, exact):
            self._progress, following = self._spec.rule.following(
                self._progress, measured, self._spec.cores, self._round, self._spec.max_rounds - self._round
            )
        ends = following is None or self._end_at == len(self.hits) - 1
        of = self._round if ends else max(self._round + 1, self.depth)
        events: list[Event] = [RoundDone(self._round, of), hit]
        if ends:
            self._end_with(hit, events)
        else:
            self._ask(following or ())
        return events

    def accept_hit(self, index: int | None = None) -> list[Event]:
        """End with the hit of this index, 0 for the first; None: with the newest. If it is not there yet, it will end
        the run when it comes; for None, the first one will. A later call takes the place of an earlier one."""
        events: list[Event] = []
        hit, self._end_at = asked_hit(self.hits, index)
        if hit is not None and self.accepted is None:
            self._end_with(hit, events)
        return events

    def estimate(self) -> float | None:
        """About the relative RMS difference of the accepted hit from the solver's own result, in the item of the batch
        where it is largest; see `chords_core.methods.estimate`.

        None as long as no hit is accepted, if the run ended before the last step was called, if it has a single hit,
        if an earlier hit than the newest was accepted, and for rules that measure no moves.
        """
        if self.accepted is None or self._latest is None or isinstance(self._spec.rule, ScheduledRule):
            return None
        if self.accepted is not self.hits[-1]:  # what was measured last is about the newest
            return None
        if self.steps == 1:
            return 0.0
        return max((each for each in self._latest.estimates if each < math.inf), default=None)

    def _judged(self, measured: Measured) -> Measured:
        """What was measured, with effects and estimates once the last step was called and there are two hits."""
        rule = self._spec.rule
        if isinstance(rule, ScheduledRule) or measured.known[-1] < self.steps - 1 or len(self.hits) < 2:
            return measured
        after, before = (hit.x.reshape(self._start.shape).to(self._start.dtype) for hit in reversed(self.hits[-2:]))
        changes = (_norm(after - before) / _norm(after)).flatten().nan_to_num(math.inf).tolist()
        found = effects(measured, self._spec.times, rule.amplification)
        return replace(measured, effects=found, estimates=estimates(measured, rule.amplification, changes))

    def _size(self, node: int) -> float:
        """A state as the model takes it, divided by the state in flow coordinates."""
        sigma, time = self._spec.sigmas[node], self._spec.times[node]
        return sigma / time if time > 0 and sigma != time else 1.0

    def _ask(self, nodes: Sequence[int]) -> None:
        self._asked, self._results = {node: self._state_at(node) for node in nodes}, {}
        for core, (node, state) in enumerate(self._asked.items(), start=1):
            x = (state * self._size(node)).reshape(self._shape).to(self._dtype)
            self._ready.append(Evaluation(core, node, self._round + 1, x, self._spec.sigmas[node]))

    def _state_at(self, step: int) -> Tensor:
        """The present state at a step, which may be the end or lie beyond all nodes."""
        node = self._nodes.get(step)
        if node is not None:
            return node.state
        if not self._known:  # the best linear estimate for data of variance 1, which at full noise is 0
            time, first = self._spec.times[step], self._spec.times[0]
            guess = (1 - first) / ((1 - first) ** 2 + first**2)
            return self._start * (time / first + (1 - time / first) * guess) if step else self._start
        before = self._known[bisect_left(self._known, step) - 1]
        return self._follow(self._path.segment(self._known, before, step), self._nodes[before].state)

    def _follow(self, update: LinearUpdate, state: Tensor) -> Tensor:
        following = update.ratio * state
        for node, weight in update.weights:
            following.add_(self._nodes[node].value, alpha=weight)
        return following

    def _learn(self) -> int:
        """Give the results to the local models. Returns the place among the known nodes from which on to solve."""
        self._new = tuple(node for node in self._asked if node not in self._nodes)
        for node, value in self._results.items():
            state = self._asked[node]
            if node not in self._nodes:
                self._nodes[node] = _Node(SecantModel(state, value), self._highest[node])
                insort(self._known, node)
            elif self._spec.slopes:
                self._nodes[node].compare(state, value)
                self._nodes[node].model.learn(state, value, self._highest[node])
            else:
                self._nodes[node].model = SecantModel(state, value)
            self._nodes[node].value, self._nodes[node].move = value, None
        known = self._known
        first = bisect_left(known, min(self._results))
        if self._spec.slopes:  # from the first moved node on that uses a neighbour's slope
            before = (self._nodes[node] for node in known[:first])
            borrows = (node.model.slope is None and node.model.at is not node.state for node in before)
            first = next((place for place, borrowing in enumerate(borrows) if borrowing), first)
        if not self._path.noncausal(known):
            return first
        return first - 2 if first > 3 else 0  # a cubic at the beginning goes through the first four

    def _borrowed(self) -> list[Tensor | None]:
        """For each node the slope of the nearest node that has one, on the left or else on the right; None if none
        has."""
        own = [self._nodes[node].model.slope for node in self._known]
        slope = next((slope for slope in own if slope is not None), None)
        borrowed = []
        for mine in own:
            slope = slope if mine is None else mine
            borrowed.append(None if slope is None else _INHERITED * slope)
        return borrowed

    def _solve(self, first: int) -> None:
        """Solve the known nodes from the place ``first`` on, whose state is right, with the local models."""
        known, borrowed = self._known, self._borrowed()
        for _ in range(_SWEEPS_NONCAUSAL if self._path.noncausal(known) else _SWEEPS_CAUSAL):
            for place in range(first, len(known)):
                node = self._nodes[known[place]]
                if place > first:
                    update = self._path.segment(known, known[place - 1], known[place])
                    node.state = self._follow(update, self._nodes[known[place - 1]].state)
                self._set_value(place, borrowed[place])

    def _set_value(self, place: int, borrowed: Tensor | None) -> None:
        """Set the value of the node at this place at its present state, and how far it has moved."""
        known = self._known
        node = self._nodes[known[place]]
        if place == 0 or node.state is node.model.at:
            node.value, node.move, node.drift = node.model.value, None, None
            return
        dx = node.state - node.model.at
        distance = _norm(dx)
        node.move = distance / self._picture_size(known[place], node.state)
        node.drift = distance / _norm(node.state).clamp_min(torch.finfo(dx.dtype).tiny)
        trusted = 1 / (1 + node.move.square())
        modelled = node.model(dx, borrowed)
        if bool((trusted > _TRUSTED).all()):  # nearly always, and then the trend costs more than this question
            node.value = modelled
            return
        blended = trusted * modelled + (1 - trusted) * self._trend(place)
        node.value = torch.where(trusted > _TRUSTED, modelled, blended)

    def _trend(self, place: int) -> Tensor:
        """The value expected at this place from the two nodes before it."""
        before = self._nodes[self._known[place - 1]].value
        if place < 2 or self._known[place] < _FIRST_TREND:
            return before
        ahead = trend(*self._known[place - 2 : place + 1])
        return before + ahead * (before - self._nodes[self._known[place - 2]].value)

    def _picture_size(self, node: int, state: Tensor) -> Tensor:
        """The norm of the picture that a state implies so far: the state without the noise that is left. [B, 1]"""
        times = self._spec.times
        picture = torch.sub(state, self._start, alpha=times[node] / times[0])
        return _norm(picture).clamp_min(torch.finfo(state.dtype).tiny)

    def _surprise(self, node: int) -> Tensor:
        """How far the evaluation of a node is from the trend of the nodes before, as a move of its state. [B, 1]"""
        place = bisect_left(self._known, node)
        off = self._nodes[node].model.value - self._trend(place)
        step = 1 - self._spec.times[node] / self._spec.times[self._known[place - 1]]
        return step * _norm(off) / self._picture_size(node, self._nodes[node].state)

    def _measured(self) -> Measured:
        """What the rule needs, in one transfer from the device. What is not finite counts as 0."""
        nodes = [self._nodes[node] for node in self._known]
        zero = self._start.new_zeros(len(self._start), 1)
        new = [node for node in self._new if node != self._known[0]]
        found = [zero if value is None else value for node in nodes for value in (node.move, node.drift)]
        found += [self._surprise(node) for node in new]
        rated = [node.rates for node in nodes if node.rates is not None]
        found += [rate for rates in rated for rate in rates]
        by_value = torch.cat(found, dim=1).nan_to_num(0.0, 0.0, 0.0).T.tolist()
        tolerance, count, end = 8 * torch.finfo(self._start.dtype).eps, 2 * len(nodes), 2 * len(nodes) + len(new)
        drifts = by_value[1:count:2]
        moves = [  # rounding is no move, however little of the picture there is
            tuple(move if drift > tolerance else 0.0 for move, drift in zip(*of_node, strict=True))
            for of_node in zip(by_value[:count:2], drifts, strict=True)
        ]
        rates = iter(zip(by_value[end::2], by_value[end + 1 :: 2], strict=True))
        return Measured(
            known=tuple(self._known),
            moves=tuple(moves),
            changed=tuple(any(drift > tolerance for drift in of_node) for of_node in drifts),
            surprises={node: tuple(found) for node, found in zip(new, by_value[count:end], strict=True)},
            rates=tuple(None if node.rates is None else tuple(zip(*next(rates), strict=True)) for node in nodes),
        )

    def _enough(self, hit: Hit, before: Hit | None, exact: bool) -> bool:
        if self._round >= self._spec.max_rounds:
            return True
        if self._spec.fixed_rounds:
            return False
        reached = self._known[-1] == self._path.steps - 1
        agrees = self._agreement is not None and before is not None and self._agreement.accepts(before.x, hit.x)
        return exact or (reached and agrees)

    def _end_with(self, hit: Hit, events: list[Event]) -> None:
        self.accepted = hit
        events.append(Accepted(hit))


def _norm(x: Tensor) -> Tensor:
    """The L2 norm of each sample, [B, d] -> [B, 1]."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return norm
