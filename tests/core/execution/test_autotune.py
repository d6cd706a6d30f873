"""The autotuner measures two ways to make a call, and makes all later calls by the faster one."""

from __future__ import annotations

import pytest
import torch

from chords_core.execution.autotune import Autotuner


class Ways:
    """Two ways that take imagined seconds, a first call ``first`` more. ``taken`` says which way made each call."""

    def __init__(self, default: float, alternative: float, first: float = 0.0) -> None:
        self.now, self.taken = 0.0, []
        self._first = {"default": first, "alternative": first}
        ways = self._way("default", default), self._way("alternative", alternative)
        self.autotuner = Autotuner(*ways, clock=lambda: self.now)

    def _way(self, name: str, seconds: float):
        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            self.taken.append(name)
            self.now += seconds + self._first[name]
            self._first[name] = 0.0
            return x * sigma

        return denoise

    def run(self, calls: int) -> list[str]:
        for call in range(calls):
            assert torch.equal(self.autotuner(torch.ones(2), call), torch.full((2,), float(call)))
        return self.taken


@pytest.mark.parametrize(
    ("default", "alternative", "faster"),
    [(1.0, 1.9, "default"), (1.1, 1.0, "alternative"), (1.0, 1.0, "default")],
)
def test_the_faster_way_makes_all_calls_except_the_first(default: float, alternative: float, faster: str) -> None:
    ways = Ways(default, alternative)
    taken = ways.run(20)
    assert taken == [*["default"] * 3, *["alternative"] * 3, *[faster] * 14]
    assert ways.autotuner.seconds == pytest.approx((default, alternative))
    assert ways.autotuner.default_is_faster is (faster == "default")


def test_the_time_of_the_first_call_does_not_count() -> None:
    assert Ways(1.0, 1.5, first=30.0).run(7)[-1] == "default"
    assert Ways(1.5, 1.0, first=30.0).run(7)[-1] == "alternative"


def test_there_is_no_choice_before_both_ways_are_measured() -> None:
    ways = Ways(1.0, 2.0)
    ways.run(5)
    assert ways.autotuner.default_is_faster is None and ways.autotuner.seconds is None


def test_it_waits_until_the_device_has_done_its_work() -> None:
    """Calls that only queue their work would all look fast."""
    now = [0.0]
    queued = [0.0]

    def queue(seconds: float):
        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            queued[0] += seconds
            return x

        return denoise

    def synchronize() -> None:
        now[0] += queued[0]
        queued[0] = 0.0

    autotuner = Autotuner(queue(2.0), queue(1.0), synchronize, lambda: now[0])
    for _ in range(6):
        autotuner(torch.zeros(1), 1.0)
    assert autotuner.default_is_faster is False and autotuner.seconds == (2.0, 1.0)


def test_what_a_way_raises_is_raised() -> None:
    def broken(x: torch.Tensor, sigma: float) -> torch.Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        Autotuner(broken, broken)(torch.zeros(1), 1.0)
