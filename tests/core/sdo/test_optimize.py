"""An optimisation: its result is sampled and never worse, for every solver and option."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chords_core.sdo.batch import rms
from chords_core.sdo.events import Improved, Iterated, Stopped
from chords_core.sdo.optimize import optimize_latent
from tests.core.problems import STEP_SOLVERS, geometric, noise
from tests.core.sdo.short_optimisation import (
    MODEL,
    SIZE,
    conditioned,
    distance,
    model32,
    sequential,
    small,
)


@pytest.mark.parametrize("solver", STEP_SOLVERS)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"refresh": 1},
        {"refresh": 3, "keep": "last"},
        {"refresh": "adaptive"},
        {"refresh": "adaptive", "keep": "last"},
        {"keep": 2},
        {"refresh": 3, "keep": (6, 1)},
        {"gradient": "full"},
        {"gradient": "full", "checkpoint": False},
        {"regularise": "moments"},
        {"regularise": "none", "lr": 0.2},
    ],
    ids=str,
)
def test_the_result_is_sampled_and_no_worse(solver: str, how: dict[str, Any]) -> None:
    """The sample is the sequential sampler's, bit for bit; the objective belongs to it; no item is worse."""
    x = noise(3, SIZE, scale=10.0)
    found, events = small(solver=solver, **how)
    assert torch.equal(found.sample, sequential(MODEL, found.x, geometric(8), solver))
    assert torch.equal(found.objective, distance(found.sample))
    first = distance(sequential(MODEL, x, geometric(8), solver))
    assert torch.allclose(found.history[0], first)
    assert bool((found.objective <= first).all())
    assert found.history.shape == (12, 3) and len(found.sampled) == 12
    assert sum(isinstance(event, Iterated) for event in events) == 12
    improved = [event for event in events if isinstance(event, Improved)]
    assert bool((improved[-1].objective <= improved[0].objective).all())
    if how.get("regularise", "norm") == "norm":
        assert torch.allclose(rms(found.x), rms(x))


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_the_objective_falls(gradient: str) -> None:
    """On a smooth problem both gradients lower the objective by more than half."""
    found, _ = small(gradient=gradient, iterations=40, denoise=lambda x, s: 0.5 * x / (1 + s), refresh=5)
    assert float(found.objective.mean()) < 0.5 * float(found.history[0].mean())


def test_items_are_independent() -> None:
    """An item takes the same path in a batch as alone."""
    x = noise(3, SIZE, scale=10.0)
    together, _ = small(x=x)
    alone, _ = small(x=x[1:2])
    assert torch.allclose(together.x[1:2], alone.x, rtol=1e-9)
    assert torch.allclose(together.history[:, 1:2], alone.history, rtol=1e-9)


def test_the_same_again() -> None:
    """Two runs give the same bits."""
    first, second = small(refresh="adaptive")[0], small(refresh="adaptive")[0]
    assert torch.equal(first.x, second.x) and torch.equal(first.history, second.history)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    """The noise comes back in its own precision, and the sample belongs to it."""
    x, sigmas = noise(2, SIZE).to(dtype), geometric(4, high=1.0).to(dtype)
    found, _ = small(denoise=model32, x=x, sigmas=sigmas)
    assert found.x.dtype == dtype
    assert torch.equal(found.sample, sequential(model32, found.x, sigmas))


def test_early_stop() -> None:
    """When nothing improves it ends and says so; the rest of the history is the best."""
    found, events = small(
        objective=lambda x: 0.0 * x.sum(1) + 1.0, refresh=1, patience=3, iterations=30, x=noise(2, SIZE)
    )
    stops = [event for event in events if isinstance(event, Stopped)]
    assert len(stops) == 1 and stops[0].iteration == 3
    assert found.stopped == stops[0].reason
    assert found.history.shape == (30, 2) and len(found.sampled) == 4
    assert bool((found.history == 1).all())


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_a_conditioning_is_optimised(gradient: str) -> None:
    """The conditioning moves, x stays, and the sample is that of the two."""
    x, condition = noise(2, SIZE, scale=10.0), noise(2, SIZE, seed=5)
    found, _ = small(denoise=conditioned, x=x, condition=condition, gradient=gradient, refresh=3, iterations=20)
    best = found.condition
    assert best is not None and torch.equal(found.x, x)
    assert torch.equal(found.sample, sequential(lambda v, s: conditioned(v, s, best), x, geometric(8)))
    assert bool((found.objective < found.history[0]).all())


def test_inference_mode_outside() -> None:
    """A host may call from inference mode, with inference tensors."""
    with torch.inference_mode():
        found, _ = small(x=noise(2, SIZE, scale=10.0), sigmas=geometric(8))
    assert bool((found.objective < found.history[0]).any())


def test_parameters_are_left_alone() -> None:
    """No gradient is put into the model's parameters."""
    layer = torch.nn.Linear(SIZE, SIZE).double()
    optimize_latent(lambda x, s: layer(x), noise(1, SIZE), geometric(3), distance, iterations=2)
    assert all(parameter.grad is None for parameter in layer.parameters())
