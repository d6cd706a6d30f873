"""Members that fail, hang or are cancelled: the picture stays right, a cancel ends at once, and no thread is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import islice, product
from typing import Any

import pytest
import torch
from pack_modules import module
from runs import Given, Runs, is_same, members_at_work

TIMES = 54  # runs of a fault, over members and blocks
HANGS = 12  # of a member that hangs
HANG_SECONDS = 3.0  # that a member has to answer then: longer than a busy machine stands still
KEYS = [("double_block", 0), ("single_block", 0), ("single_block", 1)]


def faulty(given: Given, rank: int, key: tuple[str, int], event: Callable[[], Any], call: int = 2) -> Given:
    """The inputs with a model in whose ``call``-th call, in one block, ``event`` happens in one member's thread."""
    calls = []

    def in_block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        thread = threading.current_thread().name.removeprefix("chords-lane")  # code that knows lanes is not read
        if thread == f"chords-member-{rank}" or (rank == 0 and not thread.startswith("chords-member")):
            calls.append(1)
            if len(calls) == call:
                event()
        return extra["original_block"](args)

    model = given.model.clone()
    model.set_model_patch_replace(in_block, "dit", *key)
    return replace(given, model=model)


def places(first: int = 0, times: int = TIMES) -> list[tuple[int, tuple[str, int]]]:
    """Members and blocks, in turn."""
    every = list(product(range(first, 3), KEYS))
    return list(islice((place for _ in range(times) for place in every), times))


def raising(error: BaseException) -> Callable[[], None]:
    def event() -> None:
        raise error

    return event


@pytest.mark.parametrize("error", [RuntimeError("broken"), torch.OutOfMemoryError("full")], ids=["error", "memory"])
def test_a_member_that_fails_costs_time_only(runs: Runs, error: Exception) -> None:
    """In any block of any member: the call is made again by the lane's own device, and the run goes on without help."""
    given = runs.demo(sampler="euler_ancestral")
    stock = runs.stock(given)
    for rank, key in places():
        found, run = runs.ours(faulty(given, rank, key, raising(error)), 3)
        assert is_same(found, stock), (rank, key)
        assert "lost a device" in run.message and str(error) in run.message
        assert len(run.lost_lanes) == 1 and str(error) in run.lost_lanes[0]
        assert members_at_work() == []
    _, run = runs.ours(given, 3)
    assert run.lost_lanes == () and run.shared.split == "tokens 3"


def test_a_cancel_in_any_block_of_any_member_ends_the_run(runs: Runs) -> None:
    import comfy.model_management as host

    given = runs.demo(sampler="euler_ancestral")
    for rank, key in places():
        with pytest.raises(host.InterruptProcessingException):
            runs.ours(faulty(given, rank, key, host.interrupt_current_processing), 3)
        host.interrupt_current_processing(False)
        assert members_at_work() == []
    found, _ = runs.ours(given, 3)
    assert is_same(found, runs.stock(given))


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    split = module("nodes.host.devices.cfg_split")
    monkeypatch.setattr(split, "LANE_TIMEOUTS", type(split.LANE_TIMEOUTS)(floor=HANG_SECONDS, first=20.0, factor=1.0))


def wait_for_members() -> None:
    """Until the threads of members that are back have ended."""
    for thread in threading.enumerate():
        if thread.name.startswith("chords-member"):
            thread.join(60)


@pytest.mark.usefixtures("short_timeouts")
def test_a_member_that_hangs_is_given_up_and_has_no_part_until_it_is_back(runs: Runs) -> None:
    given, back = runs.demo(), threading.Event()
    stock = runs.stock(given)
    try:
        found, run = runs.ours(faulty(given, 2, KEYS[0], back.wait), 3)
        assert is_same(found, stock)
        assert "no answer from member 2" in run.message
        assert runs.lanes.hung_devices() == {torch.device("cpu", 2)}
        found, run = runs.ours(given, 3)
        assert is_same(found, stock) and run.devices == ("cpu+cpu:1",)
    finally:
        back.set()
    wait_for_members()
    assert members_at_work() == [] and runs.lanes.hung_devices() == set()
    found, run = runs.ours(given, 3)
    assert is_same(found, stock) and run.shared.split == "tokens 3"


@pytest.mark.usefixtures("short_timeouts")
def test_no_thread_is_left_of_members_that_hang_in_any_block(runs: Runs) -> None:
    """The caller's own thread is no member that it could give up."""
    given = runs.demo(sampler="euler_ancestral", steps=3)
    stock = runs.stock(given)
    for rank, key in places(first=1, times=HANGS):
        back = threading.Event()
        try:
            found, run = runs.ours(faulty(given, rank, key, back.wait), 3)
            assert is_same(found, stock), (rank, key)
            assert f"no answer from member {rank}" in run.message
        finally:
            back.set()
        wait_for_members()
        assert members_at_work() == [] and runs.lanes.hung_devices() == set()


def test_a_cancel_while_a_member_hangs_ends_the_run(runs: Runs) -> None:
    import comfy.model_management as host

    back = threading.Event()

    def hang() -> None:
        host.interrupt_current_processing()
        back.wait()

    try:
        with pytest.raises(host.InterruptProcessingException):
            runs.ours(faulty(runs.demo(), 1, KEYS[1], hang), 2)
    finally:
        back.set()
        host.interrupt_current_processing(False)
