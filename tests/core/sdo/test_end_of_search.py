"""The end of a search: gains that are too small to count, and models that break on a lane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chords_core import ThreadPool
from chords_core.sdo.events import Iterated, OptimizationEvent, RolledBack, Stopped
from chords_core.sdo.optimize import optimize_latent
from tests.core.problems import Mixture, geometric, noise

MODEL = Mixture(6)


def distance(x: Tensor) -> Tensor:
    """A quadratic objective, one value an item."""
    return (x - 0.3).square().flatten(1).mean(1)


def test_a_search_ends_when_what_it_gains_is_next_to_nothing() -> None:
    """The search ends if values fall by less than a thousandth of the gain so far."""
    events: list[OptimizationEvent] = []

    def sinking(sample: Tensor) -> Tensor:
        """10 first, then 5, and then a tiny bit less each time, with a gradient that moves the sample."""
        done = sum(isinstance(event, Iterated) for event in events)
        mean = sample.flatten(1).mean(1)
        return mean - mean.detach() + (10.0 if done == 0 else 5.0 - 1e-4 * done)

    settings: dict[str, Any] = {"iterations": 40, "refresh": 1, "patience": 5, "on_event": events.append}
    found = optimize_latent(MODEL, noise(1, 6, scale=10.0), geometric(6), sinking, **settings)
    assert [event.reason for event in events if isinstance(event, Stopped)] == ["nothing has improved for 5 iterations"]
    assert len(found.sampled) == 7
    assert float(found.history[-1]) == float(found.history.min())  # the last is the best, and it is kept


def test_lanes_that_find_nan_roll_the_search_back() -> None:
    """If lanes sample, a lane finds that the model returns NaN. The best so far is kept, and the search goes on."""
    events: list[OptimizationEvent] = []

    def brittle(x: Tensor, sigma: float) -> Tensor:
        broken = len(events) >= 3 and not any(isinstance(event, RolledBack) for event in events)
        return MODEL(x, sigma) * (float("nan") if broken else 1.0)

    settings: dict[str, Any] = {"iterations": 12, "refresh": 1, "cores": 2, "on_event": events.append}
    with ThreadPool([brittle, brittle]) as pool:
        found = optimize_latent(MODEL, noise(2, 6, scale=10.0), geometric(6), distance, pool=pool, **settings)
    back = [(event.items, event.reason) for event in events if isinstance(event, RolledBack)]
    assert back == [((0, 1), "the model returned NaN or infinity")]
    assert len(found.sampled) == 12 and bool(torch.isfinite(found.history).all())
    assert bool((found.history[-1] < found.history[0]).all())
