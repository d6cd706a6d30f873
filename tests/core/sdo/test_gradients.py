"""Gradients: the shortcut is its formula, full backpropagation is autograd through the loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core.sdo.gradients import KeptStep, full, full_of_condition, shortcut, shortcut_of_condition
from chords_core.solvers import find_step
from chords_core.solvers.base import Past
from tests.core.problems import STEP_SOLVERS, geometric, noise
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


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sigma=st.floats(0.2, 8), ratio=st.sampled_from([0.0, 0.3, 0.9]))
def test_shortcut_is_the_formula(seed: int, sigma: float, ratio: float) -> None:
    """(I + h df/dx)^T dJ/dx_N, with the Jacobian written out, for the Euler step."""
    x = noise(1, SIZE, seed=seed)
    high, low = torch.tensor(sigma).double(), torch.tensor(sigma * ratio).double()
    found = shortcut(MODEL, KeptStep(x, high, low), find_step("euler"), distance)
    drift = torch.autograd.functional.jacobian(lambda v: ((v - MODEL(v, float(high))) / high)[0], x)[:, 0]
    h = low - high
    end = x + h * (x - MODEL(x, float(high))) / high
    slope = 2 * (end - TARGET) / SIZE
    expected = (torch.eye(SIZE).double() + h * drift).T @ slope[0]
    assert torch.allclose(found.gradient[0], expected, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.sample, end, rtol=1e-12)
    assert torch.allclose(found.values, distance(end), rtol=1e-12)


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize("index", [0, 3, 7])
def test_shortcut_by_finite_differences(solver: str, index: int) -> None:
    """Any kept step, with its history and what follows held constant."""
    grid = GRIDS["to low"]
    x, rest = noise(2, SIZE, seed=1), noise(2, SIZE, seed=2)
    past = Past(grid[index - 1], noise(2, SIZE, seed=4)) if index else None
    kept = KeptStep(x, grid[index], grid[index + 1], past, rest)
    found = shortcut(MODEL, kept, find_step(solver), distance)

    def value(v: Tensor) -> float:
        end = find_step(solver)(v, MODEL(v, float(grid[index])), grid[index], grid[index + 1], past) + rest
        return float(distance(end).sum())

    assert torch.allclose(found.gradient, slopes(value, x), rtol=1e-5, atol=1e-8)


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


def test_one_step_makes_both_the_same() -> None:
    """With one step the shortcut is the whole way."""
    x, sigmas = noise(2, SIZE), geometric(1)
    step = find_step("euler")
    short = shortcut(MODEL, KeptStep(x, sigmas[0], sigmas[1]), step, distance)
    assert torch.equal(short.gradient, full(MODEL, x, sigmas, step, distance).gradient)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_gradients_of_a_conditioning(checkpoint: bool) -> None:
    """Both gradients of a conditioning equal finite differences."""
    sigmas, x, condition = geometric(4), noise(2, SIZE, scale=10.0), noise(2, SIZE, seed=5)
    step = find_step("euler")
    found = full_of_condition(conditioned, condition, x, sigmas, step, distance, checkpoint=checkpoint)

    def through_all(c: Tensor) -> float:
        return float(distance(plain_loop(lambda v, s: conditioned(v, s, c), x, sigmas, "euler")).sum())

    assert torch.allclose(found.gradient, slopes(through_all, condition), rtol=1e-4, atol=1e-8)
    kept = KeptStep(x, sigmas[2], sigmas[3], rest=noise(2, SIZE, seed=6))
    short = shortcut_of_condition(conditioned, condition, kept, step, distance)

    def through_one(c: Tensor) -> float:
        return float(distance(kept.end(step, conditioned(x, float(sigmas[2]), c))).sum())

    assert torch.allclose(short.gradient, slopes(through_one, condition), rtol=1e-5, atol=1e-8)


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

        kept = KeptStep(x, torch.tensor(0.03), torch.tensor(0.0))
        step = find_step("euler")
        return shortcut(denoise, kept, step, lambda sample: size * (sample - 1).square().mean(1)).gradient

    wanted, found = gradient(torch.float32), gradient(torch.float16)
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
