"""Gradients of an objective of the sample: SDO's shortcut (arXiv 2505.07477) and full backpropagation.

Every solver here has the form x_{j+1} = x_j + h_j f(x_j), so that the sample is

    x_N = x_init + sum_j h_j f(x_j).

The shortcut keeps the graph of one term and takes the rest as constants. Of the start that leaves

    dJ/dx_init = (I + h_j df/dx_j)^T dJ/dx_N,

one vector-Jacobian product of one step, with the identity from x_init to x_j; of a conditioning c it leaves
dJ/dc = (h_j df/dc)^T dJ/dx_N. The last step is the best single choice for the start. The graph held is that of one
evaluation of the model, whatever N is.

Pure functions: nothing here keeps state, and no ``.grad`` of any model parameter is touched. The items of a batch
are taken to be independent: item b's gradient is that of the sum of all objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as _checkpoint

from ..errors import InvalidInput
from ..execution.pools import Denoise
from ..solvers.base import Past, StepFunction
from .adam import per_item, precise, rms

Objective = Callable[[Tensor], Tensor]
"""``objective(sample) -> [B]``, lower is better, differentiable; B is the sample's first dimension."""

ConditionedDenoise = Callable[[Tensor, float, Tensor], Tensor]
"""``denoise(x, sigma, condition) -> denoised``."""

SHORTCUT_COST = 3
"""Forward-equivalent evaluations of a step with its graph: forward 1, backward 2."""

FULL_COST = 3
"""The same, for each step of full backpropagation with all graphs kept."""

CHECKPOINTED_COST = 4
"""The same with checkpointing, which runs each step's forward a second time."""

_HALF_SCALE = 1024  # far from the largest number of half precision


@dataclass(frozen=True, eq=False)
class Kept:
    """The step whose graph the shortcut keeps, and what it takes as constant.

    ``x``: the state x_j [B, ...]; ``sigma``, ``sigma_next``: 0-dim; ``past``: the solver's history there; ``rest``:
    x_N - x_{j+1}, or None where j is the last step.
    """

    x: Tensor
    sigma: Tensor
    sigma_next: Tensor
    past: Past | None = None
    rest: Tensor | None = None

    def end(self, step: StepFunction, denoised: Tensor) -> Tensor:
        """The sample x_N that ``denoised``, the model's answer at ``x``, leads to."""
        x = step(self.x, denoised, self.sigma, self.sigma_next, self.past)
        return x if self.rest is None else x + self.rest


@dataclass(frozen=True, eq=False)
class Gradient:
    """``values`` [B]: the objective at ``sample`` x_N; ``gradient``: of its sum, in the shape of what it is of."""

    values: Tensor
    gradient: Tensor
    sample: Tensor


def shortcut(denoise: Denoise, kept: Kept, step: StepFunction, objective: Objective) -> Gradient:
    """dJ/dx_init by the shortcut through ``kept``: (I + h df/dx)^T dJ/dx_N for the last step.

    A multistep solver's history is held constant. Costs `SHORTCUT_COST` evaluations.

    Raises:
        InvalidInput: where model or objective give what has no gradient, or the objective no [B].
    """
    with torch.enable_grad():
        leaf = kept.x.detach().requires_grad_()
        denoised = differentiable(denoise(leaf, float(kept.sigma)))
        sample = Kept(leaf, kept.sigma, kept.sigma_next, kept.past, kept.rest).end(step, denoised)
        return _backward(objective, sample, leaf)


def shortcut_of_condition(
    denoise: ConditionedDenoise, condition: Tensor, kept: Kept, step: StepFunction, objective: Objective
) -> Gradient:
    """dJ/dc by the shortcut through ``kept``: (h df/dc)^T dJ/dx_N. Else as `shortcut`."""
    with torch.enable_grad():
        leaf = condition.detach().requires_grad_()
        denoised = differentiable(denoise(kept.x, float(kept.sigma), leaf))
        return _backward(objective, kept.end(step, denoised), leaf)


def full(
    denoise: Denoise, x: Tensor, sigmas: Tensor, step: StepFunction, objective: Objective, *, checkpoint: bool = True
) -> Gradient:
    """dJ/dx by backpropagation through every step from ``x`` at sigmas[0].

    With ``checkpoint``, only the states between the steps are held and each step runs twice: `CHECKPOINTED_COST`
    evaluations a step instead of `FULL_COST`.

    Raises:
        InvalidInput: as `shortcut`.
    """
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        return _backward(objective, _integrate(denoise, leaf, sigmas, step, checkpoint), leaf)


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
    """dJ/dc through every step. Else as `full`."""
    with torch.enable_grad():
        leaf = condition.detach().requires_grad_()

        def conditioned(state: Tensor, sigma: float) -> Tensor:
            return denoise(state, sigma, leaf)

        return _backward(objective, _integrate(conditioned, x.detach(), sigmas, step, checkpoint), leaf)


def evaluate(objective: Objective, sample: Tensor) -> Tensor:
    """The objective's values at ``sample`` [B, ...].

    Raises:
        InvalidInput: if they are no floating-point tensor [B].
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
    """``denoised`` if it has a graph.

    Raises:
        InvalidInput: naming ``denoise`` otherwise.
    """
    if not denoised.requires_grad:
        raise InvalidInput(
            "denoise", "its result has no gradient: does it run under no_grad or inference_mode, or detach its input?"
        )
    return denoised


def _integrate(denoise: Denoise, x: Tensor, sigmas: Tensor, step: StepFunction, checkpoint: bool) -> Tensor:
    """The plain solver loop with its graph."""
    past: Past | None = None
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        level = float(sigma)
        if checkpoint:
            denoised = _checkpoint(denoise, x, level, use_reentrant=False)
        else:
            denoised = denoise(x, level)
        assert isinstance(denoised, Tensor)
        x, past = step(x, differentiable(denoised), sigma, sigma_next, past), Past(sigma, denoised)
    return x


def _backward(objective: Objective, sample: Tensor, leaf: Tensor) -> Gradient:
    values = evaluate(objective, sample)
    gradient: Tensor | None = None
    if values.requires_grad:
        at_sample = _at_sample(values, sample)
        if at_sample is not None:
            # In two parts, the second with a gradient of RMS 1: that of a mean over a large picture, times a small
            # step, would vanish among the smallest numbers of half precision.
            size = rms(at_sample)
            size = torch.where(size > 0, size, 1)
            unit = (precise(at_sample) / per_item(size, at_sample)).to(sample.dtype)
            (gradient,) = torch.autograd.grad(sample, leaf, unit, allow_unused=True)
            gradient = None if gradient is None else _times(gradient, size)
    if gradient is None:
        raise InvalidInput(
            "objective",
            "is not differentiable: its values have no gradient back to the sample (a detach, a no_grad, "
            "a comparison or a rounding in between?)",
        )
    return Gradient(values.detach(), gradient, sample.detach())


def _at_sample(values: Tensor, sample: Tensor) -> Tensor | None:
    """dJ/dx_N [B, ...], or None where the objective has none. Of an item's sum, not its mean, on the way through the
    objective's own networks, for the same reason."""
    scale = sample.numel() // len(sample)
    if values.dtype == torch.float16:
        scale = min(scale, _HALF_SCALE)
    (found,) = torch.autograd.grad(values, sample, torch.full_like(values, scale), allow_unused=True)
    return None if found is None else precise(found) / scale


def _times(gradient: Tensor, size: Tensor) -> Tensor:
    """Each item's gradient times ``size`` [B], in at least float32."""
    return precise(gradient) * per_item(size, gradient)
