"""Gradients along an optimisation, and what they cost: by the shortcut, along a carried trajectory, or in full.

`Shortcut` samples a trajectory without a graph and keeps of it what the coming gradients need. When the start moves
by delta, x_N = x_init + sum_j h_j f(x_j) with its drifts held says that every state moves by delta: so the kept
states are shifted, and a trajectory is sampled anew only every so many iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ..checks import shown
from ..errors import Cancelled, InvalidInput, NonFiniteDenoised
from ..execution.pools import Denoise, Pool
from ..methods.events import Evaluated, Event
from ..methods.start_indices import lattice_starts
from ..sampling import sample
from ..solvers import find_step
from ..solvers.base import Past, StepFunction
from .adam import per_item, precise, rms
from .gradients import (
    CHECKPOINTED_COST,
    FULL_COST,
    SHORTCUT_COST,
    ConditionedDenoise,
    Gradient,
    Kept,
    Objective,
    evaluate,
    full,
    full_of_condition,
    shortcut,
    shortcut_of_condition,
)

_LONGEST_INTERVAL = 20  # iterations an adaptive refresh carries a trajectory at most
_TRUSTED, _DOUBTED = 0.7, 0.3  # share of the predicted gain that came true: carry twice as long, half as long
_A_HAIR = 1e-3  # of the objective: a prediction that close has not drifted


@dataclass(frozen=True, eq=False)
class Found:
    """A ``gradient`` on a trajectory that was ``sampled`` (or carried); where an adaptive refresh sampled it, what
    carrying had ``predicted`` for the objective [B], and the ``interval`` in iterations to the next time."""

    gradient: Gradient
    sampled: bool
    predicted: Tensor | None = None
    interval: int = 1


class Work:
    """What both kinds of gradient share: sampling without a graph, and the count of evaluations."""

    def __init__(
        self,
        denoise: Denoise | ConditionedDenoise,
        x: Tensor,
        sigmas: Tensor,
        objective: Objective,
        solver: str,
        condition: Tensor | None,
    ) -> None:
        self.start = x if condition is None else condition
        self.conditioned = condition is not None
        self.objective = objective
        self.evaluations = 0
        self.broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # by the model, in the last sampling
        self._denoise = denoise
        self.x = x
        self._sigmas = sigmas
        self._steps = len(sigmas) - 1
        self._solver = solver
        self._step: StepFunction = find_step(solver)
        self.cancelled: Callable[[], bool] = lambda: False

    def sample(self, variable: Tensor, listen: Callable[[Event], None] | None = None) -> Tensor:
        """The sequential sample of ``variable`` (a start, or a conditioning)."""
        x, model = (self.x, self._with(variable)) if self.conditioned else (variable, cast(Denoise, self._denoise))

        def counted(state: Tensor, sigma: float) -> Tensor:
            self.evaluations += 1
            denoised = model(state, sigma)
            if isinstance(denoised, Tensor) and denoised.shape == state.shape:
                self.broken = ~torch.isfinite(denoised).reshape(len(state), -1).all(1)
            return denoised

        with torch.no_grad():
            return sample(
                counted,
                x,
                self._sigmas,
                method="sequential",
                solver=self._solver,
                on_event=self._unbroken(listen),
                cancel=self.cancelled,
            ).x

    def _unbroken(self, listen: Callable[[Event], None] | None) -> Callable[[Event], None]:
        """``listen``, but a sampling in which an item breaks ends: a search rolls that item back at once."""

        def heard(event: Event) -> None:
            if isinstance(event, Evaluated) and not bool(torch.isfinite(event.denoised).all()):
                self.broken = ~torch.isfinite(event.denoised).reshape(len(event.denoised), -1).all(1)
                sigma = float(self._sigmas[event.index])
                raise NonFiniteDenoised(event.core, event.index, self._steps, sigma)
            if listen is not None:
                listen(event)

        return heard

    def _with(self, condition: Tensor) -> Denoise:
        denoise = cast(ConditionedDenoise, self._denoise)
        return lambda x, sigma: denoise(x, sigma, condition)


class Full(Work):
    """The gradient through all steps: every iteration samples."""

    approximate = False

    def __init__(
        self,
        denoise: Denoise | ConditionedDenoise,
        x: Tensor,
        sigmas: Tensor,
        objective: Objective,
        solver: str,
        condition: Tensor | None,
        checkpoint: bool,
    ) -> None:
        super().__init__(denoise, x, sigmas, objective, solver, condition)
        self._checkpoint = checkpoint

    def gradient(self, iteration: int, variable: Tensor) -> Found:
        if iteration == 0:
            self.sample(variable)  # what is wrong with the model is said here, with its step
        self.evaluations += self._steps * (CHECKPOINTED_COST if self._checkpoint else FULL_COST)
        if self.conditioned:
            found = full_of_condition(
                self._heeding, variable, self.x, self._sigmas, self._step, self.objective, checkpoint=self._checkpoint
            )
        else:
            found = full(self._heeding, variable, self._sigmas, self._step, self.objective, checkpoint=self._checkpoint)
        return Found(found, sampled=True)

    def _heeding(self, x: Tensor, sigma: float, *condition: Tensor) -> Tensor:
        """The model, which ends with `Cancelled` once the run shall stop."""
        if self.cancelled():
            raise Cancelled("the optimisation was cancelled")
        denoise = cast(Callable[..., Tensor], self._denoise)
        return denoise(x, sigma, *condition)

    def move(self, before: Tensor, after: Tensor) -> None:
        """Nothing is carried."""

    def rolled_back(self) -> None:
        """Nor has anything to be sampled anew."""


class Shortcut(Work):
    """The gradient through one step of a trajectory that is sampled now and then, and carried in between."""

    def __init__(
        self,
        denoise: Denoise | ConditionedDenoise,
        x: Tensor,
        sigmas: Tensor,
        objective: Objective,
        solver: str,
        condition: Tensor | None,
        refresh: int | str,
        places: Sequence[int],
        pool: Pool | None,
        cores: int,
    ) -> None:
        super().__init__(denoise, x, sigmas, objective, solver, condition)
        self.approximate = cores > 1
        self._places = places
        self._pool = pool
        self._cores = cores
        self._adaptive = refresh == "adaptive"
        self._interval = 1 if isinstance(refresh, str) else refresh
        self._due = 0
        self._kept: dict[int, Kept] = {}
        self._carried_by: dict[int, Tensor] = {}
        self._sampled_values: Tensor | None = None

    def gradient(self, iteration: int, variable: Tensor) -> Found:
        fresh = iteration >= self._due
        predicted = None
        if fresh:
            if self._adaptive and self._sampled_values is not None:
                predicted = self._predict(variable, iteration)
            end = self._refresh(variable, iteration)
        kept = self._kept[self._place(iteration)]
        self.evaluations += SHORTCUT_COST
        if self.conditioned:
            denoise = cast(ConditionedDenoise, self._denoise)
            found = shortcut_of_condition(denoise, variable, kept, self._step, self.objective)
        else:
            found = shortcut(cast(Denoise, self._denoise), kept, self._step, self.objective)
        if fresh:
            # Of the same trajectory, but with a graph: some kernels round differently then.
            found = replace(found, sample=end)
            if predicted is not None and self._sampled_values is not None:
                self._interval = _next_interval(self._interval, self._sampled_values, predicted, found.values)
            self._sampled_values = found.values
            self._due = iteration + self._interval
        return Found(found, fresh, predicted, self._interval)

    def move(self, before: Tensor, after: Tensor) -> None:
        """Carry the trajectory along when the start moves: the state before the last step moves by as much."""
        if self.conditioned:
            return  # what the other steps make of another conditioning is not known
        delta = precise(after) - precise(before)
        for place, kept in self._kept.items():
            self._kept[place] = _shifted(kept, (delta * per_item(self._carried_by[place], delta)).to(after.dtype))

    def rolled_back(self) -> None:
        """The trajectory is no longer that of the start: sample anew, and compare with no prediction."""
        self._due = 0
        self._sampled_values = None

    def _predict(self, variable: Tensor, iteration: int) -> Tensor:
        """What the carried trajectory says of ``variable``."""
        kept = self._kept[self._place(iteration)]
        self.evaluations += 1
        model = self._with(variable) if self.conditioned else cast(Denoise, self._denoise)
        return evaluate(self.objective, kept.end(self._step, model(kept.x, float(kept.sigma))))

    def _place(self, iteration: int) -> int:
        return self._places[_turn(iteration, len(self._places))]

    def _refresh(self, variable: Tensor, iteration: int) -> Tensor:
        """Sample a trajectory of ``variable``, keep what gradients need of it until the next, and return its end."""
        # An adaptive interval may double at this refresh; the place after the last is for its prediction.
        turns = range(iteration, iteration + 2 * self._interval + 1 if self._adaptive else iteration + self._interval)
        places = {self._place(turn) for turn in turns}
        around = {place + offset for place in places for offset in (-1, 0, 1)}
        seen: dict[tuple[int, int], Evaluated] = {}

        def listen(event: Event) -> None:
            if isinstance(event, Evaluated) and event.index in around:
                seen[event.core, event.index] = event

        core = 1
        if iteration == 0 or (self._pool is None and self._cores == 1):
            end = self.sample(variable, listen)
        else:
            self.broken = torch.zeros_like(self.broken)
            denoise = cast(Denoise, self._denoise)
            with torch.no_grad():
                result = sample(
                    denoise,
                    variable,
                    self._sigmas,
                    cores=self._cores,
                    solver=self._solver,
                    pool=self._pool,
                    on_event=self._unbroken(listen),
                    cancel=self.cancelled,
                )
            self.evaluations += result.evaluations
            end, core = result.x, result.hits[-1].core
        states = {index: event for (number, index), event in seen.items() if number == core}
        self._kept = {place: self._keep(states, place, end) for place in places}
        if not self.conditioned:
            # Where the noise is scaled with sigma, states shrink on their way, and what a start adds to them does too.
            size = rms(variable)
            self._carried_by = {
                place: torch.where(size > 0, (rms(kept.x) / size).clamp(max=1.0), 1.0)
                for place, kept in self._kept.items()
            }
        return end

    def _keep(self, states: dict[int, Evaluated], index: int, end: Tensor) -> Kept:
        past = None
        if index - 1 in states:
            past = Past(self._sigmas[index - 1], states[index - 1].denoised)
        rest = end - states[index + 1].x if index + 1 < self._steps else None
        return Kept(states[index].x, self._sigmas[index], self._sigmas[index + 1], past, rest)


def _shifted(kept: Kept, shift: Tensor) -> Kept:
    """A kept step whose states move by ``shift`` with their drifts held; so the evaluation of its past moves too."""
    past = None if kept.past is None else Past(kept.past.sigma, kept.past.denoised + shift)
    return replace(kept, x=kept.x + shift, past=past)


def _turn(number: int, count: int) -> int:
    """The place in 0..count-1 of the ``number``-th turn: places come up equally often and far apart (golden ratio)."""
    return int((0.5 + number * (math.sqrt(5) - 1) / 2) % 1.0 * count)


def _next_interval(interval: int, before: Tensor, predicted: Tensor, found: Tensor) -> int:
    """How long to carry the next trajectory, by how far the last one's prediction came true (all [B]).

    As a trust region does with its radius: the share of the predicted gain that was found decides. Where prediction
    and finding are the same but for a hair, nothing has drifted, whatever was gained.
    """
    if float((found - predicted).abs().sum()) <= _A_HAIR * float(found.abs().sum()):
        return min(_LONGEST_INTERVAL, 2 * interval)
    share = float((before - found).sum() / (before - predicted).sum().clamp(min=1e-12))
    if not share >= _DOUBTED:  # also NaN
        return max(1, interval // 2)
    return min(_LONGEST_INTERVAL, 2 * interval) if share > _TRUSTED else interval


def check_keep(keep: str | int | None, steps: int, cores: int, conditioned: bool) -> Sequence[int]:
    """The steps whose graph the shortcut keeps in turn.

    Raises:
        InvalidInput: if ``keep`` says none, or one that not every trajectory has.
    """
    first = lattice_starts(steps, cores)[-1]  # where the core begins whose trajectory is taken
    if keep is None:
        keep = "spread" if conditioned else "last"
    if isinstance(keep, str) and keep == "spread":
        return range(first, steps)
    if isinstance(keep, str) and keep == "last":
        return (steps - 1,)
    if isinstance(keep, bool) or not isinstance(keep, int) or not first <= keep < steps:
        raise InvalidInput("keep", f'must be "last", "spread" or a step {first}..{steps - 1}, not {shown(keep)}')
    return (keep,)
