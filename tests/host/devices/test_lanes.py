"""Lanes on the live host: their timing and their failures cost time, never the picture."""

from __future__ import annotations

import os
from itertools import count
from typing import Any

import pytest
import torch
from graphs import Graph, demo, empty_latent, lanes, settings

_SALTS = count(1000)  # the host does not run again what it has run


def _sampled(run_graph, node: str | None, count: int, seed: int = 3, cores: int = 4, **inputs: Any):
    """The run's summary and latent with a test node between loader and sampler."""
    run, sampler, latent = _run(run_graph, node, count, seed, cores, **inputs)
    return run.outputs[sampler]["chords"][0], latent


def _run(run_graph, node: str | None, count: int, seed: int = 3, cores: int = 4, **inputs: Any):
    """The run itself, the sampler's name in it, and the latent."""
    graph = Graph()
    shared = demo(graph) | settings(seed=seed) | {"latent_image": empty_latent(graph)}
    if node is not None:
        shared["model"] = graph.add(node, model=shared["model"], **inputs)
    sampler = graph.add("ChordsKSampler", **shared, cores=cores, accept="first", devices=lanes(graph, count))
    graph.save("latent", sampler)
    run, latents = run_graph(graph)
    return run, sampler.name, latents["latent"]


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


@pytest.mark.parametrize("failing", ["0", "1", "0,2"])
def test_a_device_without_memory_is_a_lost_lane(run_graph, undisturbed: torch.Tensor, failing: str) -> None:
    """Also the model's own: the others go on."""
    summary, latent = _sampled(run_graph, "TestFailingLane", 4, lanes=failing, no_memory=failing, from_call=1)
    assert len(summary["lost_lanes"]) == len(failing.split(","))
    assert torch.equal(latent, undisturbed)


def test_no_device_has_memory_left(run_graph, server) -> None:
    """As in the stock KSampler: the host's own error reaches the host, which then unloads every model."""
    before = len(server.log())
    with pytest.raises(Exception, match="(?s)lane [0-3] is broken on purpose.*you ran out of memory on your GPU"):
        _sampled(run_graph, "TestFailingLane", 4, lanes="0,1,2,3", no_memory="0,1,2,3", from_call=1)
    assert "Got an OOM, unloading all loaded models" in server.log()[before:]


@pytest.fixture
def hang_is_over(run_graph):
    """Ends all hanging calls and says which threads are left; also after the test."""

    def over() -> list[str]:
        graph = Graph()
        node = graph.add("TestHangIsOver", salt=next(_SALTS))
        return run_graph(graph)[0].outputs[node.name]["threads"]

    yield over
    over()


@pytest.mark.parametrize(("hanging", "after_calls"), [("1", 2), ("3", 0), ("0", 3), ("0,2", 1)])
def test_lanes_that_hang_do_not_change_the_latent(
    run_graph, server, undisturbed: torch.Tensor, hang_is_over, hanging: str, after_calls: int
) -> None:
    """The run completes while they hang, and tells; they have no part in the next run, but in the one after it,
    when they are back. No thread is left."""
    gone = {f"cpu:{lane}" if lane != "0" else "cpu" for lane in hanging.split(",")}
    before = len(server.log())
    run, sampler, latent = _run(run_graph, "TestHangingLane", 4, lanes=hanging, after_calls=after_calls)
    assert torch.equal(latent, undisturbed)
    events = [event for event in run.of_kind("chords") if event["kind"] == "lane"]
    still_gone = {event["device"]: event for event in events}  # the newest of each
    told = {device for device, event in still_gone.items() if event["state"] == "slow"}
    assert gone <= told and all("no answer for" in still_gone[device]["error"] for device in gone)
    assert {lost.split(" ")[0] for lost in run.outputs[sampler]["chords"][0]["lost_lanes"]} == told
    for device in gone:
        assert server.log()[before:].count(f"a lane is slow, the others go on: {device} (") == 1

    summary, latent = _sampled(run_graph, "TestRandomDelay", 4, salt=next(_SALTS))
    assert torch.equal(latent, undisturbed)
    assert not (gone - {"cpu"}) & set(summary["devices"])

    assert not any("chords-lane" in name for name in hang_is_over())
    summary, latent = _sampled(run_graph, "TestRandomDelay", 4, salt=next(_SALTS))
    assert torch.equal(latent, undisturbed)
    assert summary["devices"] == ["cpu", "cpu:1", "cpu:2", "cpu:3"] and not summary["lost_lanes"]


def _uncopyable(run_graph, count: int, cores: int) -> tuple[dict[str, Any], torch.Tensor]:
    graph = Graph()
    shared = demo(graph) | settings(seed=3) | {"latent_image": empty_latent(graph)}
    loaded = graph.add("UNETLoader", unet_name="uncopyable.safetensors", weight_dtype="default")
    shared["model"] = graph.add("TestUncopyable", model=loaded)
    sampler = graph.add("ChordsKSampler", **shared, cores=cores, accept="first", devices=lanes(graph, count))
    graph.save("latent", sampler)
    run, latents = run_graph(graph)
    return run.outputs[sampler.name]["chords"][0], latents["latent"]


def test_a_model_of_a_loader_that_cannot_load_it_again_is_copied(run_graph) -> None:
    """Lanes with copies made in memory give the same bits, with a LoRA put on before and another run without."""
    graph = Graph()
    inputs = demo(graph) | settings(seed=3) | {"latent_image": empty_latent(graph), "cores": 3, "accept": "first"}
    loaded = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="default")
    model = graph.add("TestNoFactory", model=loaded)
    lora = graph.add("LoraLoaderModelOnly", model=model, lora_name="tiny_lora.safetensors", strength_model=1.0)
    for name, taken in (("plain", model), ("lora", lora)):
        for there in (3, 1):
            sampler = graph.add("ChordsKSampler", **{**inputs, "model": taken}, devices=lanes(graph, there))
            graph.save(f"{name} {there}", sampler)
    run, latents = run_graph(graph)
    for name in ("plain", "lora"):
        assert torch.equal(latents[f"{name} 3"], latents[f"{name} 1"])
    assert not torch.equal(latents["plain 3"], latents["lora 3"])
    used = [output["chords"][0]["devices"] for output in run.outputs.values() if "chords" in output]
    assert sorted(map(len, used)) == [1, 1, 3, 3]


def test_a_device_with_too_little_memory_is_named(run_graph) -> None:
    graph = Graph()
    inputs = demo(graph) | settings(seed=4) | {"latent_image": empty_latent(graph), "cores": 3, "accept": "first"}
    loaded = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="default")
    inputs["model"] = graph.add("TestShortOfMemory", model=loaded, device="cpu:1")
    sampler = graph.add("ChordsKSampler", **inputs, devices=lanes(graph, 3))
    graph.save("latent", sampler)
    run, _ = run_graph(graph)
    assert (
        "slow because of too little memory, with parts of the model outside: cpu:1"
        in run.outputs[sampler.name]["text"][0]
    )


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
