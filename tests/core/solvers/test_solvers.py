"""Each fine solver against known exact solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp, factorial, log, log2

import pytest
import torch
from torch import Tensor

from chords_core import SOLVERS, Denoise, InvalidInput, Solver, sample
from chords_core.solvers import find_solver, find_step
from chords_core.solvers.base import Past, jump
from chords_core.solvers.dpmpp_2m import dpmpp_2m
from chords_core.solvers.euler import euler
from chords_core.solvers.linear_form import solver_updates
from chords_core.solvers.res_multistep import res_multistep
from tests.core.problems import CORRECTING_SOLVERS, STEP_SOLVERS, Gaussian, geometric, karras, noise

F64 = torch.float64


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


@pytest.mark.parametrize("schedule", [geometric, karras])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_order_of_convergence(solver: Solver, schedule: Callable[[int], Tensor]) -> None:
    """Twice the steps divide the error to the exact solution by 2**order, on even and uneven steps."""
    model, x = Gaussian(), noise(8, scale=10.0)

    def error(steps: int) -> float:
        sigmas = schedule(steps)
        exact = model.solution(x, float(sigmas[0]), float(sigmas[-1]))
        return float((sample(model, x, sigmas, solver=solver).x - exact).norm())

    errors = [error(steps) for steps in (100, 200, 400)]
    orders = [log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert orders == pytest.approx([solver.order, solver.order], abs=0.12)


@pytest.mark.parametrize("schedule", [geometric(12), karras(12), geometric(12, last_zero=True)])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_the_linear_form_is_the_solver(solver: Solver, dtype: torch.dtype, schedule: Tensor) -> None:
    """The updates give each of the solver's states from the model's answers.

    So the solver is linear in the answers, and looks back at no more of them than the linear form allows. In single
    precision the weights are rounded in the same way: uni_pc takes differences of logarithms of sigmas.
    """
    schedule = schedule.to(dtype)
    x, answers = noise(5, scale=10.0), [noise(5, seed=n + 1) for n in range(12)]
    state, states = solver.begin(x, schedule), [x]
    for answer in answers:
        state = state.step(answer)
        states.append(state.x)
    for i, update in enumerate(solver_updates(solver, schedule)):
        assert all(0 <= j <= i for j, _ in update.weights)
        wanted = update.ratio * states[i] + sum(weight * answers[j] for j, weight in update.weights)
        torch.testing.assert_close(states[i + 1], wanted, rtol=1e-7, atol=1e-7)


def test_the_registry_has_each_solver_by_its_name() -> None:
    """This is the only table of solvers: a new solver is one line."""
    assert all(solver.name == name for name, solver in SOLVERS.items())
    assert {"euler", "dpmpp_2m", "res_multistep", "uni_pc", "uni_pc_bh2"} <= set(SOLVERS)
    assert all(find_solver(name) is solver is find_solver(solver) for name, solver in SOLVERS.items())
    with pytest.raises(InvalidInput, match="^solver: unknown solver 'heun'; there are euler, "):
        find_solver("heun")


def test_a_solver_of_ones_own_needs_no_registry() -> None:
    """`sample` takes the object, and treats it like a registered one."""

    def halfway(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, past: Past | None = None) -> Tensor:
        return euler(x, denoised, sigma, sigma_next)

    mine = Solver.of_step("halfway", halfway, order=1)
    for options in ({}, {"cores": 3}, {"cores": 3, "method": "secant"}, {"calls": 6}):
        found = sample(Gaussian(), noise(8, scale=10.0), geometric(12), solver=mine, **options)
        wanted = sample(Gaussian(), noise(8, scale=10.0), geometric(12), **options)
        assert torch.equal(found.x, wanted.x)


def test_a_solver_that_is_no_single_function_says_so() -> None:
    assert find_step("euler") is euler
    with pytest.raises(InvalidInput, match="^solver: uni_pc is not a single function"):
        find_step("uni_pc")


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize("end", [7.0, 0.3, 0.0])
@pytest.mark.parametrize("earlier", [None, 14.0])
def test_constant_denoised_is_exact_in_one_step(solver: str, end: float, earlier: float | None) -> None:
    """The trajectory to a constant prediction is a straight line; at sigma 0 it is the prediction itself."""
    target, x = noise(5, seed=1), noise(5, scale=9.0)
    past = None if earlier is None else Past(scalar(earlier), target)
    got = find_step(solver)(x, target, scalar(9.0), scalar(end), past)
    torch.testing.assert_close(got, target + (x - target) * end / 9.0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_constant_denoised_is_exact_in_chords(solver: str) -> None:
    """Every hit, and the draft, lies on the line to the constant prediction. At sigma 0 it is the prediction."""
    target, x = noise(5, seed=1), noise(5, scale=10.0)
    result = sample(lambda x, sigma: target, x, geometric(12, last_zero=True), cores=4, solver=solver, accept="exact")
    end = SOLVERS[solver].last_sigma
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


@pytest.mark.parametrize("solver", CORRECTING_SOLVERS)
def test_schedules_finer_than_the_smallest_sigma(solver: str) -> None:
    """The last sigma is below the others then, although the solver's usual last sigma is not."""
    model, x = Gaussian(), noise(8, scale=10.0)
    end = sample(model, x, geometric(60, low=SOLVERS[solver].last_sigma / 4, last_zero=True), solver=solver).x
    torch.testing.assert_close(end, model.solution(x, 10.0, 0.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", CORRECTING_SOLVERS)
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
        SOLVERS[solver].begin(start, sigmas),
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


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize("end", [2.0, 0.0])
def test_first_step_is_eulers(solver: str, end: float) -> None:
    """Without a past, and in a step to sigma 0, every solver makes the first-order step."""
    x, denoised = noise(5, scale=4.0), noise(5, seed=1)
    past = Past(scalar(6.0), noise(5, seed=2)) if end == 0 else None
    first_order = euler(x, denoised, scalar(4.0), scalar(end))
    got = find_step(solver)(x, denoised, scalar(4.0), scalar(end), past)
    torch.testing.assert_close(got, first_order, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(jump(x, denoised, scalar(4.0), scalar(end)), first_order, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 4, 5, 5), (1, 3, 2, 4, 4)])
def test_shape_and_dtype_stay(solver: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A state of any shape keeps its shape and dtype, and the inputs do not change."""
    x, sigmas = noise(*shape, scale=10.0, dtype=torch.float32).to(dtype), geometric(6).float()
    kept_x, kept_sigmas = x.clone(), sigmas.clone()
    model: Denoise = Gaussian()
    result = sample(model, x, sigmas, cores=3, solver=solver, accept="exact")
    for hit in result.hits:
        assert hit.x.shape == shape and hit.x.dtype == dtype
    assert torch.equal(x, kept_x) and torch.equal(sigmas, kept_sigmas)
