"""What a solver of the sampling ODE dx/dsigma = (x - denoised) / sigma is.

A `Solver` begins a `State` at the first sigma. A state goes from index to index of its schedule and hides how far the
solver looks back. Methods use nothing else of a solver.

Most solvers are one pure function, ``step``, from sigma to sigma_next. A multistep solver looks back at one earlier
evaluation. That may lie at any higher sigma: a CHORDS core that has just started looks back at the evaluation that its
slower neighbour made before the jump. `StepState` makes a state of such a function. A solver that needs more, such as a
predictor-corrector, has a state of its own (`chords_core.solvers.unipc`).

Solvers of the same name in k-diffusion and ComfyUI have the same operations in the same order, so that one core gives
the same bits. That is why sigmas are 0-dim tensors: on some devices a division by a number and one by a tensor round
differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Past:
    """An earlier evaluation of a core: the 0-dim ``sigma`` where it was made, and its result."""

    sigma: Tensor
    denoised: Tensor


StepFunction = Callable[[Tensor, Tensor, Tensor, Tensor, "Past | None"], Tensor]
"""``step(x, denoised, sigma, sigma_next, past) -> x`` at ``sigma_next``. ``denoised`` is the evaluation at ``x``."""


def jump(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """The first-order step of any length as a linear map of (x, denoised).

    CHORDS applies it to the difference between two cores: that is its rectification (arXiv 2507.15260, section 4).
    """
    ratio = sigma_next / sigma
    return ratio * x + (1 - ratio) * denoised


class State(Protocol):
    """A solver at one index of its schedule. Immutable: each method returns another state."""

    @property
    def x(self) -> Tensor:
        """Where the model has to be evaluated; at the last index the result."""

    def step(self, denoised: Tensor) -> State:
        """The state at the next index. ``denoised`` is the evaluation at ``x``."""

    def jump(self, denoised: Tensor, target: int) -> State:
        """The state at the index ``target``, to first order. It looks back at this evaluation alone."""

    def moved(self, dx: Tensor, ddenoised: Tensor, base: int) -> State:
        """The state on the trajectory that differs by ``dx`` and ``ddenoised`` at the index ``base``.

        What the solver looks back at moves too. Otherwise a multistep solver would mix two trajectories.
        """


@dataclass(frozen=True, eq=False)
class Solver:
    """A solver and what is known about it.

    Attributes:
        name: in lower case, as `chords_core.sample` takes it.
        begin: ``begin(x, sigmas) -> State`` at ``x``, the state at ``sigmas[0]``. ``sigmas``: N+1 values, descending.
        order: of convergence. Twice the steps divide the error by 2**order.
        step: the step function, if the solver is one; else None.
        extra_rounds: how many more rounds a window takes than with Euler, for each of at most 25 steps, because the
            solver amplifies what the window does not know yet. Fitted (benchmarks/results/trust.md).
        window_is_close: whether a window comes within 5 % of one core at the 90th percentile of pictures, and closer
            than fewer steps do (benchmarks/results/trust.md). The planner takes a window by itself only then.
        last_sigma: where a schedule that goes to 0 ends instead, because the solver's formulas are infinite at 0; else
            0.
    """

    name: str
    begin: Callable[[Tensor, Tensor], State]
    order: int
    step: StepFunction | None = None
    extra_rounds: float = 0.0
    window_is_close: bool = False
    last_sigma: float = 0.0

    @classmethod
    def of_step(
        cls, name: str, step: StepFunction, order: int, *, extra_rounds: float = 0.0, window_is_close: bool = False
    ) -> Solver:
        """The solver that is the function ``step``."""
        return cls(name, partial(_begin, step), order, step, extra_rounds, window_is_close)

    def with_step(self, step: StepFunction) -> Solver:
        """The same solver with another implementation of its step."""
        return replace(self, begin=partial(_begin, step), step=step)


def _begin(step: StepFunction, x: Tensor, sigmas: Tensor) -> StepState:
    return StepState(step, sigmas, 0, x)


@dataclass(frozen=True, eq=False)
class StepState:
    """A solver that is the function ``step_function``, at ``index`` of ``sigmas``."""

    step_function: StepFunction
    sigmas: Tensor
    index: int
    x: Tensor
    past: Past | None = None

    def step(self, denoised: Tensor) -> StepState:
        return self._to(self.index + 1, denoised, self.past)

    def jump(self, denoised: Tensor, target: int) -> StepState:
        return self._to(target, denoised, None)

    def moved(self, dx: Tensor, ddenoised: Tensor, base: int) -> StepState:
        assert self.past is not None
        x = self.x + jump(dx, ddenoised, self.sigmas[base], self.sigmas[self.index])
        return replace(self, x=x, past=Past(self.past.sigma, self.past.denoised + ddenoised))

    def _to(self, target: int, denoised: Tensor, past: Past | None) -> StepState:
        sigma = self.sigmas[self.index]
        x = self.step_function(self.x, denoised, sigma, self.sigmas[target], past)
        return replace(self, index=target, x=x, past=Past(sigma, denoised))
