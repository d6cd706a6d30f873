"""Gradients of an objective of the sample: SDO's shortcut (arXiv 2505.07477) and full backpropagation.

Every solver here has the form x_{j+1} = x_j + h_j f(x_j). So the sample is

    x_N = x_0 + sum_j h_j f(x_j).

The shortcut keeps the graph of one term and takes the other terms as constants. For the initial noise x_0 this gives

    dJ/dx_0 = (I + h_j df/dx_j)^T dJ/dx_N,

one vector-Jacobian product of one step, with the identity from x_0 to x_j. For a conditioning c it gives
dJ/dc = (h_j df/dc)^T dJ/dx_N. The last step is the best single choice for the noise. Memory holds the graph of one
model evaluation, for any N.

The functions are pure: nothing here keeps state, and no ``.grad`` of a model parameter changes. The items of a batch
are independent: the gradient of item b is that of the sum of all objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as _checkpoint

from .._types import Denoise, Objective
from ..errors import InvalidInput
from ..solvers.base import Past, StepFunction
from .batch import per_item, precise, rms

ConditionedDenoise = Callable[[Tensor, float, Tensor], Tensor]
"""``denoise(x [B, ...], sigma, condition [B, ...]) -> denoised [B, ...]``."""

SHORTCUT_COST = 3
"""Forward-equivalent evaluations of one step with its graph: forward 1, backward 2."""

FULL_COST = 3
"""Forward-equivalent evaluations of each step of full backpropagation that keeps all graphs."""

CHECKPOINTED_COST = 4
"""Forward-equivalent evaluations of each step with checkpointing, which runs the forward pass twice."""

_MAX_HALF_SCALE = 1024  # far below the largest number of half precision, 65504


@dataclass(frozen=True, eq=False)
class KeptStep:
    """The step whose graph the shortcut keeps, and what the shortcut takes as constant.

    ``x``: the state x_j [B, ...]; ``sigma``, ``sigma_next``: 0-dim; ``past``: the history of a multistep solver at
    this step; ``rest``: x_N - x_{j+1}, or None where j is the last step.
    """

    x: Tensor
    sigma: Tensor
    sigma_next: Tensor
    past: Past | None = None
    rest: Tensor | None = None

    def end(self, step: StepFunction, denoised: Tensor) -> Tensor:
        """The sample x_N [B, ...] that follows from ``denoised``, the model's answer at ``x``."""
        x = step(self.x, denoised, self.sigma, self.sigma_next, self.past)
        return x if self.rest is None else x + self.rest

    def shifted(self, shift: Tensor) -> KeptStep:
        """The step after all states have moved by ``shift`` [B, ...] and the drifts have not changed.

        The drift is (x - denoised) / sigma, so the earlier evaluation in ``past`` moves by as much.
        """
        past = None if self.past is None else Past(self.past.sigma, self.past.denoised + shift)
        return replace(self, x=self.x + shift, past=past)


@dataclass(frozen=True, eq=False)
class Gradient:
    """An objective and its gradient.

    ``values`` [B]: the objective at ``sample`` x_N; ``gradient``: of the sum of the values, in the shape of the
    variable, in at least float32.
    """

    values: Tensor
    gradient: Tensor
    sample: Tensor


def shortcut(denoise: Denoise, kept: KeptStep, step: StepFunction, objective: Objective) -> Gradient:
    """dJ/dx_0 by the shortcut through ``kept``: (I + h df/dx)^T dJ/dx_N. Costs `SHORTCUT_COST` evaluations.

    The history of a multistep solver is constant.

    Raises:
        InvalidInput: if the model's answer or the objective has no gradient, or the objective is not of shape [B].
    """
    with torch.enable_grad():
        leaf = kept.x.detach().requires_grad_()
        denoised = differentiable(denoise(leaf, float(kept.sigma)))
        return _backward(objective, replace(kept, x=leaf).end(step, denoised), leaf)


def shortcut_of_condition(
    denoise: ConditionedDenoise, condition: Tensor, kept: KeptStep, step: StepFunction, objective: Objective
) -> Gradient:
    """dJ/dc by the shortcut through ``kept``: (h df/dc)^T dJ/dx_N. The rest is as for `shortcut`."""
    with torch.enable_grad():
        leaf = condition.detach().requires_grad_()
        denoised = differentiable(denoise(kept.x, float(kept.sigma), leaf))
        return _backward(objective, kept.end(step, denoised), leaf)


def full(
    denoise: Denoise, x: Tensor, sigmas: Tensor, step: StepFunction, objective: Objective, *, checkpoint: bool = True
) -> Gradient:
    """dJ/dx by backpropagation through every step, from ``x`` [B, ...] at sigmas[0].

    With ``checkpoint``, memory holds only the states between the steps, and each step runs twice:
    `CHECKPOINTED_COST` evaluations a step instead of `FULL_COST`.

    Raises:
        InvalidInput: as `shortcut`.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return _backward(objective, integrate(denoise, leaf, sigmas, step, checkpoint), leaf)


def full_of_condition(
    denoise: ConditionedDenoise,
    condition: Tensor,
    x: Tensor,
    sigmas: Tensor,
    step: StepFunction,
    objective: Objective,
    *,
    checkpoint: bool = True,
) -> Gradient:
    """dJ/dc by backpropagation through every step. The rest is as for `full`."""
    with torch.enable_grad():
        leaf = condition.detach().requires_grad_()

        def conditioned(state: Tensor, sigma: float) -> Tensor:
            return denoise(state, sigma, leaf)

        return _backward(objective, integrate(conditioned, x.detach(), sigmas, step, checkpoint), leaf)


def evaluate(objective: Objective, sample: Tensor) -> Tensor:
    """The objective's values [B] at ``sample`` [B, ...].

    Raises:
        InvalidInput: if the values are not a floating-point tensor [B].
    """
    values = objective(sample)
    if not isinstance(values, Tensor):
        raise InvalidInput("objective", f"must return a tensor [B], not {type(values).__name__}")
    if values.shape != sample.shape[:1]:
        raise InvalidInput(
            "objective",
            f"returned shape {tuple(values.shape)}; it must be one value an item of the batch, ({len(sample)},)",
        )
    if not torch.is_floating_point(values):
        raise InvalidInput("objective", f"must return floating-point values, not {values.dtype}")
    return values


def differentiable(denoised: Tensor) -> Tensor:
    """``denoised``, checked to have a graph.

    Raises:
        InvalidInput: naming ``denoise``, if it has none.
    """
    if not denoised.requires_grad:
        raise InvalidInput(
            "denoise", "its result has no gradient: does it run under no_grad or inference_mode, or detach its input?"
        )
    return denoised


def integrate(denoise: Denoise, x: Tensor, sigmas: Tensor, step: StepFunction, checkpoint: bool) -> Tensor:
    """x_N [B, ...] by the plain solver loop from ``x`` at sigmas[0], with its graph; ``checkpoint`` as for `full`.

    Raises:
        InvalidInput: naming ``denoise``, if its answer has no gradient.
    """
    past: Past | None = None
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        if checkpoint:
            denoised = _checkpoint(denoise, x, float(sigma), use_reentrant=False)
        else:
            denoised = denoise(x, float(sigma))
        assert isinstance(denoised, Tensor)
        x, past = step(x, differentiable(denoised), sigma, sigma_next, past), Past(sigma, denoised)
    return x


def objective_gradient(values: Tensor, sample: Tensor) -> Tensor:
    """dJ/dx_N [B, ...] in at least float32: the gradient of the sum of ``values`` [B] at ``sample`` [B, ...].

    The objective's own networks see the gradient of an item's sum, not of its mean: the gradient of a mean over a
    large picture is too small for half precision.

    Raises:
        InvalidInput: if the values have no gradient back to the sample.
    """
    scale = sample.numel() // len(sample)
    if values.dtype == torch.float16:
        scale = min(scale, _MAX_HALF_SCALE)
    found = None
    if values.requires_grad:
        (found,) = torch.autograd.grad(values, sample, torch.full_like(values, scale), allow_unused=True)
    if found is None:
        raise InvalidInput(
            "objective",
            "is not differentiable: its values have no gradient back to the sample (is there a detach, a no_grad, "
            "a comparison or a rounding in it?)",
        )
    return precise(found) / scale


def _backward(objective: Objective, sample: Tensor, leaf: Tensor) -> Gradient:
    """The gradient of ``objective`` at ``sample`` with respect to ``leaf``, of which ``sample`` is a function.

    The chain rule is applied in two parts, and the second one starts from a gradient of RMS 1, for the reason in
    `objective_gradient`: a small step makes it smaller still.
    """
    values = evaluate(objective, sample)
    at_sample = objective_gradient(values, sample)
    size = rms(at_sample)
    size = torch.where(size > 0, size, 1)
    unit = (precise(at_sample) / per_item(size, at_sample)).to(sample.dtype)
    (gradient,) = torch.autograd.grad(sample, leaf, unit)
    return Gradient(values.detach(), precise(gradient) * per_item(size, gradient), sample.detach())
