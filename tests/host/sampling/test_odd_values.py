"""NaN in one item, schedules in other precisions or that are none, and how a refusal reads."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest
import torch
from client import ExecutionError
from graphs import Graph, Node, demo, empty_latent, lanes, settings
from torch import Tensor

_SALTS = count(6000)

BATCH = 3
SEVERAL = {"cores": 4, "accept": "first", "method": "CHORDS"}
WINDOW = {"cores": 4, "method": "secant window"}


def _batch(graph: Graph) -> Node:
    return graph.add("EmptySD3LatentImage", width=64, height=64, batch_size=BATCH)


def _message(run, sampler: Node) -> str:
    return run.outputs[sampler.name]["chords"][0]["message"]


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("item", [0, 2])
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "res_multistep", "uni_pc"])
def test_an_item_that_is_nan_is_as_in_ksampler(run_graph, solver: str, item: int) -> None:
    """On one core the batch has KSampler's bits; with CHORDS the other items have those that they have without NaN.
    In a window the most demanding item decides what is evaluated, so that they are as near as the fidelity says."""
    graph = Graph()
    shared = demo(graph) | settings(solver, denoise=0.7)
    broken, latent = (
        graph.add("TestNaNItem", samples=_batch(graph), item=item, sound=sound) for sound in (False, True)
    )
    graph.save("stock", graph.add("KSampler", **shared, latent_image=broken))
    graph.save("one", graph.add("ChordsKSampler", **shared, latent_image=broken, cores=1))
    for name, given in (("several", SEVERAL), ("window", WINDOW)):
        graph.save(name, graph.add("ChordsKSampler", **shared, latent_image=broken, **given, devices=lanes(graph, 2)))
        sound = graph.add("ChordsKSampler", **shared, latent_image=latent, **given, devices=lanes(graph, 2))
        graph.save(f"{name}, sound", sound)
    _, latents = run_graph(graph)
    assert torch.equal(latents["one"].nan_to_num(123.0), latents["stock"].nan_to_num(123.0))
    finite = [bool(torch.isfinite(one).all()) for one in latents["stock"]]
    assert finite == [number != item for number in range(BATCH)]
    others = [number for number in range(BATCH) if number != item]
    assert torch.equal(latents["several"][others], latents["several, sound"][others])
    for name in ("several", "window"):
        assert _distance(latents[name][others], latents["stock"][others]) < 0.05 or name == "several"
        assert not torch.isfinite(latents[name][item]).all()


@pytest.mark.parametrize("given", [{"cores": 1}, SEVERAL, WINDOW], ids=["one", "several", "window"])
def test_a_model_that_breaks_one_item(run_graph, given: dict[str, Any]) -> None:
    """Midway and on every device: the other items go on, and no device is lost."""
    graph = Graph()
    shared = demo(graph) | settings(seed=next(_SALTS)) | {"latent_image": _batch(graph)}
    broken = graph.add("TestNaNModel", model=shared["model"], item=1, from_call=2, lane=-1)
    on = {} if given["cores"] == 1 else {"devices": lanes(graph, 3)}
    sampler = graph.add("ChordsKSampler", **{**shared, "model": broken}, **given, **on)
    graph.save("broken", sampler)
    graph.save("sound", graph.add("ChordsKSampler", **shared, **given, **on))
    run, latents = run_graph(graph)
    if given is WINDOW:  # the most demanding item decides what is evaluated
        assert _distance(latents["broken"][[0, 2]], latents["sound"][[0, 2]]) < 0.05
    else:
        assert torch.equal(latents["broken"][[0, 2]], latents["sound"][[0, 2]])
    assert not torch.isfinite(latents["broken"][1]).all()
    assert not run.outputs[sampler.name]["chords"][0]["lost_lanes"]


def test_nan_in_all_items_is_an_error(run_graph) -> None:
    for given in ({"cores": 1}, SEVERAL):
        graph = Graph()
        shared = demo(graph) | settings(seed=next(_SALTS)) | {"latent_image": _batch(graph)}
        shared["model"] = graph.add("TestNaNModel", model=shared["model"], item=-1, from_call=2, lane=-1)
        graph.save("x", graph.add("ChordsKSampler", **shared, **given, devices=lanes(graph, 3)))
        with pytest.raises(ExecutionError, match="NonFiniteDenoised: the model returned NaN or infinity in core"):
            run_graph(graph)


@pytest.mark.parametrize("item", [0, -1], ids=["one item", "all items"])
def test_a_device_alone_with_nan_is_lost(run_graph, item: int) -> None:
    """Another one is asked, and the picture is as ever."""
    graph = Graph()
    shared = demo(graph) | settings(seed=next(_SALTS)) | {"latent_image": _batch(graph)} | SEVERAL
    faulty = graph.add("TestNaNModel", model=shared["model"], item=item, from_call=0, lane=1)
    sampler = graph.add("ChordsKSampler", **{**shared, "model": faulty}, devices=lanes(graph, 4))
    graph.save("faulty", sampler)
    graph.save("sound", graph.add("ChordsKSampler", **shared, devices=lanes(graph, 4)))
    run, latents = run_graph(graph)
    assert torch.equal(latents["faulty"], latents["sound"])
    (lost,) = run.outputs[sampler.name]["chords"][0]["lost_lanes"]
    assert lost == "cpu:1 (it returned NaN or infinity where another device did not)"


SCHEDULES = {
    "to zero": [0.97, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2, 0.1, 0.05, 0.0],
    "cut": [0.97, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2],
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("values", SCHEDULES)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("solver", ["euler", "ddim", "dpmpp_2m", "res_multistep"])
def test_sigmas_of_any_precision_give_the_stock_samplers_bits(
    run_graph, solver: str, dtype: str, values: str, batch: int
) -> None:
    """On one core, and by the exact result of several; UniPC of the host takes float32 alone."""
    graph = Graph()
    inputs = demo(graph) | {"add_noise": True, "noise_seed": 3, "cfg": 3.0}
    inputs["sigmas"] = graph.add("TestSigmas", values=json.dumps(SCHEDULES[values]), dtype=dtype)
    inputs["latent_image"] = graph.add("EmptyLatentImage", width=64, height=64, batch_size=batch)
    exact = {"cores": 3, "accept": "exact", "method": "CHORDS", "devices": lanes(graph, 2)}
    for name, given in (("stock", None), ("one", {"cores": 1}), ("exact", exact)):
        kind = "KSamplerSelect" if given is None else "ChordsSampler"
        sampler = graph.add(kind, sampler_name=solver, **(given or {}))
        graph.save(name, graph.add("SamplerCustom", **inputs, sampler=sampler)[0])
    _, latents = run_graph(graph)
    assert torch.equal(latents["one"], latents["stock"])
    assert torch.equal(latents["exact"], latents["stock"])


def test_a_schedule_that_is_none_is_told_in_a_line(run_graph, server) -> None:
    """With the first pair that is wrong, and its place."""
    values = [1 - k / 200 for k in range(200)]
    values[100] = values[99]
    graph = Graph()
    inputs = demo(graph) | {"add_noise": True, "noise_seed": next(_SALTS), "cfg": 3.0}
    inputs["sigmas"] = graph.add("TestSigmas", values=json.dumps([*values, 0.0]), dtype="float32")
    inputs["latent_image"] = empty_latent(graph)
    sampler = graph.add("ChordsSampler", sampler_name="euler")
    graph.save("x", graph.add("SamplerCustom", **inputs, sampler=sampler)[0])
    before = len(server.log())
    run_graph(graph)
    (line,) = (line for line in server.log()[before:].splitlines() if "strictly descending" in line)
    assert "values 100 and 101 of 201 are 0.50499" in line and len(line) < 300


def test_a_refusal_reads_without_a_module_before_it(client) -> None:
    """In the error box, which shows the type's name and the message."""
    graph = Graph()
    shared = demo(graph)
    colour = graph.add("SDOObjectiveColour", colour="reddish")
    latent = empty_latent(graph)
    search = {
        "seed": 1,
        "steps": 4,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "iterations": 1,
        "lr": 0.05,
    }
    search["refresh"] = 2
    vae = ["1", 1]
    found = graph.add("SDOLatentOptimizer", **shared, **search, vae=vae, latent=latent, objective=colour)
    graph.save("x", found)
    with pytest.raises(ExecutionError) as raised:
        client.run(graph.nodes)
    assert raised.value.details["exception_type"] == "InvalidInput"
    assert raised.value.details["exception_message"].startswith("colour: must be")
