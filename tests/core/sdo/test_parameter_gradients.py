"""Gradients of parameters: the shortcut is its formula, full backpropagation is autograd through the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

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
from chords_core.solvers.base import jump
from tests.core.problems import STEP_SOLVERS, noise
from tests.core.sdo.short_optimisation import plain_loop
from tests.core.sdo.short_training import MODEL, SIGMAS, SIZE, Network, starts


def _network() -> Network:
    """One whose term is not zero, ready for a gradient."""
    network = Network()
    network.up = 0.2 * noise(SIZE, 2, seed=5)
    for parameter in network.parameters:
        parameter.requires_grad_(True)
    return network


def _kept(network: Network, indices: Sequence[int]) -> list[KeptStep]:
    """These steps of the network's trajectory."""
    x, states = starts(0), []
    with torch.no_grad():
        for sigma, following in pairwise(SIGMAS):
            states.append(x)
            x = jump(x, network(x, float(sigma)), sigma, following)
    after = [*indices[1:], len(SIGMAS) - 1]
    return [KeptStep(states[i], SIGMAS[i], SIGMAS[j], torch.zeros_like(x)) for i, j in zip(indices, after, strict=True)]


def _chain(network: Network, kept: Sequence[KeptStep]) -> Tensor:
    """The end as the shortcut takes it: first-order steps from one kept step to the next, plus constants."""
    x = kept[0].x
    for step, following in zip(kept, [*kept[1:], None], strict=True):
        x = jump(x, network(x, float(step.sigma)), step.sigma, step.sigma_next)
        if following is not None:
            x = x + (following.x - x).detach()
    return x


@settings(max_examples=15, deadline=None)
@given(indices=st.sets(st.integers(0, 11), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_the_shortcut_is_autograd_of_its_chain(indices: set[int], seed: int) -> None:
    network, slope = _network(), noise(3, SIZE, seed=seed)
    kept = _kept(network, sorted(indices))
    expected = torch.autograd.grad(_chain(network, kept), network.parameters, slope)
    found = shortcut_of_parameters(network, network.parameters, kept, slope)
    for gradient, truth in zip(found.gradients, expected, strict=True):
        assert torch.allclose(gradient, truth, rtol=1e-9, atol=1e-12)


def test_one_step_is_its_term() -> None:
    """(h df/dtheta)^T dJ/dx_N, as in the paper."""
    network, slope = _network(), noise(3, SIZE, seed=1)
    kept = _kept(network, [11])
    x, sigma, following = kept[0].x, SIGMAS[11], SIGMAS[12]
    term = (following - sigma) * (x - network(x, float(sigma))) / sigma
    expected = torch.autograd.grad(term, network.parameters, slope)
    found = shortcut_of_parameters(network, network.parameters, kept, slope)
    for gradient, truth in zip(found.gradients, expected, strict=True):
        assert torch.allclose(gradient, truth, rtol=1e-9, atol=1e-12)


def test_all_steps_of_euler_are_full_backpropagation() -> None:
    network, slope = _network(), noise(3, SIZE, seed=1)
    found = shortcut_of_parameters(network, network.parameters, _kept(network, range(12)), slope)
    end = full_of_parameters(network, starts(0), SIGMAS, find_step("euler"))
    for gradient, truth in zip(
        found.gradients, gradient_of_full(end, network.parameters, slope).gradients, strict=True
    ):
        assert torch.allclose(gradient, truth, rtol=1e-9, atol=1e-12)


def test_the_shortcut_by_finite_differences() -> None:
    """The chain of the kept steps, and what holds the network at the sampled states, which are constant there."""
    network, slope, weight = _network(), noise(3, SIZE, seed=1), 0.7
    kept, old = _kept(network, [3, 8, 11]), Network()
    with torch.no_grad():
        ends = [jump(k.x, network(k.x, float(k.sigma)), k.sigma, k.sigma_next) for k in kept]
    constants = [after.x - end for after, end in zip(kept[1:], ends, strict=False)]

    def value() -> float:
        with torch.no_grad():
            x, held = kept[0].x, torch.zeros(())
            for number, step in enumerate(kept):
                x = jump(x, network(x, float(step.sigma)), step.sigma, step.sigma_next)
                x = x + constants[number] if number < len(constants) else x
                held = held + (network(step.x, float(step.sigma)) - old(step.x, float(step.sigma))).square().sum()
            return float((slope * x).sum() + weight * held / len(kept))

    found = shortcut_of_parameters(network, network.parameters, kept, slope, Staying(old, weight))
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


def test_a_step_that_does_not_use_the_parameters_passes_the_slope_on() -> None:
    """A LoRA may be off for a part of the steps."""
    network, slope = _network(), noise(3, SIZE, seed=1)

    def partly(x: Tensor, sigma: float) -> Tensor:
        return network(x, sigma) if sigma > float(SIGMAS[6]) else MODEL(x, sigma)

    kept = _kept(network, [3, 11])
    found = shortcut_of_parameters(partly, network.parameters, kept, slope)
    x = kept[0].x
    after = jump(x, network(x, float(SIGMAS[3])), SIGMAS[3], SIGMAS[11])
    end = jump(after, MODEL(after + (kept[1].x - after).detach(), float(SIGMAS[11])), SIGMAS[11], SIGMAS[12])
    for gradient, truth in zip(found.gradients, torch.autograd.grad(end, network.parameters, slope), strict=True):
        assert torch.allclose(gradient, truth, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_full_is_autograd_through_the_loop(solver: str, checkpoint: bool) -> None:
    network, slope = _network(), noise(3, SIZE, seed=1)
    end = full_of_parameters(network, starts(0), SIGMAS, find_step(solver), checkpoint=checkpoint)
    found = gradient_of_full(end, network.parameters, slope)
    truth = plain_loop(network, starts(0), SIGMAS, solver)
    assert torch.allclose(end, truth, rtol=1e-12)
    for gradient, expected in zip(found.gradients, torch.autograd.grad(truth, network.parameters, slope), strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_parts_of_a_batch_add_up() -> None:
    network, slope = _network(), noise(3, SIZE, seed=1)
    kept = _kept(network, [4, 9])
    whole = shortcut_of_parameters(network, network.parameters, kept, slope)
    total = ParameterGradient.zero(network.parameters)
    for item in range(3):
        rows = slice(item, item + 1)
        part = [replace(step, x=step.x[rows], constant=step.constant[rows]) for step in kept]
        total = total + shortcut_of_parameters(network, network.parameters, part, slope[rows])
    for gradient, expected in zip(total.gradients, whole.gradients, strict=True):
        assert torch.allclose(gradient, expected, rtol=1e-9)


def test_what_holds_the_network_is_measured() -> None:
    """The mean squares are those of the difference from the old network, and of the old network."""
    network, old = _network(), Network()
    kept = _kept(network, [7, 11])
    found = shortcut_of_parameters(network, network.parameters, kept, None, Staying(old, 1.0))
    with torch.no_grad():
        pairs = [(network(part.x, float(part.sigma)), old(part.x, float(part.sigma))) for part in kept]
    assert found.moved == pytest.approx(sum(float((new - was).square().mean(1).sum()) for new, was in pairs))
    assert found.size == pytest.approx(sum(float(was.square().mean(1).sum()) for _, was in pairs))
