"""Gradients: the shortcut is its formula, full backpropagation is autograd through the loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import InvalidInput
from chords_core.sdo.gradients import KeptStep, full, full_of_condition, moved, shortcut, shortcut_of_condition
from chords_core.solvers import find_step
from tests.core.problems import geometric, noise
from tests.core.sdo.short_optimisation import (
    GRIDS,
    MODEL,
    SIZE,
    TARGET,
    conditioned,
    distance,
    plain_loop,
    slopes,
)

GROUPS = [(7,), (3,), (5, 7), (0, 4), (0, 3, 6)]


def states(denoise: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: Tensor) -> list[Tensor]:
    """All states of Euler's method, written out."""
    found = [x]
    for high, low in zip(sigmas, sigmas[1:], strict=False):
        found.append(found[-1] + (low - high) * (found[-1] - denoise(found[-1], float(high))) / high)
    return found


def coarse(denoise: Callable[[Tensor, float], Tensor], x: Tensor, kept: tuple[KeptStep, ...]) -> Tensor:
    """The shortcut's sample, written out: Euler from one kept step to the next, plus what is constant."""
    for step in kept:
        drift = (x - denoise(x, float(step.sigma))) / step.sigma
        x = x + (step.sigma_next - step.sigma) * drift + step.constant
    return x


def kept_steps(x: Tensor, sigmas: Tensor, group: tuple[int, ...]) -> tuple[tuple[KeptStep, ...], Tensor]:
    """Kept steps from ``x`` on, with any constants, and their sample."""
    steps = tuple(
        KeptStep(x, sigmas[index], sigmas[following], noise(*x.shape, seed=10 + index))
        for index, following in zip(group, (*group[1:], len(sigmas) - 1), strict=True)
    )
    return moved(MODEL, steps, x)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sigma=st.floats(0.2, 8), ratio=st.sampled_from([0.0, 0.3, 0.9]))
def test_shortcut_through_one_step_is_the_formula_of_sdo(seed: int, sigma: float, ratio: float) -> None:
    """(I + h df/dx)^T dJ/dx_N, with the Jacobian written out, for the Euler step."""
    x = noise(1, SIZE, seed=seed)
    high, low = torch.tensor(sigma).double(), torch.tensor(sigma * ratio).double()
    h = low - high
    end = x + h * (x - MODEL(x, float(high))) / high
    found = shortcut(MODEL, [KeptStep(x, high, low, torch.zeros_like(x))], end, distance)
    drift = torch.autograd.functional.jacobian(lambda v: ((v - MODEL(v, float(high))) / high)[0], x)[:, 0]
    slope = 2 * (end - TARGET) / SIZE
    expected = (torch.eye(SIZE).double() + h * drift).T @ slope[0]
    assert torch.allclose(found.gradient[0], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(found.sample, end)
    assert torch.equal(found.values, distance(end))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_shortcut_through_several_steps(group: tuple[int, ...], grid: str) -> None:
    """Autograd of the written-out expression, and finite differences of it."""
    x = noise(2, SIZE, seed=1, scale=3.0)
    kept, end = kept_steps(x, GRIDS[grid], group)
    found = shortcut(MODEL, kept, end, distance)
    leaf = x.clone().requires_grad_()
    written = coarse(MODEL, leaf, kept)
    (expected,) = torch.autograd.grad(distance(written).sum(), leaf)
    assert torch.allclose(end, written, rtol=1e-12)
    assert torch.allclose(found.values, distance(written), rtol=1e-12)
    assert torch.allclose(found.gradient, expected, rtol=1e-9, atol=1e-12)
    numeric = slopes(lambda v: float(distance(coarse(MODEL, v, kept)).sum()), x)
    assert torch.allclose(found.gradient, numeric, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_shortcut_of_a_conditioning_through_several_steps(group: tuple[int, ...]) -> None:
    """Finite differences of the written-out expression, in which the conditioning acts at every kept step."""
    x, condition = noise(2, SIZE, seed=1, scale=3.0), noise(2, SIZE, seed=5)

    def sample_of(c: Tensor) -> Tensor:
        return coarse(lambda v, s: conditioned(v, s, c), x, kept)

    kept, _ = kept_steps(x, GRIDS["to zero"], group)
    kept, end = moved(lambda v, s: conditioned(v, s, condition), kept, x)
    found = shortcut_of_condition(conditioned, condition, kept, end, distance)
    numeric = slopes(lambda c: float(distance(sample_of(c)).sum()), condition)
    assert torch.allclose(found.gradient, numeric, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("grid", GRIDS)
def test_shortcut_through_all_steps_is_full_backpropagation(grid: str) -> None:
    """Then nothing is constant."""
    sigmas, x = GRIDS[grid], noise(2, SIZE, scale=10.0)
    path = states(MODEL, x, sigmas)
    kept = [
        KeptStep(state, high, low, torch.zeros_like(x))
        for state, high, low in zip(path, sigmas, sigmas[1:], strict=False)
    ]
    found = shortcut(MODEL, kept, path[-1], distance)
    expected = full(MODEL, x, sigmas, find_step("euler"), distance).gradient
    assert torch.allclose(found.gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("grid", GRIDS)
def test_full_is_autograd_through_the_loop(solver: str, grid: str, checkpoint: bool) -> None:
    """The same numbers as backpropagation through the plain loop, and as finite differences."""
    sigmas, x = GRIDS[grid], noise(2, SIZE, scale=10.0)
    found = full(MODEL, x, sigmas, find_step(solver), distance, checkpoint=checkpoint)
    leaf = x.clone().requires_grad_()
    end = plain_loop(MODEL, leaf, sigmas, solver)
    (expected,) = torch.autograd.grad(distance(end).sum(), leaf)
    assert torch.allclose(found.gradient, expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(found.sample, end.detach())
    numeric = slopes(lambda v: float(distance(plain_loop(MODEL, v, sigmas, solver)).sum()), x)
    assert torch.allclose(found.gradient, numeric, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_full_gradient_of_a_conditioning(checkpoint: bool) -> None:
    """It equals finite differences."""
    sigmas, x, condition = geometric(4), noise(2, SIZE, scale=10.0), noise(2, SIZE, seed=5)
    found = full_of_condition(conditioned, condition, x, sigmas, find_step("euler"), distance, checkpoint=checkpoint)

    def through_all(c: Tensor) -> float:
        return float(distance(plain_loop(lambda v, s: conditioned(v, s, c), x, sigmas, "euler")).sum())

    assert torch.allclose(found.gradient, slopes(through_all, condition), rtol=1e-4, atol=1e-8)


def test_a_model_that_ignores_what_is_optimised_is_named() -> None:
    """It has parameters with a gradient, but its result does not depend on the conditioning."""
    layer = torch.nn.Linear(SIZE, SIZE).double()
    x = noise(2, SIZE)
    kept = [KeptStep(x, torch.tensor(1.0), torch.tensor(0.0), torch.zeros_like(x))]
    with pytest.raises(InvalidInput, match="^denoise: .*depend"):
        shortcut_of_condition(lambda v, s, c: layer(v), noise(2, SIZE, seed=5), kept, x, distance)


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_gradients_in_half_precision_survive_small_objectives(size: float) -> None:
    """The gradient of a mean over a large picture, times a small last step, is too small for half precision."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=generator) / 8
    x = torch.randn(2, 64, generator=generator)

    def gradient(dtype: torch.dtype) -> Tensor:
        def denoise(state: Tensor, sigma: float) -> Tensor:
            hidden = torch.tanh(state.to(dtype) @ weight.to(dtype))
            return (hidden @ weight.to(dtype)).to(state)

        sigmas = torch.tensor([0.3, 0.03, 0.0])
        steps = [KeptStep(x, high, low, torch.zeros_like(x)) for high, low in zip(sigmas, sigmas[1:], strict=False)]
        kept, end = moved(denoise, steps, x)
        return shortcut(denoise, kept, end, lambda sample: size * (sample - 1).square().mean(1)).gradient

    wanted, found = gradient(torch.float32), gradient(torch.float16)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
