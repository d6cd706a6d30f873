"""The autotuner measures several ways to make a call, and makes all later calls by the fastest."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from chords_core.execution.autotune import Autotuner, fastest_way


class Ways:
    """Ways that take imagined seconds, each a first call ``first`` more. ``taken`` says which way made each call."""

    def __init__(self, seconds: dict[str, float], first: float = 0.0, compare: bool = True, **tuning) -> None:
        self.now, self.taken, self._seconds, self._compare = 0.0, [], seconds, compare
        self._first = dict.fromkeys(seconds, first)
        self.wrong: dict[str, float] = {}
        self.tuner = Autotuner(tuple(seconds), clock=lambda: self.now, **tuning)

    def run(self, calls: int) -> list[str]:
        for call in range(1, calls + 1):
            result = self.tuner(lambda way, call=call: self._call(way, call), compare=self._compare)
            assert torch.equal(result, torch.full((2,), float(call)))
        return self.taken

    def _call(self, way: str, call: int) -> torch.Tensor:
        self.taken.append(way)
        self.now += self._seconds[way] + self._first[way]
        self._first[way] = 0.0
        return torch.full((2,), float(call)) * (1 + self.wrong.get(way, 0.0))


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        ({"tokens": 1.0, "off": 1.9}, "tokens"),
        ({"tokens": 1.1, "off": 1.0}, "off"),
        ({"tokens": 1.0, "off": 1.0}, "off"),
        ({"both": 0.5, "tokens": 0.4, "guidance": 0.6, "off": 1.0}, "tokens"),
    ],
)
@pytest.mark.parametrize("compare", [True, False])
def test_the_fastest_way_makes_all_calls_except_the_first(
    seconds: dict[str, float], fastest: str, compare: bool
) -> None:
    ways = Ways(seconds, compare=compare)
    taken = ways.run(40)
    assert set(taken[-25:]) == {fastest} and ways.tuner.choice == fastest
    assert ways.tuner.seconds == pytest.approx(seconds)


def test_without_comparing_no_call_is_made_twice() -> None:
    assert len(Ways({"both": 0.5, "tokens": 0.4, "off": 1.0}, compare=False).run(30)) == 30


def test_comparing_makes_one_call_a_way_twice_and_these_are_the_defaults_trials() -> None:
    ways = Ways({"both": 0.5, "tokens": 0.45, "guidance": 0.6, "off": 1.0})
    assert len(ways.run(30)) == 33
    assert Counter(ways.taken)["off"] == 3


def test_a_way_with_another_result_is_not_used_again_and_its_result_is_not_taken() -> None:
    ways = Ways({"tokens": 0.1, "off": 1.0})
    ways.wrong["tokens"] = 0.03
    assert Counter(ways.run(20))["tokens"] == 1
    assert ways.tuner.choice == "off" and "differs by 3.0%" in ways.tuner.dropped["tokens"]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_result_that_is_no_number_is_another_one(wrong: float) -> None:
    ways = Ways({"tokens": 0.1, "off": 1.0})
    ways.wrong["tokens"] = wrong
    assert Counter(ways.run(20))["tokens"] == 1


def test_rounding_is_no_other_result() -> None:
    ways = Ways({"tokens": 0.1, "off": 1.0}, compare=True)
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        ways.tuner(lambda way: x.bfloat16() if way == "tokens" else x)
    assert ways.tuner.dropped == {}


def test_the_time_of_the_first_call_does_not_count() -> None:
    assert Ways({"tokens": 1.0, "off": 1.5}, first=30.0).run(12)[-1] == "tokens"
    assert Ways({"tokens": 1.5, "off": 1.0}, first=30.0).run(12)[-1] == "off"


def test_a_way_that_is_far_slower_is_given_up_early() -> None:
    """Each trial is a call of a run."""
    ways = Ways({"fast": 0.5, "slow": 5.0, "off": 1.0}, compare=False)
    assert Counter(ways.run(30))["slow"] == 2


def test_a_small_gain_is_none_where_so_much_is_needed() -> None:
    assert fastest_way({"tokens": 0.95, "off": 1.0}, "off", 0.1) == "off"
    assert fastest_way({"tokens": 0.85, "guidance": 0.8, "off": 1.0}, "off", 0.1) == "guidance"
    assert Ways({"tokens": 0.95, "off": 1.0}, min_gain=0.1).run(20)[-1] == "off"


def test_what_is_known_is_not_measured() -> None:
    known = {"tokens": 0.5, "off": 1.0}
    assert Ways(known, known=known).run(10) == ["tokens"] * 10
    assert Counter(Ways(known, known={"tokens": 0.5}).run(20))["off"] > 1  # a part is not enough


def test_a_way_that_fails_is_dropped_and_the_default_never_is() -> None:
    ways = Ways({"tokens": 0.1, "off": 1.0})
    ways.run(1)
    ways.tuner.drop("tokens", "lost a device")
    ways.tuner.drop("off", "whatever")
    assert set(ways.run(10)[2:]) == {"off"} and ways.tuner.choice == "off"


def test_a_way_that_fails_once_is_measured_again_later_and_then_it_is_dropped() -> None:
    ways = Ways({"tokens": 0.5, "off": 1.0})
    ways.run(1)
    ways.tuner.fail("tokens", "lost", limit=2)
    assert "tokens" not in ways.tuner.seconds and ways.tuner.choice is None
    while ways.tuner.choice is None:
        ways.run(1)
    assert ways.tuner.choice == "tokens"
    ways.tuner.fail("tokens", "lost", limit=2)
    assert ways.tuner.choice == "off" and ways.tuner.dropped == {"tokens": "lost"}


def test_a_way_that_cannot_be_used_now_is_not_taken() -> None:
    ways = Ways({"both": 0.3, "tokens": 0.5, "off": 1.0})
    ways.run(30)
    ways.taken.clear()
    for _ in range(3):
        ways.tuner(lambda way: ways._call(way, 1), without={"both"})
    assert ways.taken == ["tokens"] * 3 and ways.tuner.choice == "both"


def test_there_is_no_choice_before_all_ways_are_measured() -> None:
    ways = Ways({"tokens": 1.0, "off": 2.0})
    ways.run(3)
    assert ways.tuner.choice is None


def test_it_waits_until_the_device_has_done_its_work() -> None:
    """Calls that only queue their work would all look fast."""
    now, queued, seconds = [0.0], [0.0], {"tokens": 1.0, "off": 2.0}

    def call(way: str) -> torch.Tensor:
        queued[0] += seconds[way]
        return torch.zeros(1)

    def synchronize() -> None:
        now[0] += queued[0]
        queued[0] = 0.0

    tuner = Autotuner(("tokens", "off"), clock=lambda: now[0])
    for _ in range(10):
        tuner(call, synchronize)
    assert tuner.choice == "tokens" and tuner.seconds == seconds


def test_what_a_way_raises_is_raised() -> None:
    def broken(way: str) -> torch.Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        Autotuner(("tokens", "off"))(broken)
