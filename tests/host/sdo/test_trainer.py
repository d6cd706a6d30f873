"""The SDO LoRA Trainer on a live host: its LoRA works wherever the host takes one, and the model stays as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from client import ComfyClient
from graphs import Graph, Link, Node, RunGraph, demo, threads_of_runs
from searches import SEEDS, sampler_settings, small_latent
from trainings import figures_of, trainer

LOADED = {"strength_model": 1.0, "bypass": False}
FREE = {"hold": 0.0, "lr": 0.005, "layers": "all linear", "seed": 2026}  # learns much in few iterations


def _sampled(graph: Graph, name: str, model: Link | Node, **changes: Any) -> None:
    """Keep under ``name`` what the stock sampler gives with this model."""
    inputs = {**demo(graph), "model": model, "latent_image": small_latent(graph), **sampler_settings(), **changes}
    graph.save(name, graph.add("KSampler", **inputs))


def test_other_seeds_are_better_and_the_saved_lora_gives_the_same_pictures(
    run_graph: RunGraph, server, tiny_models: list[str]
) -> None:
    graph = Graph()
    node = trainer(graph, iterations=16, pictures=4, **FREE)
    for output in (2, 3):
        graph.add("PreviewImage", images=node[output])
    graph.add("SaveLoRA", lora=node[1], prefix="loras/trained")
    _sampled(graph, "model", node[0])
    _sampled(graph, "lora model", graph.add("LoraModelLoader", model=["1", 0], lora=node[1], **LOADED))
    _sampled(graph, "without", ["1", 0])
    run, latents = run_graph(graph)
    figures = figures_of(run, node)
    before, after = figures["objective"]["before"], figures["objective"]["after"]
    assert sum(after) < 0.8 * sum(before)
    assert len(before) == 4 and len(figures["history"]) == 16
    assert torch.equal(latents["lora model"], latents["model"])
    assert not torch.equal(latents["without"], latents["model"])

    (saved,) = (server.output_directory / "loras").glob("trained*.safetensors")
    name = f"trained_{next(SEEDS)}.safetensors"
    shutil.copy(saved, Path(tiny_models[1]).parent / "loras" / name)
    again = Graph()
    loaded = again.add("LoraLoaderModelOnly", model=demo(again)["model"], lora_name=name, strength_model=1.0)
    _sampled(again, "file", loaded)
    assert torch.equal(run_graph(again)[1]["file"], latents["model"])


def test_the_pictures_are_those_of_ksampler(run_graph: RunGraph, client: ComfyClient) -> None:
    graph = Graph()
    node = trainer(graph, iterations=1, pictures=1, objective=lambda graph: graph.add("TestLatentObjective"))
    prompt = graph.nodes[node.name]["inputs"]["positive.positive0"]
    seed = graph.nodes[node.name]["inputs"]["seed"]
    for name, model in (("before", ["1", 0]), ("after", node[0])):
        _sampled(graph, name, model, positive=prompt, seed=seed)
    run, latents = run_graph(graph)
    for name, (value,) in figures_of(run, node)["objective"].items():
        assert value == pytest.approx(float(latents[name].square().mean()), rel=1e-5)


@pytest.mark.parametrize("names", ["kohya", "peft", "convolution"])
def test_a_training_goes_on_from_a_lora(run_graph: RunGraph, names: str) -> None:
    """With a step of next to nothing the LoRA stays the same, whatever names it comes with."""
    graph = Graph()
    first = trainer(graph, iterations=2)
    renamed = graph.add("TestLoraNames", lora=first[1], kind=names)
    second = trainer(graph, lora=renamed[0], iterations=1, lr=1e-6, rank=100)
    _sampled(graph, "first", first[0])
    _sampled(graph, "second", second[0])
    _sampled(graph, "without", ["1", 0])
    run, latents = run_graph(graph)
    moved = (latents["second"] - latents["first"]).norm() / (latents["without"] - latents["first"]).norm()
    assert float(moved) < 0.05
    assert figures_of(run, second)["rank"] == 4


def test_a_model_of_another_family_is_trained(run_graph: RunGraph) -> None:
    """Wan, a flow model of video, with prompts of several parts."""
    graph = Graph()
    loader = graph.add("UNETLoader", unet_name="tiny_wan.safetensors", weight_dtype="default")
    model = graph.add("ModelSamplingSD3", model=loader, shift=3.0)
    prompt = graph.add("LotusConditioning")
    both = graph.add("ConditioningCombine", conditioning_1=prompt, conditioning_2=prompt)
    latent = graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)
    inputs = {"model": model, "negative": prompt, "positive.positive0": both, "latent": latent}
    settings = {"cfg": 2.0, "rank": 4, "layers": "all linear", "iterations": 8, "lr": 0.01, "batch": 2, "steps": 4}
    target = graph.add("TestLatentObjective")
    node = graph.add("SDOTrainLoRA", **inputs, **settings, objective=target, seed=next(SEEDS), fidelity="exact")
    graph.add("PreviewImage", images=node[3])
    stock = {"positive": prompt, "negative": prompt, "latent_image": latent} | sampler_settings()
    loaded = graph.add("LoraModelLoader", model=model, lora=node[1], **LOADED)
    graph.save("model", graph.add("KSampler", model=node[0], **stock))
    graph.save("loaded", graph.add("KSampler", model=loaded, **stock))
    run, latents = run_graph(graph)
    objective = figures_of(run, node)["objective"]
    assert sum(objective["after"]) < sum(objective["before"])
    assert torch.equal(latents["model"], latents["loaded"])


def test_weights_in_fp8_are_trained(client: ComfyClient) -> None:
    graph = Graph()
    demo(graph)
    loader = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="fp8_e4m3fn")
    node = trainer(graph, model=graph.add("ModelSamplingSD3", model=loader, shift=3.0), iterations=10, **FREE)
    objective = figures_of(client.run(graph.nodes), node)["objective"]
    assert sum(objective["after"]) < sum(objective["before"])


def test_the_layers_of_a_pattern_are_trained(client: ComfyClient) -> None:
    graph = Graph()
    node = trainer(graph, layers="pattern", pattern="single_blocks.*linear2", iterations=1, hold=0.0, keep="1, 2")
    figures = figures_of(client.run(graph.nodes), node)
    assert figures["layers"] == ["single_blocks.0.linear2", "single_blocks.1.linear2"]
    assert figures["drift"] == [None]


def test_full_backpropagation_is_there_for_comparison(client: ComfyClient) -> None:
    graph = Graph()
    settings = {"iterations": 2, "steps": 10, "batch": 1, "pictures": 1, "hold": 0.0}
    nodes = [trainer(graph, gradient=gradient, **settings) for gradient in ("full", "shortcut")]
    run = client.run(graph.nodes)
    full, shortcut = (figures_of(run, node) for node in nodes)
    assert full["evaluations"] > 1.5 * shortcut["evaluations"]
    assert len(full["history"]) == 2 and full["history"][0] != full["history"][1]


def test_gradients_of_a_lora_are_those_of_the_network_with_it(client: ComfyClient) -> None:
    """Of one evaluation, of a chain of kept steps, and of all steps. The chain needs the state's gradient too, and uses
    a graph twice. Blocks are checkpointed; those before the first trained layer keep no graph."""
    graph = Graph()
    node = graph.add("TestLoraGradient", **demo(graph), pattern="single_blocks.0.linear|double_blocks.1.txt_attn")
    found = client.run(graph.nodes).outputs[node.name]
    assert sorted(found["errors"][0]) == ["chain", "full", "one"]
    assert max(found["errors"][0].values()) < 1e-4, found["errors"]
    assert found["clean"] == [True]
    graphs = found["graphs"][0]
    assert graphs["double_blocks.0"][0] is False
    assert all(graphs[name][0] and graphs[name][1] == "_BlockBackward" for name in sorted(graphs)[1:])


def test_checkpointed_blocks_give_the_gradients_of_a_lora(client: ComfyClient) -> None:
    """In a U-Net and in transformers, with a small part of the graph kept."""
    graph = Graph()
    node = graph.add("TestCheckpointedLora")
    (found,) = client.run(graph.nodes).outputs[node.name]["found"]
    assert sorted(found) == ["lumina", "qwen", "sd"]
    assert all(error < 1e-5 and kept < 0.3 for error, kept in found.values()), found


def test_attention_is_found_in_every_family(client: ComfyClient) -> None:
    graph = Graph()
    node = graph.add("TestAttentionLayers")
    found = client.run(graph.nodes).outputs[node.name]
    (chosen,), (every,) = found["chosen"], found["every"]
    ends = {name: {".".join(path.split(".")[-2:]) for path in paths} for name, paths in chosen.items()}
    of_unet = {f"attn{number}.to_{part}" for number in (1, 2) for part in "qkv"} | {"to_out.0"}
    assert ends["sd"] == ends["sdxl"] == of_unet
    assert ends["sd3"] == {"attn.qkv", "attn.proj"}
    assert ends["wan"] == {f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"}
    assert ends["lumina"] == {"attention.qkv", "attention.out"}
    assert {"attn.to_q", "attn.add_q_proj", "to_out.0", "attn.to_add_out"} <= ends["qwen"]
    assert all("mod" not in path and "mlp" not in path for path in chosen["qwen"])
    assert all(0 < len(chosen[name]) < every[name] for name in every)


def test_the_model_is_afterwards_as_before(client: ComfyClient) -> None:
    """After trainings that end, fail and are cancelled there is no hook, no memory and no thread left."""

    def output(node_type: str, **inputs: Any) -> dict[str, Any]:
        graph = Graph()
        model = {"model": demo(graph)["model"]} if node_type == "TestModelState" else {}
        node = graph.add(node_type, salt=next(SEEDS), **model, **inputs)
        return client.run(graph.nodes).outputs[node.name]

    def trained(**changes: Any) -> int:
        graph = Graph()
        trainer(graph, iterations=2, steps=2, pictures=1, **changes)
        client.run(graph.nodes)
        return output("TestResidentMemory")["bytes"][0]

    before = output("TestModelState")["state"]
    assert before[0]["hooks"] == before[0]["gradients"] == 0
    trained()  # the first loads the models
    early = min(trained() for _ in range(2))
    for cancel in (False, True):
        failing = {"call": 3, "cancel": cancel, "salt": next(SEEDS)}
        with pytest.raises(Exception, match=None if cancel else "failed as asked"):
            trained(model=lambda graph, failing=failing: graph.add("TestFails", model=["1", 0], **failing))
        assert output("TestModelState")["state"] == before
    late = min(trained() for _ in range(3))
    assert output("TestModelState")["state"] == before
    assert late - early < 3e6  # one graph left by each is more
    found = output("TestThreads")
    assert not threads_of_runs(found["threads"])
