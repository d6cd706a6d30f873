"""The refined exponential solver with two steps, deterministic, arXiv 2308.02157."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Past, Solver
from .euler import euler


def res_multistep(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
    """Second order in t = -log sigma. Euler's step without a past, and in the last step to sigma 0."""
    if past is None or sigma_next == 0:
        return euler(x, denoised, sigma, sigma_next)
    t, t_next = -sigma.log(), -sigma_next.log()
    h = t_next - t
    # -log sigma of the earlier evaluation minus that of this one, in units of h: negative.
    c2 = (-past.sigma.log() - t) / h
    phi1 = torch.expm1(-h) / -h
    phi2 = (phi1 - 1.0) / -h
    b1 = torch.nan_to_num(phi1 - phi2 / c2, nan=0.0)
    b2 = torch.nan_to_num(phi2 / c2, nan=0.0)
    return (-h).exp() * x + h * (b1 * denoised + b2 * past.denoised)


RES_MULTISTEP = Solver.of_step("res_multistep", res_multistep, order=2, extra_rounds=0.12, window_is_close=True)
