"""Gradients of an objective of the sample: SDO's shortcut (arXiv 2505.07477) and full backpropagation.

The shortcut keeps the graph of a few steps j_1 < ... < j_m and takes everything else as constant. From one kept step
to the next, and from the last one to the sample, the sampler goes as a first-order step of that length does
(`chords_core.solvers.base.jump`), plus a constant:

    x_next = r x_j + (1 - r) denoised(x_j) + constant,  r = sigma_next / sigma_j,

and from the initial noise x_0 to x_{j_1} it is the identity, plus a constant. The constants are such that every state
is the sampled one. So the gradient is a product of one vector-Jacobian product a kept step:

    dJ/dx_0 = A_1^T ... A_m^T dJ/dx_N,  A_k = r I + (1 - r) d denoised / dx_{j_k}.

With the last step alone this is SDO: (I + h df/dx_{N-1})^T dJ/dx_N. With all steps and Euler it is full
backpropagation. For a conditioning c the same is done, with d denoised / dc at each kept step.

The graphs are made and used one after another: first the objective's at the sample, then each kept step's, from the
last to the first. So memory holds the largest one of them, for any N and any m.

The functions are pure: nothing here keeps state, and no ``.grad`` of a model parameter changes. The items of a batch
are independent: the gradient of item b is that of the sum of all objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as _checkpoint

from .._types import Denoise, Objective
from ..errors import InvalidInput
from ..solvers.base import Past, StepFunction, jump
from .batch import per_item, precise, rms

ConditionedDenoise = Callable[[Tensor, float, Tensor], Tensor]
"""``denoise(x [B, ...], sigma, condition [B, ...]) -> denoised [B, ...]``."""

SHORTCUT_COST = 3
"""Forward-equivalent evaluations of one kept step with its graph: forward 1, backward 2."""

BACKWARD_COST = 2
"""Forward-equivalent evaluations of one backward pass."""

FULL_COST = 3
"""Forward-equivalent evaluations of each step of full backpropagation that keeps all graphs."""

CHECKPOINTED_COST = 4
"""Forward-equivalent evaluations of each step with checkpointing, which runs the forward pass twice."""

_MAX_HALF_SCALE = 1024  # far below the largest number of half precision, 65504


@dataclass(frozen=True, eq=False)
class KeptStep:
    """A step whose graph the shortcut keeps, and what the shortcut takes as constant.

    ``x``: the state [B, ...] at ``sigma``; ``sigma_next``: that of the next kept step, or of the sample, both 0-dim;
    ``constant`` [B, ...]: what the sampler adds to the first-order step from ``sigma`` to ``sigma_next``.
    """

    x: Tensor
    sigma: Tensor
    sigma_next: Tensor
    constant: Tensor

    def end(self, denoised: Tensor) -> Tensor:
        """The state [B, ...] at ``sigma_next`` that follows from ``denoised``, the model's answer at ``x``."""
        return jump(self.x, denoised, self.sigma, self.sigma_next) + self.constant


@dataclass(frozen=True, eq=False)
class Gradient:
    """An objective and its gradient.

    ``values`` [B]: the objective at ``sample`` x_N; ``gradient``: of the sum of the values, in the shape of the
    variable, in at least float32.
    """

    values: Tensor
    gradient: Tensor
    sample: Tensor


def moved(denoise: Denoise, kept: Sequence[KeptStep], x: Tensor) -> tuple[tuple[KeptStep, ...], Tensor]:
    """``kept`` and the sample [B, ...] after the first kept state has become ``x``: one evaluation a kept step."""
    steps = []
    for step in kept:
        steps.append(replace(step, x=x))
        x = steps[-1].end(denoise(x, float(step.sigma)))
    return tuple(steps), x


def shortcut(denoise: Denoise, kept: Sequence[KeptStep], end: Tensor, objective: Objective) -> Gradient:
    """dJ/dx_0 by the shortcut through ``kept``, in order; ``end`` [B, ...] is the sample that follows from them.

    Costs `SHORTCUT_COST` evaluations a kept step.

    Raises:
        InvalidInput: if the model's answer or the objective has no gradient, or the objective is not of shape [B].
    """
    values, gradient = _at_sample(objective, end)
    for step in reversed(kept):
        with torch.enable_grad():
            leaf = step.x.detach().requires_grad_()
            after = replace(step, x=leaf).end(differentiable(denoise(leaf, float(step.sigma))))
        (gradient,) = _pulled_back(after, (leaf,), gradient)
    return Gradient(values, gradient, end.detach())


def shortcut_of_condition(
    denoise: ConditionedDenoise, condition: Tensor, kept: Sequence[KeptStep], end: Tensor, objective: Objective
) -> Gradient:
    """dJ/dc by the shortcut through ``kept``. The rest is as for `shortcut`."""
    values, gradient = _at_sample(objective, end)
    total = torch.zeros_like(precise(condition))
    for step in reversed(kept):
        with torch.enable_grad():
            leaf, variable = step.x.detach().requires_grad_(), condition.detach().requires_grad_()
            after = replace(step, x=leaf).end(differentiable(denoise(leaf, float(step.sigma), variable)))
        gradient, of_condition = _pulled_back(after, (leaf, variable), gradient)
        total += of_condition
    return Gradient(values, total, end.detach())


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
        sample = integrate(denoise, leaf, sigmas, step, checkpoint)
    return _full(objective, sample, leaf)


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

        sample = integrate(conditioned, x.detach(), sigmas, step, checkpoint)
    return _full(objective, sample, leaf)


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


def integrate(
    denoise: Denoise, x: Tensor, sigmas: Tensor, step: StepFunction, checkpoint: bool, *, checked: bool = True
) -> Tensor:
    """x_N [B, ...] by the plain solver loop from ``x`` at sigmas[0], with its graph; ``checkpoint`` as for `full`.

    ``checked``: each answer has to have a gradient.

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
        if checked:
            differentiable(denoised)
        x, past = step(x, denoised, sigma, sigma_next, past), Past(sigma, denoised)
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


def _at_sample(objective: Objective, sample: Tensor) -> tuple[Tensor, Tensor]:
    """The objective [B] at ``sample`` and its gradient there [B, ...]; the objective's graph is gone afterwards."""
    with torch.enable_grad():
        leaf = sample.detach().requires_grad_()
        values = evaluate(objective, leaf)
    return values.detach(), objective_gradient(values, leaf)


def _full(objective: Objective, sample: Tensor, leaf: Tensor) -> Gradient:
    values, gradient = _at_sample(objective, sample)
    (gradient,) = _pulled_back(sample, (leaf,), gradient)
    return Gradient(values, gradient, sample.detach())


def _pulled_back(after: Tensor, inputs: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """The gradient with respect to each of ``inputs``, from that with respect to ``after``, a function of them.

    All are in at least float32, but the networks of the graph are given one of RMS 1: the gradient of a mean over a
    large picture, times a small step, is too small for half precision.

    Raises:
        InvalidInput: naming ``denoise``, if ``after`` does not depend on one of the inputs.
    """
    size = rms(gradient)
    size = torch.where(size > 0, size, 1)
    unit = (precise(gradient) / per_item(size, gradient)).to(after.dtype)
    found = torch.autograd.grad(after, inputs, unit, allow_unused=True)
    if any(part is None for part in found):
        raise InvalidInput("denoise", "its result does not depend on what is optimised: does it detach its input?")
    return tuple(precise(part) * per_item(size, part) for part in found)
