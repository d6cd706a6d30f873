"""CHORDS (arXiv 2507.15260) as a state machine without threads, devices or I/O.

K cores integrate the same ODE from staggered start indices i_1 = 0 < ... < i_K. A core starts from one jump
of its slower neighbour and takes over the neighbour's correction each time the neighbour has evaluated the
index it was last corrected at (section 4, "rectification").

The indices alone decide what an evaluation depends on. Let g = i_k - i_{k-1}. To arrive at index i_k + j*g, core k
waits for core k-1's evaluation at i_k + (j-1)*g, and for nothing else. So the results are the same in whatever order
the evaluations come back.

With one core this is the sequential sampler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from ..solvers.base import Solver, State
from .accept import Agreement, Residual, asked_hit
from .events import Accepted, Evaluation, Event, Hit, Rectified, RoundDone
from .start_indices import hit_depth


class _Core:
    """One core: its present index and state, and those of its last correction."""

    def __init__(self, start: int, gap: int, last: int, state: State) -> None:
        self.index = start
        self.gap = gap
        self.last = last  # the last index whose evaluation is needed
        self.state = state
        self.x = state.x
        self.denoised: Tensor | None = None  # the evaluation at (index, x), once it has come
        self.base = start  # the index of the last correction, with the state and the evaluation there
        self.base_x = self.x
        self.base_denoised: Tensor | None = None


class Chords:
    """The method as ``ready`` / ``complete``: see the module docstring.

    Args:
        x: the state at ``sigmas[0]``, any shape.
        sigmas: N+1 values, strictly descending, on x's device.
        starts: i_1..i_K, valid by `chords_core.methods.start_indices.check_starts`.
        solver: what each core takes its steps with.
        accept: the number of the hit that ends the run (1..K), or a rule on two hits.

    Attributes:
        hits: the hits so far, the draft first.
        accepted: the hit that ended the run, or None while it goes on.
        depth: how many rounds the run takes at most.
    """

    def __init__(
        self,
        x: Tensor,
        sigmas: Tensor,
        starts: Sequence[int],
        solver: Solver,
        accept: int | Residual | Agreement,
    ) -> None:
        self._sigmas: list[float] = sigmas.tolist()
        self._steps = len(sigmas) - 1
        self._starts = tuple(starts)
        self._accept = accept
        last_core = len(starts) - accept + 1 if isinstance(accept, int) else 1
        self._last_indices = needed_indices(self._steps, starts, last_core)
        self.depth = hit_depth(self._steps, starts, last_core)
        self._open = Counter(  # evaluations still to come, by round
            self._round(core, index)
            for core, last in enumerate(self._last_indices, start=1)
            for index in range(starts[core - 1], last + 1)
        )
        self._rounds_done = 0
        self._cores: list[_Core] = []
        # Evaluations with which a faster neighbour has not been corrected yet: (core, index) -> (x, denoised).
        self._offered: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._ends: dict[int, Tensor] = {}
        self._ready: list[Evaluation] = []
        self.hits: list[Hit] = []
        self.accepted: Hit | None = None
        self._end_at: int | None = None  # the index of the hit that was asked for and has not come
        self._start_core(solver.begin(x, sigmas))

    def ready(self) -> list[Evaluation]:
        """The evaluations that may start now and have not been returned before, the most urgent first."""
        evaluations = sorted(self._ready, key=lambda evaluation: (evaluation.depth, evaluation.core))
        self._ready = []
        return evaluations

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        """Take the result of one evaluation. Returns the events that follow from it, in order.

        Results may come in any order. Each evaluation of `ready` must be completed once.
        """
        if self.accepted is not None:
            return []
        core = self._cores[evaluation.core - 1]
        core.denoised = denoised
        if core.index == core.base:
            core.base_denoised = denoised
        events: list[Event] = []
        if core.index == self._starts[evaluation.core - 1]:
            self._jump_on(evaluation.core, events)
        if evaluation.core < len(self._starts):
            self._offer(evaluation.core)
        # This core may move on. So may its faster neighbour, whether or not this core has to wait.
        self._advance(evaluation.core, events)
        if evaluation.core < len(self._cores):
            self._advance(evaluation.core + 1, events)
        self._count(evaluation.depth, events)
        self._settle(events)
        return events

    def accept_hit(self, index: int | None = None) -> list[Event]:
        """End with the hit of this index, 0 for the draft; None: with the newest. If it is not there yet, it will end
        the run when it comes; for None, the first one will. A later call takes the place of an earlier one."""
        events: list[Event] = []
        hit, self._end_at = asked_hit(self.hits, index)
        if hit is not None and self.accepted is None:
            self._end_with(hit, events)
        return events

    def _round(self, core: int, index: int) -> int:
        return index - self._starts[core - 1] + core

    def _start_core(self, state: State) -> None:
        number = len(self._cores) + 1
        start = self._starts[number - 1]
        gap = start - self._starts[number - 2] if number > 1 else 0
        self._cores.append(_Core(start, gap, self._last_indices[number - 1], state))
        self._request(number)

    def _request(self, number: int) -> None:
        core = self._cores[number - 1]
        if core.index <= core.last:
            depth = self._round(number, core.index)
            self._ready.append(Evaluation(number, core.index, depth, core.x, self._sigmas[core.index]))

    def _jump_on(self, number: int, events: list[Event]) -> None:
        """From a core's first evaluation, start the next faster core, or jump to the end, which is the draft.

        The jump is of first order for multistep solvers too: extrapolation of the history over so long a jump has
        several times the error on guided models.
        """
        core = self._cores[number - 1]
        assert core.denoised is not None
        target = self._starts[number] if number < len(self._starts) else self._steps
        jumped = core.state.jump(core.denoised, target)
        if number < len(self._starts):
            self._start_core(jumped)
        else:
            draft = Hit(0, number, jumped.x)
            self.hits.append(draft)
            events.append(draft)

    def _offer(self, number: int) -> None:
        """Keep the new evaluation if the faster neighbour will be corrected with it."""
        core = self._cores[number - 1]
        start = self._starts[number]
        if core.index >= start and (core.index - start) % (start - self._starts[number - 1]) == 0:
            assert core.denoised is not None
            self._offered[number, core.index] = core.x, core.denoised

    def _advance(self, number: int, events: list[Event]) -> None:
        """Move a core one step on, if everything that it waits for has come."""
        core = self._cores[number - 1]
        if core.denoised is None:
            return
        following = core.index + 1
        due = core.gap > 0 and following == core.base + core.gap
        if due and (number - 1, core.base) not in self._offered:
            return
        state = core.state.step(core.denoised)
        if due:
            state = self._rectify(number, state)
            events.append(Rectified(number, following))
        core.index, core.state, core.x, core.denoised = following, state, state.x, None
        if due:
            core.base, core.base_x, core.base_denoised = following, core.x, None
        if following == self._steps:
            self._ends[number] = core.x
        else:
            self._request(number)

    def _rectify(self, number: int, state: State) -> State:
        """The state of a core, corrected by its slower neighbour.

        The neighbour has evaluated ``base``, where this core was last corrected. The jump of the difference there, in
        state and evaluation, is added.
        """
        core = self._cores[number - 1]
        assert core.base_denoised is not None
        better_x, better_denoised = self._offered.pop((number - 1, core.base))
        return state.moved(better_x - core.base_x, better_denoised - core.base_denoised, core.base)

    def _count(self, depth: int, events: list[Event]) -> None:
        self._open[depth] -= 1
        done = self._rounds_done
        while done < self.depth and self._open[done + 1] == 0:
            done += 1
        if done > self._rounds_done:
            self._rounds_done = done
            events.append(RoundDone(done, self.depth))

    def _settle(self, events: list[Event]) -> None:
        """Report hits from the fastest core on, whichever core reached the end first, and accept one."""
        if self.hits and self.accepted is None and self._end_at == len(self.hits) - 1:
            self._end_with(self.hits[-1], events)
        while self.hits and self.accepted is None:
            number = len(self._starts) - len(self.hits) + 1
            if number not in self._ends:
                return
            before = self.hits[-1]
            hit = Hit(number, hit_depth(self._steps, self._starts, number), self._ends.pop(number))
            self.hits.append(hit)
            events.append(hit)
            if isinstance(self._accept, int):
                enough = len(self.hits) > self._accept
            else:
                comparable = before.core > 0 or isinstance(self._accept, Residual)
                enough = number == 1 or (comparable and self._accept.accepts(before.x, hit.x))
            if enough or self._end_at == len(self.hits) - 1:
                self._end_with(hit, events)

    def _end_with(self, hit: Hit, events: list[Event]) -> None:
        self.accepted = hit
        events.append(Accepted(hit))


def needed_indices(steps: int, starts: Sequence[int], last_core: int) -> tuple[int, ...]:
    """For each core the last index whose evaluation is needed for the hits down to ``last_core``.

    Cores slower than ``last_core`` only go as far as they correct their faster neighbour.
    """
    last = [steps - 1] * len(starts)
    arrival = steps  # the last index at which the faster neighbour has to arrive
    for k in range(last_core - 2, -1, -1):
        start, gap = starts[k + 1], starts[k + 1] - starts[k]
        corrections = (arrival - start) // gap
        last[k] = start + (corrections - 1) * gap if corrections else starts[k]
        arrival = last[k]
    return tuple(last)
