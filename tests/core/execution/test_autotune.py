"""Of two ways to make a call, the faster one is found out, and taken from then on."""

from __future__ import annotations

import pytest
import torch

from chords_core.execution.autotune import Autotuner


class Ways:
    """Two ways that take imagined seconds, a first call longer, and say which was taken."""

    def __init__(self, usual: float, other: float, first: float = 0.0) -> None:
        self.now, self.taken = 0.0, []
        self._first = {"usual": first, "other": first}
        self.faster = Autotuner(self._way("usual", usual), self._way("other", other), clock=lambda: self.now)

    def _way(self, name: str, seconds: float):
        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            self.taken.append(name)
            self.now += seconds + self._first[name]
            self._first[name] = 0.0
            return x * sigma

        return denoise

    def run(self, calls: int) -> list[str]:
        for call in range(calls):
            assert torch.equal(self.faster(torch.ones(2), call), torch.full((2,), float(call)))
        return self.taken


@pytest.mark.parametrize(("usual", "other", "wins"), [(1.0, 1.9, "usual"), (1.1, 1.0, "other"), (1.0, 1.0, "usual")])
def test_the_faster_way_makes_all_calls_but_the_first(usual: float, other: float, wins: str) -> None:
    ways = Ways(usual, other)
    taken = ways.run(20)
    assert taken == [*["usual"] * 3, *["other"] * 3, *[wins] * 14]
    assert ways.faster.seconds == pytest.approx((usual, other))
    assert ways.faster.usual_wins is (wins == "usual")


def test_the_time_to_get_ready_does_not_count() -> None:
    assert Ways(1.0, 1.5, first=30.0).run(7)[-1] == "usual"
    assert Ways(1.5, 1.0, first=30.0).run(7)[-1] == "other"


def test_before_both_were_tried_nothing_is_said() -> None:
    ways = Ways(1.0, 2.0)
    ways.run(5)
    assert ways.faster.usual_wins is None and ways.faster.seconds is None


def test_it_waits_for_a_device_that_is_still_busy() -> None:
    """Calls that only queue their work would all look fast."""
    now = [0.0]
    queued = [0.0]

    def queue(seconds: float):
        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            queued[0] += seconds
            return x

        return denoise

    def settled() -> None:
        now[0] += queued[0]
        queued[0] = 0.0

    faster = Autotuner(queue(2.0), queue(1.0), settled, lambda: now[0])
    for _ in range(6):
        faster(torch.zeros(1), 1.0)
    assert faster.usual_wins is False and faster.seconds == (2.0, 1.0)


def test_what_a_way_raises_is_raised() -> None:
    def broken(x: torch.Tensor, sigma: float) -> torch.Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        Autotuner(broken, broken)(torch.zeros(1), 1.0)
