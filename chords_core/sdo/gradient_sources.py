"""Where an optimisation takes its gradients from: `ShortcutGradient` or `FullBackprop`, and what they cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .._types import Denoise, Objective, Pool
from ..errors import Cancelled, NonFiniteDenoised
from ..methods.events import Evaluated, Event
from ..sampling import sample
from ..solvers import find_step
from ..solvers.base import StepFunction
from .batch import finite_items
from .gradients import (
    CHECKPOINTED_COST,
    FULL_COST,
    SHORTCUT_COST,
    ConditionedDenoise,
    Gradient,
    KeptStep,
    evaluate,
    full,
    full_of_condition,
    moved,
    shortcut,
    shortcut_of_condition,
)
from .trajectory import Trajectory, max_interval, next_interval


@dataclass(frozen=True, eq=False)
class Problem:
    """What is optimised: the objective of the sample over ``x`` [B, ...], or over ``condition`` [B, ...] if given.

    The other fields are as in `chords_core.optimize_latent`. ``cancelled``: whether the run has to end.
    """

    denoise: Denoise | ConditionedDenoise
    x: Tensor
    sigmas: Tensor
    objective: Objective
    solver: str
    condition: Tensor | None
    cancelled: Callable[[], bool]

    @property
    def variable(self) -> Tensor:
        """What is optimised, as it was given."""
        return self.x if self.condition is None else self.condition

    @property
    def conditioned(self) -> bool:
        """Whether the conditioning is optimised."""
        return self.condition is not None

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.sigmas) - 1

    @property
    def step(self) -> StepFunction:
        """One step of the solver."""
        return find_step(self.solver)

    def until_cancelled(self, x: Tensor, sigma: float, *condition: Tensor) -> Tensor:
        """The model, which is not called any more once the run has to end.

        Raises:
            Cancelled: then.
        """
        if self.cancelled():
            raise Cancelled("the optimisation was cancelled")
        denoise = cast(Callable[..., Tensor], self.denoise)
        return denoise(x, sigma, *condition)

    def model(self, variable: Tensor) -> Denoise:
        """The model, with ``variable`` as its conditioning where that is optimised."""
        if self.condition is None:
            return cast(Denoise, self.denoise)
        denoise = cast(ConditionedDenoise, self.denoise)
        return lambda x, sigma: denoise(x, sigma, variable)


@dataclass(frozen=True, eq=False)
class TrajectoryGradient:
    """A gradient, and the trajectory it is of.

    ``sampled``: whether the trajectory was sampled (True) or carried (False). Where an adaptive refresh has sampled it:
    ``predicted`` [B], the objective by the carried trajectory. ``interval``: iterations between two samplings.
    """

    gradient: Gradient
    sampled: bool
    predicted: Tensor | None = None
    interval: int = 1


class GradientSource(ABC):
    """Gradients of a problem; it samples without a graph and counts evaluations.

    Attributes:
        evaluations: forward-equivalent model calls so far.
        broken: items for which the model returned NaN or infinity in the last sampling, bool [B].
        sequential: whether sampled trajectories are those of the sequential sampler, bit for bit.
    """

    sequential: bool

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.evaluations = 0
        self.broken = torch.zeros(len(problem.x), dtype=torch.bool, device=problem.x.device)

    @abstractmethod
    def gradient(self, iteration: int, variable: Tensor) -> TrajectoryGradient:
        """The gradient at ``variable``; ``iteration`` counts from 0.

        Raises:
            InvalidInput: for a model or an objective that has no gradient.
            NonFiniteDenoised: if an item broke; ``broken`` says which.
            Cancelled: when the run has to end.
        """

    @abstractmethod
    def moved(self, before: Tensor, after: Tensor) -> None:
        """The variable has moved."""

    @abstractmethod
    def rolled_back(self) -> None:
        """The variable has jumped back, so no trajectory belongs to it."""

    def sample(self, variable: Tensor, on_event: Callable[[Event], None] | None = None) -> Tensor:
        """The sequential sample [B, ...] of ``variable`` (the noise, or a conditioning)."""
        problem, model = self.problem, self.problem.model(variable)

        def counted(state: Tensor, sigma: float) -> Tensor:
            self.evaluations += 1
            denoised = model(state, sigma)
            if isinstance(denoised, Tensor) and denoised.shape == state.shape:
                self.broken = ~finite_items(denoised)
            return denoised

        with torch.no_grad():
            return sample(
                counted,
                problem.x if problem.conditioned else variable,
                problem.sigmas,
                method="sequential",
                solver=problem.solver,
                on_event=self._ending_at_broken_items(on_event),
                cancel=problem.cancelled,
            ).x

    def _ending_at_broken_items(self, on_event: Callable[[Event], None] | None) -> Callable[[Event], None]:
        """``on_event``, and an end of the sampling in which an item breaks: the item is rolled back at once."""

        def listen(event: Event) -> None:
            if isinstance(event, Evaluated) and not bool(torch.isfinite(event.denoised).all()):
                self.broken = ~finite_items(event.denoised)
                sigma = float(self.problem.sigmas[event.index])
                raise NonFiniteDenoised(event.core, event.index, self.problem.steps, sigma)
            if on_event is not None:
                on_event(event)

        return listen


class FullBackprop(GradientSource):
    """The gradient through all steps; every iteration samples.

    ``checkpoint``: run each step twice and keep only the states between the steps.
    """

    sequential = False  # operations with a graph may round differently

    def __init__(self, problem: Problem, checkpoint: bool) -> None:
        super().__init__(problem)
        self._checkpoint = checkpoint

    def gradient(self, iteration: int, variable: Tensor) -> TrajectoryGradient:
        problem = self.problem
        if iteration == 0:
            self.sample(variable)  # an error of the model is reported here, with its step
        self.evaluations += problem.steps * (CHECKPOINTED_COST if self._checkpoint else FULL_COST)
        arguments = (problem.sigmas, problem.step, problem.objective)
        if problem.conditioned:
            found = full_of_condition(
                self.problem.until_cancelled, variable, problem.x, *arguments, checkpoint=self._checkpoint
            )
        else:
            found = full(self.problem.until_cancelled, variable, *arguments, checkpoint=self._checkpoint)
        return TrajectoryGradient(found, sampled=True)

    def moved(self, before: Tensor, after: Tensor) -> None:
        """Nothing is carried."""

    def rolled_back(self) -> None:
        """Every iteration samples in any case."""


@dataclass(frozen=True, eq=False)
class Refresh:
    """How `ShortcutGradient` samples trajectories.

    ``interval``: iterations between two samplings, or "adaptive"; ``kept``: the indices of the steps whose graphs are
    kept, in order; ``pool``, ``cores``: where to sample, and with how many CHORDS cores.
    """

    interval: int | str
    kept: Sequence[int]
    pool: Pool | None = None
    cores: int = 1


class ShortcutGradient(GradientSource):
    """The gradient through a few steps of a trajectory that is sampled now and then, and carried in between."""

    def __init__(self, problem: Problem, refresh: Refresh) -> None:
        super().__init__(problem)
        self.sequential = refresh.cores == 1
        self._refresh = refresh
        self._adaptive = refresh.interval == "adaptive"
        self._interval = 1 if isinstance(refresh.interval, str) else refresh.interval
        self._longest = max_interval(problem.steps, len(refresh.kept))  # of an adaptive refresh
        self._due = 0  # the iteration of the next sampling
        self._trajectory: Trajectory | None = None
        self._sampled_values: Tensor | None = None  # the objective [B] at the last sampling

    def gradient(self, iteration: int, variable: Tensor) -> TrajectoryGradient:
        if iteration < self._due:
            found = self._shortcut(variable, *self._carried(variable))
            return TrajectoryGradient(found, False, interval=self._interval)
        before, predicted = self._sampled_values, None
        if self._adaptive and before is not None:
            predicted = evaluate(self.problem.objective, self._carried(variable)[1])
        trajectory = self._trajectory = self._sampled_trajectory(iteration, variable)
        found = self._shortcut(variable, trajectory.kept, trajectory.end)
        if predicted is not None and before is not None:
            self._interval = next_interval(self._interval, self._longest, before, predicted, found.values)
        self._sampled_values = found.values
        self._due = iteration + self._interval
        return TrajectoryGradient(found, True, predicted, self._interval)

    def moved(self, before: Tensor, after: Tensor) -> None:
        """Carry the trajectory along."""
        if self._trajectory is not None:
            self._trajectory = self._trajectory.moved(before, after)

    def rolled_back(self) -> None:
        """Sample again at the next iteration, and compare with no prediction."""
        self._due = 0
        self._sampled_values = None

    def _shortcut(self, variable: Tensor, kept: Sequence[KeptStep], end: Tensor) -> Gradient:
        problem = self.problem
        self.evaluations += SHORTCUT_COST * len(kept)
        if problem.conditioned:
            return shortcut_of_condition(problem.until_cancelled, variable, kept, end, problem.objective)
        return shortcut(problem.until_cancelled, kept, end, problem.objective)

    def _carried(self, variable: Tensor) -> tuple[tuple[KeptStep, ...], Tensor]:
        """The kept steps of ``variable`` and its sample [B, ...], as the carried trajectory predicts them."""
        assert self._trajectory is not None
        kept = self._trajectory.kept
        self.evaluations += len(kept)
        condition = (variable,) if self.problem.conditioned else ()
        return moved(lambda x, sigma: self.problem.until_cancelled(x, sigma, *condition), kept, kept[0].x)

    def _sampled_trajectory(self, iteration: int, variable: Tensor) -> Trajectory:
        """The trajectory of ``variable``, with the kept steps."""
        indices = self._refresh.kept
        evaluated: dict[tuple[int, int], Evaluated] = {}

        def listen(event: Event) -> None:
            if isinstance(event, Evaluated) and event.index in indices:
                evaluated[event.core, event.index] = event

        if iteration == 0 or (self._refresh.pool is None and self._refresh.cores == 1):
            end, core = self.sample(variable, listen), 1
        else:
            end, core = self._sample_on_pool(variable, listen)
        calls = {index: event for (number, index), event in evaluated.items() if number == core}
        if self.problem.conditioned:
            return Trajectory.of_condition(end, calls, indices, self.problem.sigmas)
        return Trajectory.of_noise(variable, end, calls, indices, self.problem.sigmas)

    def _sample_on_pool(self, noise: Tensor, on_event: Callable[[Event], None]) -> tuple[Tensor, int]:
        """The sample of ``noise`` by CHORDS on the pool's lanes, and the core whose trajectory it is."""
        self.broken = torch.zeros_like(self.broken)
        with torch.no_grad():
            result = sample(
                cast(Denoise, self.problem.denoise),
                noise,
                self.problem.sigmas,
                cores=self._refresh.cores,
                solver=self.problem.solver,
                pool=self._refresh.pool,
                on_event=self._ending_at_broken_items(on_event),
                cancel=self.problem.cancelled,
            )
        self.evaluations += result.evaluations
        return result.x, result.hits[-1].core
