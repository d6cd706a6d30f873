"""Euler's method, which for this ODE is DDIM (arXiv 2010.02502)."""

from __future__ import annotations

from torch import Tensor

from .base import Past, Solver


def euler(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
    """First order: the exact solution for a constant ``denoised``. It does not use ``past``."""
    drift = (x - denoised) / sigma
    return x + drift * (sigma_next - sigma)


EULER = Solver.of_step("euler", euler, order=1, window_is_close=True)
