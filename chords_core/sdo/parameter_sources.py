"""Where a training takes its gradients from: batches, sampled without a graph, scored, and differentiated in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._types import Denoise, Pool
from ..checks import check_floating
from ..errors import Cancelled, InvalidInput, NonFiniteDenoised
from ..methods.events import Evaluated, Event
from ..sampling import sample
from ..solvers import find_step
from ..solvers.base import Past, StepFunction
from .gradients import CHECKPOINTED_COST, FULL_COST, SHORTCUT_COST, KeptStep, evaluate, objective_gradient
from .parameter_gradients import (
    ParameterGradient,
    Staying,
    full_of_parameters,
    gradient_of_full,
    shortcut_of_parameters,
    slope_size,
)


@dataclass(frozen=True, eq=False)
class TrainingProblem:
    """What is trained, and how batches are sampled. The fields are as in `chords_core.optimize_parameters`.

    ``kept``: the steps whose graph is kept; ``full``: backpropagation through all steps; ``micro_batch``: None: one
    item at a time, or all together where a single one is not taken; ``cancelled``: whether the training has to end.
    """

    denoise: Callable[..., Tensor]
    parameters: tuple[Tensor, ...]
    starts: Callable[[int], Tensor]
    sigmas: Tensor
    objective: Callable[..., Tensor]
    solver: str
    kept: tuple[int, ...]
    full: bool
    checkpoint: bool
    conditions: Callable[[int], Sequence[Any]] | None
    reference: Callable[..., Tensor] | None
    hold: float
    micro_batch: int | None
    tolerance: float | None
    pool: Pool | None
    cores: int
    cancelled: Callable[[], bool]

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.sigmas) - 1

    @property
    def step(self) -> StepFunction:
        """One step of the solver."""
        return find_step(self.solver)


@dataclass(frozen=True, eq=False)
class Batch:
    """The items of an iteration: their noise ``x`` [B, ...], and their conditions, or None."""

    x: Tensor
    conditions: tuple[Any, ...] | None

    def parts(self, size: int) -> Iterator[Batch]:
        """Micro-batches of at most ``size`` items."""
        for first in range(0, len(self.x), size):
            part = slice(first, first + size)
            yield Batch(self.x[part], None if self.conditions is None else self.conditions[part])

    def same_as(self, other: Batch | None) -> bool:
        """Whether the objectives of both can be compared item by item."""
        return other is not None and torch.equal(self.x, other.x) and self.conditions == other.conditions

    def of(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """``function``, with the conditions of these items as its last argument where there are any."""
        if self.conditions is None:
            return function
        return lambda *arguments: function(*arguments, self.conditions)


@dataclass(frozen=True, eq=False)
class _Scored:
    """A micro-batch, sampled without a graph: the ``kept`` steps of its trajectory, its ``sample`` x_N, the objective's
    ``values`` [b] there, and ``slope``, dJ/dx_N."""

    batch: Batch
    kept: tuple[KeptStep, ...]
    sample: Tensor
    values: Tensor
    slope: Tensor


@dataclass(frozen=True, eq=False)
class BatchGradient:
    """A batch with its ``values`` [B], its ``sample`` [B, ...] and the ``gradient`` of their mean."""

    batch: Batch
    values: Tensor
    sample: Tensor
    gradient: ParameterGradient


class ParameterSource:
    """Gradients of a training; it counts evaluations. ``slope_size``: the RMS of dJ/dx_N in the first batch."""

    def __init__(self, problem: TrainingProblem) -> None:
        self.problem = problem
        self._initial = [parameter.detach().clone() for parameter in problem.parameters]
        self._micro_batch = problem.micro_batch
        self._item_evaluations = 0
        self._items = 1
        self._slope_size = 0.0

    @property
    def evaluations(self) -> int:
        """Forward-equivalent model calls of a whole batch so far."""
        return math.ceil(self._item_evaluations / self._items)

    def batch(self, iteration: int) -> Batch:
        """The noise and the conditions of an iteration.

        Raises:
            InvalidInput: naming ``starts`` or ``conditions``, if they cannot be used.
        """
        x = self.problem.starts(iteration)
        check_floating("starts", x)
        if x.ndim == 0 or x.numel() == 0:
            raise InvalidInput("starts", f"must return a batch [B, ...] of at least one item, not {tuple(x.shape)}")
        if iteration > 0 and len(x) != self._items:
            raise InvalidInput("starts", f"returned {len(x)} items after batches of {self._items}")
        self._items = len(x)
        conditions = None
        if self.problem.conditions is not None:
            conditions = tuple(self.problem.conditions(iteration))
            if len(conditions) != len(x):
                raise InvalidInput("conditions", f"returned {len(conditions)} things for {len(x)} items of starts")
        return Batch(x.detach().clone(), conditions)

    def gradient(self, batch: Batch) -> BatchGradient:
        """The objective's values and the gradient of their mean, at the current parameters.

        Raises:
            InvalidInput: for a model or an objective that has no gradient, or an objective of another shape.
            NonFiniteDenoised: if the model returned NaN or infinity.
            Cancelled: when the training has to end.
        """
        if self.problem.full and self._slope_size > 0:
            return self._full(batch)
        scored = self._scored(batch)
        if not self._slope_size > 0:
            self._slope_size = slope_size([part.slope for part in scored])
        if self.problem.full:
            return self._full(batch)
        total = ParameterGradient.zero(self.problem.parameters)
        for part in scored:
            total = total + self._shortcut(part.batch, part.kept, self._relative(part.slope))
        values, samples = torch.cat([part.values for part in scored]), torch.cat([part.sample for part in scored])
        return BatchGradient(batch, values, samples, total)

    def values(self, batch: Batch) -> Tensor:
        """The objective [B] of a batch."""
        found = []
        with torch.no_grad():
            for part in batch.parts(self._micro_batch or 1):
                end, _ = self._sampled(part)
                found.append(evaluate(part.of(self.problem.objective), end))
        return torch.cat(found)

    def _relative(self, slope: Tensor) -> Tensor:
        """dJ/dx_N in units of its size in the first batch. So the weight of what holds the network has the same effect
        for any objective, and small slopes fit half precision."""
        return slope / self._slope_size if self._slope_size > 0 else slope

    def _scored(self, batch: Batch) -> list[_Scored]:
        if self._micro_batch is not None:
            return [self._scored_part(part) for part in batch.parts(self._micro_batch)]
        try:
            found = [self._scored_part(part) for part in batch.parts(1)]
            self._micro_batch = 1
        except (Cancelled, NonFiniteDenoised):
            raise
        except Exception:
            if len(batch.x) == 1:
                raise
            # A function that is made for a whole batch fails at a single item. Another error comes again.
            self._micro_batch = len(batch.x)
            found = [self._scored_part(batch)]
        return found

    def _scored_part(self, part: Batch) -> _Scored:
        end, kept = self._sampled(part)
        with torch.enable_grad():
            leaf = end.detach().requires_grad_()
            values = evaluate(part.of(self.problem.objective), leaf)
            slope = objective_gradient(values, leaf)
        return _Scored(part, kept, end, values.detach(), slope)

    def _sampled(self, part: Batch) -> tuple[Tensor, tuple[KeptStep, ...]]:
        """The sample of a micro-batch, and the kept steps of its trajectory."""
        problem = self.problem
        needed = {index + offset for index in problem.kept for offset in (-1, 0)}
        calls: dict[tuple[int, int], Evaluated] = {}

        def listen(event: Event) -> None:
            if isinstance(event, Evaluated):
                if problem.tolerance is not None or event.index in needed:
                    calls[event.core, event.index] = event
                if not bool(torch.isfinite(event.denoised).all()):
                    raise NonFiniteDenoised(event.core, event.index, problem.steps, float(problem.sigmas[event.index]))

        with torch.no_grad():
            result = sample(
                part.of(problem.denoise),
                part.x,
                problem.sigmas,
                method="chords" if problem.cores > 1 or problem.tolerance is not None else "sequential",
                cores=problem.cores,
                solver=problem.solver,
                tolerance=problem.tolerance,
                pool=problem.pool,
                on_event=listen,
                cancel=problem.cancelled,
            )
        self._item_evaluations += result.evaluations * len(part.x)
        core = result.hits[-1].core if problem.cores > 1 and problem.tolerance is None else None
        by_index = {index: event for (number, index), event in calls.items() if core in (None, number)}
        return result.x, _kept_steps(by_index, problem.kept, problem.sigmas)

    def _shortcut(self, part: Batch, kept: Sequence[KeptStep], slope: Tensor | None) -> ParameterGradient:
        problem = self.problem
        if problem.cancelled():
            raise Cancelled("the training was cancelled")
        staying = Staying(self._old(part), problem.hold) if problem.hold > 0 else None
        self._item_evaluations += (SHORTCUT_COST + (staying is not None)) * len(kept) * len(part.x)
        return shortcut_of_parameters(part.of(problem.denoise), problem.parameters, kept, problem.step, slope, staying)

    def _old(self, part: Batch) -> Denoise:
        """The old network on the items of ``part``."""
        if self.problem.reference is not None:
            return part.of(self.problem.reference)
        denoise, parameters = part.of(self.problem.denoise), self.problem.parameters

        def old(x: Tensor, sigma: float) -> Tensor:
            now = [parameter.detach().clone() for parameter in parameters]
            put(parameters, self._initial)
            try:
                return denoise(x, sigma)
            finally:
                put(parameters, now)

        return old

    def _full(self, batch: Batch) -> BatchGradient:
        """As `gradient`, through all steps."""
        problem = self.problem
        total = ParameterGradient.zero(problem.parameters)
        values, samples = [], []
        for part in batch.parts(self._micro_batch or 1):
            states: dict[float, Tensor] = {}
            denoise = part.of(problem.denoise)

            def watched(x: Tensor, sigma: float, denoise: Denoise = denoise, states: Any = states) -> Tensor:
                if problem.cancelled():
                    raise Cancelled("the training was cancelled")
                states.setdefault(sigma, x.detach())
                return denoise(x, sigma)

            end = full_of_parameters(
                watched, problem.parameters, part.x, problem.sigmas, problem.step, checkpoint=problem.checkpoint
            )
            self._item_evaluations += (
                problem.steps * (CHECKPOINTED_COST if problem.checkpoint else FULL_COST) * len(part.x)
            )
            with torch.enable_grad():
                leaf = end.detach().requires_grad_()
                found = evaluate(part.of(problem.objective), leaf)
                slope = objective_gradient(found, leaf)
            total = total + gradient_of_full(end, problem.parameters, self._relative(slope))
            values.append(found.detach())
            samples.append(end.detach())
            if problem.hold > 0:
                sigmas = problem.sigmas
                kept = [KeptStep(states[float(sigmas[i])], sigmas[i], sigmas[i + 1]) for i in problem.kept]
                total = total + self._shortcut(part, kept, None)
        return BatchGradient(batch, torch.cat(values), torch.cat(samples), total)


def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write ``values`` into ``parameters``, in place."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _kept_steps(calls: dict[int, Evaluated], wanted: Sequence[int], sigmas: Tensor) -> tuple[KeptStep, ...]:
    """The wanted steps of a trajectory; where the model was not called at one, the nearest at which it was."""
    indices = sorted({min(calls, key=lambda index: (abs(index - step), -index)) for step in wanted}, reverse=True)
    return tuple(
        KeptStep(
            calls[index].x,
            sigmas[index],
            sigmas[index + 1],
            Past(sigmas[index - 1], calls[index - 1].denoised) if index - 1 in calls else None,
        )
        for index in indices
    )
