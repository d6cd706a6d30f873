"""Trajectories that are carried or sampled on lanes: they may mislead on the way, but not in the result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chords_core import ThreadPool
from chords_core.sdo.events import Refreshed
from tests.core.problems import geometric, noise
from tests.core.sdo.short_optimisation import (
    MODEL,
    SIZE,
    distance,
    sequential,
    small,
)


@pytest.mark.parametrize(("keep", "intervals"), [("last", [2, 4, 8, 16, 20]), ("spread", [2, 4, 7, 7])])
def test_exact_predictions_make_the_interval_longer(keep: str, intervals: list[int]) -> None:
    """Twice as long each time, up to where sampling 40 steps costs less than half of the gradients in between."""
    drift = noise(SIZE, seed=8)
    found, events = small(
        denoise=lambda x, s: x - s * drift,
        refresh="adaptive",
        keep=keep,
        sigmas=geometric(40),
        iterations=51 if keep == "last" else 21,
        patience=None,
        lr=0.01,
    )
    assert [event.interval for event in events if isinstance(event, Refreshed)] == intervals
    assert sum(found.sampled) == len(intervals) + 1


def test_wrong_predictions_make_every_iteration_sample() -> None:
    """A move of the noise changes its sign on the way, before the step that is kept."""
    drift = noise(SIZE, seed=8)

    def turned(x: Tensor, sigma: float) -> Tensor:
        return x + 2.0 * x if sigma > 5 else x - sigma * drift

    _, events = small(denoise=turned, refresh="adaptive", keep="last", iterations=8, patience=None)
    assert all(event.interval <= 2 for event in events if isinstance(event, Refreshed))


def test_a_wrong_prediction_does_not_decide() -> None:
    """Carried values that fall while the sampled ones rise: the initial noise stays the best."""
    found, _ = small(denoise=lambda x, s: 3.0 * x if s > 5 else x - 0.0 * x * s, refresh=4, iterations=8)
    assert torch.equal(found.objective, distance(found.sample))
    assert bool((found.objective <= found.history[0]).all())


@pytest.mark.parametrize("keep", ["last", "spread"])
@pytest.mark.parametrize("cores", [1, 3])
def test_sampling_on_lanes(cores: int, keep: str) -> None:
    """Trajectories on the way may come from CHORDS on several lanes; the result is the sequential one."""
    with ThreadPool([MODEL] * 2) as pool:
        found, _ = small(pool=pool, cores=cores, keep=keep, refresh=3, sigmas=geometric(12))
    assert torch.equal(found.sample, sequential(MODEL, found.x, geometric(12)))
    assert torch.equal(found.objective, distance(found.sample))
    assert bool((found.objective <= found.history[0] * (1 + 1e-12)).all())
