"""Gradients of an objective of the sample with respect to the parameters of the network (arXiv 2505.07477, section 4).

The sample is taken for what it is in `gradients`: a chain of first-order steps from each kept step j_1 < ... < j_m to
the next one, plus constants. So

    dJ/dtheta = sum_k (1 - r_k) (dD(x_{j_k}; theta)/dtheta)^T s_k,
    s_m = dJ/dx_N,  s_{k-1} = (r_k I + (1 - r_k) dD/dx_{j_k})^T s_k,  r_k = sigma_{j_{k+1}} / sigma_{j_k}.

With all steps and Euler it is full backpropagation. The steps are taken one after another, from the last to the first,
so memory holds the graph of one model evaluation at a time. Beside the objective stands what holds the network near the
old one: the mean over the kept steps of |D(x_j; theta) - D_old(x_j)|^2.

The functions are pure: no ``.grad`` of a parameter changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._types import Denoise
from ..errors import InvalidInput
from ..solvers.base import StepFunction, jump
from .batch import precise, rms
from .gradients import KeptStep, integrate

NO_GRADIENT = (
    "its result has no gradient with respect to the parameters: does it use them, and not copies of them? Does it run "
    "under no_grad or inference_mode?"
)


class NoParameterGradient(InvalidInput):
    """The model's answer has no gradient with respect to the parameters, for any item that it was asked for."""


@dataclass(frozen=True, eq=False)
class Staying:
    """What holds a network near the old one: ``weight`` times the mean over the kept steps of |D - D_old|^2, which is
    a sum over an item's elements, as the change of the objective by a slope is.

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

    def times(self, factor: float) -> ParameterGradient:
        """The gradient of ``factor`` times the function."""
        return replace(self, gradients=tuple(factor * gradient for gradient in self.gradients))

    @staticmethod
    def zero(parameters: Sequence[Tensor]) -> ParameterGradient:
        """The gradient of a constant."""
        return ParameterGradient(tuple(torch.zeros_like(precise(parameter)) for parameter in parameters))


def shortcut_of_parameters(
    denoise: Denoise,
    parameters: Sequence[Tensor],
    kept: Sequence[KeptStep],
    slope: Tensor | None,
    staying: Staying | None = None,
) -> ParameterGradient:
    """The gradient through the steps in ``kept``: 3 evaluations each. What holds the network costs one more each, and a
    backward pass (2) each but the first.

    Args:
        denoise: differentiable in ``parameters``.
        parameters: leaf tensors that require a gradient.
        kept: steps of a sampled trajectory, in order.
        slope: dJ/dx_N [B, ...]; None for the gradient of what holds the network alone.
        staying: None: nothing holds the network.

    Raises:
        NoParameterGradient: if the model's answer has none at any of these steps.
    """
    total, used = ParameterGradient.zero(parameters), False
    for number, step in reversed(list(enumerate(kept))):
        found, slope = _through_step(denoise, parameters, step, slope, staying, len(kept), number > 0)
        if found is not None:
            total, used = total + found, True
    if not used:
        raise NoParameterGradient("denoise", NO_GRADIENT)
    return total


def full_of_parameters(
    denoise: Denoise, x: Tensor, sigmas: Tensor, step: StepFunction, *, checkpoint: bool = True
) -> Tensor:
    """The sample x_N [B, ...] of ``x`` with the graph of every step; `gradient_of_full` ends the way back.

    ``checkpoint``: as in `chords_core.sdo.gradients.full`.
    """
    with torch.enable_grad():
        return integrate(denoise, x.detach(), sigmas, step, checkpoint, checked=False)


def gradient_of_full(sample: Tensor, parameters: Sequence[Tensor], slope: Tensor) -> ParameterGradient:
    """The gradient through every step, from ``sample`` of `full_of_parameters` and ``slope``, dJ/dx_N [B, ...].

    Raises:
        NoParameterGradient: if the sample has none.
    """
    found = _gradients([(sample, slope.to(sample.dtype))], parameters) if sample.requires_grad else None
    if found is None:
        raise NoParameterGradient("denoise", NO_GRADIENT)
    return ParameterGradient(found)


def slope_size(slopes: Sequence[Tensor]) -> float:
    """The mean over all items of the RMS of dJ/dx_N, the parts of a batch in ``slopes``."""
    return float(torch.cat([rms(slope) for slope in slopes]).mean())


def _through_step(
    denoise: Denoise,
    parameters: Sequence[Tensor],
    kept: KeptStep,
    slope: Tensor | None,
    staying: Staying | None,
    steps: int,
    further: bool,
) -> tuple[ParameterGradient | None, Tensor | None]:
    """The gradient through one of so many ``steps`` (None if the model does not use the parameters there), and the
    slope at its state where there is a step ``further`` back.

    A function of its own, so that nothing of this step's graph is alive when the next one is made.
    """
    old = None
    if staying is not None:
        with torch.no_grad():
            old = staying.old(kept.x, float(kept.sigma))
    with torch.enable_grad():
        leaf = kept.x.detach().requires_grad_(further and slope is not None)
        denoised = denoise(leaf, float(kept.sigma))
        if not denoised.requires_grad:
            return None, slope
        after = jump(leaf, denoised, kept.sigma, kept.sigma_next)
    held, moved, size = None, 0.0, 0.0
    if staying is not None and old is not None:
        difference = precise(denoised.detach()) - precise(old)
        held = (2 * staying.weight / steps * difference).to(denoised.dtype)
        moved, size = _mean_squares(difference), _mean_squares(old)
    found: tuple[Tensor, ...] | None
    if not leaf.requires_grad:
        outputs = [(denoised, held), (after, None if slope is None else slope.to(after.dtype))]
        found = _gradients(outputs, parameters)
        return None if found is None else ParameterGradient(found, moved, size), None
    # What holds the network takes the states as constants, so its part does not go back to the step before.
    assert slope is not None
    found = _gradients([(denoised, held)], parameters, keep=True) if held is not None else None
    *raw, before = torch.autograd.grad(after, (*parameters, leaf), slope.to(after.dtype), allow_unused=True)
    through = _precise(raw, parameters)
    before = slope if before is None else precise(before)
    both = ParameterGradient(found) if found is not None else ParameterGradient.zero(parameters)
    if through is not None:
        both = both + ParameterGradient(through)
    unused = through is None and found is None
    return None if unused else replace(both, moved=moved, size=size), before


def _mean_squares(x: Tensor) -> float:
    """The mean square of each item, summed over the items."""
    return float(rms(x).square().sum())


def _gradients(
    outputs: Sequence[tuple[Tensor, Tensor | None]], parameters: Sequence[Tensor], keep: bool = False
) -> tuple[Tensor, ...] | None:
    """One gradient a parameter, or None if the outputs (with their vectors) depend on none of them. ``keep``: the graph
    is used again."""
    used = [(output, vector) for output, vector in outputs if vector is not None]
    found = torch.autograd.grad(
        [output for output, _ in used],
        parameters,
        [vector for _, vector in used],
        allow_unused=True,
        retain_graph=keep,
    )
    return _precise(found, parameters)


def _precise(found: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Gradients in at least float32, zero where a parameter has no part; None if none has."""
    if all(gradient is None for gradient in found):
        return None
    return tuple(
        torch.zeros_like(precise(parameter)) if gradient is None else precise(gradient)
        for parameter, gradient in zip(parameters, found, strict=True)
    )
