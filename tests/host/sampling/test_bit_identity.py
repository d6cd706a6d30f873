"""One core, and the exact hit of four cores on four lanes, are the stock sampler's latent bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import STEPS, Graph, Node, demo, empty_latent, lanes, settings

SOLVERS = ("euler", "dpmpp_2m", "res_multistep", "uni_pc", "uni_pc_bh2")
Sampled = Callable[[dict[str, Any]], Node]
"""``sampled(chords_inputs)`` adds one sampling to the graph: stock if the inputs are empty."""


def _ksampler(graph: Graph, inputs: dict[str, Any]) -> Sampled:
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **inputs, **chords)


def _txt2img(graph: Graph, solver: str) -> Sampled:
    return _ksampler(graph, demo(graph) | settings(solver) | {"latent_image": empty_latent(graph)})


def _batch_of_two(graph: Graph, solver: str) -> Sampled:
    return _ksampler(graph, demo(graph) | settings(solver) | {"latent_image": empty_latent(graph, 2)})


def _picture(graph: Graph) -> Node:
    """A latent with something in it."""
    inputs = demo(graph, "a small green square at the top, white background")
    return graph.add("KSampler", **inputs, **settings(steps=6), latent_image=empty_latent(graph))


def _img2img(graph: Graph, solver: str) -> Sampled:
    return _ksampler(graph, demo(graph) | settings(solver, denoise=0.6) | {"latent_image": _picture(graph)})


def _inpaint(graph: Graph, solver: str) -> Sampled:
    mask = graph.add("SolidMask", value=0.0, width=128, height=128)
    hole = graph.add("SolidMask", value=1.0, width=64, height=64)
    mask = graph.add("MaskComposite", destination=mask, source=hole, x=32, y=32, operation="add")
    latent = graph.add("SetLatentNoiseMask", samples=_picture(graph), mask=mask)
    return _ksampler(graph, demo(graph) | settings(solver) | {"latent_image": latent})


def _lora(graph: Graph, solver: str) -> Sampled:
    inputs = demo(graph) | settings(solver) | {"latent_image": empty_latent(graph)}
    inputs["model"] = graph.add(
        "LoraLoaderModelOnly", model=inputs["model"], lora_name="tiny_lora.safetensors", strength_model=0.8
    )
    return _ksampler(graph, inputs)


def _two_stages(graph: Graph, solver: str) -> Sampled:
    shared = demo(graph) | settings(solver)
    shared["noise_seed"] = shared.pop("seed")
    del shared["denoise"]
    first = {
        "add_noise": "enable",
        "start_at_step": 0,
        "end_at_step": 7,
        "return_with_leftover_noise": "enable",
    }
    last = {
        "add_noise": "disable",
        "start_at_step": 7,
        "end_at_step": STEPS,
        "return_with_leftover_noise": "disable",
    }
    empty = empty_latent(graph)

    def sampled(chords: dict[str, Any]) -> Node:
        kind = "ChordsKSamplerAdvanced" if chords else "KSamplerAdvanced"
        half = graph.add(kind, **shared, **first, latent_image=empty, **chords)
        return graph.add(kind, **shared, **last, latent_image=half, **chords)

    return sampled


def _custom_guider(graph: Graph, solver: str) -> Sampled:
    inputs = demo(graph)
    guider = graph.add(
        "DualCFGGuider",
        model=inputs["model"],
        cond1=inputs["positive"],
        cond2=graph.add("ChordsDemoPrompt", text="a small star"),
        negative=inputs["negative"],
        cfg_conds=3.0,
        cfg_cond2_negative=2.0,
        style="regular",
    )
    noise = graph.add("RandomNoise", noise_seed=7)
    sigmas = graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=STEPS, denoise=1.0)
    latent = empty_latent(graph)

    def sampled(chords: dict[str, Any]) -> Node:
        kind = "ChordsSampler" if chords else "KSamplerSelect"
        sampler = graph.add(kind, sampler_name=solver, **chords)
        return graph.add(
            "SamplerCustomAdvanced",
            noise=noise,
            guider=guider,
            sampler=sampler,
            sigmas=sigmas,
            latent_image=latent,
        )

    return sampled


def _video(graph: Graph, solver: str) -> Sampled:
    positive = graph.add("LotusConditioning")
    inputs = {
        "model": graph.add("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default"),
        "positive": positive,
        "negative": graph.add("ConditioningZeroOut", conditioning=positive),
        "latent_image": graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1),
    }
    return _ksampler(graph, inputs | settings(solver))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "build",
    [_txt2img, _img2img, _inpaint, _lora, _batch_of_two, _two_stages, _custom_guider, _video],
    ids=lambda build: build.__name__.strip("_"),
)
def test_exact_equals_stock(run_graph, build: Callable[[Graph, str], Sampled], solver: str) -> None:
    graph = Graph()
    sampled = build(graph, solver)
    graph.save("stock", sampled({}))
    graph.save("one", sampled({"cores": 1, "accept": "auto"}))
    graph.save("exact", sampled({"cores": 4, "accept": "exact", "devices": lanes(graph, 4)}))
    graph.save("window", sampled({"cores": 4, "method": "secant window", "devices": lanes(graph, 4)}))
    _, latents = run_graph(graph)
    assert latents["stock"].std() > 0.1
    assert torch.equal(latents["one"], latents["stock"])
    assert torch.equal(latents["exact"], latents["stock"])
    # A window is another computation; if it were equal, nothing ran in parallel.
    assert not torch.equal(latents["window"], latents["stock"])
    assert torch.nn.functional.mse_loss(latents["window"], latents["stock"]) < 0.2 * latents["stock"].var()


@pytest.mark.parametrize("cores", [2, 4])
def test_second_output_of_custom_sampling_equals_stock(run_graph, cores: int) -> None:
    """The last denoised latent, also where two cores reach the last step in the same round."""
    graph = Graph()
    sampled = _custom_guider(graph, "euler")
    graph.save("stock", sampled({})[1])
    for lane_count in (1, 4):
        chords = {"cores": cores, "accept": "exact", "devices": lanes(graph, lane_count)}
        graph.save(f"exact{lane_count}", sampled(chords)[1])
    _, latents = run_graph(graph)
    assert torch.equal(latents["exact1"], latents["stock"])
    assert torch.equal(latents["exact4"], latents["stock"])


@pytest.mark.parametrize("method", ["CHORDS", "secant window"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_lanes_do_not_change_the_latent(run_graph, solver: str, method: str) -> None:
    graph = Graph()
    sampled = _txt2img(graph, solver)
    counts = (1, 2, 3, 8)
    for count in counts:
        chords = {"cores": 8, "accept": "first", "method": method, "devices": lanes(graph, count)}
        graph.save(f"lanes{count}", sampled(chords))
    _, latents = run_graph(graph)
    for count in counts[1:]:
        assert torch.equal(latents[f"lanes{count}"], latents["lanes1"])
