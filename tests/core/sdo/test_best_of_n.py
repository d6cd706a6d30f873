"""Choosing among candidates: the best of each item, by what the sampler makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from chords_core import Cancelled, InvalidInput, choose_initial_noise, optimize_latent, sample

SIGMAS = torch.linspace(1, 0, 6, dtype=torch.float64)


def _denoise(x: Tensor, sigma: float) -> Tensor:
    return torch.tanh(2 * x) * (1 - 0.3 * sigma)


def _near_one(x: Tensor) -> Tensor:
    return (x - 1).square().mean(1)


def _candidates(count: int = 5, batch: int = 3) -> Tensor:
    return torch.randn(count, batch, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_each_item_gets_its_own_best_noise() -> None:
    candidates = _candidates()
    told = []
    found = choose_initial_noise(_denoise, candidates, SIGMAS, _near_one, on_sampled=lambda *event: told.append(event))
    values = torch.stack([_near_one(sample(_denoise, x, SIGMAS, method="sequential").x) for x in candidates])
    assert torch.equal(found.values, values)
    assert found.choice.tolist() == values.argmin(0).tolist()
    for item in range(3):
        assert torch.equal(found.x[item], candidates[values[:, item].argmin(), item])
    assert found.evaluations == 5 * 5
    assert [number for number, _ in told] == list(range(5))


def test_a_search_from_the_chosen_noise_is_never_worse_than_any_of_them() -> None:
    found = choose_initial_noise(_denoise, _candidates(), SIGMAS, _near_one)
    better = optimize_latent(_denoise, found.x, SIGMAS, _near_one, iterations=5)
    assert bool((better.objective <= found.values.amin(0)).all())


def test_what_is_not_finite_is_not_chosen() -> None:
    calls = iter(range(10))

    def sometimes(x: Tensor) -> Tensor:
        return torch.full((len(x),), float("nan"), dtype=x.dtype) if next(calls) == 0 else _near_one(x)

    assert 0 not in choose_initial_noise(_denoise, _candidates(), SIGMAS, sometimes).choice.tolist()


def test_candidates_of_the_wrong_shape_and_cancel() -> None:
    with pytest.raises(InvalidInput, match="candidates"):
        choose_initial_noise(_denoise, _candidates()[0], SIGMAS, _near_one)
    with pytest.raises(Cancelled):
        choose_initial_noise(_denoise, _candidates(), SIGMAS, _near_one, cancel=lambda: True)
