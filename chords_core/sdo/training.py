"""The training loop: Adam on the parameters, the best kept, broken updates rolled back, an end when idle."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import Cancelled, InvalidInput, NonFiniteDenoised
from .batch import precise
from .events import RolledBack, Stopped, TrainingEvent, TrainingIterated
from .parameter_gradients import ParameterGradient
from .parameter_sources import Batch, BatchGradient, ParameterSource, put

_MEAN_ITEMS, _MEAN_BATCHES = 20, 5  # the mean objective is over at least so many of the last items and batches
_MAX_NORM_RATIO = 3.0  # a gradient this many times the usual norm is shortened to that
_EXPLOSION_RATIO = 10.0  # an objective this many times its range above its best has exploded
_EARLY_EXPLOSION_RATIO = 1000.0  # the same relative to the largest so far, while few batches have shown no range yet
_MAX_ROLLBACKS = 5  # updates in a row
_FINAL_RATE = 0.1  # the step size falls to this part of itself, because batches differ in their noise
_MIN_RELATIVE_GAIN = 1e-3  # relative to the gain so far: a smaller gain is no progress
_ROUNDING = 1e-6  # relative to the objective, likewise


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training. The parameters themselves hold the best.

    ``history`` [iterations, B]: the objective of each iteration's batch before its update (after an early stop: that of
    the best iteration); ``evaluations``: forward-equivalent model calls of a whole batch (forward 1, a step with its
    graph and backward 3, with checkpointing 4); ``best``: the iteration whose parameters are kept, from 0; the number
    of iterations where the last update is kept; ``drift``: of each iteration done, how far the predictions at the kept
    steps were from the old network's, relative RMS, NaN where the model broke; empty where nothing holds the network;
    ``stopped``: why it ended early, or None.
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


class RunningMean:
    """The mean of the objective over the last batches, which differ in their noise and in their prompts.

    Means of fewer than ``count`` batches are not `comparable`: one lucky batch would look like the best.
    """

    def __init__(self, count: int) -> None:
        self._values: deque[float] = deque(maxlen=count)
        self.comparable = False

    def add(self, value: float, same_noise: bool) -> None:
        """Take the mean of one more batch. One of the same noise as the last can be compared as it is: the mean moves
        by as much as it does."""
        if same_noise and self._values:
            moved = value - self._values[-1]
            self._values = deque((old + moved for old in self._values), self._values.maxlen)
            self.comparable = True
        else:
            self._values.append(value)
            self.comparable = len(self._values) == self._values.maxlen

    @property
    def value(self) -> float:
        """The mean."""
        return sum(self._values) / len(self._values)


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
        # Adam works in float32: half precision would lose small updates, and its eps is 0 there.
        self._masters = [precise(parameter.detach()).clone() for parameter in self._parameters]
        self._best, self._best_mean = 0, math.inf
        self._mean = RunningMean(_MEAN_BATCHES)
        self._means: list[float] = []  # of the batches that did not break
        self._last_gain, self._mean_at_gain = 0, math.inf  # the last iteration that made progress
        self._values: list[Tensor] = []
        self._drift: list[float] = []
        self._norm: float | None = None  # the usual norm of the gradient
        self._rollbacks = 0
        self._updated = False  # whether the parameters have moved since they were last put back
        self._optimizer = torch.optim.Adam(self._masters, lr=lr)

    def run(self) -> Trained:
        """All iterations, and the check of the last update.

        Raises:
            TrainingCancelled: with the best so far in the parameters.
            InvalidInput, NonFiniteDenoised: for a model or an objective that cannot be used at first. The
                parameters are as before then.
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
            if iteration == 0:
                self._mean = RunningMean(max(_MEAN_BATCHES, math.ceil(_MEAN_ITEMS / len(batch.x))))
            if self._iterate(iteration, batch, batch.same_as(last)):
                last = batch
            self._set_rate(iteration + 1)
            if (stopped := self._reason_to_stop(iteration)) is not None:
                self._on_event(Stopped(iteration, stopped))
                return stopped
        if last is not None and self._updated:
            self._judge_last_update(last)
        return None

    def _iterate(self, iteration: int, batch: Batch, same_noise: bool) -> bool:
        """An iteration; returns whether its update was made, or was rolled back."""
        try:
            found = self._source.gradient(batch)
        except NonFiniteDenoised:
            if not self._values:
                raise
            self._record(torch.full_like(self._values[0], math.nan), math.nan)
            self._roll_back(iteration, "the model returned NaN or infinity")
            return False
        broken = self._reason_against(found)
        if broken is not None and iteration == 0:
            name, reason = broken
            raise InvalidInput(name, f"cannot be used at first, before any update: {reason}")
        gradient = found.gradient
        self._record(found.values, math.sqrt(gradient.moved / gradient.size) if gradient.size > 0 else 0.0)
        if broken is not None:
            self._roll_back(iteration, broken[1])
            return False
        if self._updated:
            self._rollbacks = 0
        self._keep_better(iteration, float(found.values.float().mean()), same_noise)
        self._tell(iteration, found)
        self._update(gradient)
        return True

    def _record(self, values: Tensor, drift: float) -> None:
        self._values.append(values)
        if self._source.problem.hold > 0:
            self._drift.append(drift)

    def _tell(self, iteration: int, found: BatchGradient) -> None:
        best = min(self._best_mean, self._mean.value)
        drift, evaluations = self._drift[-1] if self._drift else None, self._source.evaluations
        self._on_event(
            TrainingIterated(
                iteration, self._iterations, found.values, self._mean.value, best, drift, found.sample, evaluations
            )
        )

    def _reason_against(self, found: BatchGradient) -> tuple[str, str] | None:
        """Why training cannot go on from here, after the argument that is to blame; None if it can."""
        if not bool(torch.isfinite(found.values).all()):
            return "objective", "it is NaN or infinite"
        if not all(bool(torch.isfinite(gradient).all()) for gradient in found.gradient.gradients):
            return "denoise", "its gradient, or that of the objective, is NaN or infinite"
        return ("objective", "it exploded") if self._exploded(float(found.values.float().mean())) else None

    def _exploded(self, value: float) -> bool:
        """Whether the mean of a batch is far above those of all batches before it."""
        means = self._means
        if not means:
            return False
        if len(means) < _MEAN_BATCHES:
            largest = max(abs(mean) for mean in means)
            return largest > 0 and value > _EARLY_EXPLOSION_RATIO * largest
        span = max(abs(means[0]), max(means) - min(means))
        return span > 0 and value - min(means) > _EXPLOSION_RATIO * span

    def _keep_better(self, iteration: int, value: float, same_noise: bool) -> None:
        """Take the mean of a batch into account, and keep the parameters if they are the best so far.

        While means cannot be compared, the latest parameters count as the best.
        """
        if same_noise and not self._mean.comparable:  # then so is the batch before, whose parameters are kept
            self._best_mean = self._mean_at_gain = self._mean.value
        self._means.append(value)
        self._mean.add(value, same_noise)
        mean = self._mean.value
        if not self._mean.comparable:
            self._keep(iteration)
            self._last_gain = iteration
        elif mean < self._best_mean:
            self._keep(iteration)
            self._best_mean = mean
            least = max(_MIN_RELATIVE_GAIN * (self._means[0] - mean), _ROUNDING * abs(mean))
            if self._mean_at_gain - mean > least:
                self._last_gain, self._mean_at_gain = iteration, mean

    def _keep(self, iteration: int) -> None:
        self._best, self._best_values = iteration, [parameter.detach().clone() for parameter in self._parameters]

    def _update(self, gradient: ParameterGradient) -> None:
        """One step of Adam (arXiv 1412.6980). A gradient much larger than usual is shortened."""
        norm = math.sqrt(sum(float(part.double().square().sum()) for part in gradient.gradients))
        scale = 1.0
        if norm > 0:  # else there is nothing to learn from this batch
            usual = norm if self._norm is None else self._norm
            scale = min(1.0, _MAX_NORM_RATIO * usual / norm)
            self._norm = 0.9 * usual + 0.1 * scale * norm
        for master, part in zip(self._masters, gradient.gradients, strict=True):
            master.grad = (scale * part).to(master.dtype)
        self._optimizer.step()
        put(self._parameters, self._masters)
        self._updated = True

    def _set_rate(self, done: int) -> None:
        """The step size after ``done`` iterations: it falls in equal parts."""
        part = 1 - (1 - _FINAL_RATE) * done / self._iterations
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr * part

    def _roll_back(self, iteration: int, reason: str) -> None:
        """Continue from the best parameters, with half the step size."""
        self._on_event(RolledBack(iteration, tuple(range(len(self._values[0]))), reason))
        put(self._parameters, self._best_values)
        put(self._masters, self._best_values)
        self._lr /= 2
        self._rollbacks += 1
        self._updated = False
        self._optimizer = torch.optim.Adam(self._masters, lr=self._lr)

    def _reason_to_stop(self, iteration: int) -> str | None:
        if self._rollbacks >= _MAX_ROLLBACKS:
            return f"the last {self._rollbacks} updates were rolled back: try a smaller step size"
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
