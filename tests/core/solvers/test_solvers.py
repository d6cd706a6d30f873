"""Each fine solver against known exact solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, factorial, log, log2

import pytest
import torch
from torch import Tensor

from chords_core import SOLVERS, Denoise, sample
from chords_core.sampling import PARALLEL_SOLVERS
from chords_core.solvers.base import Past, dpmpp_2m, jump, res_multistep
from chords_core.solvers.unipc import PREDICTOR_CORRECTORS, SMALLEST_SIGMA
from tests.core.problems import Gaussian, geometric, karras, noise

ORDERS = {"euler": 1, "dpmpp_2m": 2, "res_multistep": 2, "uni_pc": 2, "uni_pc_bh2": 2}  # uni_pc by its last step
F64 = torch.float64


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


def test_every_solver_has_an_order() -> None:
    """A solver added later must be added here too."""
    assert set(ORDERS) == set(PARALLEL_SOLVERS)


@pytest.mark.parametrize("schedule", [geometric, karras])
@pytest.mark.parametrize(("solver", "order"), ORDERS.items())
def test_order_of_convergence(solver: str, order: int, schedule: Callable[[int], Tensor]) -> None:
    """Twice the steps divide the error to the exact solution by 2**order, on even and uneven steps."""
    model, x = Gaussian(), noise(8, scale=10.0)

    def error(steps: int) -> float:
        sigmas = schedule(steps)
        exact = model.solution(x, float(sigmas[0]), float(sigmas[-1]))
        return float((sample(model, x, sigmas, solver=solver).x - exact).norm())

    errors = [error(steps) for steps in (100, 200, 400)]
    orders = [log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert orders == pytest.approx([order, order], abs=0.12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("end", [7.0, 0.3, 0.0])
@pytest.mark.parametrize("earlier", [None, 14.0])
def test_constant_denoised_is_exact_in_one_step(solver: str, end: float, earlier: float | None) -> None:
    """The trajectory to a constant prediction is a straight line, and 0 is the prediction itself."""
    target, x = noise(5, seed=1), noise(5, scale=9.0)
    past = None if earlier is None else Past(scalar(earlier), target)
    got = SOLVERS[solver](x, target, scalar(9.0), scalar(end), past)
    torch.testing.assert_close(got, target + (x - target) * end / 9.0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", PARALLEL_SOLVERS)
def test_constant_denoised_is_exact_in_chords(solver: str) -> None:
    """Every hit, the draft too, lies on the line to the constant prediction: is it, when the schedule ends at 0."""
    target, x = noise(5, seed=1), noise(5, scale=10.0)
    result = sample(lambda x, sigma: target, x, geometric(12, last_zero=True), cores=4, solver=solver, accept="exact")
    end = SMALLEST_SIGMA if solver in PREDICTOR_CORRECTORS else 0.0
    for hit in result.hits:
        torch.testing.assert_close(hit.x, target + (x - target) * end / 10.0, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("earlier", "now", "end"), [(8.0, 4.0, 2.0), (9.0, 4.0, 3.5), (5.0, 4.0, 0.2)])
def test_denoised_linear_in_time(earlier: float, now: float, end: float) -> None:
    """For a prediction a + b t with t = -log sigma the two-step solvers do what their papers say.

    res_multistep integrates the line through both evaluations exactly; dpmpp_2m takes its value half a step
    ahead. Steps of different length show a wrong ratio at once.
    """
    a, b, x = noise(5, seed=1), noise(5, seed=2), noise(5, scale=4.0)
    t, t_end = -log(now), -log(end)
    at, past = a + b * t, Past(scalar(earlier), a - b * log(earlier))
    decay = exp(t - t_end)
    # d/dt x = (a + b t) - x has the solution (a + b t - b) + C exp(-t).
    exact = (a + b * t_end - b) + decay * (x - (a + b * t - b))
    got = res_multistep(x, at, scalar(now), scalar(end), past)
    torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-12)

    midway = a + b * (t + t_end) / 2
    got = dpmpp_2m(x, at, scalar(now), scalar(end), past)
    torch.testing.assert_close(got, decay * x + (1 - decay) * midway, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", PREDICTOR_CORRECTORS)
def test_schedules_finer_than_the_smallest_sigma(solver: str) -> None:
    """They go on down, where the solver would otherwise have to turn back."""
    model, x = Gaussian(), noise(8, scale=10.0)
    end = sample(model, x, geometric(60, low=SMALLEST_SIGMA / 4, last_zero=True), solver=solver).x
    torch.testing.assert_close(end, model.solution(x, 10.0, 0.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", PREDICTOR_CORRECTORS)
@pytest.mark.parametrize("degree", [2, 3])
def test_uni_pc_integrates_polynomials(solver: str, degree: int) -> None:
    """Over steps of any length, with either B(h): where the prediction is a polynomial of t = -log sigma of degree p,
    the corrector with p evaluations behind it is exact, and the predictor with p and that at its start (order 3 at
    most). What was predicted before does not matter to the corrector."""
    sigmas = torch.tensor([9.0, 7.5, 4.0, 3.0, 1.2, 0.8, 0.5, 0.3], dtype=F64)
    t, start = -sigmas.log(), noise(5, scale=9.0)
    coefficients = [noise(5, seed=n) for n in range(degree + 1)]

    def derivative(order: int, t: Tensor) -> Tensor:
        terms = (
            factorial(n) // factorial(n - order) * t ** (n - order) * c
            for n, c in enumerate(coefficients[order:], order)
        )
        return torch.stack(list(terms)).sum(0)

    def particular(t: Tensor) -> Tensor:
        """Of dx/dt = D(t) - x: D - D' + D'' - ..."""
        return torch.stack([(-1) ** order * derivative(order, t) for order in range(degree + 1)]).sum(0)

    def exact(index: int) -> Tensor:
        return particular(t[index]) + (start - particular(t[0])) * (t[0] - t[index]).exp()

    def scaled(index: int) -> Tensor:
        return exact(index) / (1 + sigmas[index] ** 2).sqrt()

    at = 3
    state = replace(
        PREDICTOR_CORRECTORS[solver].begin(start, sigmas),
        index=at,
        scaled=scaled(at) + 0.25,
        past=tuple(Past(sigmas[i], derivative(0, t[i])) for i in range(at - 1, at - 1 - degree, -1)),
        origin=scaled(at - 1),
    )
    following = state.step(derivative(0, t[at]))
    assert following.origin is not None
    torch.testing.assert_close(following.origin, scaled(at), rtol=1e-11, atol=1e-11)
    if degree < 3:
        torch.testing.assert_close(following.x, exact(at + 1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("end", [2.0, 0.0])
def test_first_step_is_eulers(solver: str, end: float) -> None:
    """Without a past, and on the way to sigma 0 whatever the past, every solver makes the first-order step."""
    x, denoised = noise(5, scale=4.0), noise(5, seed=1)
    past = Past(scalar(6.0), noise(5, seed=2)) if end == 0 else None
    euler = SOLVERS["euler"](x, denoised, scalar(4.0), scalar(end))
    got = SOLVERS[solver](x, denoised, scalar(4.0), scalar(end), past)
    torch.testing.assert_close(got, euler, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(jump(x, denoised, scalar(4.0), scalar(end)), euler, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", PARALLEL_SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 4, 5, 5), (1, 3, 2, 4, 4)])
def test_shape_and_dtype_stay(solver: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A state of any shape keeps its shape and precision, and the inputs are left as they were."""
    x, sigmas = noise(*shape, scale=10.0, dtype=torch.float32).to(dtype), geometric(6).float()
    kept_x, kept_sigmas = x.clone(), sigmas.clone()
    model: Denoise = Gaussian()
    result = sample(model, x, sigmas, cores=3, solver=solver, accept="exact")
    for hit in result.hits:
        assert hit.x.shape == shape and hit.x.dtype == dtype
    assert torch.equal(x, kept_x) and torch.equal(sigmas, kept_sigmas)
