"""``optimize_latent``: find the start whose sample fulfils an objective, with the graph of one step (SDO).

SDO (arXiv 2505.07477) samples without a graph, differentiates the last step alone (`sdo.gradients`) and takes
the start to that step as the identity. The same identity says how the sampled trajectory moves when the start
moves, so it is *carried*: after an update delta of the start the state before the last step is shifted by delta, and
only every ``refresh`` iterations is it sampled anew. A carried value is a prediction and may deceive: the best is
chosen by sampled trajectories alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import as_predicate, check_callable, check_choice, check_floating, check_whole, is_number, shown
from ..errors import Cancelled, InvalidInput, NonFiniteDenoised
from ..execution.pools import Denoise, Pool, check_pool
from ..sampling import check_sigmas
from ..solvers import find_step
from .adam import Adam, Regularise, check_regularise, normalised, per_item, precise, rms
from .gradients import ConditionedDenoise, Gradient, Objective, evaluate
from .trajectory import Found, Full, Shortcut, check_keep

GRADIENTS = ("shortcut", "full")

_EXPLODED = 10.0  # an objective this many times its range so far above its best
_WORTH_IT = 1e-3  # of the gain so far: less is no progress


@dataclass(frozen=True, eq=False)
class Optimized:
    """What an optimisation gave.

    ``x``: the best start [B, ...], each item's own best; ``sample``: what the sequential sampler makes of it, bit for
    bit; ``history`` [iterations, B]: the objective at each iteration's start, before its update (after an early stop,
    the best); ``evaluations``: forward-equivalent model calls: a forward 1, a step with graph and backward 3, with
    checkpointing 4. ``objective`` [B]: at ``sample``; ``sampled``: of each iteration done, whether its value in the
    history is of a sampled trajectory or of a carried one; ``condition``: the best conditioning, where that was
    optimised; ``stopped``: why it ended early, or None.
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
    """The optimisation was cancelled. ``best``: what it had found (``history`` holds the iterations done), or None
    if no trajectory had been sampled yet."""

    def __init__(self, best: Optimized | None) -> None:
        super().__init__("the optimisation was cancelled")
        self.best = best


@dataclass(frozen=True, eq=False)
class Iterated:
    """An iteration has its gradient: ``iteration`` from 0 ``of`` many, ``objective`` [B] of the current ``sample``,
    ``best`` [B] so far, whether the trajectory was ``sampled`` or carried, and the ``evaluations`` until now."""

    iteration: int
    of: int
    objective: Tensor
    best: Tensor
    sampled: bool
    sample: Tensor
    evaluations: int


@dataclass(frozen=True, eq=False)
class Improved:
    """A sampled trajectory is the best so far for some items: the best ``x`` (or conditioning) of all items, their
    ``sample`` and ``objective`` [B]. ``iteration`` is the number of iterations for the check after the last."""

    iteration: int
    x: Tensor
    sample: Tensor
    objective: Tensor


@dataclass(frozen=True, eq=False)
class Refreshed:
    """A carried trajectory was sampled anew: the objective [B] as ``predicted`` by carrying and as ``sampled`` (both
    at the same start), and the ``interval`` in iterations to the next time. Sent by an adaptive refresh."""

    iteration: int
    predicted: Tensor
    sampled: Tensor
    interval: int


@dataclass(frozen=True)
class RolledBack:
    """``items`` broke (NaN, infinity or an exploding objective, see ``reason``): they go on from their best start
    with half the step size."""

    iteration: int
    items: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Stopped:
    """Nothing has improved for a while, so the optimisation ends before its last iteration."""

    iteration: int
    reason: str


OptimizationEvent = Iterated | Improved | Refreshed | RolledBack | Stopped


def optimize_latent(
    denoise: Denoise | ConditionedDenoise,
    x: Tensor,
    sigmas: Tensor,
    objective: Objective,
    *,
    iterations: int = 50,
    lr: float = 0.05,
    gradient: str = "shortcut",
    refresh: int | str = 10,
    solver: str = "euler",
    on_event: Callable[[OptimizationEvent], None] | None = None,
    cancel: Callable[[], bool] | threading.Event | None = None,
    regularise: str = "norm",
    patience: int | None = 20,
    checkpoint: bool = True,
    keep: str | int | None = None,
    condition: Tensor | None = None,
    pool: Pool | None = None,
    cores: int = 1,
) -> Optimized:
    """Minimise ``objective`` of the sample over the start ``x`` (or over ``condition``), each item on its own.

    The result depends on the arguments alone. Adam on the gradient normalised item by item; the best start is kept
    item by item, judged by sampled trajectories only, so the result is never worse than ``x``.

    Args:
        denoise: ``denoise(x, sigma) -> denoised``, differentiable; with ``condition``,
            ``denoise(x, sigma, condition)``. Parameters that require a gradient cost memory: switch them off.
        x: the state at sigmas[0], [B, ...], floating point.
        sigmas: as in `chords_core.sample`.
        objective: ``objective(sample) -> [B]``, lower is better, differentiable.
        iterations: >= 1.
        lr: > 0; about the RMS of one update, in units of the RMS of ``x``.
        gradient: "shortcut" (SDO: the graph of one step) or "full" (backpropagation through all steps, for which
            ``refresh``, ``keep``, ``pool`` and ``cores`` mean nothing).
        refresh: sample the trajectory anew every that many iterations, 1 = plain SDO; or "adaptive": as rarely as
            the predictions of the carried trajectory come true.
        solver: "euler", "dpmpp_2m" or "res_multistep".
        on_event: called in this thread with each record of this module, in order.
        cancel: as in `chords_core.sample`.
        regularise: what of the start is kept: its "norm", its "moments" (mean and standard deviation) or "none".
        patience: end when no item has improved for that many iterations and two samplings; None: never.
        checkpoint: with gradient="full", run each step twice instead of holding its graph.
        keep: the step whose graph the shortcut keeps: "last", "spread" (another from iteration to iteration, all
            equally often) or an index; None: "last" for a start, "spread" for a conditioning.
        condition: optimise this [B, ...] (a prompt's embedding) instead of ``x``.
        pool: where trajectories are sampled on the way (`chords_core.sample`); gradients are always taken with
            ``denoise``, in this thread. None: inline.
        cores: CHORDS cores to sample with on the way, in as many lanes of ``pool``. With more than one the
            trajectories on the way are approximate (the first and the last are exact), and ``keep`` has the steps
            from the fastest core's start on.

    Raises:
        InvalidInput: before any model call, naming the argument.
        InvalidInput: after the first, for a model without gradient, or an objective without gradient, of the wrong
            shape, or not finite at the start.
        NonFiniteDenoised: if the model returns NaN or infinity at the start.
        OptimizationCancelled: after ``cancel``, with the best so far.
    """
    check_callable("denoise", denoise, "x and sigma")
    sigmas = _check(x, sigmas, iterations, lr, gradient, refresh, solver, patience, condition, pool, cores)
    regulariser = check_regularise(regularise)
    places = check_keep(keep, len(sigmas) - 1, cores, condition is not None)
    check_callable("objective", objective, "a sample")
    check_callable("on_event", on_event, "an event", optional=True)
    if not isinstance(checkpoint, bool):
        raise InvalidInput("checkpoint", f"must be True or False, not {shown(checkpoint)}")
    cancelled = as_predicate(cancel)
    # A host may work in inference mode, whose tensors can have no graph.
    with torch.inference_mode(False), torch.no_grad():
        x, sigmas = x.detach().clone(), sigmas.detach().clone().to(x.device)
        if condition is not None:
            condition = condition.detach().clone()
        work: Shortcut | Full
        if gradient == "full":
            work = Full(denoise, x, sigmas, objective, solver, condition, checkpoint)
        else:
            work = Shortcut(denoise, x, sigmas, objective, solver, condition, refresh, places, pool, cores)
        search = _Search(work, regulariser, iterations, lr, patience, on_event, cancelled)
        return search.run()


def _check(
    x: Tensor,
    sigmas: Tensor,
    iterations: int,
    lr: float,
    gradient: str,
    refresh: int | str,
    solver: str,
    patience: int | None,
    condition: Tensor | None,
    pool: Pool | None,
    cores: int,
) -> Tensor:
    """The checked sigmas, or InvalidInput for whatever argument cannot work."""
    _check_batch("x", x)
    sigmas = check_sigmas(sigmas)
    check_whole("iterations", iterations)
    if not is_number(lr) or not 0 < lr < math.inf:
        raise InvalidInput("lr", f"must be a positive number, not {shown(lr)}")
    check_choice("gradient", gradient, GRADIENTS)
    find_step(solver)
    if not (isinstance(refresh, str) and refresh == "adaptive"):
        check_whole("refresh", refresh, otherwise=' or "adaptive"')
    if patience is not None:
        check_whole("patience", patience, otherwise=" or None")
    check_whole("cores", cores)
    check_pool(pool)
    if condition is not None:
        _check_batch("condition", condition)
        if len(condition) != len(x):
            raise InvalidInput("condition", f"has {len(condition)} items for {len(x)} of x")
        if pool is not None or cores != 1:
            raise InvalidInput("condition", "cannot be optimised with lanes, whose models have conditions of their own")
    return sigmas


def _check_batch(name: str, x: Tensor) -> None:
    check_floating(name, x)
    if x.ndim == 0 or x.numel() == 0:
        raise InvalidInput(name, f"must be a batch [B, ...] of at least one item, not of shape {tuple(x.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise InvalidInput(name, "has NaN or infinity")


class _Search:
    """Descent with each item's best kept."""

    def __init__(
        self,
        work: Shortcut | Full,
        regularise: Regularise,
        iterations: int,
        lr: float,
        patience: int | None,
        on_event: Callable[[OptimizationEvent], None] | None,
        cancelled: Callable[[], bool],
    ) -> None:
        self._work = work
        self._regularise = regularise
        self._iterations = iterations
        self._patience = patience
        self._on_event = on_event or (lambda event: None)
        self._cancelled = work.cancelled = cancelled
        size = rms(work.start)
        self._rate = lr * torch.where(size > 0, size, 1)  # [B]: of an update, in the variable's own units
        self._adam = Adam.start(work.start)
        self._variable = work.start
        self._values: list[Tensor] = []
        self._sampled: list[bool] = []
        self._best: _Best | None = None
        self._progress = 0  # the last iteration that brought some

    def run(self) -> Optimized:
        try:
            return self._finish(self._descend())
        except Cancelled as error:
            raise OptimizationCancelled(self._so_far()) from error

    def _descend(self) -> str | None:
        """All iterations; returns why they ended early, if they did."""
        for iteration in range(self._iterations):
            self._check_cancelled()
            step = self._gradient(iteration)
            found, sampled = step.gradient, step.sampled
            broken, reason = self._broken(found)
            if iteration == 0 and bool(broken.any()):
                items = broken.nonzero().flatten().tolist()
                raise InvalidInput("objective", f"is not usable at the start ({reason}, items {items} of the batch)")
            self._values.append(found.values)
            self._sampled.append(sampled)
            if step.predicted is not None:
                self._on_event(Refreshed(iteration, step.predicted, found.values, step.interval))
            if sampled:
                self._judge(iteration, self._variable, found.sample, found.values, ~broken)
            assert self._best is not None
            self._on_event(
                Iterated(
                    iteration,
                    self._iterations,
                    found.values,
                    self._best.values,
                    sampled,
                    found.sample,
                    self._work.evaluations,
                )
            )
            idle = iteration - self._progress
            if bool(broken.any()):
                self._roll_back(iteration, broken, reason)
            elif sampled and self._patience is not None and idle >= max(self._patience, 2 * step.interval):
                stopped = f"nothing has improved for {idle} iterations"
                self._on_event(Stopped(iteration, stopped))
                return stopped
            self._update(found.gradient, broken)
        return None

    def _gradient(self, iteration: int) -> Found:
        """The gradient at the current variable. Items whose model broke on the way are rolled back first."""
        try:
            return self._work.gradient(iteration, self._variable)
        except NonFiniteDenoised:
            if self._best is None:
                raise
            broken = self._work.broken
            if not bool(broken.any()):  # a lane found it
                broken = torch.ones_like(broken)
            self._roll_back(iteration, broken, "the model returned NaN or infinity")
            return self._work.gradient(iteration, self._variable)

    def _broken(self, found: Gradient) -> tuple[Tensor, str]:
        """Which items [B] cannot go on from here, and why."""
        values = found.values
        finite = torch.isfinite(values)
        finite_gradient = torch.isfinite(found.gradient).reshape(len(values), -1).all(1)
        exploded = torch.zeros_like(finite)
        if len(self._values) > 1 and self._best is not None:  # one value has no range yet
            seen = torch.stack(self._values).nan_to_num(posinf=0.0, neginf=0.0)
            span = torch.maximum(seen[0].abs(), seen.amax(0) - seen.amin(0))
            exploded = finite & (values - self._best.values > _EXPLODED * span)
        reasons = (
            (~finite, "the objective is NaN or infinite"),
            (finite & ~finite_gradient, "its gradient is NaN or infinite"),
            (exploded, "the objective exploded"),
        )
        return ~finite | ~finite_gradient | exploded, ", ".join(text for items, text in reasons if bool(items.any()))

    def _judge(self, iteration: int, variable: Tensor, end: Tensor, values: Tensor, usable: Tensor) -> None:
        """Keep what a sampled trajectory has made better."""
        if self._best is None:
            self._best = _Best(variable, end, values, values, torch.full_like(usable, iteration, dtype=torch.int64))
        else:
            better = usable & (values < self._best.values)
            if not bool(better.any()):
                return
            gain = self._best.values - values
            if bool((better & (gain > _WORTH_IT * (self._best.first - values))).any()):
                self._progress = iteration
            self._best = self._best.where(better, variable, end, values, iteration)
        self._on_event(Improved(iteration, self._best.variable, self._best.sample, self._best.values))

    def _roll_back(self, iteration: int, items: Tensor, reason: str) -> None:
        assert self._best is not None
        self._on_event(RolledBack(iteration, tuple(items.nonzero().flatten().tolist()), reason))
        self._variable = torch.where(per_item(items, self._variable), self._best.variable, self._variable)
        self._rate = torch.where(items, self._rate / 2, self._rate)
        self._adam = self._adam.forget(items)
        self._work.rolled_back()

    def _update(self, gradient: Tensor, broken: Tensor) -> None:
        """One step of Adam for all items but the broken."""
        still = per_item(broken, gradient)
        self._adam, direction = self._adam.step(torch.where(still, 0, normalised(gradient)))
        self._adam = self._adam.forget(broken)
        moved = precise(self._variable) + per_item(self._rate, gradient) * torch.where(still, 0, direction)
        moved = self._regularise(moved, precise(self._work.start)).to(self._variable.dtype)
        moved = torch.where(still, self._variable, moved)
        self._work.move(self._variable, moved)
        self._variable = moved

    def _finish(self, stopped: str | None) -> Optimized:
        """Judge the last update by sampling it, and make one sample of all items' best."""
        work = self._work
        if stopped is None:
            self._check_cancelled()
            try:
                end = work.sample(self._variable)
                values = evaluate(work.objective, end)
                self._judge(len(self._values), self._variable, end, values, torch.isfinite(values))
            except NonFiniteDenoised:
                broken = tuple(work.broken.nonzero().flatten().tolist())
                self._on_event(RolledBack(len(self._values), broken, "the model returned NaN or infinity"))
        assert self._best is not None
        best = self._best
        # Items' bests of different iterations have never been sampled together, nor has what a graph or CHORDS made.
        if isinstance(work, Full) or work.approximate or bool((best.iterations != best.iterations[0]).any()):
            best = self._together(best)
            worse = ~(best.values <= best.first)
            if bool(worse.any()):  # an approximation was mistaken: the start is better
                variable = torch.where(per_item(worse, best.variable), work.start, best.variable)
                best = self._together(replace(best, variable=variable))
        self._best = best
        result = self._so_far(stopped)
        assert result is not None
        missing = self._iterations - len(self._values)
        return replace(result, history=torch.cat((result.history, best.values.expand(missing, -1))))

    def _together(self, best: _Best) -> _Best:
        end = self._work.sample(best.variable)
        return replace(best, sample=end, values=evaluate(self._work.objective, end))

    def _so_far(self, stopped: str | None = None) -> Optimized | None:
        if self._best is None:
            return None
        best, work = self._best, self._work
        return Optimized(
            x=work.x if work.conditioned else best.variable,
            sample=best.sample,
            history=torch.stack(self._values),
            evaluations=work.evaluations,
            objective=best.values,
            sampled=tuple(self._sampled),
            condition=best.variable if work.conditioned else None,
            stopped=stopped,
        )

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise Cancelled("the optimisation was cancelled")


@dataclass(frozen=True, eq=False)
class _Best:
    """Each item's best variable, its ``sample`` and value, the value it began with, and the iteration it is of."""

    variable: Tensor
    sample: Tensor
    values: Tensor
    first: Tensor
    iterations: Tensor

    def where(self, better: Tensor, variable: Tensor, end: Tensor, values: Tensor, iteration: int) -> _Best:
        """With the items ``better`` (bool [B]) replaced."""
        return replace(
            self,
            variable=torch.where(per_item(better, variable), variable, self.variable),
            sample=torch.where(per_item(better, end), end, self.sample),
            values=torch.where(better, values, self.values),
            iterations=torch.where(better, iteration, self.iterations),
        )
