"""Fine solvers of the sampling ODE dx/dsigma = (x - denoised) / sigma.

Each solver here is one pure function, ``step``, from sigma to sigma_next. A multistep solver looks back at one
earlier evaluation, which may lie at any higher sigma: a CHORDS core that has just been started looks back
at the evaluation its slower neighbour was started from.

Cores see a solver as a `State` that goes from index to index, which hides how far it looks back: `Stepping` for
these, `chords_core.solvers.unipc.UniPCState` for a predictor-corrector.

The operations and their order are those of the samplers of the same name in k-diffusion and ComfyUI, so
that one core alone reproduces them bit for bit. Sigmas are 0-dim tensors for the same reason: on some
devices dividing by a number and dividing by a tensor round differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Past:
    """An earlier evaluation of a core: where it was made (0-dim ``sigma``) and what it gave."""

    sigma: Tensor
    denoised: Tensor


StepFunction = Callable[[Tensor, Tensor, Tensor, Tensor, "Past | None"], Tensor]
"""``step(x, denoised, sigma, sigma_next, past) -> x`` at ``sigma_next``; ``denoised`` belongs to ``x``."""


def euler(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
    """First order: the exact solution for a constant ``denoised`` (DDIM). ``past`` is not used."""
    drift = (x - denoised) / sigma
    return x + drift * (sigma_next - sigma)


def dpmpp_2m(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
    """DPM-Solver++(2M), arXiv 2211.01095: second order in t = -log sigma; first order without a past
    and in the last step to sigma 0."""
    t, t_next = -sigma.log(), -sigma_next.log()
    h = t_next - t
    if past is not None and sigma_next != 0:
        r = (t + past.sigma.log()) / h
        denoised = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * past.denoised
    return ((-t_next).exp() / (-t).exp()) * x - torch.expm1(-h) * denoised


def res_multistep(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
    """Refined exponential solver, two steps, arXiv 2308.02157 (deterministic); Euler without a past and
    in the last step to sigma 0."""
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


SOLVERS: dict[str, StepFunction] = {"euler": euler, "dpmpp_2m": dpmpp_2m, "res_multistep": res_multistep}


def jump(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """The first-order jump of any length as a map linear in (x, denoised): CHORDS' rectification applies
    it to the difference between two cores (arXiv 2507.15260, section 4)."""
    ratio = sigma_next / sigma
    return ratio * x + (1 - ratio) * denoised


class State(Protocol):
    """A solver at one index of its schedule. Immutable: each method returns another."""

    @property
    def x(self) -> Tensor:
        """What the model is to evaluate here; at the last index the result."""

    def step(self, denoised: Tensor) -> State:
        """To the next index; ``denoised`` is the evaluation at ``x``."""

    def jump(self, denoised: Tensor, target: int) -> State:
        """To first order to the index ``target``, looking back at this evaluation alone."""

    def moved(self, dx: Tensor, ddenoised: Tensor, base: int) -> State:
        """Onto the trajectory that differs from this one by ``dx`` and ``ddenoised`` at the index ``base``.

        What the solver looks back at moves along; without that a multistep solver would mix two trajectories.
        """


@runtime_checkable
class Starting(Protocol):
    """A solver that is more than one function."""

    def begin(self, x: Tensor, sigmas: Tensor) -> State:
        """At x, the state at sigmas[0]."""


Solver = StepFunction | Starting


def begin(solver: Solver, x: Tensor, sigmas: Tensor) -> State:
    """``solver`` at x, the state at sigmas[0]."""
    return solver.begin(x, sigmas) if isinstance(solver, Starting) else Stepping(solver, sigmas, 0, x)


@dataclass(frozen=True, eq=False)
class Stepping:
    """A solver that is one function, at ``index`` of ``sigmas``."""

    function: StepFunction
    sigmas: Tensor
    index: int
    x: Tensor
    past: Past | None = None

    def step(self, denoised: Tensor) -> Stepping:
        return self._to(self.index + 1, denoised, self.past)

    def jump(self, denoised: Tensor, target: int) -> Stepping:
        return self._to(target, denoised, None)

    def moved(self, dx: Tensor, ddenoised: Tensor, base: int) -> Stepping:
        assert self.past is not None
        x = self.x + jump(dx, ddenoised, self.sigmas[base], self.sigmas[self.index])
        return replace(self, x=x, past=Past(self.past.sigma, self.past.denoised + ddenoised))

    def _to(self, target: int, denoised: Tensor, past: Past | None) -> Stepping:
        sigma = self.sigmas[self.index]
        x = self.function(self.x, denoised, sigma, self.sigmas[target], past)
        return replace(self, index=target, x=x, past=Past(sigma, denoised))
