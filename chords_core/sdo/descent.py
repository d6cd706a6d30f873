"""The optimisation loop: Adam on each item, each item's best kept, broken items rolled back, an end when idle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import Cancelled, InvalidInput, NonFiniteDenoised
from .adam import Adam, normalised
from .batch import finite_items, per_item, precise, rms
from .events import Improved, Iterated, OptimizationEvent, Refreshed, RolledBack, Stopped
from .gradient_sources import GradientSource, TrajectoryGradient
from .gradients import Gradient, evaluate
from .noise_constraints import NoiseConstraint

_EXPLOSION_RATIO = 10.0  # an objective this many times its range above its best has exploded
_MIN_RELATIVE_GAIN = 1e-3  # relative to the gain so far: a smaller gain is no progress
_MODEL_BROKE = "the model returned NaN or infinity"


@dataclass(frozen=True, eq=False)
class Optimized:
    """The result of an optimisation.

    ``x``: the best initial noise [B, ...], each item's own best; ``sample``: the sequential sampler's result from
    ``x``, bit for bit; ``history`` [iterations, B]: the objective at the start of each iteration, before its update
    (after an early stop: the best); ``evaluations``: forward-equivalent model calls (forward 1, a step with its graph
    and backward 3, with checkpointing 4). ``objective`` [B]: at ``sample``; ``sampled``: of each iteration done,
    whether its value is of a sampled trajectory (True) or of a carried one (False); ``condition``: the best
    conditioning, where that was optimised; ``stopped``: why it ended early, or None.
    """

    x: Tensor
    sample: Tensor
    history: Tensor
    evaluations: int
    objective: Tensor
    sampled: tuple[bool, ...]
    condition: Tensor | None = None
    stopped: str | None = None


class OptimizationCancelled(Cancelled):
    """The optimisation was cancelled.

    ``best``: the best so far (its ``history`` has the iterations done), or None if no trajectory had been sampled.
    """

    def __init__(self, best: Optimized | None) -> None:
        super().__init__("the optimisation was cancelled")
        self.best = best


@dataclass(frozen=True)
class DescentOptions:
    """How to descend: ``constraint`` is what each update keeps of the initial noise; the others are as in
    `chords_core.optimize_latent`."""

    iterations: int
    lr: float
    patience: int | None
    constraint: NoiseConstraint


class Descent:
    """One optimisation; `run` does it.

    Args:
        source: the gradients, and the problem they are of.
        options: see `DescentOptions`.
        on_event: called with each event, in this thread.
    """

    def __init__(
        self, source: GradientSource, options: DescentOptions, on_event: Callable[[OptimizationEvent], None] | None
    ) -> None:
        self._source = source
        self._options = options
        self._on_event = on_event or (lambda event: None)
        self._variable = initial = source.problem.variable
        size = rms(initial)
        self._rate = options.lr * torch.where(size > 0, size, 1)  # [B]: RMS of an update, in the variable's units
        self._adam = Adam.initial(initial)
        self._values: list[Tensor] = []
        self._usable: list[Tensor] = []  # the same without what broke
        self._sampled: list[bool] = []
        self._best: _BestItems | None = None
        self._last_gain = 0  # the last iteration that made progress

    def run(self) -> Optimized:
        """All iterations, and the check of the last update.

        Raises:
            OptimizationCancelled: with the best so far.
            InvalidInput, NonFiniteDenoised: for a model or an objective that cannot be used at the initial noise.
        """
        try:
            return self._finish(self._descend())
        except Cancelled as error:
            raise OptimizationCancelled(self._so_far()) from error

    def _descend(self) -> str | None:
        """All iterations; returns why they ended early, or None."""
        for iteration in range(self._options.iterations):
            self._check_cancelled()
            found = self._gradient(iteration)
            broken, reason = self._broken_items(found.gradient)
            self._record(iteration, found, broken, reason)
            idle = iteration - self._last_gain
            if bool(broken.any()):
                self._roll_back(iteration, broken, reason)
            elif found.sampled and self._is_idle(idle, found.interval):
                stopped = f"nothing has improved for {idle} iterations"
                self._on_event(Stopped(iteration, stopped))
                return stopped
            self._update(found.gradient.gradient, broken)
        return None

    def _gradient(self, iteration: int) -> TrajectoryGradient:
        """The gradient at the current variable. An item that breaks on the way is rolled back first."""
        try:
            return self._source.gradient(iteration, self._variable)
        except NonFiniteDenoised:
            if self._best is None:
                raise
            broken = self._source.broken
            if not bool(broken.any()):  # a lane of the pool found it
                broken = torch.ones_like(broken)
            self._roll_back(iteration, broken, _MODEL_BROKE)
            return self._source.gradient(iteration, self._variable)

    def _broken_items(self, found: Gradient) -> tuple[Tensor, str]:
        """Which items (bool [B]) cannot continue from here, and why."""
        values = found.values
        finite, finite_gradient = torch.isfinite(values), finite_items(found.gradient)
        exploded = torch.zeros_like(finite)
        if self._best is not None and len(self._values) > 1:  # one value alone has no range
            seen = torch.stack(self._usable)
            span = torch.maximum(seen[0].abs(), seen.amax(0) - seen.amin(0))
            exploded = finite & (values - self._best.values > _EXPLOSION_RATIO * span)
        reasons = (
            (~finite, "the objective is NaN or infinite"),
            (finite & ~finite_gradient, "its gradient is NaN or infinite"),
            (exploded, "the objective exploded"),
        )
        return ~finite | ~finite_gradient | exploded, ", ".join(text for items, text in reasons if bool(items.any()))

    def _record(self, iteration: int, found: TrajectoryGradient, broken: Tensor, reason: str) -> None:
        """Keep an iteration's values, and tell what happened."""
        if iteration == 0 and bool(broken.any()):
            items = broken.nonzero().flatten().tolist()
            raise InvalidInput(
                "objective", f"cannot be used at the initial noise ({reason}, items {items} of the batch)"
            )
        values, sample = found.gradient.values, found.gradient.sample
        self._values.append(values)
        self._usable.append(torch.where(broken, self._values[0], values))
        self._sampled.append(found.sampled)
        if found.predicted is not None:
            self._on_event(Refreshed(iteration, found.predicted, values, found.interval))
        if found.sampled:
            self._keep_better(iteration, sample, values, ~broken)
        assert self._best is not None
        planned, evaluations = self._options.iterations, self._source.evaluations
        self._on_event(Iterated(iteration, planned, values, self._best.values, found.sampled, sample, evaluations))

    def _is_idle(self, idle: int, interval: int) -> bool:
        """Whether ``idle`` iterations without progress, and two samplings, are enough to end."""
        patience = self._options.patience
        return patience is not None and idle >= max(patience, 2 * interval)

    def _keep_better(self, iteration: int, sample: Tensor, values: Tensor, usable: Tensor) -> None:
        """Keep the items that the sampled trajectory of the current variable has made better."""
        if self._best is None:
            iterations = torch.full_like(usable, iteration, dtype=torch.int64)
            self._best = _BestItems(self._variable, sample, values, values, iterations)
        else:
            better = usable & (values < self._best.values)
            if not bool(better.any()):
                return
            gain = self._best.values - values
            if bool((better & (gain > _MIN_RELATIVE_GAIN * (self._best.first - values))).any()):
                self._last_gain = iteration
            self._best = self._best.replaced(better, self._variable, sample, values, iteration)
        self._on_event(Improved(iteration, self._best.variable, self._best.sample, self._best.values))

    def _roll_back(self, iteration: int, items: Tensor, reason: str) -> None:
        """``items`` (bool [B]) continue from their best, with half the step size."""
        assert self._best is not None
        self._on_event(RolledBack(iteration, tuple(items.nonzero().flatten().tolist()), reason))
        self._variable = torch.where(per_item(items, self._variable), self._best.variable, self._variable)
        self._rate = torch.where(items, self._rate / 2, self._rate)
        self._adam = self._adam.reset(items)
        self._source.rolled_back()

    def _update(self, gradient: Tensor, broken: Tensor) -> None:
        """One step of Adam for all items that are not ``broken`` (bool [B])."""
        still = per_item(broken, gradient)
        self._adam, direction = self._adam.step(torch.where(still, 0, normalised(gradient)))
        self._adam = self._adam.reset(broken)
        moved = precise(self._variable) + per_item(self._rate, gradient) * torch.where(still, 0, direction)
        moved = self._options.constraint(moved, precise(self._source.problem.variable)).to(self._variable.dtype)
        moved = torch.where(still, self._variable, moved)
        self._source.moved(self._variable, moved)
        self._variable = moved

    def _finish(self, stopped: str | None) -> Optimized:
        """Sample the last update, and make one sample of all items' best."""
        if stopped is None:
            self._check_cancelled()
            self._judge_last_update()
        assert self._best is not None
        best = self._best
        # Bests of different iterations were never sampled together, and their samples may not be the sequential ones.
        if not self._source.sequential or bool((best.iterations != best.iterations[0]).any()):
            best = self._sampled_together(best)
            worse = ~(best.values <= best.first)
            if bool(worse.any()):  # an approximate trajectory misled these items: the initial noise is better
                variable = torch.where(per_item(worse, best.variable), self._source.problem.variable, best.variable)
                best = self._sampled_together(replace(best, variable=variable))
        self._best = best
        result = self._so_far(stopped)
        assert result is not None
        missing = self._options.iterations - len(self._values)
        return replace(result, history=torch.cat((result.history, best.values.expand(missing, -1))))

    def _judge_last_update(self) -> None:
        iteration = len(self._values)
        try:
            sample = self._source.sample(self._variable)
            values = evaluate(self._source.problem.objective, sample)
            self._keep_better(iteration, sample, values, torch.isfinite(values))
        except NonFiniteDenoised:
            broken = tuple(self._source.broken.nonzero().flatten().tolist())
            self._on_event(RolledBack(iteration, broken, _MODEL_BROKE))

    def _sampled_together(self, best: _BestItems) -> _BestItems:
        sample = self._source.sample(best.variable)
        return replace(best, sample=sample, values=evaluate(self._source.problem.objective, sample))

    def _so_far(self, stopped: str | None = None) -> Optimized | None:
        """The best so far, or None before the first sampling."""
        if self._best is None:
            return None
        best, problem = self._best, self._source.problem
        return Optimized(
            x=problem.x if problem.conditioned else best.variable,
            sample=best.sample,
            history=torch.stack(self._values),
            evaluations=self._source.evaluations,
            objective=best.values,
            sampled=tuple(self._sampled),
            condition=best.variable if problem.conditioned else None,
            stopped=stopped,
        )

    def _check_cancelled(self) -> None:
        if self._source.problem.cancelled():
            raise Cancelled("the optimisation was cancelled")


@dataclass(frozen=True, eq=False)
class _BestItems:
    """Each item's best ``variable``, its ``sample`` and objective ``values`` [B]; ``first`` [B]: the objective of the
    initial variable; ``iterations`` [B]: in which iteration each best was found."""

    variable: Tensor
    sample: Tensor
    values: Tensor
    first: Tensor
    iterations: Tensor

    def replaced(self, better: Tensor, variable: Tensor, sample: Tensor, values: Tensor, iteration: int) -> _BestItems:
        """With the items ``better`` (bool [B]) taken from the arguments."""
        return replace(
            self,
            variable=torch.where(per_item(better, variable), variable, self.variable),
            sample=torch.where(per_item(better, sample), sample, self.sample),
            values=torch.where(better, values, self.values),
            iterations=torch.where(better, iteration, self.iterations),
        )
