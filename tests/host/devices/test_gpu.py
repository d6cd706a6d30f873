"""On a real GPU: the same bits as the stock nodes, gradients, memory, and the messages of a machine with one device.

ComfyUI is started twice, as it starts by itself (with its dynamic VRAM) and with whole models in the device's memory,
whatever ``--device`` says for the other tests. Without CUDA all of this is skipped.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient, ExecutionError, Interrupted
from graphs import Graph, Node, RunGraph, demo, empty_latent, runner, settings
from trainings import figures_of as training_figures
from trainings import trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED ON A GPU: torch sees no CUDA device")

SOLVERS = ("euler", "dpmpp_2m", "res_multistep")
CLOSE = 0.2  # of the latent's variance: how far the first hit may be from what one core gives
PRECISION = 0.1  # of the norm: between devices, of which one may compute in half precision
MEGABYTE = 2**20
SALTS = count(1)  # the host does not run again what it has run


@pytest.fixture(scope="module", params=["dynamic VRAM", "whole models"])
def server(request: pytest.FixtureRequest, comfy_host: Path, tiny_models: list[str]):
    """One live ComfyUI on the GPU, for all tests of this file in turn."""
    arguments = [*tiny_models, *([] if request.param == "dynamic VRAM" else ["--disable-dynamic-vram"])]
    with ComfyServer(comfy_host, threads=1, cpu=False, python=str(venv_python()), arguments=arguments) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ComfyServer) -> ComfyClient:
    return server.client()


@pytest.fixture(scope="module")
def run_graph(server: ComfyServer, client: ComfyClient) -> RunGraph:
    return runner(server, client)


def _is_dynamic(server: ComfyServer) -> bool:
    return "--disable-dynamic-vram" not in server.arguments


def _sampling(graph: Graph, solver: str = "euler", **changes: Any) -> dict[str, Any]:
    """The inputs of a KSampler, with a model that the host has not run."""
    inputs = demo(graph) | settings(solver) | {"latent_image": empty_latent(graph)} | changes
    inputs["model"] = graph.add("TestRandomDelay", model=inputs["model"], salt=next(SALTS))
    return inputs


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _device(client: ComfyClient) -> dict[str, Any]:
    (device, *_) = client.get_json("/system_stats")["devices"]
    return device


# --- sampling


def test_the_host_is_on_the_gpu(server: ComfyServer, client: ComfyClient) -> None:
    """A test of the tests."""
    assert _device(client)["type"] == "cuda"
    assert ("DynamicVRAM support detected and enabled" in server.log()) == _is_dynamic(server)


def test_the_host_repeats_itself_once_it_is_warm(run_graph: RunGraph) -> None:
    """Without which no test below would mean anything; the first picture of a process may have other last bits."""
    graph = Graph()
    for run in ("first", "second", "third"):
        graph.save(run, graph.add("KSampler", **_sampling(graph)))
    _, latents = run_graph(graph)
    print(f"the first run is the second, bit for bit: {torch.equal(latents['first'], latents['second'])}")
    assert torch.equal(latents["second"], latents["third"])


@pytest.mark.parametrize("solver", SOLVERS)
def test_swapped_with_no_other_change_it_is_the_stock_latent(run_graph: RunGraph, solver: str) -> None:
    graph = Graph()
    inputs = _sampling(graph, solver)
    graph.save("stock", graph.add("KSampler", **inputs))
    ours = graph.add("ChordsKSampler", **inputs)
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    assert latents["stock"].std() > 0.1
    assert torch.equal(latents["ours"], latents["stock"])
    if torch.cuda.device_count() == 1:
        summary = run.outputs[ours.name]["chords"][0]
        assert (summary["cores"], summary["devices"]) == (1, ["cuda:0"])
        assert "one core" in summary["message"]


@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_is_the_stock_latent(run_graph: RunGraph, solver: str) -> None:
    graph = Graph()
    inputs = _sampling(graph, solver)
    graph.save("stock", graph.add("KSampler", **inputs))
    for cores in (1, 2, 4):
        graph.save(str(cores), graph.add("ChordsKSampler", **inputs, cores=cores, accept="exact"))
    _, latents = run_graph(graph)
    for cores in (1, 2, 4):
        assert torch.equal(latents[str(cores)], latents["stock"]), cores


@pytest.mark.parametrize("solver", SOLVERS)
def test_four_cores_give_the_same_bits_again(run_graph: RunGraph, solver: str) -> None:
    graph = Graph()
    inputs = _sampling(graph, solver)
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("once", graph.add("ChordsKSampler", **inputs, cores=4, accept="first"))
    again = graph.add("ChordsKSampler", **_sampling(graph, solver), cores=4, accept="first")
    graph.save("again", again)
    run, latents = run_graph(graph)
    assert torch.equal(latents["once"], latents["again"])
    assert torch.isfinite(latents["once"]).all()
    assert not torch.equal(latents["once"], latents["stock"])  # it is another computation
    assert torch.nn.functional.mse_loss(latents["once"], latents["stock"]) < CLOSE * latents["stock"].var()
    if torch.cuda.device_count() == 1:
        assert "take turns" in run.outputs[again.name]["chords"][0]["message"]


def test_video_and_batches(run_graph: RunGraph) -> None:
    """Another network, with the attention and the positions of large ones; and several pictures at once."""
    graph = Graph()
    positive = graph.add("LotusConditioning")
    video = settings() | {
        "model": graph.add("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default"),
        "positive": positive,
        "negative": graph.add("ConditioningZeroOut", conditioning=positive),
        "latent_image": graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1),
    }
    batch = _sampling(graph, latent_image=empty_latent(graph, 3))
    for name, inputs in (("video", video), ("batch", batch)):
        graph.save(name, graph.add("KSampler", **inputs))
        graph.save(f"{name} ours", graph.add("ChordsKSampler", **inputs, cores=3, accept="exact"))
    _, latents = run_graph(graph)
    for name in ("video", "batch"):
        assert torch.equal(latents[f"{name} ours"], latents[name]), name


@pytest.mark.parametrize("devices", [f"cuda:0, cuda:{torch.cuda.device_count()}", "cpu"])
def test_a_device_that_is_not_there_is_named(client: ComfyClient, devices: str) -> None:
    graph = Graph()
    node = graph.add("ChordsDevices", devices=devices)
    graph.save("latent", graph.add("ChordsKSampler", **_sampling(graph), cores=4, devices=node))
    missing = devices.split(", ")[-1]
    with pytest.raises(ExecutionError, match=f"no '{missing}'; it has cuda:0.*auto"):
        client.run(graph.nodes)


@pytest.mark.parametrize("kind", ["plain", "lora and mask", "inpainting"])
def test_no_tensor_is_left_on_another_device(server: ComfyServer, run_graph: RunGraph, kind: str) -> None:
    """Lanes on the GPU and on the CPU: a mistake raises there, and the lane would be lost."""
    if _is_dynamic(server):
        pytest.skip("the host's dynamic VRAM has no place for a copy on the CPU")
    graph = Graph()
    inputs = _sampling(graph)
    if kind == "lora and mask":
        lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 0.5}
        inputs["model"] = graph.add("LoraLoaderModelOnly", model=inputs["model"], **lora)
        mask = graph.add("SolidMask", value=0.7, width=128, height=128)
        masked = {"mask": mask, "strength": 0.8, "set_cond_area": "default"}
        inputs["positive"] = graph.add("ConditioningSetMask", conditioning=inputs["positive"], **masked)
    if kind == "inpainting":
        mask = graph.add("SolidMask", value=0.5, width=128, height=128)
        inputs["latent_image"] = graph.add("SetLatentNoiseMask", samples=empty_latent(graph), mask=mask)
    graph.save("alone", graph.add("ChordsKSampler", **inputs, cores=4, accept="first"))
    mixed = graph.add("TestMixedDevices", devices="cuda:0, cpu", split="off")
    node = graph.add("ChordsKSampler", **inputs, cores=4, accept="first", devices=mixed)
    graph.save("mixed", node)
    run, latents = run_graph(graph)
    summary = run.outputs[node.name]["chords"][0]
    assert summary["devices"] == ["cuda:0", "cpu"], summary["message"]
    assert not summary["lost_lanes"]
    assert _error(latents["mixed"], latents["alone"]) < PRECISION


def test_an_accepted_hit_and_a_cancel(run_graph: RunGraph, client: ComfyClient) -> None:
    """A hit taken while it runs; a cancelled run; and the next is as if nothing had been."""

    def graph_of(**changes: Any) -> tuple[Graph, Node]:
        graph = Graph()
        inputs = _sampling(graph, steps=60, **changes)
        node = graph.add("ChordsKSampler", **inputs, cores=4, accept="exact")
        graph.save("latent", node)
        return graph, node

    def accept(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "hit" and data["index"] == 1:
            client.accept(data["prompt_id"])

    def cancel(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["value"] >= 3:
            client.interrupt()

    graph, node = graph_of()
    run = client.run(graph.nodes, on_event=accept, extra={"extra_data": {"preview_method": "latent2rgb"}})
    hits = run.outputs[node.name]["chords"][0]["hits"]
    assert 2 <= len(hits) < 5
    assert any(preview.node_id == node.name for preview in run.previews)
    with pytest.raises(Interrupted):
        client.run(graph_of()[0].nodes, on_event=cancel)
    graph, node = graph_of()
    inputs = dict(graph.nodes[node.name]["inputs"])
    for name in ("cores", "accept"):
        del inputs[name]
    graph.save("stock", graph.add("KSampler", **inputs))
    _, latents = run_graph(graph)
    assert torch.equal(latents["latent"], latents["stock"])


# --- SDO


def _search(graph: Graph, **changes: Any) -> Node:
    """A short search for a dark picture, or for what ``objective`` wants."""
    inputs = demo(graph)
    inputs |= {
        "latent": empty_latent(graph),
        "vae": [inputs["model"][0], 1],
        "objective": graph.add("TestOddObjective", kind="good"),
        "seed": next(SALTS),
        "cfg": 4.0,
        "iterations": 5,
        "lr": 0.05,
        "steps": 8,
        "refresh": 2,
    }
    node = graph.add("SDOLatentOptimizer", **{**inputs, **changes})
    graph.save("sample", node[1])
    return node


def _advanced(graph: Graph, search: Node, **changes: Any) -> Node:
    """KSampler Advanced from the start found, its noise off."""
    given = graph.nodes[search.name]["inputs"]
    steps = {"start_at_step": 0, "end_at_step": 10000, "return_with_leftover_noise": "disable"}
    inputs = {"add_noise": "disable", "noise_seed": 1, "steps": given["steps"], "cfg": given["cfg"]} | steps
    inputs |= {"sampler_name": "euler", "scheduler": "simple", "model": search[4], "latent_image": search[0]}
    inputs |= {"positive": search[5], "negative": given["negative"]}
    return graph.add(changes.pop("class_type", "KSamplerAdvanced"), **{**inputs, **changes})


@pytest.mark.parametrize("kind", ["demo", "video"])
def test_a_search_goes_down_and_its_start_gives_the_sample(run_graph: RunGraph, kind: str) -> None:
    graph = Graph()
    changes: dict[str, Any] = {}
    if kind == "video":  # without a VAE
        loader = graph.add("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default")
        prompt = graph.add("LotusConditioning")
        changes = {"model": graph.add("ModelSamplingSD3", model=loader, shift=3.0), "positive": prompt}
        changes |= {"negative": prompt, "objective": graph.add("TestLatentObjective"), "cfg": 2.0, "steps": 4}
        changes["latent"] = graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
    node = _search(graph, **changes)
    if kind == "video":
        del graph.nodes[node.name]["inputs"]["vae"]
    graph.save("stock", _advanced(graph, node))
    graph.save("chords", _advanced(graph, node, class_type="ChordsKSamplerAdvanced"))
    run, latents = run_graph(graph)
    objective = run.outputs[node.name]["sdo"][0]["objective"]
    assert objective["best"][0] < objective["first"][0]
    assert torch.equal(latents["stock"], latents["sample"])
    assert torch.equal(latents["chords"], latents["sample"])


@pytest.mark.parametrize("sigma", [1.0, 0.4])
def test_gradients_are_those_of_the_network(client: ComfyClient, sigma: float) -> None:
    """Against plain PyTorch in single precision on the CPU; the host may compute in half."""
    graph = Graph()
    node = graph.add("TestGradient", **demo(graph), cfg=4.0, sigma=sigma)
    (error,) = client.run(graph.nodes).outputs[node.name]["error"]
    assert error < PRECISION


def test_a_lora_is_trained_and_the_host_loads_it(run_graph: RunGraph) -> None:
    graph = Graph()
    node = trainer(graph, seed=next(SALTS), iterations=12)
    loaded = graph.add("LoraModelLoader", model=["1", 0], lora=node[1], strength_model=1.0, bypass=False)
    for name, model in (("trained", node[0]), ("loaded", loaded)):
        inputs = {**demo(graph), "model": model, "latent_image": empty_latent(graph), **settings()}
        graph.save(name, graph.add("KSampler", **inputs))
    run, latents = run_graph(graph)
    objective = training_figures(run, node)["objective"]
    assert sum(objective["after"]) < sum(objective["before"])
    assert float((latents["trained"] - latents["loaded"]).norm() / latents["loaded"].norm()) < 1e-3


def test_searches_leave_model_and_memory_as_they_were(run_graph: RunGraph, client: ComfyClient) -> None:
    def generated() -> torch.Tensor:
        graph = Graph()
        graph.save("latent", graph.add("KSampler", **_sampling(graph)))
        return run_graph(graph)[1]["latent"]

    def searched(times: int) -> dict[str, Any]:
        for _ in range(times):
            graph = Graph()
            _search(graph)
            run_graph(graph)
        return _device(client)

    before = generated()
    early, late = searched(3), searched(5)
    print(f"device memory: {early} -> {late}")
    active = [device["torch_vram_total"] - device["torch_vram_free"] for device in (early, late)]
    assert active[1] - active[0] < 4 * MEGABYTE
    assert early["vram_free"] - late["vram_free"] < 64 * MEGABYTE
    assert torch.equal(generated(), before)
