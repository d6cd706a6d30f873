"""Gradients of an objective of the sample with respect to the parameters of the network (arXiv 2505.07477, section 4).

Every solver here has the form x_{j+1} = x_j + h_j f(x_j; theta), so that x_N = x_0 + sum_j h_j f(x_j; theta). The
shortcut keeps the graph of a few terms S, as they stand, and takes all states as constants:

    dJ/dtheta = sum_{j in S} (h_j df(x_j; theta)/dtheta)^T dJ/dx_N.

The terms are taken one after another, so memory holds the graph of one model evaluation at a time. Beside the
objective stands what holds the network near the old one: the mean over S of |D(x_j; theta) - D_old(x_j)|^2.

The functions are pure: no ``.grad`` of a parameter changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._types import Denoise
from ..errors import InvalidInput
from ..solvers.base import StepFunction
from .batch import precise, rms
from .gradients import KeptStep, integrate


@dataclass(frozen=True, eq=False)
class Staying:
    """What holds a network near the old one: ``weight`` times the mean over the kept steps of |D - D_old|^2.

    ``old``: the old network without a graph.
    """

    old: Denoise
    weight: float


@dataclass(frozen=True, eq=False)
class ParameterGradient:
    """A gradient: ``gradients``, one a parameter, in at least float32.

    ``moved``, ``size``: the mean squares of D - D_old and of D_old over an item's elements, summed over items and kept
    steps; both 0 where nothing holds the network.
    """

    gradients: tuple[Tensor, ...]
    moved: float = 0.0
    size: float = 0.0

    def __add__(self, other: ParameterGradient) -> ParameterGradient:
        """The gradient of the sum."""
        gradients = tuple(a + b for a, b in zip(self.gradients, other.gradients, strict=True))
        return ParameterGradient(gradients, self.moved + other.moved, self.size + other.size)

    @staticmethod
    def zero(parameters: Sequence[Tensor]) -> ParameterGradient:
        """The gradient of a constant."""
        return ParameterGradient(tuple(torch.zeros_like(precise(parameter)) for parameter in parameters))


def shortcut_of_parameters(
    denoise: Denoise,
    parameters: Sequence[Tensor],
    kept: Sequence[KeptStep],
    step: StepFunction,
    slope: Tensor | None,
    staying: Staying | None = None,
) -> ParameterGradient:
    """The gradient through the steps in ``kept``, one after another: 3 evaluations each, and 1 to hold the network.

    Args:
        denoise: differentiable in ``parameters``.
        parameters: leaf tensors that require a gradient.
        kept: the steps of a sampled trajectory; the history of a multistep solver is constant.
        step: one step of the solver.
        slope: dJ/dx_N [B, ...]; None for the gradient of what holds the network alone.
        staying: None: nothing holds the network.

    Raises:
        InvalidInput: if the model's answer has no gradient with respect to the parameters.
    """
    total = ParameterGradient.zero(parameters)
    for part in kept:
        old = None
        if staying is not None:
            with torch.no_grad():
                old = staying.old(part.x, float(part.sigma))
        with torch.enable_grad():
            denoised = differentiable_in_parameters(denoise(part.x, float(part.sigma)))
            outputs, vectors = [], []
            if slope is not None:
                outputs.append(step(part.x, denoised, part.sigma, part.sigma_next, part.past))
                vectors.append(slope.to(denoised.dtype))
            moved = size = 0.0
            if staying is not None and old is not None:
                difference = precise(denoised.detach()) - precise(old)
                outputs.append(denoised)
                vectors.append((2 * staying.weight / len(kept) * difference).to(denoised.dtype))
                moved, size = _mean_squares(difference), _mean_squares(old)
            total = total + ParameterGradient(_gradients(outputs, parameters, vectors), moved, size)
    return total


def full_of_parameters(
    denoise: Denoise,
    parameters: Sequence[Tensor],
    x: Tensor,
    sigmas: Tensor,
    step: StepFunction,
    *,
    checkpoint: bool = True,
) -> Tensor:
    """The sample x_N [B, ...] of ``x`` with the graph of every step; `gradient_of_full` ends the way back.

    ``checkpoint``: as in `chords_core.sdo.gradients.full`.

    Raises:
        InvalidInput: as `shortcut_of_parameters`.
    """
    with torch.enable_grad():
        return differentiable_in_parameters(integrate(denoise, x.detach(), sigmas, step, checkpoint))


def gradient_of_full(sample: Tensor, parameters: Sequence[Tensor], slope: Tensor) -> ParameterGradient:
    """The gradient through every step, from ``sample`` of `full_of_parameters` and ``slope``, dJ/dx_N [B, ...]."""
    return ParameterGradient(_gradients([sample], parameters, [slope.to(sample.dtype)]))


def slope_size(slopes: Sequence[Tensor]) -> float:
    """The mean over all items of the RMS of dJ/dx_N, the parts of a batch in ``slopes``."""
    return float(torch.cat([rms(slope) for slope in slopes]).mean())


def differentiable_in_parameters(denoised: Tensor) -> Tensor:
    """``denoised``, checked to have a graph.

    Raises:
        InvalidInput: naming ``denoise``, if it has none.
    """
    if not denoised.requires_grad:
        raise InvalidInput(
            "denoise",
            "its result has no gradient with respect to the parameters: does it use them, and not copies of them? Does "
            "it run under no_grad or inference_mode?",
        )
    return denoised


def _mean_squares(x: Tensor) -> float:
    """The mean square of each item, summed over the items."""
    return float(rms(x).square().sum())


def _gradients(
    outputs: Sequence[Tensor], parameters: Sequence[Tensor], vectors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    found = torch.autograd.grad(outputs, parameters, vectors, allow_unused=True)
    return tuple(
        torch.zeros_like(precise(parameter)) if gradient is None else precise(gradient)
        for parameter, gradient in zip(parameters, found, strict=True)
    )
