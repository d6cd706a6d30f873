"""What works in parallel with what, by the host's own nodes on the live server: the rows of docs/compatibility.md.

A row that runs in parallel: the exact hit of four cores on four lanes is the stock sampler's latent bit for bit, and
the window's result is the same on one lane and on four. A row that falls back runs one core, is the stock latent and
says why. test_guard.py and test_bit_identity.py have further rows.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from graphs import Graph, Node, demo, empty_latent, lanes, settings

STEPS = 10
_SALTS = count(5000)  # the host does not run again what it has run

Patch = Callable[[Graph, dict[str, Any]], None]
"""Changes a sampler's inputs by adding nodes to the graph."""
Sampled = Callable[[dict[str, Any]], Node]
"""``sampled(chords_inputs)`` adds one sampling to the graph: stock if the inputs are empty."""


def _on_model(class_type: str, **inputs: Any) -> Patch:
    def patch(graph: Graph, sampling: dict[str, Any]) -> None:
        sampling["model"] = graph.add(class_type, model=sampling["model"], **inputs)

    telling = [inputs[name] for name in ("sampling", "kind") if name in inputs]
    patch.__name__ = "-".join([class_type.replace(" ", ""), *telling])
    return patch


def _chords(graph: Graph, accept: str, lane_count: int) -> dict[str, Any]:
    return {"cores": 4, "accept": accept, "devices": lanes(graph, lane_count)}


def _ksampler(graph: Graph, patch: Patch) -> Sampled:
    sampling = demo(graph) | settings(steps=STEPS) | {"latent_image": empty_latent(graph)}
    patch(graph, sampling)
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)


def _guided(graph: Graph, guider: Node, model: Any, latent: Node) -> Sampled:
    noise = graph.add("RandomNoise", noise_seed=7)
    sigmas = graph.add("BasicScheduler", model=model, scheduler="simple", steps=STEPS, denoise=1.0)

    def sampled(chords: dict[str, Any]) -> Node:
        sampler = graph.add("ChordsSampler" if chords else "KSamplerSelect", sampler_name="euler", **chords)
        inputs = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": latent}
        return graph.add("SamplerCustomAdvanced", **inputs)

    return sampled


def _add_parallel(graph: Graph, sampled: Sampled, name: str = "") -> None:
    """Save what `_check_parallel` compares."""
    graph.save(f"{name}stock", sampled({}))
    graph.save(f"{name}exact", sampled(_chords(graph, "exact", 4)))
    graph.save(f"{name}first", sampled(_chords(graph, "first", 4)))
    graph.save(f"{name}alone", sampled(_chords(graph, "first", 1)))


def _check_parallel(latents: dict[str, torch.Tensor], name: str = "") -> torch.Tensor:
    stock = latents[f"{name}stock"]
    assert stock.isfinite().all() and stock.std() > 0.05
    assert torch.equal(latents[f"{name}exact"], stock)
    assert torch.equal(latents[f"{name}first"], latents[f"{name}alone"])
    # A window is another computation; if it were equal, nothing ran in parallel.
    assert not torch.equal(latents[f"{name}first"], stock)
    return stock


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-3)


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


_LAYERS = {"double_layers": "1", "single_layers": "0", "start_percent": 0.0, "end_percent": 0.9}

PARALLEL: list[Patch] = [
    _on_model("ModelSamplingDiscrete", sampling="eps", zsnr=False),
    _on_model("ModelSamplingDiscrete", sampling="v_prediction", zsnr=False),
    _on_model("ModelSamplingContinuousEDM", sampling="v_prediction", sigma_max=80.0, sigma_min=0.002),
    _lora_around_a_patch,
    _on_model("SkipLayerGuidanceDiT", scale=2.0, rescaling_scale=0.5, **_LAYERS),
    _on_model("SkipLayerGuidanceDiTSimple", **_LAYERS),
    _on_model("TestCallsAgain", scale=0.5),
    _deprecated_perp_neg,
    _differential_diffusion,
    _on_model("TCFG"),
    _on_model("Epsilon Scaling", scaling_factor=1.01),
    _on_model("RenormCFG", cfg_trunc=100.0, renorm_cfg=1.0),
    _on_model("ScaleROPE", scale_x=1.5, shift_x=0.0, scale_y=1.0, shift_y=0.0, scale_t=1.0, shift_t=0.0),
    _on_model("FreSca", scale_low=0.9, scale_high=1.2, freq_cutoff=4),
    _on_model("TestPatch", kind="scaled"),
    _on_model("TestPatch", kind="skimmed"),
]


@pytest.mark.parametrize("patch", PARALLEL, ids=[patch.__name__.strip("_") for patch in PARALLEL])
def test_patches_in_parallel(run_graph, patch: Patch) -> None:
    graph = Graph()
    _add_parallel(graph, _ksampler(graph, patch))
    graph.save("plain", _ksampler(graph, lambda graph, sampling: None)({}))
    _, latents = run_graph(graph)
    assert not _close(_check_parallel(latents), latents["plain"])  # the patch does something


# Models of other loaders, and what is made for UNets


@pytest.mark.parametrize("by", ["class", "method"])
def test_loaders_of_other_packs_in_parallel(run_graph, by: str) -> None:
    """Which put classes or functions of their own into the network, and of which a copy has its own."""

    def loaded(graph: Graph, sampling: dict[str, Any]) -> None:
        model = graph.add("UNETLoader", unet_name=f"own_loader_{by}.safetensors", weight_dtype="default")
        sampling["model"] = graph.add("TestOwnLoader", model=model, by=by)

    graph = Graph()
    _add_parallel(graph, _ksampler(graph, loaded))
    _check_parallel(run_graph(graph)[1])


def _unet(graph: Graph, patch: Patch) -> Sampled:
    loader = graph.add("TestUNet", seed=1)
    negative = graph.add("ConditioningZeroOut", conditioning=loader[1])
    sampling = settings(steps=STEPS) | {"model": loader[0], "positive": loader[1], "negative": negative}
    sampling["latent_image"] = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    patch(graph, sampling)
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)


_DOWNSCALE = {"start_percent": 0.0, "end_percent": 0.5, "downscale_method": "bicubic", "upscale_method": "bicubic"}

FOR_UNETS: list[Patch] = [
    _on_model("FreeU", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    _on_model("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    _on_model("PatchModelAddDownscale", block_number=1, downscale_factor=2.0, downscale_after_skip=True, **_DOWNSCALE),
    _on_model("PerturbedAttentionGuidance", scale=2.0),
    _on_model("NAGuidance", nag_scale=3.0, nag_alpha=0.5, nag_tau=1.5),
]


@pytest.mark.parametrize("patch", FOR_UNETS, ids=[patch.__name__ for patch in FOR_UNETS])
def test_patches_for_unets_in_parallel(run_graph, patch: Patch) -> None:
    graph = Graph()
    _add_parallel(graph, _unet(graph, patch))
    graph.save("plain", _unet(graph, lambda graph, sampling: None)({}))
    _, latents = run_graph(graph)
    assert not _close(_check_parallel(latents), latents["plain"])


FOR_UNETS_IN_ORDER: list[Patch] = [
    _on_model("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    _on_model("HyperTile", tile_size=32, swap_size=2, max_depth=0, scale_depth=False),
    _on_model("TomePatchModel", ratio=0.3),
]


@pytest.mark.parametrize("patch", FOR_UNETS_IN_ORDER, ids=[patch.__name__ for patch in FOR_UNETS_IN_ORDER])
def test_patches_for_unets_that_fall_back(run_graph, patch: Patch) -> None:
    graph = Graph()
    sampled = _unet(graph, patch)
    ours = sampled(_chords(graph, "first", 4))
    graph.save("ours", ours)
    graph.save("stock", sampled({}))
    run, latents = run_graph(graph)
    summary = run.outputs[ours.name]["chords"][0]
    assert summary["cores"] == 1 and "keeps state" in summary["message"]
    assert torch.equal(latents["ours"], latents["stock"])


# What stays in order


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
    sampling["positive"] = graph.add(
        "GLIGENTextBoxApply",
        conditioning_to=sampling["positive"],
        clip=graph.add("TestTinyClip", width=16, width_g=0, projection=1.0, seed=0),
        gligen_textbox_model=graph.add("GLIGENLoader", gligen_name="tiny_gligen.safetensors"),
        text="a star",
        width=64,
        height=64,
        x=0,
        y=0,
    )


def _context_windows(graph: Graph, sampling: dict[str, Any]) -> None:
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
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=2,
        freenoise=False,
        cond_retain_index_list="",
        split_conds_to_windows=False,
        latent_retain_index_list="",
        causal_window_fix=True,
    )


IN_ORDER: list[tuple[Patch, str]] = [
    (_controlnet, "ControlNet"),
    (_weight_hook, "hooks"),
    (_scheduled_weight_hook, "hooks"),
    (_gligen, "GLIGEN"),
    (_context_windows, "context windows"),
    (_on_model("TestCallsAgainWithRecord"), "keeps state"),
]


@pytest.mark.parametrize(("patch", "reason"), IN_ORDER, ids=[patch.__name__.strip("_") for patch, _ in IN_ORDER])
def test_falls_back_to_one_core(run_graph, patch: Patch, reason: str) -> None:
    graph = Graph()
    sampled = _ksampler(graph, patch)
    ours = sampled(_chords(graph, "first", 4))
    graph.save("ours", ours)
    graph.save("stock", sampled({}))
    graph.save("plain", _ksampler(graph, lambda graph, sampling: None)({}))
    run, latents = run_graph(graph)
    summary = run.outputs[ours.name]["chords"][0]
    assert summary["cores"] == 1 and len(summary["devices"]) == 1
    assert reason in summary["message"]
    assert torch.equal(latents["ours"], latents["stock"])
    # The feature was at work, by more than the rounding that another order of calls brings.
    assert not _close(latents["stock"], latents["plain"])


# Guiders


def _perp_neg(graph: Graph) -> Sampled:
    inputs = demo(graph)
    negative, empty = graph.add("ChordsDemoPrompt", text="a small star"), inputs["negative"]
    conds = {"positive": inputs["positive"], "negative": negative, "empty_conditioning": empty}
    guider = graph.add("PerpNegGuider", model=inputs["model"], **conds, cfg=3.0, neg_scale=1.0)
    return _guided(graph, guider, inputs["model"], empty_latent(graph))


def _dual_cfg_nested(graph: Graph) -> Sampled:
    inputs = demo(graph)
    conds = {"cond1": inputs["positive"], "cond2": graph.add("ChordsDemoPrompt", text="a small star")}
    settings = {"cfg_conds": 3.0, "cfg_cond2_negative": 2.0, "style": "nested"}
    guider = graph.add("DualCFGGuider", model=inputs["model"], **conds, negative=inputs["negative"], **settings)
    return _guided(graph, guider, inputs["model"], empty_latent(graph))


def _without_guidance(graph: Graph) -> Sampled:
    inputs = demo(graph)
    guider = graph.add("BasicGuider", model=inputs["model"], conditioning=inputs["positive"])
    return _guided(graph, guider, inputs["model"], empty_latent(graph))


@pytest.mark.parametrize(
    "build", [_perp_neg, _dual_cfg_nested, _without_guidance], ids=lambda build: build.__name__.strip("_")
)
def test_guiders_in_parallel(run_graph, build: Callable[[Graph], Sampled]) -> None:
    graph = Graph()
    _add_parallel(graph, build(graph))
    _check_parallel(run_graph(graph)[1])


def test_a_guider_with_two_models_falls_back(run_graph, server) -> None:
    graph = Graph()
    inputs = demo(graph)
    other = graph.add("UNETLoader", unet_name="demo_other.safetensors", weight_dtype="default")
    conds = {"positive": inputs["positive"], "negative": inputs["negative"]}
    guider = graph.add("DualModelGuider", model=inputs["model"], model_negative=other, **conds, cfg=3.0)
    sampled = _guided(graph, guider, inputs["model"], empty_latent(graph))
    graph.save("stock", sampled({}))
    graph.save("ours", sampled(_chords(graph, "first", 4)))
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
        sampled = _guided(graph, guider, inputs["model"], latent)

    def part(number: int) -> Sampled:
        return lambda chords: graph.add("LTXVSeparateAVLatent", av_latent=sampled(chords))[number]

    for number in (0, 1):
        _add_parallel(graph, part(number), f"{number} ")
    _, latents = run_graph(graph)
    shapes = [_check_parallel(latents, f"{number} ").shape for number in (0, 1)]
    assert shapes == [(1, 16, 16, 16), (1, 16, 8)]


# Prompts in a row


def _prompt_equals_stock(
    run_graph, loader: str = "demo_copy.safetensors", width: int = 128, height: int = 128, lora: float = 0.0
) -> torch.Tensor:
    """One prompt of its own, checked; the stock latent."""
    graph = Graph()
    sampling = demo(graph) | settings(steps=STEPS, seed=next(_SALTS))
    sampling["latent_image"] = graph.add("EmptyLatentImage", width=width, height=height, batch_size=1)
    sampling["model"] = graph.add("UNETLoader", unet_name=loader, weight_dtype="default")
    if "wan" in loader:
        sampling["positive"] = graph.add("LotusConditioning")
        sampling["negative"] = graph.add("ConditioningZeroOut", conditioning=sampling["positive"])
        sampling["latent_image"] = graph.add(
            "EmptyHunyuanLatentVideo", width=width, height=height, length=9, batch_size=1
        )
    if lora:
        sampling["model"] = graph.add(
            "LoraLoaderModelOnly", model=sampling["model"], lora_name="tiny_lora.safetensors", strength_model=lora
        )
    # Ours first: nothing that the stock sampler did before can help.
    graph.save("exact", graph.add("ChordsKSampler", **sampling, **_chords(graph, "exact", 4)))
    graph.save("first", graph.add("ChordsKSampler", **sampling, **_chords(graph, "first", 4)))
    graph.save("alone", graph.add("ChordsKSampler", **sampling, **_chords(graph, "first", 1)))
    graph.save("stock", graph.add("KSampler", **sampling))
    run, latents = run_graph(graph)
    used = sorted(len(output["chords"][0]["devices"]) for output in run.outputs.values() if "chords" in output)
    assert used == [1, 4, 4]
    return _check_parallel(latents)


def _memory(run_graph) -> tuple[int, int]:
    """How many models are loaded, and how many diffusion models are in memory."""
    graph = Graph()
    node = graph.add("TestLoadedModels", salt=next(_SALTS))
    output = run_graph(graph)[0].outputs[node.name]
    return output["loaded"][0], output["alive"][0]


def test_other_models_in_a_row(run_graph) -> None:
    """Of the same shape and of another one, more than copies are kept of, and back again."""
    for loader in ("demo_copy", "demo_other", "tiny_wan", "demo_copy", "demo_other"):
        _prompt_equals_stock(run_graph, f"{loader}.safetensors", width=64, height=64)


def test_other_weights_in_a_row(run_graph) -> None:
    """The same model with and without a LoRA, of other strengths."""
    for strength in (0.0, 0.5, -0.5, 0.0, 0.5):
        _prompt_equals_stock(run_graph, lora=strength)


def test_other_sizes_in_a_row(run_graph) -> None:
    for width, height in ((128, 128), (64, 192), (256, 64), (128, 128)):
        _prompt_equals_stock(run_graph, width=width, height=height)


@pytest.mark.parametrize("lora", [0.0, 0.5], ids=["plain", "lora"])
def test_unloaded_by_the_host_in_between(run_graph, client, lora: float) -> None:
    """The host keeps the model object and takes its weights off the device, and those of the copies."""
    _prompt_equals_stock(run_graph, lora=lora)
    assert _memory(run_graph)[0] >= 4
    client.post("/free", {"unload_models": True})
    assert _memory(run_graph)[0] == 0
    _prompt_equals_stock(run_graph, lora=lora)
    _prompt_equals_stock(run_graph, lora=-lora)


def test_forgotten_by_the_host_in_between(run_graph, client) -> None:
    """Nothing of the model or its copies stays behind, and it is loaded anew."""
    _prompt_equals_stock(run_graph, lora=0.5)
    _prompt_equals_stock(run_graph, "demo_other.safetensors")
    client.post("/free", {"unload_models": True, "free_memory": True})
    assert _memory(run_graph) == (0, 0)
    _prompt_equals_stock(run_graph, "demo_other.safetensors")
    _prompt_equals_stock(run_graph, lora=0.5)
