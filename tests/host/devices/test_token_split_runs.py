"""Devices that share each call by tokens, on a live server: the nodes, the record and the events of a run."""

from __future__ import annotations

import os
from typing import Any

import pytest
from _server import ComfyServer
from client import ComfyClient
from graphs import Graph, Node, RunGraph, demo, empty_latent, settings
from torch import Tensor

ROUNDING = 1e-4  # relative, after some steps; many processors give the same bits


def _is_same(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and float((found - wanted).norm() / wanted.norm()) < ROUNDING


def tokens(graph: Graph, count: int) -> Node:
    return graph.add("ChordsDevices", devices="auto", cpu_lanes=count, split="tokens")


@pytest.mark.parametrize(("sampler", "count"), [("lcm", 2), ("euler", 3)])
def test_the_record_and_the_events_say_how_calls_were_shared(
    run_graph: RunGraph, client: ComfyClient, sampler: str, count: int
) -> None:
    graph = Graph()
    inputs = demo(graph) | settings(sampler, steps=4, cfg=1.0) | {"latent_image": empty_latent(graph)}
    shared = graph.add("ChordsKSampler", **inputs, devices=tokens(graph, count))
    graph.save("shared", shared)
    graph.save("stock", graph.add("KSampler", **inputs))
    run, latents = run_graph(graph)
    assert _is_same(latents["shared"], latents["stock"])
    summary = run.outputs[shared.name]["chords"][0]
    assert summary["split"] == f"tokens {count}" and summary["cores"] == 1 and summary["lost_lanes"] == []
    assert summary["devices"] == ["+".join(["cpu", *(f"cpu:{lane}" for lane in range(1, count))])]
    events = {event["kind"]: event for event in client.chords_events(run.prompt_id)}
    assert events["plan"]["devices"] == summary["devices"]
    assert events["done"]["status"] == "success" and events["done"]["split"] == f"tokens {count}"


def test_two_stages_of_ksampler_advanced(run_graph: RunGraph) -> None:
    graph = Graph()
    given: dict[str, Any] = demo(graph) | settings("euler_ancestral", steps=6, cfg=2.0)
    given["noise_seed"] = given.pop("seed")
    del given["denoise"]

    def stages(ours: bool) -> Node:
        kind = "ChordsKSamplerAdvanced" if ours else "KSamplerAdvanced"
        latent = empty_latent(graph)
        for first, last, noise, left in ((0, 3, "enable", "enable"), (3, 10000, "disable", "disable")):
            more = {"devices": tokens(graph, 2)} if ours else {}
            latent = graph.add(
                kind,
                **given,
                **more,
                latent_image=latent,
                add_noise=noise,
                start_at_step=first,
                end_at_step=last,
                return_with_leftover_noise=left,
            )
        return latent

    graph.save("shared", stages(True))
    graph.save("stock", stages(False))
    _, latents = run_graph(graph)
    assert _is_same(latents["shared"], latents["stock"])


@pytest.mark.parametrize("guider", ["BasicGuider", "DualCFGGuider"])
def test_any_guider_of_custom_sampling(run_graph: RunGraph, server, guider: str) -> None:
    graph = Graph()
    inputs = demo(graph)
    conds = {"conditioning": inputs["positive"]}
    if guider == "DualCFGGuider":
        middle = graph.add("ChordsDemoPrompt", text="a small star")
        conds = {"cond1": inputs["positive"], "cond2": middle, "negative": inputs["negative"]}
        conds |= {"cfg_conds": 3.0, "cfg_cond2_negative": 2.0, "style": "regular"}
    common = {
        "noise": graph.add("RandomNoise", noise_seed=7),
        "guider": graph.add(guider, model=inputs["model"], **conds),
        "sigmas": graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=4, denoise=1.0),
        "latent_image": empty_latent(graph),
    }
    ours = graph.add("ChordsSampler", sampler_name="dpmpp_2m_sde", devices=tokens(graph, 2))
    stock = graph.add("KSamplerSelect", sampler_name="dpmpp_2m_sde")
    graph.save("shared", graph.add("SamplerCustomAdvanced", sampler=ours, **common))
    graph.save("stock", graph.add("SamplerCustomAdvanced", sampler=stock, **common))
    before = len(server.log())
    _, latents = run_graph(graph)
    assert _is_same(latents["shared"], latents["stock"])
    assert "cpu and cpu:1 share each call by tokens" in server.log()[before:]


def test_times_with_a_step_cache_are_not_kept_as_the_models(run_graph: RunGraph, server: ComfyServer) -> None:
    """The cache answers some calls in no time. Then it would seem that leaving out calls gains nothing."""
    kept = server.folder / "user" / "chords" / "measured.json"

    def near(cached: bool, steps: int) -> dict[str, Any]:
        graph = Graph()
        latent = graph.add("EmptyLatentImage", width=128, height=96, batch_size=1)  # measured by no other test
        inputs = demo(graph) | settings(steps=steps) | {"latent_image": latent}
        if cached:
            cache = {"reuse_threshold": 0.2, "start_percent": 0.1, "end_percent": 0.9, "verbose": False}
            inputs["model"] = graph.add("LazyCache", model=inputs["model"], **cache)
        devices = graph.add("ChordsDevices", devices="auto", cpu_lanes=2)
        sampler = graph.add("ChordsKSampler", **inputs, fidelity="near", cores=1, devices=devices)
        graph.save("sampled", sampler)
        run, _ = run_graph(graph)
        return run.outputs[sampler.name]["chords"][0]

    kept.unlink(missing_ok=True)
    assert near(cached=True, steps=18)["tolerance"] is None
    assert not kept.exists()
    assert near(cached=False, steps=19)["tolerance"] == 0.01
    assert near(cached=False, steps=20)["tolerance"] == 0.01
    assert kept.exists() == (os.cpu_count() > 1)  # on one core no other lane shares calls
