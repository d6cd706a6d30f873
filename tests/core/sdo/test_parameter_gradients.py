"""Gradients of parameters: the shortcut is its formula, full backpropagation is autograd through the loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core.sdo.gradients import KeptStep
from chords_core.sdo.parameter_gradients import (
    ParameterGradient,
    Staying,
    full_of_parameters,
    gradient_of_full,
    shortcut_of_parameters,
)
from chords_core.solvers import find_step
from chords_core.solvers.base import Past
from tests.core.problems import STEP_SOLVERS, noise
from tests.core.sdo.short_optimisation import plain_loop
from tests.core.sdo.short_training import SIGMAS, SIZE, Network, starts


def _network() -> Network:
    """One whose term is not zero, ready for a gradient."""
    network = Network()
    network.up = 0.2 * noise(SIZE, 2, seed=5)
    for parameter in network.parameters:
        parameter.requires_grad_(True)
    return network


def _trajectory(network: Network, solver: str) -> tuple[list[Tensor], list[Tensor]]:
    """The states and the denoised estimates at all steps, without a graph."""
    x, past, states, found = starts(0), None, [], []
    with torch.no_grad():
        for sigma, following in zip(SIGMAS, SIGMAS[1:], strict=False):
            denoised = network(x, float(sigma))
            states.append(x)
            found.append(denoised)
            x, past = find_step(solver)(x, denoised, sigma, following, past), Past(sigma, denoised)
    return [*states, x], found


def _kept(network: Network, solver: str, indices: tuple[int, ...]) -> list[KeptStep]:
    states, found = _trajectory(network, solver)
    return [
        KeptStep(states[i], SIGMAS[i], SIGMAS[i + 1], Past(SIGMAS[i - 1], found[i - 1]) if i else None) for i in indices
    ]


@settings(max_examples=15, deadline=None)
@given(indices=st.sets(st.integers(0, 11), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_the_shortcut_is_the_sum_of_its_terms(indices: set[int], seed: int) -> None:
    """sum_j (h_j df(x_j)/dtheta)^T dJ/dx_N, by autograd of the sum of h_j f(x_j) with constant states."""
    network, slope = _network(), noise(3, SIZE, seed=seed)
    kept = _kept(network, "euler", tuple(indices))
    total = sum(
        (part.sigma_next - part.sigma) * (part.x - network(part.x, float(part.sigma))) / part.sigma for part in kept
    )
    assert isinstance(total, Tensor)
    expected = torch.autograd.grad(total, network.parameters, slope)
    found = shortcut_of_parameters(network, network.parameters, kept, find_step("euler"), slope)
    for gradient, truth in zip(found.gradients, expected, strict=True):
        assert torch.allclose(gradient, truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", STEP_SOLVERS)
def test_the_shortcut_by_finite_differences(solver: str) -> None:
    """Any solver, with its history and all states held constant, and what holds the network near the old one."""
    network, slope, weight, indices = _network(), noise(3, SIZE, seed=1), 0.7, (11, 8, 3)
    kept = _kept(network, solver, indices)
    old = Network()

    def value() -> float:
        total = torch.zeros(())
        with torch.no_grad():
            for part in kept:
                denoised = network(part.x, float(part.sigma))
                end = find_step(solver)(part.x, denoised, part.sigma, part.sigma_next, part.past)
                held = (denoised - old(part.x, float(part.sigma))).square().sum()
                total = total + (slope * end).sum() + weight * held / len(kept)
        return float(total)

    found = shortcut_of_parameters(network, network.parameters, kept, find_step(solver), slope, Staying(old, weight))
    for parameter, gradient in zip(network.parameters, found.gradients, strict=True):
        flat = parameter.data.view(-1)
        for place in range(len(flat)):
            middle = float(flat[place])
            flat[place] = middle + 1e-5
            above = value()
            flat[place] = middle - 1e-5
            below = value()
            flat[place] = middle
            assert float(gradient.reshape(-1)[place]) == pytest.approx((above - below) / 2e-5, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_full_is_autograd_through_the_loop(solver: str, checkpoint: bool) -> None:
    network, slope = _network(), noise(3, SIZE, seed=1)
    end = full_of_parameters(network, network.parameters, starts(0), SIGMAS, find_step(solver), checkpoint=checkpoint)
    found = gradient_of_full(end, network.parameters, slope)
    truth = plain_loop(network, starts(0), SIGMAS, solver)
    assert torch.allclose(end, truth, rtol=1e-12)
    for gradient, expected in zip(found.gradients, torch.autograd.grad(truth, network.parameters, slope), strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_parts_of_a_batch_add_up() -> None:
    network, slope = _network(), noise(3, SIZE, seed=1)
    (kept,) = _kept(network, "euler", (9,))
    whole = shortcut_of_parameters(network, network.parameters, [kept], find_step("euler"), slope)
    total = ParameterGradient.zero(network.parameters)
    for item in range(3):
        part = KeptStep(kept.x[item : item + 1], kept.sigma, kept.sigma_next)
        total = total + shortcut_of_parameters(
            network, network.parameters, [part], find_step("euler"), slope[item : item + 1]
        )
    for gradient, expected in zip(total.gradients, whole.gradients, strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-9)


def test_what_holds_the_network_is_measured() -> None:
    """The mean squares are those of the difference from the old network, and of the old network."""
    network, old = _network(), Network()
    kept = _kept(network, "euler", (11, 7))
    found = shortcut_of_parameters(network, network.parameters, kept, find_step("euler"), None, Staying(old, 1.0))
    with torch.no_grad():
        pairs = [(network(part.x, float(part.sigma)), old(part.x, float(part.sigma))) for part in kept]
    assert found.moved == pytest.approx(sum(float((new - was).square().mean(1).sum()) for new, was in pairs))
    assert found.size == pytest.approx(sum(float(was.square().mean(1).sum()) for _, was in pairs))
