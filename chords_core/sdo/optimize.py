"""``optimize_latent``: find the initial noise whose sample meets an objective, with the graph of one step (SDO).

SDO (arXiv 2505.07477) samples without a graph and differentiates one step alone. This takes a few steps one after
another, and first-order steps between them (`gradients`). In the same way the sampled trajectory is carried along when
the noise moves (`trajectory`), so it is sampled only every ``refresh`` iterations. A carried value is a prediction and
may be wrong: only sampled trajectories decide which noise is the best.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._types import Denoise, Objective, Pool
from ..checks import as_predicate, check_callable, check_choice, check_floating, check_whole, is_number, shown
from ..errors import InvalidInput
from ..execution.pools import check_pool
from ..sampling import check_sigmas
from ..solvers import find_step
from .batch import finite_items
from .descent import Descent, DescentOptions, Optimized
from .events import OptimizationEvent
from .gradient_sources import FullBackprop, GradientSource, Problem, Refresh, ShortcutGradient
from .gradients import ConditionedDenoise
from .noise_constraints import noise_constraint
from .trajectory import steps_to_keep

GRADIENTS = ("shortcut", "full")


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
    keep: str | int | Sequence[int] = "spread",
    condition: Tensor | None = None,
    pool: Pool | None = None,
    cores: int = 1,
) -> Optimized:
    """Minimise ``objective`` of the sample over the initial noise ``x`` (or over ``condition``), item by item.

    Adam moves each item along its normalised gradient. The best noise is kept for each item, judged by sampled
    trajectories only, so the result is never worse than ``x``. The result depends on the arguments alone.

    Args:
        denoise: ``denoise(x, sigma) -> denoised``, differentiable; with ``condition``:
            ``denoise(x, sigma, condition)``. Parameters that require a gradient cost memory: switch that off.
        x: the state at sigmas[0], [B, ...], floating point.
        sigmas: as in `chords_core.sample`.
        objective: ``objective(sample) -> [B]``, lower is better, differentiable.
        iterations: >= 1.
        lr: > 0; about the RMS of one update, relative to the RMS of ``x``.
        gradient: "shortcut" (SDO: the graphs of a few steps) or "full" (backpropagation through all steps; ``refresh``,
            ``keep``, ``pool`` and ``cores`` have no effect then).
        refresh: sample the trajectory every that many iterations, 1 is plain SDO; or "adaptive": less often while the
            carried trajectory predicts well.
        solver: one of `chords_core.SOLVERS` that is a single step function.
        on_event: called in this thread with each event of `chords_core.sdo.events`, in order.
        cancel: as in `chords_core.sample`.
        regularise: what each update keeps of ``x``: its "norm", its "moments" (mean and standard deviation) or "none".
        patience: end when no item has improved for that many iterations and two samplings; None: never.
        checkpoint: with gradient="full", run each step twice instead of keeping its graph.
        keep: the steps whose graphs the shortcut keeps, one at a time: "spread" (three, spread over all), "last" (SDO
            as published), an index or several.
        condition: optimise this [B, ...] (the embedding of a prompt) instead of ``x``.
        pool: where to sample trajectories on the way (`chords_core.sample`); None: inline. Gradients always use
            ``denoise``, in this thread.
        cores: CHORDS cores for the sampling on the way, in as many lanes of ``pool``. With more than one, trajectories
            on the way are approximate (the first and the last are exact), and ``keep`` can be a step from the start
            index of the fastest core on.

    Raises:
        InvalidInput: before any model call, naming the argument.
        InvalidInput: after the first call, for a model that has no gradient, or for an objective that has no gradient,
            has the wrong shape, or is not finite at ``x``.
        NonFiniteDenoised: if the model returns NaN or infinity at ``x``.
        OptimizationCancelled: after ``cancel``, with the best so far.
    """
    check_callable("denoise", denoise, "x and sigma")
    sigmas = _check(x, sigmas, iterations, lr, gradient, refresh, solver, patience)
    _check_sampling(x, condition, pool, cores)
    constraint = noise_constraint(regularise)
    kept = steps_to_keep(keep, len(sigmas) - 1, cores)
    check_callable("objective", objective, "a sample")
    check_callable("on_event", on_event, "an event", optional=True)
    if not isinstance(checkpoint, bool):
        raise InvalidInput("checkpoint", f"must be True or False, not {shown(checkpoint)}")
    cancelled = as_predicate(cancel)
    # A host may work in inference mode, whose tensors can have no graph.
    with torch.inference_mode(False), torch.no_grad():
        x, sigmas = x.detach().clone(), sigmas.detach().clone().to(x.device)
        condition = None if condition is None else condition.detach().clone()
        problem = Problem(denoise, x, sigmas, objective, solver, condition, cancelled)
        source: GradientSource
        if gradient == "full":
            source = FullBackprop(problem, checkpoint)
        else:
            source = ShortcutGradient(problem, Refresh(refresh, kept, pool, cores))
        return Descent(source, DescentOptions(iterations, lr, patience, constraint), on_event).run()


def _check(
    x: Tensor,
    sigmas: Tensor,
    iterations: int,
    lr: float,
    gradient: str,
    refresh: int | str,
    solver: str,
    patience: int | None,
) -> Tensor:
    """The checked sigmas, or `InvalidInput` for an argument of the descent that cannot work."""
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
    return sigmas


def _check_sampling(x: Tensor, condition: Tensor | None, pool: Pool | None, cores: int) -> None:
    """Raise `InvalidInput` for a conditioning or lanes that cannot work."""
    check_whole("cores", cores)
    check_pool(pool)
    if condition is None:
        return
    _check_batch("condition", condition)
    if len(condition) != len(x):
        raise InvalidInput("condition", f"has {len(condition)} items for {len(x)} of x")
    if pool is not None or cores != 1:
        raise InvalidInput("condition", "cannot be optimised with lanes, because each lane has its own conditioning")


def _check_batch(name: str, x: Tensor) -> None:
    check_floating(name, x)
    if x.ndim == 0 or x.numel() == 0:
        raise InvalidInput(name, f"must be a batch [B, ...] of at least one item, not of shape {tuple(x.shape)}")
    if not bool(finite_items(x).all()):
        raise InvalidInput(name, "has NaN or infinity")
