"""What may run in parallel and what must not, by the host's own nodes on the live server.

A graph that must keep its steps in order runs one core and equals the stock sampler; a harmless one keeps its
cores, and its exact hit equals the stock sampler too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import Graph, demo, empty_latent, lanes, settings

Patch = Callable[[Graph, dict[str, Any]], None]
"""Changes a sampler's inputs by adding nodes to the graph."""


def _on_model(class_type: str, **inputs: Any) -> Patch:
    def patch(graph: Graph, sampling: dict[str, Any]) -> None:
        sampling["model"] = graph.add(class_type, model=sampling["model"], **inputs)

    patch.__name__ = class_type
    return patch


def _area(graph: Graph, sampling: dict[str, Any]) -> None:
    left = graph.add(
        "ConditioningSetAreaPercentage",
        conditioning=sampling["positive"],
        width=0.5,
        height=1.0,
        x=0.0,
        y=0.0,
        strength=1.0,
    )
    right = graph.add("ChordsDemoPrompt", text="a big green star on the right, blue background")
    sampling["positive"] = graph.add("ConditioningCombine", conditioning_1=left, conditioning_2=right)


def _mask(graph: Graph, sampling: dict[str, Any]) -> None:
    mask = graph.add("SolidMask", value=0.7, width=128, height=128)
    sampling["positive"] = graph.add(
        "ConditioningSetMask", conditioning=sampling["positive"], mask=mask, strength=0.8, set_cond_area="default"
    )


def _time_range(graph: Graph, sampling: dict[str, Any]) -> None:
    early = graph.add("ConditioningSetTimestepRange", conditioning=sampling["positive"], start=0.0, end=0.4)
    other = graph.add("ChordsDemoPrompt", text="a small star")
    late = graph.add("ConditioningSetTimestepRange", conditioning=other, start=0.4, end=1.0)
    sampling["positive"] = graph.add("ConditioningCombine", conditioning_1=early, conditioning_2=late)


IN_ORDER: list[tuple[Patch, str]] = [
    (_on_model("EasyCache", reuse_threshold=0.2, start_percent=0.1, end_percent=0.9, verbose=False), "step to step"),
    (_on_model("LazyCache", reuse_threshold=0.2, start_percent=0.1, end_percent=0.9, verbose=False), "step to step"),
    (_on_model("APG", eta=1.0, norm_threshold=5.0, momentum=-0.5), "keeps state"),
    (_on_model("LoraLoaderBypassModelOnly", lora_name="tiny_lora.safetensors", strength_model=0.8), "injected"),
    (_on_model("TestSecondModel"), "model of its own"),
    (_on_model("TestReplacedPart"), "is replaced"),
    (_on_model("TestTensorPatch"), "holds tensors"),
]
PARALLEL: list[Patch] = [
    _on_model("RescaleCFG", multiplier=0.7),
    _on_model("CFGZeroStar"),
    _on_model("CFGNorm", strength=1.0),
    _on_model("Mahiro"),
    _on_model("ModelSamplingSD3", shift=2.0),
    _on_model("ModelSamplingFlux", max_shift=1.15, base_shift=0.5, width=1024, height=1024),
    _on_model("LoraLoaderModelOnly", lora_name="tiny_lora.safetensors", strength_model=0.5),
    _area,
    _mask,
    _time_range,
]


def _run(run_graph, patch: Patch) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    graph = Graph()
    sampling = demo(graph) | settings(steps=10) | {"latent_image": empty_latent(graph)}
    patch(graph, sampling)
    node = graph.add("ChordsKSampler", **sampling, cores=4, accept="exact", devices=lanes(graph, 4))
    graph.save("ours", node)
    graph.save("stock", graph.add("KSampler", **sampling))
    run, latents = run_graph(graph)
    return run.outputs[node.name]["chords"][0], latents["ours"], latents["stock"]


@pytest.mark.parametrize(("patch", "reason"), IN_ORDER, ids=[patch.__name__ for patch, _ in IN_ORDER])
def test_steps_stay_in_order(run_graph, patch: Patch, reason: str) -> None:
    summary, ours, stock = _run(run_graph, patch)
    assert summary["cores"] == 1
    assert reason in summary["message"]
    if "Cache" not in patch.__name__:  # the host's caches differ from run to run of the stock sampler as well
        assert torch.equal(ours, stock)


@pytest.mark.parametrize("patch", PARALLEL, ids=[patch.__name__.strip("_") for patch in PARALLEL])
def test_runs_in_parallel(run_graph, patch: Patch) -> None:
    summary, ours, stock = _run(run_graph, patch)
    assert summary["cores"] == 4, summary["message"]
    assert len(summary["devices"]) == 4
    assert torch.equal(ours, stock)


def test_sampler_wrapped_by_another_node_runs_as_stock(run_graph) -> None:
    graph = Graph()
    inputs = demo(graph)
    shared = {
        "model": inputs["model"],
        "positive": inputs["positive"],
        "negative": inputs["negative"],
        "add_noise": True,
        "noise_seed": 7,
        "cfg": 3.5,
        "sigmas": graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=10, denoise=1.0),
        "latent_image": empty_latent(graph),
    }
    ours = graph.add("ChordsSampler", sampler_name="euler", cores=4, accept="first", devices=lanes(graph, 4))
    for key, sampler in (("ours", ours), ("stock", graph.add("KSamplerSelect", sampler_name="euler"))):
        wrapped = graph.add("TestWrappedSampler", sampler=sampler)
        graph.save(key, graph.add("SamplerCustom", **shared, sampler=wrapped))
    _, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])


def test_reloaded_samplers_are_still_known(run_graph) -> None:
    graph = Graph()
    sampling = demo(graph) | settings(steps=10, seed=21) | {"latent_image": empty_latent(graph)}
    sampling["model"] = graph.add("TestReloadSamplers", model=sampling["model"])
    node = graph.add("ChordsKSampler", **sampling, cores=4, devices=lanes(graph, 4))
    graph.save("ours", node)
    run, _ = run_graph(graph)
    assert run.outputs[node.name]["chords"][0]["cores"] == 4
