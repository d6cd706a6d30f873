"""One core that calls the model at some of its steps, and at each step where the prediction turns out to jump.

The steps are chosen before the run (`solvers.interpolated.interpolation_nodes`), and the prediction is interpolated at
the others. That works while the prediction is smooth. Guidance or a patch that acts in a part of the schedule makes it
jump. Then an evaluation is far more off the line through the two before it than those were. The run goes back to where
the prediction was smooth, and calls each step from there on.
"""

from __future__ import annotations

from torch import Tensor

from ..solvers.base import Solver, jump
from ..solvers.interpolated import InterpolatedState, begin_interpolated, interpolation_nodes
from ..solvers.linear_form import solver_updates
from .accept import asked_hit
from .events import Accepted, Evaluation, Event, Hit, RoundDone

JUMP_FACTOR = 4.0
"""At a jump the prediction bends more than at the two evaluations before, by this factor or more. On smooth pictures of
the demo model the factor is at most 1.8, on mixtures of normals 3.3; where guidance sets in it is 4 to 40."""


class FewerCalls:
    """The method as ``ready`` / ``complete``: see the module docstring. The ``index`` of an evaluation is its step.

    Args:
        x: the state at ``sigmas[0]``, any shape.
        sigmas: N+1 values, strictly descending, on x's device.
        solver: the aim is the result of its N steps.
        calls: at how many steps to call the model, 2 to N. There are more where the prediction jumps.

    Attributes:
        hits: the draft, and the result.
        accepted: the hit that ended the run, or None while it goes on.
        depth: the calls that the run takes, as far as is known.
    """

    def __init__(self, x: Tensor, sigmas: Tensor, solver: Solver, calls: int) -> None:
        self._sigmas, self._start = sigmas, x
        self._updates = solver_updates(solver, sigmas)
        self._nodes = interpolation_nodes(len(self._updates), calls)
        self._values: list[Tensor] = []  # the predictions at the first nodes
        self._bends: list[Tensor] = []  # those of the nodes from the third on
        self._calls = 0  # made so far
        self.depth = calls
        self.hits: list[Hit] = []
        self.accepted: Hit | None = None
        self._end_at: int | None = None  # the index of the hit that was asked for and has not come
        self._state = self._replayed()
        self._ready = [self._evaluation()]

    def ready(self) -> list[Evaluation]:
        """The evaluation that may start now, if it has not been returned before."""
        evaluations, self._ready = self._ready, []
        return evaluations

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        """Take the result of the evaluation. Returns the events that follow from it, in order."""
        if self.accepted is not None:
            return []
        self._calls += 1
        if self._jumps(denoised):
            self._call_each_from(len(self._values) - 2)
        else:
            self._take(denoised)
            self._state = self._state.step(denoised)
        events: list[Event] = [RoundDone(self._calls, max(self.depth, self._calls))]
        if not self.hits:
            draft = Hit(0, 1, jump(self._start, denoised, self._sigmas[0], self._sigmas[-1]))
            self.hits.append(draft)
            events.append(draft)
        if len(self._values) == len(self._nodes):
            self.hits.append(Hit(1, self._calls, self._state.x))
            events.append(self.hits[-1])
        if len(self.hits) == 2 or self._end_at == len(self.hits) - 1:
            events.append(self._end_with(self.hits[-1]))
        else:
            self._ready.append(self._evaluation())
        return events

    def accept_hit(self, index: int | None = None) -> list[Event]:
        """End with the hit of this index, 0 for the draft; None: with the newest. If it is not there yet, it will end
        the run when it comes; for None, the first one will. A later call takes the place of an earlier one."""
        hit, self._end_at = asked_hit(self.hits, index)
        return [self._end_with(hit)] if hit is not None and self.accepted is None else []

    def _evaluation(self) -> Evaluation:
        step = self._nodes[len(self._values)]
        return Evaluation(1, step, self._calls + 1, self._state.x, float(self._sigmas[step]))

    def _call_each_from(self, place: int) -> None:
        """Call each step from the node at this place on, where the prediction was smooth.

        This holds to the end. A patch that sets in also ends, and the bends, which are larger from now on, would not
        show that.
        """
        self._nodes = (*self._nodes[:place], *range(self._nodes[place], len(self._updates)))
        self._values = self._values[: place + 1]  # later steps are called again, from better states
        self._state = self._replayed()
        self.depth = self._calls + len(self._nodes) - len(self._values)

    def _replayed(self) -> InterpolatedState:
        """The state at the next node, from the predictions so far, on the nodes as they are now."""
        state = begin_interpolated(self._updates, self._nodes, self._start, self._sigmas[[*self._nodes, -1]])
        for denoised in self._values:
            state = state.step(denoised)
        return state

    def _bend(self, denoised: Tensor) -> Tensor:
        """How far the evaluation at the next node is from the line through the two before it, divided by the distances
        squared; [B], one value for each item of the batch."""
        before, last, here = self._nodes[len(self._values) - 2 : len(self._values) + 1]
        first, second = last - before, here - last
        expected = self._values[-1] + (second / first) * (self._values[-1] - self._values[-2])
        off = (denoised - expected).float().flatten(1 if denoised.ndim > 1 else 0)
        bend: Tensor = off.norm(dim=-1) / (second * (first + second) / 2)
        return bend

    def _jumps(self, denoised: Tensor) -> bool:
        """Whether a step was left out before this node, and the prediction bends far more than before, in any item.
        What is not finite does not count."""
        before, here = self._nodes[len(self._values) - 1 : len(self._values) + 1] if self._values else (0, 0)
        if here - before < 2 or len(self._bends) < 2:
            return False
        usual = self._bends[-1].maximum(self._bends[-2])
        return bool((self._bend(denoised) > JUMP_FACTOR * usual).any())

    def _take(self, denoised: Tensor) -> None:
        if len(self._values) >= 2:
            self._bends.append(self._bend(denoised))
        self._values.append(denoised)

    def _end_with(self, hit: Hit) -> Accepted:
        self.accepted = hit
        return Accepted(hit)
