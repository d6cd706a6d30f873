"""What breaks is rolled back, and what is cancelled keeps its best."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core.sdo.descent import OptimizationCancelled
from chords_core.sdo.events import Iterated, RolledBack
from tests.core.problems import Counted, geometric, noise
from tests.core.sdo.short_optimisation import (
    MODEL,
    SIZE,
    distance,
    sequential,
    small,
)


def test_nan_objective_is_rolled_back() -> None:
    """An item whose objective breaks continues from its best; the other item does not change its path."""
    calls = 0

    def objective(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        values = distance(x)
        return values * torch.tensor([float("nan"), 1.0]).double() if calls == 5 else values

    x = noise(2, SIZE, scale=10.0)
    found, events = small(objective=objective, x=x, refresh=1)
    broken = [event for event in events if isinstance(event, RolledBack)]
    assert [(event.iteration, event.items) for event in broken] == [(4, (0,))]
    assert "NaN" in broken[0].reason
    assert bool(torch.isfinite(found.objective).all()) and bool((found.objective <= found.history[0]).all())
    undisturbed, _ = small(x=x, refresh=1)
    assert torch.allclose(found.x[1], undisturbed.x[1])


def test_broken_model_is_rolled_back() -> None:
    """A model that gives NaN for an item far from its initial noise does not end the run."""
    x = noise(2, SIZE, scale=10.0)
    initial = x.clone()

    def fragile(state: Tensor, sigma: float) -> Tensor:
        denoised = MODEL(state, sigma)
        moved_far = (state[:1] - initial[:1]).abs().amax() > 1.0
        if sigma == float(geometric(8)[0]) and bool(moved_far):
            denoised = torch.cat((denoised[:1] * float("nan"), denoised[1:]))
        return denoised

    found, events = small(denoise=fragile, x=x, refresh=1)
    broken = [event for event in events if isinstance(event, RolledBack)]
    assert broken and all(event.items == (0,) for event in broken)
    assert bool(torch.isfinite(found.sample).all())
    assert bool((found.objective <= found.history[0]).all())


@pytest.mark.parametrize("explosions", [(6,), (6, 8)])
def test_exploding_objective_is_rolled_back(explosions: tuple[int, ...]) -> None:
    """An objective that rises steeply rolls all items back, and a second time too."""
    calls = 0

    def objective(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return distance(x) * (1e6 if calls in explosions else 1.0)

    found, events = small(objective=objective, refresh=1)
    broken = [event for event in events if isinstance(event, RolledBack)]
    assert [event.iteration + 1 for event in broken] == list(explosions)
    assert all(event.items == (0, 1, 2) and "exploded" in event.reason for event in broken)
    assert bool((found.objective <= found.history[0]).all())


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_cancel_keeps_the_best(gradient: str) -> None:
    """The exception has the best so far; before the first sample it has none."""
    cancel = threading.Event()

    def listen(event: Any) -> None:
        if isinstance(event, Iterated) and event.iteration == 4:
            cancel.set()

    with pytest.raises(OptimizationCancelled) as raised:
        small(on_event=listen, cancel=cancel, gradient=gradient)
    best = raised.value.best
    assert best is not None and best.history.shape == (5, 3)
    assert torch.equal(best.sample, sequential(MODEL, best.x, geometric(8)))
    with pytest.raises(OptimizationCancelled) as raised:
        small(cancel=lambda: True)
    assert raised.value.best is None


def test_cancel_during_sampling_stops_within_an_evaluation() -> None:
    """No further model call once cancel is true."""
    model = Counted(MODEL)
    with pytest.raises(OptimizationCancelled):
        small(denoise=model, cancel=lambda: model.calls >= 5)
    assert model.calls == 5


@pytest.mark.parametrize("gradient", ["shortcut", "full"])
def test_cancel_between_any_two_calls(gradient: str) -> None:
    """Whenever it comes, at most the evaluation in progress is finished."""
    for calls in range(0, 60, 7):
        model = Counted(MODEL)
        try:
            small(denoise=model, cancel=lambda m=model, n=calls: m.calls >= n, gradient=gradient, iterations=3)
        except OptimizationCancelled:
            assert model.calls <= calls + (gradient == "shortcut")
