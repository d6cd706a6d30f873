"""The comparison with other ways: its network is the demo model's, and its page says where ours is behind."""

from __future__ import annotations

import pytest
import torch

from benchmarks import _peer_caches as caches
from benchmarks._peer_ways import Measured
from benchmarks._peers_report import at_equal_calls, percent, verdict

CELL = "flow simple, 20 steps, CFG 3.5, euler"


def _measured(way: str, setting: str, calls: int, errors: tuple[float, ...]) -> Measured:
    return Measured(CELL, way, setting, 1, (calls,) * len(errors), errors)


@torch.no_grad()
def test_the_parts_of_the_network_are_the_network() -> None:
    net = caches.GuidedNetwork(["a red circle"], cfg=3.5)
    x, t = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(1)), torch.full((2,), 0.6)
    tokens = caches._Tokens(net.flow, x, t, net.contexts[0])
    torch.testing.assert_close(tokens.answer(tokens.blocks()), net.flow(x, t, net.contexts[0]))


@torch.no_grad()
def test_guidance_goes_from_the_negative_side_beyond_the_positive_one() -> None:
    def velocity(x: torch.Tensor, _t: torch.Tensor) -> torch.Tensor:
        sides = torch.tensor([1.0, 2.0]) if len(x) == 2 else torch.tensor([2.0])
        return sides.view(-1, 1, 1, 1).expand_as(x)

    x, sigma = torch.zeros(1, 16, 16, 16), torch.tensor([0.5])
    guided, plain = (caches.GuidedNetwork(["a red circle"], cfg).denoiser(velocity)(x, sigma) for cfg in (3.0, 1.0))
    torch.testing.assert_close(guided, torch.full_like(x, -0.5 * (1 + 3 * (2 - 1))))
    torch.testing.assert_close(plain, torch.full_like(x, -0.5 * 2))


def test_equal_calls_are_the_fewest_that_are_not_fewer_than_ours() -> None:
    found = [_measured("LazyCache", f"{calls}", calls, (0.1,)) for calls in (11, 13, 16)]
    chosen = [at_equal_calls(found, calls) for calls in (12.5, 13.0, 13.1, 19.0)]
    assert [each.setting for each in chosen if each] == ["13", "13", "16", "16"]
    assert at_equal_calls([], 13.0) is None


@pytest.mark.parametrize("theirs", [(0.02, 0.2), (0.005, 0.2)], ids=["farther", "nearer by the median"])
def test_the_page_says_where_another_way_is_nearer(theirs: tuple[float, float]) -> None:
    ours = _measured("ours", "near", 13, (0.01, 0.01, 0.03))
    lazy = _measured("LazyCache", "0.1", 14, (theirs[0], theirs[0], theirs[1]))
    text = "\n".join(verdict([ours, lazy], "LazyCache"))
    behind = theirs[0] < 0.01
    assert (percent(lazy) in text) == behind
    assert ("| median |" in text) == behind
    assert f"{0 if behind else 1} by the median" in text
