"""Lanes on the live host: their timing and their failures cost time, never the picture."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from graphs import Graph, demo, empty_latent, lanes, settings


def _sampled(run_graph, node: str | None, count: int, seed: int = 3, cores: int = 4, **inputs: Any):
    """The run's summary and latent with a test node between loader and sampler."""
    graph = Graph()
    shared = demo(graph) | settings(seed=seed) | {"latent_image": empty_latent(graph)}
    if node is not None:
        shared["model"] = graph.add(node, model=shared["model"], **inputs)
    sampler = graph.add("ChordsKSampler", **shared, cores=cores, accept="first", devices=lanes(graph, count))
    graph.save("latent", sampler)
    run, latents = run_graph(graph)
    return run.outputs[sampler.name]["chords"][0], latents["latent"]


@pytest.fixture(scope="module")
def undisturbed(run_graph) -> torch.Tensor:
    return _sampled(run_graph, None, 4)[1]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_random_delays_do_not_change_the_latent(run_graph, undisturbed: torch.Tensor, count: int) -> None:
    for salt in range(2):
        summary, latent = _sampled(run_graph, "TestRandomDelay", count, salt=salt)
        assert len(summary["devices"]) == min(count, 4)
        assert torch.equal(latent, undisturbed)


@pytest.mark.parametrize(("failing", "from_call"), [("0", 0), ("1", 3), ("3", 1), ("0,2", 2), ("1,2,3", 0)])
def test_lost_lanes_do_not_change_the_latent(
    run_graph, undisturbed: torch.Tensor, failing: str, from_call: int
) -> None:
    summary, latent = _sampled(run_graph, "TestFailingLane", 4, lanes=failing, from_call=from_call)
    assert len(summary["lost_lanes"]) == len(failing.split(","))
    assert all("broken on purpose" in lost for lost in summary["lost_lanes"])
    assert torch.equal(latent, undisturbed)


def test_the_first_failure_is_told_when_no_lane_is_left(run_graph) -> None:
    with pytest.raises(Exception, match="lane [0-3] is broken on purpose"):
        _sampled(run_graph, "TestFailingLane", 4, lanes="0,1,2,3", from_call=2)


def _uncopyable(run_graph, count: int, cores: int) -> tuple[dict[str, Any], torch.Tensor]:
    graph = Graph()
    shared = demo(graph) | settings(seed=3) | {"latent_image": empty_latent(graph)}
    loaded = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="default")
    shared["model"] = graph.add("TestNoFactory", model=loaded)
    sampler = graph.add("ChordsKSampler", **shared, cores=cores, accept="first", devices=lanes(graph, count))
    graph.save("latent", sampler)
    run, latents = run_graph(graph)
    return run.outputs[sampler.name]["chords"][0], latents["latent"]


def test_model_that_cannot_be_copied_keeps_the_picture(run_graph) -> None:
    summary, latent = _uncopyable(run_graph, count=4, cores=4)
    assert summary["devices"] == ["cpu"]
    assert "take turns" in summary["message"]
    assert torch.equal(latent, _uncopyable(run_graph, count=1, cores=4)[1])


@pytest.mark.skipif((os.cpu_count() or 1) < 3, reason="on so few processor cores nothing is chosen but one core")
def test_model_that_cannot_be_copied_is_not_slower_when_the_choice_is_ours(run_graph) -> None:
    summary, _ = _uncopyable(run_graph, count=4, cores=0)
    assert summary["cores"] == 1
    assert "could not be copied" in summary["message"]


def test_a_sampler_used_twice_keeps_its_runs_apart(run_graph, server) -> None:
    """One SAMPLER for a model whose lane fails and then for a sound one: the second run has lost nothing."""
    graph = Graph()
    inputs = demo(graph)
    sampler = graph.add("ChordsSampler", sampler_name="euler", cores=4, accept="first", devices=lanes(graph, 4))
    failing = graph.add("TestFailingLane", model=inputs["model"], lanes="1", from_call=0)
    latent = empty_latent(graph)
    sigmas = graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=12, denoise=1.0)
    for model in (failing, inputs["model"]):
        shared = inputs | {"model": model, "add_noise": True, "noise_seed": 5, "cfg": 3.5}
        latent = graph.add("SamplerCustom", **shared, sampler=sampler, sigmas=sigmas, latent_image=latent)
        graph.save(str(len(graph.saved)), latent)
    before = len(server.log())
    run, _ = run_graph(graph)
    assert len([event for event in run.of_kind("chords") if event["kind"] == "lane"]) == 1
    assert server.log()[before:].count("it took longer") == 1
