"""Devices that share each call by tokens: the picture is that of KSampler."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from runs import Given, Runs, empty, is_same, members_at_work, noise
from safetensors.torch import load_file
from torch import Tensor

ROUNDING = 1e-4  # of the latent's norm, where the host batches the sides of guidance otherwise


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def same(runs: Runs, given: Given, lanes: int, **options: Any) -> Any:
    """The record of a run that shares its calls and has the stock latent."""
    found, run = runs.ours(given, lanes, **options)
    assert is_same(found, runs.stock(given))
    assert run.shared.split.startswith("tokens") and run.lost_lanes == ()
    assert members_at_work() == []
    return run


@pytest.mark.parametrize("cfg", [1.0, 3.5])
@pytest.mark.parametrize("lanes", [2, 3, 4])
@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "lcm", "dpmpp_2m_sde"])
def test_a_sampler_with_few_steps(runs: Runs, sampler: str, lanes: int, cfg: float) -> None:
    run = same(runs, runs.demo(sampler=sampler, cfg=cfg), lanes)
    assert run.devices == ("+".join(["cpu", *(f"cpu:{lane}" for lane in range(1, lanes))]),)
    assert run.shared.split == f"tokens {lanes}"
    assert "share each call by tokens" in run.message


@pytest.mark.parametrize("sampler", ["er_sde", "uni_pc", "heun", "res_multistep_cfg_pp", "sa_solver", "dpm_adaptive"])
def test_samplers_that_look_into_the_model_or_change_its_options(runs: Runs, sampler: str) -> None:
    same(runs, runs.demo(sampler=sampler, cfg=2.0, steps=5), 2)


def test_an_odd_number_of_tokens_and_a_batch(runs: Runs) -> None:
    """11 x 9 latent pixels are 30 tokens: shares of 8 and 7."""
    same(runs, runs.demo(cfg=3.5, latent={"samples": torch.zeros(2, 16, 11, 9)}), 4)


def test_img2img(runs: Runs) -> None:
    same(runs, runs.demo(latent={"samples": noise(1, 16, 16, 16)}, denoise=0.6, sampler="euler_ancestral"), 3)


def test_inpainting(runs: Runs) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8] = 1
    same(runs, runs.demo(latent={"samples": noise(1, 16, 16, 16), "noise_mask": mask}, cfg=3.5), 2)


def test_areas_of_the_picture(runs: Runs) -> None:
    """Each area is a call of a size of its own."""
    given = runs.demo(cfg=3.5, sampler="lcm")
    left = [[given.positive[0][0], {"area": (8, 8, 4, 0), "strength": 1.0}]]
    same(runs, replace(given, positive=[*given.positive, *left]), 2)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_video(runs: Runs, tiny_files: Path, cfg: float) -> None:
    same(runs, runs.wan(tiny_files / "diffusion_models" / "tiny_wan.safetensors", cfg=cfg, sampler="lcm"), 3)


def test_a_lora(runs: Runs, tiny_files: Path) -> None:
    given = runs.demo(cfg=3.5)
    plain = runs.stock(given)
    lora = load_file(tiny_files / "loras" / "tiny_lora.safetensors")
    model, _ = runs.sd.load_lora_for_models(given.model, None, lora, 0.7, 0.0)
    with_lora = replace(given, model=model)
    assert not torch.equal(runs.stock(with_lora), plain)
    same(runs, with_lora, 3)
    same(runs, given, 3)  # and nothing of it is left


def test_a_function_around_the_model_call_stays_the_outer_one(runs: Runs) -> None:
    """It is called once a call, not once a device, and what it does to the result counts."""
    given, calls = runs.demo(cfg=3.5), []

    def note(batch: int) -> None:
        if not threading.current_thread().name.startswith("chords-lane"):  # code that knows lanes is not read
            calls.append(batch)

    def halved(apply_model: Any, args: dict[str, Any]) -> Tensor:
        note(args["input"].shape[0])
        return 0.9 * apply_model(args["input"], args["timestep"], **args["c"])

    model = given.model.clone()
    model.set_model_unet_function_wrapper(halved)
    given = replace(given, model=model, sampler="euler_ancestral")
    found, run = runs.ours(given, 2)
    ours = len(calls)
    assert is_same(found, runs.stock(given)) and ours == len(calls) - ours
    assert run.shared.split == "tokens 2"


def test_a_step_cache_around_the_model_call_is_not_shared(runs: Runs) -> None:
    """It changes the network of one device for the call, and skips blocks."""
    given = runs.demo(steps=6)

    def cached() -> Given:
        model, kept = given.model.clone(), {"calls": 0, "result": None}
        network = model.get_model_object("diffusion_model")

        def forward(*args: Any, **kwargs: Any) -> Tensor:
            kept["calls"] += 1
            if kept["calls"] % 2 == 1:
                kept["result"] = type(network).forward_orig(network, *args, **kwargs)
            return kept["result"]

        def wrapper(apply_model: Any, args: dict[str, Any]) -> Tensor:
            with mock.patch.object(network, "forward_orig", forward):
                return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(wrapper)
        return replace(given, model=model)

    found, run = runs.ours(cached(), 2)
    assert is_same(found, runs.stock(cached()))
    assert not torch.equal(found, runs.stock(given))
    assert "not shared by tokens" in run.message and "keeps results" in run.message and run.shared is None


def test_patches_before_the_blocks_see_all_tokens_and_those_of_a_block_their_share(runs: Runs) -> None:
    given, seen = runs.demo(), {"before": set(), "within": set()}

    def note(where: str, tokens: int) -> None:
        if not threading.current_thread().name.startswith("chords-lane"):  # code that knows lanes is not read
            seen[where].add(tokens)

    def before(args: dict[str, Any]) -> dict[str, Any]:
        note("before", args["img"].shape[1])
        return {**args, "img": args["img"] * 1.01}

    def within(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        note("within", args["img"].shape[1])
        output = extra["original_block"](args)
        return {**output, "img": output["img"] * 0.99}

    model = given.model.clone()
    model.set_model_patch(before, "post_input")
    model.set_model_patch_replace(within, "dit", "double_block", 1)
    same(runs, replace(given, model=model), 3)
    assert seen == {"before": {64}, "within": {21, 22, 64}}  # 64 in the stock run


def test_a_patch_of_a_block_that_keeps_state_is_not_shared(runs: Runs) -> None:
    """It would be called by each device, with a part of the tokens."""
    given, calls = runs.demo(), []

    def counting(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        output = extra["original_block"](args)
        return {**output, "img": output["img"] * (1 + 0.01 * (len(calls) % 4))}

    model = given.model.clone()
    model.set_model_patch_replace(counting, "dit", "double_block", 1)
    given = replace(given, model=model)
    found, run = runs.ours(given, 2)
    assert is_same(found, runs.stock(given))
    assert run.devices == ("cpu",) and "not shared by tokens" in run.message and "keeps state" in run.message


def test_what_keeps_state_around_the_calls_is_shared(runs: Runs) -> None:
    """Calls keep their order and are made once each, so that a running average comes out as in KSampler."""
    given = runs.demo(cfg=3.5, sampler="euler_ancestral", steps=5)

    def averaging() -> Any:
        kept: list[Tensor] = []

        def post_cfg(args: dict[str, Any]) -> Tensor:
            kept.append(args["denoised"])
            return torch.stack(kept).mean(0)

        model = given.model.clone()
        model.set_model_sampler_post_cfg_function(post_cfg)
        return model

    found, run = runs.ours(replace(given, model=averaging()), 2)
    assert is_same(found, runs.stock(replace(given, model=averaging())))
    assert run.shared.split == "tokens 2"


def test_several_cores_of_several_devices_each(runs: Runs) -> None:
    run = same(runs, runs.demo(steps=12), 4, cores=2, accept="exact")
    assert run.devices == ("cpu+cpu:1", "cpu:2+cpu:3")
    assert run.plan.cores == 2


def test_fewer_calls_on_a_split_are_those_of_one_device(runs: Runs) -> None:
    given = runs.demo(steps=20, cfg=3.5)
    alone, _ = runs.ours(given, 1, split="off", fidelity="near")
    together, run = runs.ours(given, 2, fidelity="near")
    assert is_same(alone, together) and run.evaluations < 20 and run.shared.split == "tokens 2"


def test_the_sides_of_guidance_each_by_tokens(runs: Runs) -> None:
    """No input of a node asks for that, but `auto` does on GPUs."""
    sharing = __import__("importlib").import_module("chords_pack.nodes.host.devices.sharing")
    splits = []
    original = sharing.Sharing.__init__

    def both(self: Any, patchers: Any, given: Any, *others: Any, **named: Any) -> None:
        splits.append(sharing.Split(2, 2))
        original(self, patchers, [sharing.Split(2, 2)], *others, **named)

    given = runs.demo(cfg=3.5, sampler="euler_ancestral", steps=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing.Sharing, "__init__", both)
        found, run = runs.ours(given, 4)
    assert run.shared.split == "guidance x tokens 2" and splits
    assert error(found, runs.stock(given)) < ROUNDING
    assert members_at_work() == []


def test_two_devices_can_share_the_sides_of_any_sampler(runs: Runs) -> None:
    given = runs.demo(cfg=3.5, sampler="euler_ancestral")
    found, run = runs.ours(given, 2, split="guidance")
    assert run.shared.split == "guidance" and run.devices == ("cpu+cpu:1",)
    assert error(found, runs.stock(given)) < ROUNDING


def test_nothing_is_shared_if_that_is_asked_for(runs: Runs) -> None:
    _, run = runs.ours(runs.demo(), 2, split="off")
    assert run.devices == ("cpu",) and run.shared is None


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m_sde"])
def test_auto_has_the_same_picture_on_a_cpu(runs: Runs, sampler: str) -> None:
    """With guidance too: it tries tokens only. The sides of guidance by themselves would have other bits."""
    given = runs.demo(sampler=sampler, cfg=3.5, steps=8, latent=empty(size=144))
    for _ in range(2):
        found, run = runs.ours(given, 2, split="auto")
        assert is_same(found, runs.stock(given))
        assert run.shared is None or set(run.shared.seconds) <= {"tokens 2", "off"}


def test_too_few_tokens_are_computed_whole_and_the_message_says_so(runs: Runs) -> None:
    given = runs.demo(latent=empty(size=16))  # one token
    found, run = runs.ours(given, 2)
    assert is_same(found, runs.stock(given))
    assert run.shared.split == "off"
    assert "a picture of 1 tokens cannot be shared by 2 devices" in run.message
