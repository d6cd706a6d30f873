"""The same arguments give the same bits, for any number of lanes and any time of each call."""

from __future__ import annotations

import pytest
import torch

from chords_core import SOLVERS, InlinePool, Rectified, Residual, ThreadPool, sample
from chords_core.methods.accept import Accept
from tests.core.problems import Slow, assert_same, geometric, noise, nonlinear

LANES = [1, 2, 3, 8]


@pytest.mark.parametrize("accept", [1, 2, "exact"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("lanes", LANES)
def test_lanes_change_nothing(lanes: int, solver: str, accept: Accept) -> None:
    """1, 2, 3 and 8 lanes give the bits of the caller's own thread, in the precision that models use."""
    x, sigmas = noise(1, 4, 6, 6, scale=10.0, dtype=torch.float32), geometric(16, last_zero=True).float()
    expected = sample(nonlinear, x, sigmas, cores=4, solver=solver, accept=accept)
    with ThreadPool([nonlinear] * lanes) as pool:
        assert_same(sample(nonlinear, x, sigmas, cores=4, solver=solver, accept=accept, pool=pool), expected)


@pytest.mark.parametrize("starts", [[0, 3, 6, 9], [0, 1, 2, 3, 4, 5], [0, 2, 3, 8], [0, 7]])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("lanes", LANES)
def test_timing_changes_nothing(lanes: int, solver: str, starts: list[int]) -> None:
    """Calls that take a random time on each lane, and come back in any order, change no bit."""
    x, sigmas = noise(40, scale=10.0, dtype=torch.float32), geometric(12).float()
    expected = sample(nonlinear, x, sigmas, starts=starts, solver=solver, accept="exact")
    with ThreadPool([Slow(seed, most=0.001) for seed in range(lanes)]) as pool:
        for _ in range(2):
            result = sample(nonlinear, x, sigmas, starts=starts, solver=solver, accept="exact", pool=pool)
            assert_same(result, expected)


def test_one_slow_lane_changes_nothing() -> None:
    """A lane much slower than the others changes no bit."""
    x, sigmas = noise(40, scale=10.0), geometric(16)
    expected = sample(nonlinear, x, sigmas, cores=4)
    with ThreadPool([Slow(0, 0.02), Slow(1, 0.0), Slow(2, 0.0)]) as pool:
        assert_same(sample(nonlinear, x, sigmas, cores=4, pool=pool), expected)


@pytest.mark.parametrize("lanes", LANES)
def test_residual_accepts_the_same_hit(lanes: int) -> None:
    """The residual rule ends with the same hit on any lanes. Only calls that are no longer needed may differ."""
    x, sigmas, rule = noise(40, scale=10.0), geometric(16), Residual(1e-3)
    expected = sample(nonlinear, x, sigmas, cores=5, accept=rule)
    with ThreadPool([Slow(seed) for seed in range(lanes)]) as pool:
        result = sample(nonlinear, x, sigmas, cores=5, accept=rule, pool=pool)
    assert [hit.core for hit in result.hits] == [hit.core for hit in expected.hits]
    assert all(torch.equal(a.x, b.x) for a, b in zip(result.hits, expected.hits, strict=True))
    assert result.depth == expected.depth


@pytest.mark.parametrize("lanes", LANES)
def test_the_same_corrections_are_reported(lanes: int) -> None:
    """The rectifications, by core and index, do not depend on the lanes. Only their order may."""

    def corrections(pool: InlinePool | ThreadPool) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        sample(
            nonlinear,
            noise(8),
            geometric(14),
            starts=[0, 1, 2, 5, 8],
            accept=2,
            pool=pool,
            on_event=lambda event: seen.append((event.core, event.index)) if isinstance(event, Rectified) else None,
        )
        return sorted(seen)

    with ThreadPool([Slow(seed) for seed in range(lanes)]) as pool:
        assert corrections(pool) == corrections(InlinePool(nonlinear))


def test_runs_share_nothing() -> None:
    """A run leaves nothing in its pool: the next run gives the bits of a new pool."""
    x, sigmas = noise(6, scale=10.0), geometric(12)
    with ThreadPool([Slow(0), Slow(1)]) as pool:
        sample(nonlinear, 2 * x, sigmas, cores=3, accept=Residual(1e3), pool=pool)
        result = sample(nonlinear, x, sigmas, cores=4, pool=pool)
    assert_same(result, sample(nonlinear, x, sigmas, cores=4))
