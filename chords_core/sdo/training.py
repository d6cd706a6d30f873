"""The training loop: Adam on the parameters, the best kept, broken updates rolled back, an end when idle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import Cancelled, InvalidInput, NonFiniteDenoised
from .events import RolledBack, Stopped, TrainingEvent, TrainingIterated
from .parameter_gradients import ParameterGradient
from .parameter_sources import Batch, BatchGradient, ParameterSource, put

_SMOOTHING = 0.8  # weight of the earlier batches in the mean of the objective
_MAX_NORM_RATIO = 3.0  # a gradient this many times the usual norm is shortened to that
_EXPLOSION_RATIO = 10.0  # an objective this many times its range above its best has exploded
_MAX_ROLLBACKS = 5  # in a row
_MIN_RELATIVE_GAIN = 1e-3  # relative to the gain so far: a smaller gain is no progress
_ROUNDING = 1e-6  # relative to the objective, likewise
_FINAL_RATE = 0.1  # the step size falls to this part of itself, because batches differ in their noise


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training. The parameters themselves hold the best.

    ``history`` [iterations, B]: the objective of each iteration's batch before its update (after an early stop: that of
    the best iteration); ``evaluations``: forward-equivalent model calls of a whole batch (forward 1, a step with its
    graph and backward 3, with checkpointing 4); ``best``: the iteration whose parameters are kept, from 0; the number
    of iterations where the last update is kept; ``drift``: of each iteration done, how far the predictions at the kept
    steps were from the old network's, relative RMS; empty where nothing holds the network; ``stopped``: why it ended
    early, or None.
    """

    history: Tensor
    evaluations: int
    best: int
    drift: tuple[float, ...]
    stopped: str | None = None


class TrainingCancelled(Cancelled):
    """The training was cancelled. The parameters hold the best so far.

    ``best``: what was done (its ``history`` has the iterations done), or None if no batch had been sampled.
    """

    def __init__(self, best: Trained | None) -> None:
        super().__init__("the training was cancelled")
        self.best = best


@dataclass(frozen=True)
class SmoothedMean:
    """The mean of the objective over the last batches, which differ in their noise.

    ``total``, ``weight``: sums with weights that decrease by `_SMOOTHING` a batch; ``last``: the last batch's mean.
    """

    total: float = 0.0
    weight: float = 0.0
    last: float = 0.0

    def after(self, value: float, same_noise: bool) -> SmoothedMean:
        """With the mean of one more batch. A batch of the same noise as the last one can be compared as it is: the
        mean moves by as much as it does."""
        if same_noise:
            return replace(self, total=self.total + self.weight * (value - self.last), last=value)
        return SmoothedMean(_SMOOTHING * self.total + value, _SMOOTHING * self.weight + 1, value)

    @property
    def value(self) -> float:
        """The mean."""
        return self.total / self.weight


class Training:
    """One training; `run` does it.

    Args:
        source: the gradients, and the problem they are of.
        iterations, lr, patience: as in `chords_core.optimize_parameters`.
        on_event: called with each event, in this thread.
    """

    def __init__(
        self,
        source: ParameterSource,
        iterations: int,
        lr: float,
        patience: int | None,
        on_event: Callable[[TrainingEvent], None] | None,
    ) -> None:
        self._source, self._iterations, self._lr, self._patience = source, iterations, lr, patience
        self._on_event = on_event or (lambda event: None)
        self._parameters = source.problem.parameters
        self._best_values = [parameter.detach().clone() for parameter in self._parameters]
        self._best, self._best_mean = 0, math.inf
        self._mean = SmoothedMean()
        self._means: list[float] = []  # of the batches that did not break
        self._last_gain = 0  # the last iteration that made progress
        self._values: list[Tensor] = []
        self._drift: list[float] = []
        self._norm: float | None = None  # the usual norm of the gradient
        self._rollbacks = 0
        self._optimizer = torch.optim.Adam(self._parameters, lr=lr)

    def run(self) -> Trained:
        """All iterations, and the check of the last update.

        Raises:
            TrainingCancelled: with the best so far in the parameters.
            InvalidInput, NonFiniteDenoised: for a model or an objective that cannot be used with the parameters as they
                came. They are as before then.
        """
        wanted = [(parameter.requires_grad, parameter.grad) for parameter in self._parameters]
        try:
            for parameter in self._parameters:
                parameter.requires_grad_(True)
            stopped = self._train()
            result = self._so_far(stopped)
            assert result is not None
            missing = self._iterations - len(self._values)
            row = self._values[min(self._best, len(self._values) - 1)]
            return replace(result, history=torch.cat((result.history, row.expand(missing, -1))))
        except Cancelled as error:
            raise TrainingCancelled(self._so_far(None)) from error
        finally:
            put(self._parameters, self._best_values)
            for parameter, (requires_grad, gradient) in zip(self._parameters, wanted, strict=True):
                parameter.requires_grad_(requires_grad)
                parameter.grad = gradient

    def _train(self) -> str | None:
        """All iterations; returns why they ended early, or None."""
        last: Batch | None = None
        for iteration in range(self._iterations):
            self._check_cancelled()
            batch = self._source.batch(iteration)
            try:
                found = self._source.gradient(batch)
            except NonFiniteDenoised:
                if not self._values:
                    raise
                self._values.append(torch.full_like(self._values[0], math.nan))
                self._roll_back(iteration, "the model returned NaN or infinity")
            else:
                self._iterate(iteration, found, batch.same_as(last))
                last = batch
            self._set_rate(iteration + 1)
            if (stopped := self._reason_to_stop(iteration)) is not None:
                self._on_event(Stopped(iteration, stopped))
                return stopped
        if last is not None:
            self._judge_last_update(last)
        return None

    def _iterate(self, iteration: int, found: BatchGradient, same_noise: bool) -> None:
        """Record a batch, and update the parameters or roll them back."""
        broken = self._reason_against(found)
        if broken is not None and iteration == 0:
            raise InvalidInput("objective", f"cannot be used with the parameters as they came ({broken})")
        self._values.append(found.values.detach())
        if self._source.problem.hold > 0:
            gradient = found.gradient
            self._drift.append(math.sqrt(gradient.moved / gradient.size) if gradient.size > 0 else 0.0)
        if broken is not None:
            self._roll_back(iteration, broken)
            return
        self._rollbacks = 0
        self._keep_better(iteration, float(found.values.float().mean()), same_noise)
        self._on_event(
            TrainingIterated(
                iteration,
                self._iterations,
                found.values.detach(),
                self._mean.value,
                self._best_mean,
                self._drift[-1] if self._drift else None,
                found.sample,
                self._source.evaluations,
            )
        )
        self._update(found.gradient)

    def _reason_against(self, found: BatchGradient) -> str | None:
        """Why training cannot go on from here, or None."""
        if not bool(torch.isfinite(found.values).all()):
            return "the objective is NaN or infinite"
        if not all(bool(torch.isfinite(gradient).all()) for gradient in found.gradient.gradients):
            return "its gradient is NaN or infinite"
        means = self._means
        if len(means) > 1:  # one value alone has no range
            span = max(abs(means[0]), max(means) - min(means))
            if float(found.values.float().mean()) - min(means) > _EXPLOSION_RATIO * span:
                return "the objective exploded"
        return None

    def _keep_better(self, iteration: int, value: float, same_noise: bool) -> None:
        """Take the mean of a batch into account, and keep the parameters if they are the best so far."""
        self._mean = self._mean.after(value, same_noise)
        self._means.append(value)
        if self._mean.value < self._best_mean:
            least = max(_MIN_RELATIVE_GAIN * (self._means[0] - self._mean.value), _ROUNDING * abs(self._mean.value))
            if self._best_mean - self._mean.value > least:
                self._last_gain = iteration
            self._best, self._best_mean = iteration, self._mean.value
            self._best_values = [parameter.detach().clone() for parameter in self._parameters]

    def _update(self, gradient: ParameterGradient) -> None:
        """One step of Adam (arXiv 1412.6980). A gradient much larger than usual is shortened."""
        norm = math.sqrt(sum(float(part.square().sum()) for part in gradient.gradients))
        usual = norm if self._norm is None else self._norm
        scale = min(1.0, _MAX_NORM_RATIO * usual / norm) if norm > 0 else 1.0
        self._norm = 0.9 * usual + 0.1 * scale * norm
        for parameter, part in zip(self._parameters, gradient.gradients, strict=True):
            parameter.grad = (scale * part).to(parameter.dtype)
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None

    def _set_rate(self, done: int) -> None:
        """The step size after ``done`` iterations: it falls in equal parts."""
        part = 1 - (1 - _FINAL_RATE) * done / self._iterations
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * part

    def _roll_back(self, iteration: int, reason: str) -> None:
        """Continue from the best parameters, with half the step size."""
        self._on_event(RolledBack(iteration, tuple(range(len(self._values[0]))), reason))
        put(self._parameters, self._best_values)
        self._lr /= 2
        self._rollbacks += 1
        self._optimizer = torch.optim.Adam(self._parameters, lr=self._lr)

    def _reason_to_stop(self, iteration: int) -> str | None:
        if self._rollbacks >= _MAX_ROLLBACKS:
            return f"the last {self._rollbacks} updates were rolled back"
        idle = iteration - self._last_gain
        if self._patience is not None and idle >= self._patience:
            return f"the mean objective has not improved for {idle} iterations"
        return None

    def _judge_last_update(self, batch: Batch) -> None:
        """Compare the last update on the last batch again."""
        self._check_cancelled()
        try:
            values = self._source.values(batch)
        except NonFiniteDenoised:
            return
        if bool(torch.isfinite(values).all()):
            self._keep_better(len(self._values), float(values.float().mean()), True)

    def _so_far(self, stopped: str | None) -> Trained | None:
        """What was done, or None before the first batch."""
        if not self._values:
            return None
        history = torch.stack(self._values)
        return Trained(history, self._source.evaluations, self._best, tuple(self._drift), stopped)

    def _check_cancelled(self) -> None:
        if self._source.problem.cancelled():
            raise Cancelled("the training was cancelled")
