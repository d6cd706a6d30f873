"""The best of several initial noises.

A gradient leads to the nearest better sample. It does not lead from one of a few things that a model may draw to
another one, but other noise does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._types import Denoise, Objective
from ..checks import check_callable, check_floating
from ..errors import InvalidInput
from ..sampling import check_sigmas, sample
from .gradients import evaluate


@dataclass(frozen=True, eq=False)
class ChosenNoise:
    """The best of C candidates, item by item.

    ``x`` [B, ...]: the best noise of each item; ``values`` [C, B]: the objective of all; ``choice`` [B]: the number of
    each item's candidate, from 0; ``evaluations``: model calls.
    """

    x: Tensor
    values: Tensor
    choice: Tensor
    evaluations: int


def choose_initial_noise(
    denoise: Denoise,
    candidates: Tensor,
    sigmas: Tensor,
    objective: Objective,
    *,
    solver: str = "euler",
    on_sampled: Callable[[int, Tensor], None] | None = None,
    cancel: Callable[[], bool] | threading.Event | None = None,
) -> ChosenNoise:
    """Sample each of ``candidates`` and take for each item of the batch the one with the lowest objective.

    Of equal values the first one is taken. A candidate whose objective is NaN or infinite is taken only if all are.

    Args:
        denoise, sigmas, solver, cancel: as in `chords_core.sample`.
        candidates: states at sigmas[0], [C, B, ...] with C >= 1.
        objective: ``objective(sample) -> [B]``, lower is better; it needs no gradient.
        on_sampled: called with the number of each candidate, from 0, and its values [B].

    Raises:
        InvalidInput: as `chords_core.sample`, or if ``candidates`` or the objective's values have another shape.
        Cancelled: after ``cancel``.
    """
    check_callable("denoise", denoise, "x and sigma")
    check_callable("objective", objective, "a sample")
    check_callable("on_sampled", on_sampled, "a number and values", optional=True)
    check_floating("candidates", candidates)
    check_sigmas(sigmas)
    if candidates.ndim < 3 or candidates.numel() == 0:
        raise InvalidInput("candidates", f"must be [C, B, ...] with at least one, not {tuple(candidates.shape)}")
    values, evaluations = [], 0
    with torch.inference_mode(False), torch.no_grad():
        candidates, sigmas = candidates.clone(), sigmas.clone()
        for number, x in enumerate(candidates):
            result = sample(denoise, x, sigmas, method="sequential", solver=solver, cancel=cancel)
            evaluations += result.evaluations
            values.append(evaluate(objective, result.x))
            if on_sampled is not None:
                on_sampled(number, values[-1])
        table = torch.stack(values)
        choice = torch.where(torch.isfinite(table), table, torch.inf).argmin(0)
        return ChosenNoise(candidates[choice, torch.arange(candidates.shape[1])], table, choice, evaluations)
