"""Where a training takes its gradients from: batches, sampled without a graph, scored, and differentiated in parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._types import Denoise, Objective, Pool
from ..checks import check_floating
from ..errors import Cancelled, InvalidInput, NonFiniteDenoised
from ..methods.events import Evaluated, Event
from ..sampling import sample
from ..solvers import find_step
from ..solvers.base import StepFunction
from .gradients import (
    BACKWARD_COST,
    CHECKPOINTED_COST,
    FULL_COST,
    SHORTCUT_COST,
    KeptStep,
    evaluate,
    objective_gradient,
)
from .parameter_gradients import (
    NO_GRADIENT,
    NoParameterGradient,
    ParameterGradient,
    Staying,
    full_of_parameters,
    gradient_of_full,
    shortcut_of_parameters,
    slope_size,
)

_MAX_SLOPE_GROWTH = 3.0  # from one batch to the next


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
        if other is None or not torch.equal(self.x, other.x):
            return False
        pairs = zip(self.conditions or (), other.conditions or (), strict=True)
        return all(_same(one, another) for one, another in pairs)

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
class _FullPart(_Scored):
    """A micro-batch with its ``gradient`` through all steps, or None if it has none."""

    gradient: ParameterGradient | None


@dataclass(frozen=True, eq=False)
class BatchGradient:
    """A batch with its ``values`` [B], its ``sample`` [B, ...], and the ``gradient``: of the sum of the values in units
    of the slope's size, and of what holds the network."""

    batch: Batch
    values: Tensor
    sample: Tensor
    gradient: ParameterGradient


class ParameterSource:
    """Gradients of a training; it counts evaluations."""

    def __init__(self, problem: TrainingProblem) -> None:
        self.problem = problem
        self._initial = [parameter.detach().clone() for parameter in problem.parameters]
        self._micro_batch = problem.micro_batch
        self._item_evaluations = 0
        self._items = 1
        self._slope_size = 0.0  # the RMS of dJ/dx_N, about the largest of all batches so far
        self._sampled_once = False
        self._used = False  # whether any item so far had a gradient

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
        """The objective's values and the gradient, at the current parameters.

        Raises:
            InvalidInput: for a model or an objective that has no gradient, or an objective of another shape.
            NonFiniteDenoised: if the model returned NaN or infinity.
            Cancelled: when the training has to end.
        """
        if self.problem.full:
            if not self._sampled_once:
                self._scored(batch)  # an error of the model is reported here, with its step
            self._sampled_once = True
            return self._full(batch)
        scored = self._scored(batch)
        self._see_slopes([part.slope for part in scored])
        total = self._sum(partial(self._shortcut, part.batch, part.kept, self._relative(part.slope)) for part in scored)
        values, samples = torch.cat([part.values for part in scored]), torch.cat([part.sample for part in scored])
        return BatchGradient(batch, values, samples, total)

    def _sum(self, gradients: Iterable[Callable[[], ParameterGradient]]) -> ParameterGradient:
        """The sum of the micro-batches' gradients. One without a gradient counts as 0, as of a prompt for which the
        network does not use the parameters. At first a batch needs one that has a gradient."""
        total, missing = ParameterGradient.zero(self.problem.parameters), None
        for gradient in gradients:
            try:
                total, self._used = total + gradient(), True
            except NoParameterGradient as error:
                missing = error
        if missing is not None and not self._used:
            raise missing
        return total

    def values(self, batch: Batch) -> Tensor:
        """The objective [B] of a batch."""
        found = []
        with torch.no_grad():
            for part in batch.parts(self._micro_batch or 1):
                end, _ = self._sampled(part)
                found.append(evaluate(part.of(self.problem.objective), end))
        return torch.cat(found)

    def _see_slopes(self, slopes: Sequence[Tensor]) -> None:
        """Take a batch's slopes into account. One steep batch alone does not make all later slopes small."""
        size, before = slope_size(slopes), self._slope_size
        self._slope_size = max(before, min(size, _MAX_SLOPE_GROWTH * before)) if before > 0 else size

    def _relative(self, slope: Tensor) -> Tensor:
        """dJ/dx_N in units of its size. So the weight of what holds the network has the same effect for any objective,
        and small slopes fit half precision."""
        return slope / self._slope_size if self._slope_size > 0 else slope

    def _scored(self, batch: Batch) -> list[_Scored]:
        if self._micro_batch is None:
            first = self._first_item(batch)
            self._micro_batch = len(batch.x) if first is None else 1
            if first is not None:
                return [first, *map(self._scored_part, list(batch.parts(1))[1:])]
        return [self._scored_part(part) for part in batch.parts(self._micro_batch)]

    def _first_item(self, batch: Batch) -> _Scored | None:
        """The first item alone, or None where a function is made for whole batches and fails at a single item."""
        try:
            return self._scored_part(next(batch.parts(1)))
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, AssertionError):
            if len(batch.x) == 1:
                raise
            return None  # another error comes again with the whole batch

    def _scored_part(self, part: Batch) -> _Scored:
        end, kept = self._sampled(part)
        return _Scored(part, kept, end, *_slope(part.of(self.problem.objective), end))

    def _sampled(self, part: Batch) -> tuple[Tensor, tuple[KeptStep, ...]]:
        """The sample of a micro-batch, and the kept steps of its trajectory."""
        problem = self.problem
        several, within = problem.cores > 1, problem.tolerance is not None
        calls: dict[int, dict[int, Evaluated]] = {}

        def listen(event: Event) -> None:
            if isinstance(event, Evaluated):
                self._item_evaluations += len(part.x)
                if several or within or event.index in problem.kept:
                    # In a window all rounds are of one trajectory, and the newest evaluation is the best.
                    calls.setdefault(0 if within else event.core, {})[event.index] = event
                if not bool(torch.isfinite(event.denoised).all()):
                    sigma = float(problem.sigmas[event.index])
                    raise NonFiniteDenoised(event.core, event.index, problem.steps, sigma)

        with torch.no_grad():
            result = sample(
                part.of(problem.denoise),
                part.x,
                problem.sigmas,
                method="secant" if several and within else "chords" if several or within else "sequential",
                cores=problem.cores,
                solver=problem.solver,
                tolerance=problem.tolerance,
                pool=problem.pool,
                on_event=listen,
                cancel=problem.cancelled,
            )
        trajectory = calls[0 if within else result.hits[-1].core]
        states = {index: event.x for index, event in trajectory.items()}
        return result.x, _kept_steps(states, problem.kept, problem.sigmas.to(part.x.device))

    def _shortcut(self, part: Batch, kept: Sequence[KeptStep], slope: Tensor | None) -> ParameterGradient:
        problem = self.problem
        staying = Staying(self._old(part), problem.hold) if problem.hold > 0 else None
        cost = SHORTCUT_COST * len(kept)
        if staying is not None:
            cost += len(kept) + (0 if slope is None else BACKWARD_COST * (len(kept) - 1))
        self._item_evaluations += cost * len(part.x)
        return shortcut_of_parameters(self._until_cancelled(part), problem.parameters, kept, slope, staying)

    def _until_cancelled(self, part: Batch) -> Denoise:
        """The model on the items of ``part``; it raises `Cancelled` when the training has to end."""
        denoise = part.of(self.problem.denoise)

        def call(x: Tensor, sigma: float) -> Tensor:
            if self.problem.cancelled():
                raise Cancelled("the training was cancelled")
            return denoise(x, sigma)

        return call

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
        parts = [self._full_part(part) for part in batch.parts(self._micro_batch or 1)]
        self._see_slopes([part.slope for part in parts])
        unit = self._slope_size if self._slope_size > 0 else 1.0
        given = [part.gradient for part in parts if part.gradient is not None]
        self._used = self._used or bool(given)
        if not self._used:
            raise NoParameterGradient("denoise", NO_GRADIENT)
        total = sum((gradient.times(1 / unit) for gradient in given), ParameterGradient.zero(problem.parameters))
        if problem.hold > 0:
            total = total + self._sum(partial(self._shortcut, part.batch, part.kept, None) for part in parts)
        values, samples = torch.cat([part.values for part in parts]), torch.cat([part.sample for part in parts])
        return BatchGradient(batch, values, samples, total)

    def _full_part(self, part: Batch) -> _FullPart:
        """A micro-batch through all steps. Nothing of its graph is alive afterwards."""
        problem, states = self.problem, dict[float, Tensor]()
        denoise, sigmas = self._until_cancelled(part), problem.sigmas.to(part.x.device)

        def watched(x: Tensor, sigma: float) -> Tensor:
            states.setdefault(sigma, x.detach())
            return denoise(x, sigma)

        end = full_of_parameters(watched, part.x, sigmas, problem.step, checkpoint=problem.checkpoint)
        self._item_evaluations += problem.steps * (CHECKPOINTED_COST if problem.checkpoint else FULL_COST) * len(part.x)
        values, slope = _slope(part.of(problem.objective), end)
        size = slope_size([slope])
        size = size if size > 0 else 1.0
        gradient = None
        with suppress(NoParameterGradient):
            gradient = gradient_of_full(end, problem.parameters, slope / size).times(size)
        kept = _kept_steps({i: states[float(sigmas[i])] for i in problem.kept}, problem.kept, sigmas)
        return _FullPart(part, kept, end.detach(), values, slope, gradient)


def _slope(objective: Objective, sample: Tensor) -> tuple[Tensor, Tensor]:
    """The objective's values [B] at ``sample``, and dJ/dx_N there. Nothing of the objective's graph stays."""
    with torch.enable_grad():
        leaf = sample.detach().requires_grad_()
        values = evaluate(objective, leaf)
        return values.detach(), objective_gradient(values, leaf)


def _same(one: object, other: object) -> bool:
    """Whether two conditions are the same, as far as can be told."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or (one == other) is True


def put(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write ``values`` into ``parameters``, in place."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _kept_steps(states: Mapping[int, Tensor], wanted: Sequence[int], sigmas: Tensor) -> tuple[KeptStep, ...]:
    """The wanted steps of a trajectory, in order, from states by index; where there is none, the nearest.

    The constants between them have no part in gradients of parameters, so they are 0.
    """
    indices = sorted({min(states, key=lambda index: (abs(index - step), -index)) for step in wanted})
    following = [*indices[1:], len(sigmas) - 1]
    return tuple(
        KeptStep(states[index], sigmas[index], sigmas[after], torch.zeros_like(states[index]))
        for index, after in zip(indices, following, strict=True)
    )
