"""`split` at auto: the first calls of a model are made in each way, and the fastest way makes the others."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from pack_modules import module
from runs import Given, Runs, empty, is_same, members_at_work

ROUNDING = 1e-4  # relative; two sides of guidance in one call are not summed as each by itself


@pytest.fixture
def as_on_gpus(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """Lanes of the CPU that are treated as GPUs are: on a CPU nothing is shared unless it is asked for."""
    choice = module("nodes.host.sampling.placement")._Choice
    made = choice.__init__

    def init(self: Any, *args: Any) -> None:
        made(self, *args)
        self.on_cpu = False

    monkeypatch.setattr(choice, "__init__", init)
    return runs


@pytest.fixture
def given(runs: Runs) -> Given:
    """A model that was not measured since it was loaded."""
    given = runs.demo(sampler="euler_ancestral", cfg=3.5, steps=16)
    return replace(given, model=module("nodes.host.demo").load_demo_model()[0])


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_the_ways_are_measured_once_and_the_message_says_what_they_took(as_on_gpus: Runs, given: Given) -> None:
    stock = as_on_gpus.stock(given)
    found, run = as_on_gpus.ours(given, 4, split="auto")
    assert error(found, stock) < ROUNDING and run.lost_lanes == ()
    assert set(run.shared.seconds) == {"tokens 4", "guidance x tokens 2", "tokens 2", "guidance", "off"}
    assert "instead of" in run.message or "not notably faster" in run.message
    assert members_at_work() == []

    found, again = as_on_gpus.ours(given, 4, split="auto")
    assert error(found, stock) < ROUNDING
    best = min(run.shared.seconds, key=lambda name: run.shared.seconds[name])
    taken = "off" if again.shared is None else again.shared.split
    assert taken in (best, "off") and len(again.devices) == 1
    assert (again.shared is None) == (taken == "off")


def test_what_was_measured_is_kept_for_the_next_start(as_on_gpus: Runs, given: Given) -> None:
    _, run = as_on_gpus.ours(given, 2, split="auto")
    file = module("nodes.host.devices.timings_file")
    key = file.timings_key(given.model, (1, 16, 16, 16), as_on_gpus.request(cpu_lanes=2), given.cfg)
    kept = {split.name: seconds for split, seconds in file.recall_timings(key).splits.items()}
    assert kept == pytest.approx(run.shared.seconds) and set(kept) == {"tokens 2", "guidance", "off"}


def test_four_steps_are_measured_over_several_runs(as_on_gpus: Runs, given: Given) -> None:
    """A run of a distilled model has fewer calls than are needed."""
    given = replace(given, steps=4, cfg=1.0, sampler="lcm")
    stock = as_on_gpus.stock(given)
    messages = []
    for _ in range(3):
        found, run = as_on_gpus.ours(given, 2, split="auto")
        assert is_same(found, stock)
        messages.append(run.message)
    assert "ms" not in messages[0] and (" ms" in messages[1] or " s" in messages[1])


def failing(given: Given, times: int) -> Given:
    """The inputs with a model that fails so many times in a member's thread."""
    left = [None] * times

    def in_block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        thread = threading.current_thread().name.removeprefix("chords-lane")  # code that knows lanes is not read
        if thread.startswith("chords-member") and left:
            left.pop()
            raise torch.OutOfMemoryError("full")
        return extra["original_block"](args)

    model = given.model.clone()
    model.set_model_patch_replace(in_block, "dit", "double_block", 0)
    return replace(given, model=model)


@pytest.mark.parametrize("count", [2, 4])
def test_a_member_that_fails_in_the_first_call_costs_time_only(as_on_gpus: Runs, given: Given, count: int) -> None:
    """And the next run tries again. A second loss in the same way is the last one."""
    given = replace(given, cfg=1.0, latent=empty(size=112))
    stock = as_on_gpus.stock(given)
    found, run = as_on_gpus.ours(failing(given, 1), count, split="auto")
    assert is_same(found, stock) and "lost a device" in run.message
    found, again = as_on_gpus.ours(given, count, split="auto")
    assert is_same(found, stock) and again.lost_lanes == ()
    assert f"tokens {count}" in again.shared.seconds


def test_after_two_losses_a_way_is_not_tried_and_several_cores_are(as_on_gpus: Runs, given: Given) -> None:
    given = replace(given, cfg=1.0, sampler="euler", steps=30, latent=empty(size=104))
    for _ in range(2):
        _, run = as_on_gpus.ours(failing(given, 1), 2, split="auto")
        assert run.plan.cores == 1 and "lost a device" in run.message
    _, run = as_on_gpus.ours(given, 2, split="auto")
    assert run.plan.cores == 2 and run.lost_lanes == ()


def test_too_few_tokens_are_found_once(as_on_gpus: Runs, given: Given) -> None:
    given = replace(given, cfg=1.0, sampler="euler", steps=30, latent=empty(size=16))  # one token
    found, run = as_on_gpus.ours(given, 2, split="auto", fidelity="exact")
    assert is_same(found, as_on_gpus.stock(given)) and "cannot be shared by 2 devices" in run.message
    _, run = as_on_gpus.ours(given, 2, split="auto")
    assert run.plan.cores == 2


def test_a_way_with_another_result_is_not_used_and_the_message_says_so(
    as_on_gpus: Runs, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("chords_core.execution.autotune"), "_MAX_DIFFERENCE", -1.0)
    given = replace(given, cfg=1.0, latent=empty(size=80))
    found, run = as_on_gpus.ours(given, 2, split="auto")
    assert is_same(found, as_on_gpus.stock(given))
    assert "tokens 2 cannot be used: its result differs by" in run.message


def test_state_around_the_calls_is_not_disturbed_by_measuring(as_on_gpus: Runs, given: Given) -> None:
    """No call is made twice then. The sides of guidance are not evaluated at once."""
    given = replace(given, latent=empty(size=96))  # not measured by another test

    def averaging() -> Any:
        kept: list[torch.Tensor] = []

        def post_cfg(args: dict[str, Any]) -> torch.Tensor:
            kept.append(args["denoised"])
            return torch.stack(kept).mean(0)

        model = given.model.clone()
        model.set_model_sampler_post_cfg_function(post_cfg)
        return model

    found, run = as_on_gpus.ours(replace(given, model=averaging()), 2, split="auto")
    assert set(run.shared.seconds) == {"tokens 2", "off"}
    assert is_same(found, as_on_gpus.stock(replace(given, model=averaging())))
