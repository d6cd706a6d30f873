"""Choosing among random starts: where a wish is one of a few things a model may draw, no gradient leads to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_callable, check_floating
from ..errors import InvalidInput
from ..execution.pools import Denoise
from ..sampling import check_sigmas, sample
from .gradients import Objective, evaluate


@dataclass(frozen=True, eq=False)
class Chosen:
    """The best of several starts, item by item: ``x`` [B, ...]; ``values`` [C, B]: the objective of all;
    ``choice`` [B]: which was taken; ``evaluations``: model calls."""

    x: Tensor
    values: Tensor
    choice: Tensor
    evaluations: int


def choose_start(
    denoise: Denoise,
    starts: Tensor,
    sigmas: Tensor,
    objective: Objective,
    *,
    solver: str = "euler",
    on_sampled: Callable[[int, Tensor], None] | None = None,
    cancel: Callable[[], bool] | threading.Event | None = None,
) -> Chosen:
    """Sample each of ``starts`` and take for each item of the batch the start with the lowest objective.

    Of equal ones the first is taken, and one whose objective is NaN or infinite only if all are.

    Args:
        denoise, sigmas, solver, cancel: as in `chords_core.sample`.
        starts: states at sigmas[0], [C, B, ...] with C >= 1.
        objective: ``objective(sample) -> [B]``, lower is better; no gradient is taken.
        on_sampled: called with the number of each start, from 0, and its values [B].

    Raises:
        InvalidInput: as `chords_core.sample`, or if ``starts`` or the objective's values have another shape.
        Cancelled: after ``cancel``.
    """
    check_callable("denoise", denoise, "x and sigma")
    check_callable("objective", objective, "a sample")
    check_callable("on_sampled", on_sampled, "a number and values", optional=True)
    check_floating("starts", starts)
    check_sigmas(sigmas)
    if starts.ndim < 3 or starts.numel() == 0:
        raise InvalidInput("starts", f"must be [C, B, ...] with at least one start, not {tuple(starts.shape)}")
    values, evaluations = [], 0
    with torch.inference_mode(False), torch.no_grad():
        starts, sigmas = starts.clone(), sigmas.clone()
        for number, x in enumerate(starts):
            result = sample(denoise, x, sigmas, method="sequential", solver=solver, cancel=cancel)
            evaluations += result.evaluations
            values.append(evaluate(objective, result.x))
            if on_sampled is not None:
                on_sampled(number, values[-1])
        table = torch.stack(values)
        choice = torch.where(torch.isfinite(table), table, torch.inf).argmin(0)
        return Chosen(starts[choice, torch.arange(starts.shape[1])], table, choice, evaluations)
