"""DPM-Solver++(2M), arXiv 2211.01095, algorithm 2."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Past, Solver


def dpmpp_2m(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
    """Second order in t = -log sigma. First order without a past, and in the last step to sigma 0."""
    t, t_next = -sigma.log(), -sigma_next.log()
    h = t_next - t
    if past is not None and sigma_next != 0:
        r = (t + past.sigma.log()) / h
        denoised = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * past.denoised
    return ((-t_next).exp() / (-t).exp()) * x - torch.expm1(-h) * denoised


DPMPP_2M = Solver.of_step("dpmpp_2m", dpmpp_2m, order=2, extra_rounds=0.12, window_is_close=True)
