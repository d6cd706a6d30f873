"""When the rounds of a window become calls of several rows on one device: where that is asked for and gains a tenth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pack_modules import module
from test_placement import CPUS, GPUS, Options, facts, place

core = module("chords_core")
row_placement = module("nodes.host.sampling.row_placement")
messages = module("nodes.host.sampling.messages")

NEAR, FAST = Options(fidelity="near"), Options(fidelity="fast")
FREE = dict.fromkeys((1, 2, 4, 8), 1.0)

# Seconds a call on an H100, unguided and guided, from benchmarks/results/gpu.md.
SD15 = {1: 0.0453, 2: 0.0448, 4: 0.0440, 8: 0.0459}
SD15_GUIDED = {1: 0.0448, 2: 0.0440, 4: 0.0459, 8: 0.0578}
SDXL_LARGE = {1: 0.0629, 2: 0.0704, 4: 0.0834, 8: 0.1572}
FLUX = {1: 0.1708, 2: 0.3283}
DEMO = {1: 0.0095, 2: 0.0094, 4: 0.0102, 8: 0.0097}  # on an H200


def one_core(known: Any = None, options: Any = NEAR) -> Any:
    return place(known or facts(GPUS[:1]), options)


def in_rows(seconds: dict[int, float], steps: int = 20, options: Any = NEAR, **changes: Any) -> Any:
    known = facts(GPUS[:1], steps=steps, **changes)
    return row_placement.place_rows(one_core(known, options), known, seconds)


@pytest.mark.parametrize("options", [NEAR, FAST])
@pytest.mark.parametrize("steps", [20, 30, 50])
def test_free_rows_are_a_window_of_as_many_cores(steps: int, options: Any) -> None:
    placed = in_rows(FREE, steps, options)
    assert placed.rows == placed.plan.cores == 8
    assert placed.plan.tolerance == options.tolerance
    assert placed.plan.depth == core.plan(steps, 8, 8, tolerance=options.tolerance).depth
    assert placed.groups == ((GPUS[0],),)


def test_measured_models() -> None:
    """SD 1.5 gains, with guidance too, which needs twice the rows; a large model makes one call after another."""
    assert in_rows(SD15).rows == in_rows(SD15, 50).rows == 4
    assert 2 <= in_rows(SD15_GUIDED).rows <= in_rows(SD15_GUIDED, 50).rows == 4
    assert in_rows(SDXL_LARGE).rows == in_rows(FLUX).rows == 1
    assert in_rows(DEMO).rows == 1  # solving the window takes longer than the calls
    assert in_rows(FLUX) == one_core(facts(GPUS[:1]))


@given(
    steps=st.integers(12, 100),
    ratios=st.lists(st.floats(0.5, 4.0), min_size=3, max_size=3),
)
def test_it_is_the_fastest_and_gains_a_tenth(steps: int, ratios: list[float]) -> None:
    seconds = {1: 1.0, **dict(zip((2, 4, 8), ratios, strict=True))}
    known = facts(GPUS[:1], steps=steps)
    alone = one_core(known)

    def takes(rows: int) -> float:
        plan = alone.plan if rows == 1 else core.plan(steps, rows, rows, tolerance=0.01)
        return float(plan.depth * (seconds[rows] + row_placement._SOLVING_A_ROW * rows))

    placed = row_placement.place_rows(alone, known, seconds)
    if placed.rows == 1:
        assert placed == alone and min(map(takes, seconds)) >= 0.9 * takes(1) * (1 - 1e-9)
    else:
        assert takes(placed.rows) == min(map(takes, seconds)) <= 0.9 * takes(1)


def test_rows_that_were_not_measured_are_not_used() -> None:
    assert in_rows({1: 1.0, 2: 1.0, 4: 1.0}).rows == 4
    assert in_rows({1: 1.0}).rows == in_rows({}).rows == 1


@pytest.mark.parametrize(("steps", "worth"), [(12, False), (16, True), (20, True), (50, True)])
def test_a_trial_has_to_pay_within_two_runs(steps: int, worth: bool) -> None:
    """It makes up to six calls; a window of 8 rows saves one of 12 steps and four of 20."""
    known = facts(GPUS[:1], steps=steps)
    assert row_placement.worth_a_trial(one_core(known), known) is worth


def test_more_rows_are_tried_as_long_as_they_can_be_the_fastest() -> None:
    """Even if they take no longer than fewer rows."""
    known = facts(GPUS[:1], steps=20)

    def may_gain(rows: int, seconds: dict[int, float]) -> bool:
        return bool(row_placement.may_gain(one_core(known), known, rows, seconds))

    assert may_gain(2, {1: 1.0}) and may_gain(4, {1: 1.0, 2: 1.1}) and may_gain(8, {1: 1.0, 2: 1.1, 4: 1.2})
    assert not may_gain(4, {1: 1.0, 2: 1.4}) and not may_gain(8, {1: 1.0, 2: 1.1, 4: 1.33})


@pytest.mark.parametrize("options", [NEAR, FAST])
def test_near_and_fast_on_one_device_may_use_rows(options: Any) -> None:
    for devices in (GPUS[:1], CPUS[:1]):
        assert row_placement.may_use_rows(one_core(facts(devices), options), options, facts(devices))


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(fidelity="exact"),
        Options(1, fidelity="near"),
        Options(4, fidelity="near"),
        Options(fidelity="near", method="secant"),
        Options(fidelity="near", accept=1),
    ],
)
def test_ksamplers_picture_and_what_is_asked_for_by_name_may_not(options: Any) -> None:
    known = facts(GPUS[:1])
    assert not row_placement.may_use_rows(place(known, options), options, known)


def test_several_devices_and_too_few_steps_may_not() -> None:
    for known in (facts(GPUS[:2]), facts(GPUS[:1], steps=6), facts((torch.device("cuda:1"),), primary=GPUS[0])):
        assert not row_placement.may_use_rows(place(known, NEAR), NEAR, known)


def test_a_model_that_needs_its_steps_in_order_may_not() -> None:
    known = facts(GPUS[:1])
    in_order = replace(one_core(known), plan=core.SequentialPlan(20, ("context windows need the steps in order",)))
    assert not row_placement.may_use_rows(in_order, NEAR, known)


def test_the_message_says_it() -> None:
    placed = in_rows({1: 1.0, 2: 1.1, 4: 1.1})
    said = messages.describe(placed.plan, ["cuda:0"] * 4, rows=4)
    assert said.startswith("4 rows in one call on cuda:0: about 11 of 20 calls (4 rows take 1.10 times as long as one")
    after = messages.describe(placed.plan, ["cuda:0"] * 4, messages.Outcome(10, 0.004), rows=4)
    assert after.startswith("4 rows in one call on cuda:0: 10 of 20 calls, about 0.4 % from KSampler's picture (")
