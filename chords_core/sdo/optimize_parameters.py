"""``optimize_parameters``: train parameters of the network so that its samples meet an objective (SDO)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._types import Pool
from ..checks import as_predicate, check_callable, check_choice, check_floating, check_whole, is_number, shown
from ..errors import InvalidInput
from ..execution.pools import check_pool
from ..methods.window_spec import check_tolerance
from ..sampling import check_sigmas
from ..solvers import find_step
from .events import TrainingEvent
from .optimize import GRADIENTS
from .parameter_sources import ParameterSource, TrainingProblem
from .training import Trained, Training

_SHARES = (0.2, 0.5, 0.8)
"""Where the kept steps are, as shares of all steps. Their gradient is near to that of all steps, and that of the last
steps alone is not (benchmarks/results/sdo_lora.md)."""


def optimize_parameters(
    denoise: Callable[..., Tensor],
    parameters: Iterable[Tensor],
    starts: Callable[[int], Tensor],
    sigmas: Tensor,
    objective: Callable[..., Tensor],
    *,
    iterations: int = 100,
    lr: float = 1e-3,
    gradient: str = "shortcut",
    keep: Sequence[int] | int | None = None,
    solver: str = "euler",
    tolerance: float | None = None,
    on_event: Callable[[TrainingEvent], None] | None = None,
    cancel: Callable[[], bool] | threading.Event | None = None,
    conditions: Callable[[int], Sequence[Any]] | None = None,
    reference: Callable[..., Tensor] | None = None,
    hold: float = 1.0,
    micro_batch: int | None = None,
    patience: int | None = 50,
    checkpoint: bool = True,
    pool: Pool | None = None,
    cores: int = 1,
) -> Trained:
    """Minimise the mean ``objective`` of samples from any noise over ``parameters``, which change in place.

    Each iteration samples a batch without a graph, and takes the gradient through a few steps, as if the way between
    them were straight (`parameter_gradients`). Micro-batches are taken one after another, and so are the steps: memory
    holds the graph of one step for one micro-batch, for any number of items and steps. Adam makes the updates. The
    parameters of the lowest mean objective over the last batches (at least five, and 20 items) are kept, also after a
    cancel or an error.

    Args:
        denoise: ``denoise(x, sigma) -> denoised`` for any number of items, differentiable in ``parameters``; with
            ``conditions``: ``denoise(x, sigma, conditions)``.
        parameters: leaf tensors, floating point. What they need of a gradient is put back afterwards.
        starts: ``starts(i)``, the noise of iteration i at sigmas[0], [B, ...]; B is the same in all iterations.
        sigmas: as in `chords_core.sample`.
        objective: ``objective(sample) -> [B]``, lower is better, differentiable; with ``conditions``:
            ``objective(sample, conditions)``.
        iterations: >= 1.
        lr: > 0, Adam's step size in the first iteration. It falls in equal parts to a tenth of that in the last.
        gradient: "shortcut" (SDO: the graph of the steps in ``keep``) or "full" (backpropagation through all steps).
        keep: the indices of the steps whose graph the shortcut keeps, one after another; None: three of them, at 20, 50
            and 80 % of the steps. The network is held at these steps.
        solver: one of `chords_core.SOLVERS` that is a single step function.
        tolerance: sample with fewer calls, as in `chords_core.sample`. Not with gradient="full". With a tolerance or
            several cores the kept steps are the nearest ones at which the resulting trajectory called the model.
        on_event: called in this thread with each event (`chords_core.sdo.events.TrainingEvent`), in order.
        cancel: as in `chords_core.sample`.
        conditions: ``conditions(i)``, one thing for each item of iteration i, for example the number of its prompt.
            ``denoise``, ``objective`` and ``reference`` get a tuple of those of their items as a further argument.
        reference: the old network, called as ``denoise``, without a graph; None: the parameters as they came.
        hold: >= 0, how strongly the predictions are held near those of the old network: the weight of their squared
            difference (summed over an item's elements, averaged over the kept steps), where the objective's gradient
            at the sample has RMS 1 in the batch that has the largest so far. 0: not at all, which also saves up to
            three evaluations a kept step.
        micro_batch: how many items to take at a time; None: one, or the whole batch where ``denoise`` or ``objective``
            fails at a single item.
        patience: end when the mean has not improved for that many iterations; None: never.
        checkpoint: with gradient="full", run each step twice instead of keeping its graph.
        pool: where to sample (`chords_core.sample`); None: inline. Each lane's model has to use these very
            ``parameters``. Gradients always use ``denoise``, in this thread.
        cores: how many cores sample, in as many lanes of ``pool``.

    Raises:
        InvalidInput: before any model call, naming the argument.
        InvalidInput: after the first call, for a model that has no gradient, or for an objective that has no gradient,
            has the wrong shape, or is not finite at first.
        NonFiniteDenoised: if the model returns NaN or infinity at first.
        TrainingCancelled: after ``cancel``; the parameters hold the best so far.
    """
    check_callable("denoise", denoise, "x and sigma")
    check_callable("starts", starts, "a number")
    check_callable("objective", objective, "a sample")
    check_callable("conditions", conditions, "a number", optional=True)
    check_callable("reference", reference, "x and sigma", optional=True)
    check_callable("on_event", on_event, "an event", optional=True)
    sigmas = check_sigmas(sigmas)
    _check_training(iterations, lr, gradient, hold, micro_batch, patience, checkpoint)
    _check_sampling(solver, gradient, tolerance, pool, cores, conditions)
    problem_parameters = _checked_parameters(parameters)
    # A host may work in inference mode, whose tensors can have no graph.
    with torch.inference_mode(False), torch.no_grad():
        problem = TrainingProblem(
            denoise=denoise,
            parameters=problem_parameters,
            starts=starts,
            sigmas=sigmas.detach().clone().to(problem_parameters[0].device),
            objective=objective,
            solver=solver,
            kept=steps_to_train(keep, len(sigmas) - 1),
            full=gradient == "full",
            checkpoint=checkpoint,
            conditions=conditions,
            reference=reference,
            hold=hold,
            micro_batch=micro_batch,
            tolerance=tolerance,
            pool=pool,
            cores=cores,
            cancelled=as_predicate(cancel),
        )
        return Training(ParameterSource(problem), iterations, lr, patience, on_event).run()


def steps_to_train(keep: Sequence[int] | int | None, steps: int) -> tuple[int, ...]:
    """The indices of the steps whose graph is kept, in order, from the argument ``keep``.

    Raises:
        InvalidInput: if ``keep`` names no step, or one that is not there.
    """
    if keep is None:
        return tuple(sorted({int(share * steps) for share in _SHARES}))
    indices = (keep,) if isinstance(keep, int) else keep
    if (
        not isinstance(indices, Sequence)
        or isinstance(indices, str)
        or not indices
        or not all(isinstance(index, int) and not isinstance(index, bool) for index in indices)
        or not all(0 <= index < steps for index in indices)
        or len(set(indices)) != len(indices)
    ):
        raise InvalidInput("keep", f"must be steps of 0..{steps - 1}, each once, or None, not {shown(keep)}")
    return tuple(sorted(indices))


def _checked_parameters(parameters: Iterable[Tensor]) -> tuple[Tensor, ...]:
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise InvalidInput("parameters", f"must be a list of tensors, not {shown(parameters)}")
    found = tuple({id(parameter): parameter for parameter in parameters}.values())
    for parameter in found:
        if not isinstance(parameter, Tensor):
            raise InvalidInput("parameters", f"must be tensors, not {shown(parameter)}")
    if not found:
        raise InvalidInput("parameters", "there are none, so there is nothing to train")
    for number, parameter in enumerate(found):
        name = f"parameters[{number}]"
        check_floating(name, parameter)
        if not parameter.is_leaf:
            raise InvalidInput(name, "is not a leaf tensor: it is the result of an operation with a graph")
        if parameter.is_inference():
            raise InvalidInput(name, "was made in inference mode, so it can have no gradient; clone it outside of it")
        if not bool(torch.isfinite(parameter).all()):
            raise InvalidInput(name, "has NaN or infinity")
    return found


def _check_training(
    iterations: int,
    lr: float,
    gradient: str,
    hold: float,
    micro_batch: int | None,
    patience: int | None,
    checkpoint: bool,
) -> None:
    """Raise `InvalidInput` for an argument of the training that cannot work."""
    check_whole("iterations", iterations)
    if not is_number(lr) or not 0 < lr < math.inf:
        raise InvalidInput("lr", f"must be a positive number, not {shown(lr)}")
    check_choice("gradient", gradient, GRADIENTS)
    if not is_number(hold) or not 0 <= hold < math.inf:
        raise InvalidInput("hold", f"must be a number of at least 0, not {shown(hold)}")
    for name, value in (("micro_batch", micro_batch), ("patience", patience)):
        if value is not None:
            check_whole(name, value, otherwise=" or None")
    if not isinstance(checkpoint, bool):
        raise InvalidInput("checkpoint", f"must be True or False, not {shown(checkpoint)}")


def _check_sampling(
    solver: str,
    gradient: str,
    tolerance: float | None,
    pool: Pool | None,
    cores: int,
    conditions: Callable[[int], Sequence[Any]] | None,
) -> None:
    """Raise `InvalidInput` for a way to sample that cannot work."""
    find_step(solver)
    if tolerance is not None:
        check_tolerance(tolerance)
        if gradient == "full":
            raise InvalidInput("tolerance", 'must be None with gradient="full", which goes through all steps')
    check_whole("cores", cores)
    check_pool(pool)
    if conditions is not None and pool is not None:
        raise InvalidInput("conditions", "cannot be used with lanes, because each lane has its own conditioning")
