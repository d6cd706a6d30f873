"""What follows from measured times: costs for the planner, an order of devices, and whether to share calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pack_modules import module

timings = module("nodes.host.devices.timings")
groups = module("nodes.host.devices.groups")
core = module("chords_core")
SECONDS = st.floats(1e-3, 1e3)


def _timings(**changes: Any) -> Any:
    return timings.Timings(**{"step": 1.0, **changes})


def test_without_a_measured_round_a_call_takes_as_long_as_a_step() -> None:
    assert _timings(step=2.0).costs() == (2.0,)
    assert _timings(step=2.0, rounds={1: 1.5}).costs() == (1.5,)


def test_a_number_of_devices_that_was_not_tried_counts_as_the_next_larger_one() -> None:
    assert _timings(rounds={1: 1.0, 4: 1.3, 6: 2.0}).costs() == (1.0, 1.3, 1.3, 1.3, 2.0, 2.0)


@settings(deadline=None, derandomize=True)
@given(SECONDS, st.dictionaries(st.integers(1, 16), SECONDS))
def test_costs_say_what_was_measured_and_the_planner_takes_them(step: float, rounds: dict[int, float]) -> None:
    costs = _timings(step=step, rounds=rounds).costs()
    assert all(costs[cores - 1] == seconds for cores, seconds in rounds.items())
    assert core.plan(20, len(costs), costs=costs).cores <= len(costs)


DEVICES = tuple(torch.device("cuda", number) for number in range(4))


@pytest.mark.parametrize(
    ("seconds", "order"),
    [
        ((1.0, 1.0, 1.0, 1.0), (0, 1, 2, 3)),
        ((1.09, 1.0, 1.05, 1.0), (0, 1, 2, 3)),  # differences by chance
        ((2.0, 1.0, 1.0, 1.0), (1, 2, 3, 0)),
        ((3.0, 1.0, 2.0, 1.0), (1, 3, 2, 0)),
    ],
)
def test_slow_devices_come_last(seconds: tuple[float, ...], order: tuple[int, ...]) -> None:
    calls = {str(device): pace for device, pace in zip(DEVICES, seconds, strict=True)}
    assert _timings(calls=calls).fastest_first(DEVICES) == [DEVICES[place] for place in order]


def test_the_order_stays_if_a_device_was_not_measured() -> None:
    calls = {str(device): 9.0 - number for number, device in enumerate(DEVICES[1:])}
    assert _timings(calls=calls).fastest_first(DEVICES) == list(DEVICES)


@pytest.mark.parametrize(("seconds", "gains"), [(None, True), (0.5, True), (0.89, True), (0.95, False), (2.0, False)])
def test_sharing_gains_if_it_is_notably_faster_than_one_device(seconds: float | None, gains: bool) -> None:
    pair = groups.Split(2)
    splits = {} if seconds is None else {pair: seconds}
    assert _timings(step=9.0, rounds={1: 1.0}, splits=splits).gains(pair) is gains


@pytest.mark.parametrize("name", ["off", "guidance", "tokens 2", "tokens 12", "guidance x tokens 2"])
def test_the_name_of_a_split_says_all_of_it(name: str) -> None:
    assert groups.split_named(name).name == name


@pytest.mark.parametrize("name", ["", "tokens", "tokens 1", "tokens 0", "tokens 2 ", "guidance x", "on"])
def test_no_other_name_is_one_of_a_split(name: str) -> None:
    with pytest.raises(ValueError):
        groups.split_named(name)
