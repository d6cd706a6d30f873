"""UniPC, arXiv 2302.04867: a predictor-corrector of order up to three with one evaluation a step.

Let D be the model's prediction, t = -log sigma and h = t_i - t_{i-1}. A step to t_i (for data prediction) is

    x_i = first(x_{i-1}, D_{i-1}) - B(h) * sum_m rho_m (D_m - D_{i-1}) / r_m,    r_m = (t_m - t_{i-1}) / h,

where first is the first-order step, and rho solves R rho = b (Theorem 3.1). Then the integral of any polynomial through
these evaluations is exact. The predictor's sum (UniP) goes over earlier evaluations. The corrector's sum (UniC) has D_i
too, with r = 1. D_i is evaluated at the predicted state. The corrector improves x_i afterwards, and D_i is not
evaluated again.

The state is scaled to x / sqrt(1 + sigma^2), as in ComfyUI's samplers of these names, and the operations have the same
order. So one core gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .base import Past, Solver, jump

LAST_SIGMA = 0.001
"""A schedule that goes to 0 ends here instead, because t is infinite at 0."""

MAX_ORDER = 3

MAX_ORDER_AFTER_JUMP = 2
"""The highest order of a core that is rectified. A third-order predictor gives more weight to a history that is still
partly wrong: on guided models the error of the first hit is up to half as large again
(benchmarks/results/uni_pc.md)."""

Scale = Callable[[Tensor], Tensor]
"""B as a function of z = -h: any function z + O(z^2)."""


def bh1(minus_h: Tensor) -> Tensor:
    """B1(h) = h. By the paper it is better with few steps."""
    return minus_h


def bh2(minus_h: Tensor) -> Tensor:
    """B2(h) = e^h - 1."""
    return torch.expm1(minus_h)


def _begin(scale: Scale, x: Tensor, sigmas: Tensor) -> UniPCState:
    """The state ``x`` at ``sigmas[0]``."""
    if sigmas[-1] == 0:
        end = LAST_SIGMA if sigmas[-2] > LAST_SIGMA else float(sigmas[-2]) / 2
        sigmas = torch.cat([sigmas[:-1], sigmas.new_tensor([end])])
    return UniPCState(scale, sigmas, 0, x / _size(sigmas[0]))


def _solver(name: str, scale: Scale) -> Solver:
    # The last step is of first order, so that the error as a whole is of second order.
    return Solver(name, partial(_begin, scale), order=2, extra_rounds=0.27, last_sigma=LAST_SIGMA)


UNI_PC, UNI_PC_BH2 = _solver("uni_pc", bh1), _solver("uni_pc_bh2", bh2)


@dataclass(frozen=True, eq=False)
class UniPCState:
    """UniPC at ``index`` of its schedule.

    A jump leaves no history, because evaluations that lie so far back mislead on guided models. It is not corrected.

    Attributes:
        scale: B(h).
        scaled: the predicted state, scaled.
        past: earlier evaluations, the newest first.
        origin: the corrected and scaled state at the newest of them, from which the state here was predicted.
        max_order: the highest order of a step.
    """

    scale: Scale
    sigmas: Tensor
    index: int
    scaled: Tensor
    past: tuple[Past, ...] = ()
    origin: Tensor | None = None
    max_order: int = MAX_ORDER

    @property
    def x(self) -> Tensor:
        """Where the model has to be evaluated; at the last index the result."""
        sigma = self.sigmas[self.index]
        if self.index == len(self.sigmas) - 1:
            return self.scaled / _alpha(sigma)
        return self.scaled * _size(sigma)

    def step(self, denoised: Tensor) -> UniPCState:
        """Correct the state by its evaluation, and predict the next one."""
        evaluated = self._evaluated(denoised)
        state = self.scaled
        if self.origin is not None:
            state = self._update(self.origin, self.past, self.index, evaluated)
        past = (evaluated, *self.past)[: self.max_order]
        following = self.index + 1
        predicted = self._update(state, past, following)
        return replace(self, index=following, scaled=predicted, past=past, origin=state)

    def jump(self, denoised: Tensor, target: int) -> UniPCState:
        """The state at ``target``, to first order. It looks back at this evaluation alone."""
        predicted = self._update(self.scaled, (self._evaluated(denoised),), target)
        return replace(self, index=target, scaled=predicted, past=(), origin=None, max_order=MAX_ORDER_AFTER_JUMP)

    def moved(self, dx: Tensor, ddenoised: Tensor, base: int) -> UniPCState:
        """The state on the trajectory that differs by ``dx`` and ``ddenoised`` at ``base``.

        All of it moves along the jump of the difference: the state, the evaluations, and the origin. The corrector
        starts from the origin, so that it would undo the rectification if the origin did not move.
        """
        sigma = self.sigmas[base]

        def along(scaled: Tensor, to: Tensor) -> Tensor:
            return scaled + _alpha(to) * jump(dx, ddenoised, sigma, to)

        assert self.origin is not None
        return replace(
            self,
            scaled=along(self.scaled, self.sigmas[self.index]),
            past=tuple(Past(past.sigma, past.denoised + ddenoised) for past in self.past),
            origin=along(self.origin, self.past[0].sigma),
        )

    def _evaluated(self, denoised: Tensor) -> Past:
        """The evaluation here. It is computed from the noise, as in ComfyUI: equal, apart from rounding."""
        sigma = self.sigmas[self.index]
        noise = (self.x - denoised) / sigma
        return Past(sigma, (self.scaled - _std(sigma) * noise) / _alpha(sigma))

    def _update(self, origin: Tensor, past: tuple[Past, ...], target: int, evaluated: Past | None = None) -> Tensor:
        """The scaled state at ``target`` from that at ``past[0]``: predicted, or corrected by what was ``evaluated``.

        The order is at most the number of evaluations in the past, and at most the number of steps that are left: the
        last step is of first order, for stability.
        """
        steps = len(self.sigmas) - 1
        past = past[: steps + 1 - target]
        sigma, sigma_next = past[0].sigma, self.sigmas[target]
        t, denoised = _log_snr(sigma), past[0].denoised
        h = _log_snr(sigma_next) - t
        alpha, scale = _alpha(sigma_next), self.scale(-h)
        first = _std(sigma_next) / _std(sigma) * origin - alpha * torch.expm1(-h) * denoised

        ratios = [(_log_snr(earlier.sigma) - t) / h for earlier in past[1:]]
        slopes = [(earlier.denoised - denoised) / r for earlier, r in zip(past[1:], ratios, strict=True)]
        matrix, b = _conditions(torch.stack([*ratios, torch.ones_like(h)]), -h, scale)
        if evaluated is None:
            if not slopes:
                return first
            return first - alpha * scale * _weighted(slopes, _solved(matrix[:-1, :-1], b[:-1]))
        rho = _solved(matrix, b)
        corrections = rho[-1] * (evaluated.denoised - denoised)
        if slopes:
            corrections = _weighted(slopes, rho[:-1]) + corrections
        return first - alpha * scale * corrections


def _conditions(ratios: Tensor, minus_h: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix R and the vector b of the theorem, with z = -h:

    R[n, m] = r_m^n and b[n] = (n + 1)! z phi_{n+2}(z) / B, from phi_1(z) = (e^z - 1) / z and
    z phi_{k+1}(z) = phi_k(z) - 1 / k!.
    """
    order = len(ratios)
    phi, factorial, b = torch.expm1(minus_h) / minus_h - 1, 1, []
    for n in range(1, order + 1):
        b.append(phi * factorial / scale)
        factorial *= n + 1
        phi = phi / minus_h - 1 / factorial
    return torch.stack([ratios**n for n in range(order)]), torch.stack(b)


def _solved(matrix: Tensor, b: Tensor) -> Tensor:
    """rho. For one unknown it is 1/2, which the paper takes for any h."""
    return b.new_full((1,), 0.5) if len(b) == 1 else torch.linalg.solve(matrix, b)


def _weighted(slopes: list[Tensor], rho: Tensor) -> Tensor:
    """The sum of rho_m times slope m."""
    stacked = torch.stack(slopes, dim=1)
    found: Tensor = torch.tensordot(stacked, rho.to(stacked.dtype), dims=([1], [0]))
    return found


def _size(sigma: Tensor) -> Tensor:
    """A state divided by its scaled state."""
    return (1.0 + sigma**2).sqrt()


def _log_alpha(sigma: Tensor) -> Tensor:
    return 0.5 * (1 / (sigma * sigma + 1)).log()


def _alpha(sigma: Tensor) -> Tensor:
    """The share of the signal in a scaled state."""
    return _log_alpha(sigma).exp()


def _std(sigma: Tensor) -> Tensor:
    """The share of the noise in a scaled state."""
    return (1.0 - (2.0 * _log_alpha(sigma)).exp()).sqrt()


def _log_snr(sigma: Tensor) -> Tensor:
    """t = log(alpha / std) = -log sigma, apart from rounding."""
    log_alpha = _log_alpha(sigma)
    return log_alpha - 0.5 * (1.0 - (2.0 * log_alpha).exp()).log()
