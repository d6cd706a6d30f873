"""Which features run in parallel, with the host's own nodes on a live server: the rows of docs/compatibility.md.

In a row that runs in parallel, the exact result of four cores on four lanes is the stock sampler's latent bit for bit,
and the window's result is the same on one lane and on four. A row that falls back runs one core, has the stock latent,
and says why. test_reasons.py and test_bit_identity.py have further rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import Graph, Node, demo, empty_latent, settings

from tests.host.compatibility.parallel_rows import (
    STEPS,
    Patch,
    Sampled,
    add_parallel,
    check_parallel,
    chords_inputs,
    is_close,
    on_model,
    sampled_by_guider,
    sampled_by_ksampler,
)

# Model patches


def _lora_around_a_patch(graph: Graph, sampling: dict[str, Any]) -> None:
    lora = {"lora_name": "tiny_lora.safetensors"}
    sampling["model"] = graph.add("LoraLoaderModelOnly", model=sampling["model"], strength_model=0.5, **lora)
    sampling["model"] = graph.add("ModelSamplingSD3", model=sampling["model"], shift=2.0)
    sampling["model"] = graph.add("LoraLoaderModelOnly", model=sampling["model"], strength_model=-0.2, **lora)


def _deprecated_perp_neg(graph: Graph, sampling: dict[str, Any]) -> None:
    empty = graph.add("ChordsDemoPrompt", text="")
    sampling["negative"] = graph.add("ChordsDemoPrompt", text="a small star")
    sampling["model"] = graph.add("PerpNeg", model=sampling["model"], empty_conditioning=empty, neg_scale=1.0)


def _differential_diffusion(graph: Graph, sampling: dict[str, Any]) -> None:
    first = graph.add("KSampler", **sampling)
    mask = graph.add("TestMask", value=0.6)
    sampling["latent_image"] = graph.add("SetLatentNoiseMask", samples=first, mask=mask)
    sampling["model"] = graph.add("DifferentialDiffusion", model=sampling["model"], strength=1.0)


def _controlnet(graph: Graph, sampling: dict[str, Any]) -> None:
    control = graph.add("ControlNetLoader", control_net_name="tiny_flux.safetensors")
    applied = graph.add(
        "ControlNetApplyAdvanced",
        positive=sampling["positive"],
        negative=sampling["negative"],
        control_net=control,
        image=graph.add("TestImage", red=0.9, green=0.2, blue=0.1, broken=False),
        strength=0.5,
        start_percent=0.0,
        end_percent=0.8,
    )
    sampling["positive"], sampling["negative"] = applied[0], applied[1]


_LAYERS = {"double_layers": "1", "single_layers": "0", "start_percent": 0.0, "end_percent": 0.9}

PARALLEL: list[Patch] = [
    on_model("ModelSamplingDiscrete", sampling="eps", zsnr=False),
    on_model("ModelSamplingDiscrete", sampling="v_prediction", zsnr=False),
    on_model("ModelSamplingContinuousEDM", sampling="v_prediction", sigma_max=80.0, sigma_min=0.002),
    _lora_around_a_patch,
    on_model("SkipLayerGuidanceDiT", scale=2.0, rescaling_scale=0.5, **_LAYERS),
    on_model("SkipLayerGuidanceDiTSimple", **_LAYERS),
    on_model("TestCallsAgain", scale=0.5),
    _deprecated_perp_neg,
    _differential_diffusion,
    on_model("TCFG"),
    on_model("Epsilon Scaling", scaling_factor=1.01),
    on_model("RenormCFG", cfg_trunc=100.0, renorm_cfg=1.0),
    on_model("ScaleROPE", scale_x=1.5, shift_x=0.0, scale_y=1.0, shift_y=0.0, scale_t=1.0, shift_t=0.0),
    on_model("FreSca", scale_low=0.9, scale_high=1.2, freq_cutoff=4),
    on_model("TestPatch", kind="scaled"),
    on_model("TestPatch", kind="skimmed"),
    _controlnet,
]


@pytest.mark.parametrize("patch", PARALLEL, ids=[patch.__name__.strip("_") for patch in PARALLEL])
def test_patches_in_parallel(run_graph, patch: Patch) -> None:
    graph = Graph()
    add_parallel(graph, sampled_by_ksampler(graph, patch))
    graph.save("plain", sampled_by_ksampler(graph, lambda graph, sampling: None)({}))
    _, latents = run_graph(graph)
    assert not is_close(check_parallel(latents), latents["plain"])  # the patch does something


# Models of other loaders, and patches for UNets


@pytest.mark.parametrize("by", ["class", "method"])
def test_loaders_of_other_packs_in_parallel(run_graph, by: str) -> None:
    """These loaders put classes or functions of their own into the network; each copy gets its own."""

    def loaded(graph: Graph, sampling: dict[str, Any]) -> None:
        model = graph.add("UNETLoader", unet_name=f"own_loader_{by}.safetensors", weight_dtype="default")
        sampling["model"] = graph.add("TestOwnLoader", model=model, by=by)

    graph = Graph()
    add_parallel(graph, sampled_by_ksampler(graph, loaded))
    check_parallel(run_graph(graph)[1])


def _unet(graph: Graph, patch: Patch) -> Sampled:
    loader = graph.add("TestUNet", seed=1)
    negative = graph.add("ConditioningZeroOut", conditioning=loader[1])
    sampling = settings(steps=STEPS) | {"model": loader[0], "positive": loader[1], "negative": negative}
    sampling["latent_image"] = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    patch(graph, sampling)
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)


_DOWNSCALE = {"start_percent": 0.0, "end_percent": 0.5, "downscale_method": "bicubic", "upscale_method": "bicubic"}


def _with_gligen(graph: Graph, sampling: dict[str, Any], gligen: Node) -> None:
    sampling["positive"] = graph.add(
        "GLIGENTextBoxApply",
        conditioning_to=sampling["positive"],
        clip=graph.add("TestTinyClip", width=16, width_g=0, projection=1.0, seed=0),
        gligen_textbox_model=gligen,
        text="a star",
        width=64,
        height=64,
        x=0,
        y=0,
    )


def _gligen_of_a_unet(graph: Graph, sampling: dict[str, Any]) -> None:
    _with_gligen(graph, sampling, graph.add("TestGligenOfUNet", model=sampling["model"]))


FOR_UNETS: list[Patch] = [
    on_model("FreeU", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    on_model("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    on_model("PatchModelAddDownscale", block_number=1, downscale_factor=2.0, downscale_after_skip=True, **_DOWNSCALE),
    on_model("PerturbedAttentionGuidance", scale=2.0),
    on_model("NAGuidance", nag_scale=3.0, nag_alpha=0.5, nag_tau=1.5),
    _gligen_of_a_unet,
]


@pytest.mark.parametrize("patch", FOR_UNETS, ids=[patch.__name__.strip("_") for patch in FOR_UNETS])
def test_patches_for_unets_in_parallel(run_graph, patch: Patch) -> None:
    graph = Graph()
    add_parallel(graph, _unet(graph, patch))
    graph.save("plain", _unet(graph, lambda graph, sampling: None)({}))
    _, latents = run_graph(graph)
    assert not is_close(check_parallel(latents), latents["plain"])


FOR_UNETS_IN_ORDER: list[Patch] = [
    on_model("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    on_model("HyperTile", tile_size=32, swap_size=2, max_depth=0, scale_depth=False),
    on_model("TomePatchModel", ratio=0.3),
]


@pytest.mark.parametrize("patch", FOR_UNETS_IN_ORDER, ids=[patch.__name__ for patch in FOR_UNETS_IN_ORDER])
def test_patches_for_unets_that_fall_back(run_graph, patch: Patch) -> None:
    graph = Graph()
    sampled = _unet(graph, patch)
    ours = sampled(chords_inputs(graph, "first", 4))
    graph.save("ours", ours)
    graph.save("stock", sampled({}))
    run, latents = run_graph(graph)
    summary = run.outputs[ours.name]["chords"][0]
    assert summary["cores"] == 1 and "keeps state" in summary["message"]
    assert torch.equal(latents["ours"], latents["stock"])


# Features that need their steps in order


def _weight_hook(graph: Graph, sampling: dict[str, Any]) -> None:
    hooks = graph.add("CreateHookLoraModelOnly", lora_name="tiny_lora.safetensors", strength_model=0.8)
    sampling["positive"] = graph.add(
        "ConditioningSetProperties",
        cond_NEW=sampling["positive"],
        strength=1.0,
        set_cond_area="default",
        hooks=hooks,
    )


def _scheduled_weight_hook(graph: Graph, sampling: dict[str, Any]) -> None:
    hooks = graph.add("CreateHookLoraModelOnly", lora_name="tiny_lora.safetensors", strength_model=1.0)
    keyframes = graph.add(
        "CreateHookKeyframesInterpolated",
        strength_start=0.0,
        strength_end=1.0,
        interpolation="linear",
        start_percent=0.0,
        end_percent=1.0,
        keyframes_count=4,
        print_keyframes=False,
    )
    hooks = graph.add("SetHookKeyframes", hooks=hooks, hook_kf=keyframes)
    sampling["positive"] = graph.add(
        "ConditioningSetProperties",
        cond_NEW=sampling["positive"],
        strength=1.0,
        set_cond_area="default",
        hooks=hooks,
    )


def _gligen(graph: Graph, sampling: dict[str, Any]) -> None:
    sampling["model"] = graph.add("TestPlaceForGligen", model=sampling["model"])
    _with_gligen(graph, sampling, graph.add("GLIGENLoader", gligen_name="tiny_gligen.safetensors"))


def _context_windows(
    graph: Graph, sampling: dict[str, Any], context_schedule: str = "standard_static", freenoise: bool = False
) -> None:
    positive = graph.add("LotusConditioning")
    model = graph.add("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default")
    sampling["positive"] = positive
    sampling["negative"] = graph.add("ConditioningZeroOut", conditioning=positive)
    sampling["latent_image"] = graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=13, batch_size=1)
    sampling["model"] = graph.add(
        "ContextWindowsManual",
        model=model,
        context_length=2,
        context_overlap=1,
        context_schedule=context_schedule,
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=2,
        freenoise=freenoise,
        cond_retain_index_list="",
        split_conds_to_windows=False,
        latent_retain_index_list="",
        causal_window_fix=True,
    )


def _freenoise(graph: Graph, sampling: dict[str, Any]) -> None:
    _context_windows(graph, sampling, freenoise=True)


def _bypass_lora(graph: Graph, sampling: dict[str, Any]) -> None:
    lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 0.8}
    sampling["model"] = graph.add("LoraLoaderBypassModelOnly", model=sampling["model"], **lora)


def _bypass_lora_and_weight_hook(graph: Graph, sampling: dict[str, Any]) -> None:
    """The host takes the LoRA off and puts it on again in each call, around the change of weights."""
    _bypass_lora(graph, sampling)
    _weight_hook(graph, sampling)


BY_COPIES: list[Patch] = [
    _weight_hook,
    _gligen,
    _context_windows,
    _freenoise,
    _bypass_lora,
    _bypass_lora_and_weight_hook,
]


@pytest.mark.parametrize("patch", BY_COPIES, ids=[patch.__name__.strip("_") for patch in BY_COPIES])
def test_parts_that_each_lane_has_a_copy_of_in_parallel(run_graph, patch: Patch) -> None:
    graph = Graph()
    add_parallel(graph, sampled_by_ksampler(graph, patch))
    graph.save("plain", sampled_by_ksampler(graph, lambda graph, sampling: None)({}))
    _, latents = run_graph(graph)
    assert not is_close(check_parallel(latents), latents["plain"])


IN_ORDER: list[tuple[Patch, str]] = [
    (_scheduled_weight_hook, "hooks with keyframes"),
    (on_model("TestCallsAgainWithRecord"), "keeps state"),
]


@pytest.mark.parametrize(("patch", "reason"), IN_ORDER, ids=[patch.__name__.strip("_") for patch, _ in IN_ORDER])
def test_falls_back_to_one_core(run_graph, patch: Patch, reason: str) -> None:
    graph = Graph()
    sampled = sampled_by_ksampler(graph, patch)
    ours = sampled(chords_inputs(graph, "first", 4))
    graph.save("ours", ours)
    graph.save("stock", sampled({}))
    graph.save("plain", sampled_by_ksampler(graph, lambda graph, sampling: None)({}))
    run, latents = run_graph(graph)
    summary = run.outputs[ours.name]["chords"][0]
    assert summary["cores"] == 1 and len(summary["devices"]) == 1
    assert reason in summary["message"]
    assert torch.equal(latents["ours"], latents["stock"])
    # The feature has an effect that is larger than the rounding of another order of calls.
    assert not is_close(latents["stock"], latents["plain"])


# Guiders


def _perp_neg(graph: Graph) -> Sampled:
    inputs = demo(graph)
    negative, empty = graph.add("ChordsDemoPrompt", text="a small star"), inputs["negative"]
    conds = {"positive": inputs["positive"], "negative": negative, "empty_conditioning": empty}
    guider = graph.add("PerpNegGuider", model=inputs["model"], **conds, cfg=3.0, neg_scale=1.0)
    return sampled_by_guider(graph, guider, inputs["model"], empty_latent(graph))


def _dual_cfg_nested(graph: Graph) -> Sampled:
    inputs = demo(graph)
    conds = {"cond1": inputs["positive"], "cond2": graph.add("ChordsDemoPrompt", text="a small star")}
    settings = {"cfg_conds": 3.0, "cfg_cond2_negative": 2.0, "style": "nested"}
    guider = graph.add("DualCFGGuider", model=inputs["model"], **conds, negative=inputs["negative"], **settings)
    return sampled_by_guider(graph, guider, inputs["model"], empty_latent(graph))


def _without_guidance(graph: Graph) -> Sampled:
    inputs = demo(graph)
    guider = graph.add("BasicGuider", model=inputs["model"], conditioning=inputs["positive"])
    return sampled_by_guider(graph, guider, inputs["model"], empty_latent(graph))


@pytest.mark.parametrize(
    "build", [_perp_neg, _dual_cfg_nested, _without_guidance], ids=lambda build: build.__name__.strip("_")
)
def test_guiders_in_parallel(run_graph, build: Callable[[Graph], Sampled]) -> None:
    graph = Graph()
    add_parallel(graph, build(graph))
    check_parallel(run_graph(graph)[1])


def test_a_guider_with_two_models_falls_back(run_graph, server) -> None:
    graph = Graph()
    inputs = demo(graph)
    other = graph.add("UNETLoader", unet_name="demo_other.safetensors", weight_dtype="default")
    conds = {"positive": inputs["positive"], "negative": inputs["negative"]}
    guider = graph.add("DualModelGuider", model=inputs["model"], model_negative=other, **conds, cfg=3.0)
    sampled = sampled_by_guider(graph, guider, inputs["model"], empty_latent(graph))
    graph.save("stock", sampled({}))
    graph.save("ours", sampled(chords_inputs(graph, "first", 4)))
    before = len(server.log())
    _, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])
    assert "one core: the guider Guider_DualModel uses a second model" in server.log()[before:]


# Latents of several parts


def _two_parts(graph: Graph) -> tuple[dict[str, Any], Node]:
    inputs = demo(graph)
    inputs["model"] = graph.add("TestTwoParts", model=inputs["model"])
    picture = graph.add("TestEmptyPicture")
    latent = graph.add("LTXVConcatAVLatent", video_latent=picture, audio_latent=graph.add("TestSoundLatent"))
    return inputs, latent


@pytest.mark.parametrize("by_ksampler", [True, False], ids=["ksampler", "custom"])
def test_latents_of_several_parts_in_parallel(run_graph, by_ksampler: bool) -> None:
    graph = Graph()
    inputs, latent = _two_parts(graph)
    if by_ksampler:
        inputs |= settings(steps=STEPS) | {"latent_image": latent}

        def sampled(chords: dict[str, Any]) -> Node:
            return graph.add("ChordsKSampler" if chords else "KSampler", **inputs, **chords)
    else:
        conds = {"positive": inputs["positive"], "negative": inputs["negative"]}
        guider = graph.add("CFGGuider", model=inputs["model"], **conds, cfg=3.5)
        sampled = sampled_by_guider(graph, guider, inputs["model"], latent)

    def part(number: int) -> Sampled:
        return lambda chords: graph.add("LTXVSeparateAVLatent", av_latent=sampled(chords))[number]

    for number in (0, 1):
        add_parallel(graph, part(number), f"{number} ")
    _, latents = run_graph(graph)
    shapes = [check_parallel(latents, f"{number} ").shape for number in (0, 1)]
    assert shapes == [(1, 16, 16, 16), (1, 16, 8)]
