"""One core that calls the model at some of its steps, and at each where the prediction turns out to jump.

The steps are chosen before the run (`solvers.interpolated.interpolation_nodes`) and the prediction is interpolated at
the others. That holds while it is smooth. Guidance or a patch that acts in a part of the schedule makes it jump. Then an
evaluation is far more off the line through the two before it than those were. Where that is seen, the run goes back to
where the prediction was smooth, and calls each step from there on.
"""

from __future__ import annotations

from torch import Tensor

from ..solvers.base import Solver, jump
from ..solvers.interpolated import InterpolatedSolver, InterpolatedState, interpolation_nodes
from ..solvers.linear_form import solver_rows
from .events import Accepted, Evaluation, Event, Hit, RoundDone

JUMPS = 4.0
"""How many times more the prediction bends at a jump than at the two evaluations before. On smooth pictures of the demo
model it is at most 1.8 times, on mixtures of normals 3.3; guidance that sets in makes it 4 to 40."""


class FewerCalls:
    """The method as ``ready`` / ``complete``, with the evaluations' ``index`` the step.

    Args:
        x: the state at ``sigmas[0]``, any shape.
        sigmas: N+1 values, strictly descending, on x's device.
        solver: the result of its N steps is what is aimed at.
        calls: at how many steps to call the model, 2 to N; more where the prediction jumps.

    Attributes:
        hits: the draft, and the result.
        accepted: the result, once it is there.
        depth: the calls that the run takes, as far as is known.
    """

    def __init__(self, x: Tensor, sigmas: Tensor, solver: Solver, calls: int) -> None:
        self._sigmas, self._start = sigmas, x
        self._rows = solver_rows(solver, sigmas)
        self._nodes = interpolation_nodes(len(self._rows), calls)
        self._said: list[Tensor] = []  # what the model predicted at the nodes so far
        self._bends: list[Tensor] = []  # of the nodes from the third on
        self._made = 0
        self.depth = calls
        self.hits: list[Hit] = []
        self.accepted: Hit | None = None
        self._newest_will_do = False
        self._state = self._replayed()
        self._ready = [self._task()]

    def ready(self) -> list[Evaluation]:
        """The evaluation that may start now, if it has not been handed out before."""
        evaluations, self._ready = self._ready, []
        return evaluations

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        """Take the result of the evaluation; returns what became of it, in order."""
        if self.accepted is not None:
            return []
        self._made += 1
        if self._jumps(denoised):
            self._call_each_from(len(self._said) - 2)
        else:
            self._take(denoised)
            self._state = self._state.step(denoised)
        events: list[Event] = [RoundDone(self._made, max(self.depth, self._made))]
        if not self.hits:
            draft = Hit(0, 1, self._first_order(denoised))
            self.hits.append(draft)
            events.append(draft)
        if len(self._said) == len(self._nodes):
            self.hits.append(Hit(1, self._made, self._state.x))
            events.append(self.hits[-1])
        if len(self.hits) == 2 or self._newest_will_do:
            events.append(self._end())
        else:
            self._ready.append(self._task())
        return events

    def accept_newest(self) -> list[Event]:
        """End with the newest hit, the draft included; if there is none yet, with the first to come."""
        self._newest_will_do = True
        return [self._end()] if self.hits and self.accepted is None else []

    def _task(self) -> Evaluation:
        step = self._nodes[len(self._said)]
        return Evaluation(1, step, self._made + 1, self._state.x, float(self._sigmas[step]))

    def _call_each_from(self, place: int) -> None:
        """Call each step from the node at this place on, where the prediction was smooth. What sets in also ends, which
        the bends, larger from now on, would not show."""
        self._nodes = (*self._nodes[:place], *range(self._nodes[place], len(self._rows)))
        self._said = self._said[: place + 1]  # what follows is asked from better states
        self._state = self._replayed()
        self.depth = self._made + len(self._nodes) - len(self._said)

    def _replayed(self) -> InterpolatedState:
        """At the next node, from what was predicted so far, on the nodes as they are now."""
        state = InterpolatedSolver(self._rows, self._nodes).begin(self._start, self._sigmas[[*self._nodes, -1]])
        for denoised in self._said:
            state = state.step(denoised)
        return state

    def _bend(self, denoised: Tensor) -> Tensor:
        """How far an evaluation at the next node is from the line through the two before, by the distances squared;
        a number for each item of the batch."""
        before, last, here = self._nodes[len(self._said) - 2 : len(self._said) + 1]
        first, second = last - before, here - last
        expected = self._said[-1] + (second / first) * (self._said[-1] - self._said[-2])
        off = (denoised - expected).float().flatten(1 if denoised.ndim > 1 else 0)
        bend: Tensor = off.norm(dim=-1) / (second * (first + second) / 2)
        return bend

    def _jumps(self, denoised: Tensor) -> bool:
        """Whether the prediction bends far more here than before, in any item, and a step was left out before. What is
        not finite does not count."""
        before, here = self._nodes[len(self._said) - 1 : len(self._said) + 1] if self._said else (0, 0)
        if here - before < 2 or len(self._bends) < 2:
            return False
        usual = self._bends[-1].maximum(self._bends[-2])
        return bool((self._bend(denoised) > JUMPS * usual).any())

    def _take(self, denoised: Tensor) -> None:
        if len(self._said) >= 2:
            self._bends.append(self._bend(denoised))
        self._said.append(denoised)

    def _first_order(self, denoised: Tensor) -> Tensor:
        return jump(self._start, denoised, self._sigmas[0], self._sigmas[-1])

    def _end(self) -> Accepted:
        self.accepted = self.hits[-1]
        return Accepted(self.accepted)
