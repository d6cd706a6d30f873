"""Solvers for a schedule of higher precision than the state, usually float64.

ComfyUI's Euler step then raises the state to that precision, and all later steps are made there. The core's solvers
keep the precision of the state.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ....chords_core import SOLVERS, Solver
from ....chords_core.solvers.base import Past
from ....chords_core.solvers.res_multistep import res_multistep


def _euler(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
    """The core's step with the host's division, by a tensor that has x's number of dimensions."""
    drift = (x - denoised) / sigma.reshape((1,) * x.ndim)
    return x + drift * (sigma_next - sigma)


def _res_multistep(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
    if past is None or sigma_next == 0:
        return _euler(x, denoised, sigma, sigma_next)
    return res_multistep(x, denoised, sigma, sigma_next, past)


_RAISING = {"euler": _euler, "res_multistep": _res_multistep}


def as_in_the_host(solver: str, x: Tensor, sigmas: Tensor) -> Solver:
    """The ``solver``, for `chords_core.sample`, that gives the host's bits from x on these sigmas."""
    found = SOLVERS[solver]
    raises = torch.promote_types(x.dtype, sigmas.dtype) != x.dtype
    return found.with_step(_RAISING[solver]) if raises and solver in _RAISING else found
