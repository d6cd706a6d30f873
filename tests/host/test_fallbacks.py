"""A run that does less in parallel than it could counts under the class of its reason: what alerts are made of.

Of the classes that are not here, `no_gain`, `sampler` and `not_allowed` are in test_metrics.py and test_monitoring.py,
`rows` and `check` are with the tests that cause them, and those of a cluster in tests/cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from _server import ComfyServer
from card_words import card_of, english_in
from graphs import Graph, RunGraph, demo, empty_latent, lanes, settings
from scrapes import new_fallbacks

SEEDS = itertools.count(61_000)  # the host does not repeat a run that it knows
STEPS = 12
Make = Callable[[Graph, dict[str, Any]], dict[str, Any]]
"""Changes the inputs of KSampler (CHORDS), and returns its inputs beyond KSampler's."""


def _a_step_cache(graph: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
    cache = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    inputs["model"] = graph.add("LazyCache", model=inputs["model"], **cache)
    return {"cores": 4, "devices": lanes(graph, 4)}


def _a_prompt_for_a_part_of_the_steps(graph: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
    early = graph.add("ConditioningSetTimestepRange", conditioning=inputs["positive"], start=0.0, end=0.4)
    late = graph.add("ConditioningSetTimestepRange", conditioning=inputs["positive"], start=0.4, end=1.0)
    inputs["positive"] = graph.add("ConditioningCombine", conditioning_1=early, conditioning_2=late)
    return {"fidelity": "near", "devices": lanes(graph, 1)}


def _a_compiled_model(graph: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
    inputs["model"] = graph.add("TestCompiled", model=inputs["model"], by="host")
    return {"cores": 4, "devices": lanes(graph, 4)}


def _no_way_to_share(graph: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
    inputs["model"] = graph.add("TestCompiled", model=inputs["model"], by="host")
    return {"cores": 1, "devices": lanes(graph, 2, split="tokens")}


def _no_copies(graph: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
    loaded = graph.add("UNETLoader", unet_name="uncopyable.safetensors", weight_dtype="default")  # it stays so
    inputs["model"] = graph.add("TestUncopyable", model=loaded)
    return {"cores": 4, "devices": lanes(graph, 4)}


def _too_little_memory(graph: Graph, inputs: dict[str, Any]) -> dict[str, Any]:
    loaded = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="default")
    inputs["model"] = graph.add("TestShortOfMemory", model=loaded, device="cpu:1")
    return {"cores": 3, "accept": "first", "devices": lanes(graph, 3)}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_a_step_cache, "patches"),
        (_a_prompt_for_a_part_of_the_steps, "every_step"),
        (_a_compiled_model, "one_device"),
        (_no_way_to_share, "sharing"),
        (_no_copies, "copies"),
        (_too_little_memory, "memory"),
    ],
)
def test_a_run_counts_under_its_reason(run_graph: RunGraph, server: ComfyServer, make: Make, expected: str) -> None:
    graph = Graph()
    inputs = demo(graph) | settings(steps=STEPS, seed=next(SEEDS)) | {"latent_image": empty_latent(graph)}
    more = make(graph, inputs)
    sampler = graph.add("ChordsKSampler", **{**inputs, **more})
    graph.save("latent", sampler)
    with new_fallbacks(server) as found:
        run, _ = run_graph(graph)
    message = run.outputs[sampler.name]["chords"][0]["message"]
    assert expected in found, message
    assert "other" not in found, message
    assert english_in(card_of(run), "ja") == english_in(card_of(run), "zh") == []


def test_a_wrapped_sampler_and_an_odd_schedule_count(run_graph: RunGraph, server: ComfyServer) -> None:
    graph = Graph()
    inputs = demo(graph)
    sampler = graph.add("ChordsSampler", sampler_name="euler", cores=4, accept="first", devices=lanes(graph, 4))
    wrapped = graph.add("TestWrappedSampler", sampler=sampler)
    sigmas = graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=STEPS, denoise=1.0)
    upwards = graph.add("TestSigmas", values="[1.0, 0.5, 0.7, 0.2, 0.0]", dtype="float32")
    shared = inputs | {"add_noise": True, "noise_seed": next(SEEDS), "cfg": 3.5, "latent_image": empty_latent(graph)}
    graph.save("wrapped", graph.add("SamplerCustom", **shared, sampler=wrapped, sigmas=sigmas))
    graph.save("upwards", graph.add("SamplerCustom", **shared, sampler=sampler, sigmas=upwards))
    with new_fallbacks(server) as found:
        run, _ = run_graph(graph)
    assert found == {"wrapped", "schedule"}
    cards = [text["card"] for text in run.of_kind("chords_text")]
    assert len(cards) > 1 and [english for card in cards for english in english_in(card, "ja")] == []


def test_a_controlnet_that_lanes_cannot_have_counts(run_graph: RunGraph, server: ComfyServer) -> None:
    graph = Graph()
    inputs = demo(graph) | settings(steps=STEPS, seed=next(SEEDS)) | {"latent_image": empty_latent(graph)}
    control = graph.add("ControlNetLoader", control_net_name="tiny_flux.safetensors")
    image = graph.add("TestImage", red=0.9, green=0.2, blue=0.1, broken=False)
    pictures = graph.add("ImageBatch", image1=image, image2=image)
    given = {"positive": inputs["positive"], "negative": inputs["negative"], "control_net": control, "image": pictures}
    applied = graph.add("ControlNetApplyAdvanced", **given, strength=0.5, start_percent=0.0, end_percent=1.0)
    inputs |= {"positive": applied[0], "negative": applied[1], "cores": 4, "devices": lanes(graph, 4)}
    sampler = graph.add("ChordsKSampler", **inputs)
    graph.save("latent", sampler)
    with new_fallbacks(server) as found:
        run, _ = run_graph(graph)
    assert found == {"controlnet"}, run.outputs[sampler.name]["chords"][0]["message"]
    assert english_in(card_of(run), "ja") == english_in(card_of(run), "zh") == []
