"""A short optimisation of a small problem, for the tests of SDO."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chords_core import sample
from chords_core.sdo.descent import Optimized
from chords_core.sdo.optimize import optimize_latent
from chords_core.solvers import find_step
from chords_core.solvers.base import Past
from tests.core.problems import Mixture, geometric, karras, noise

SIZE = 6
MODEL = Mixture(SIZE)
TARGET = noise(SIZE, seed=3)
GRIDS = {"to low": karras(8), "to zero": geometric(8, last_zero=True)}


def distance(x: Tensor) -> Tensor:
    """A quadratic objective, one value an item."""
    return (x - TARGET.to(x)).square().flatten(1).mean(1)


def conditioned(x: Tensor, sigma: float, condition: Tensor) -> Tensor:
    """A model whose conditioning [B, SIZE] draws its answer."""
    return MODEL(x, sigma) + 0.3 * torch.tanh(condition * x / (1 + sigma)) + 0.1 * condition


def model32(x: Tensor, sigma: float) -> Tensor:
    """The ideal model in the state's own precision."""
    return MODEL(x.double(), sigma).to(x)


def sequential(denoise: Any, x: Tensor, sigmas: Tensor, solver: str = "euler") -> Tensor:
    """What the sequential sampler gives."""
    return sample(denoise, x, sigmas, method="sequential", solver=solver).x


def plain_loop(denoise: Any, x: Tensor, sigmas: Tensor, solver: str) -> Tensor:
    """The sampler written out."""
    past = None
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        denoised = denoise(x, float(sigma))
        x, past = find_step(solver)(x, denoised, sigma, sigma_next, past), Past(sigma, denoised)
    return x


def slopes(value: Any, x: Tensor, h: float = 1e-5) -> Tensor:
    """Central differences of ``value`` (a number) at ``x``."""
    found = torch.zeros_like(x)
    for place in range(x.numel()):
        bump = torch.zeros_like(x)
        bump.view(-1)[place] = h
        found.view(-1)[place] = (value(x + bump) - value(x - bump)) / (2 * h)
    return found


def small(**options: Any) -> tuple[Optimized, list[Any]]:
    """A short optimisation with its events."""
    events: list[Any] = []
    arguments: dict[str, Any] = {"iterations": 12, "on_event": events.append, **options}
    denoise = arguments.pop("denoise", MODEL)
    x, sigmas = arguments.pop("x", noise(3, SIZE, scale=10.0)), arguments.pop("sigmas", geometric(8))
    return optimize_latent(denoise, x, sigmas, arguments.pop("objective", distance), **arguments), events
