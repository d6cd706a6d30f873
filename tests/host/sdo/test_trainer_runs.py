"""Trainings that are accepted, cancelled or refused, and what they tell meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from client import ComfyClient, ExecutionError, Interrupted
from graphs import Graph, Node, RunGraph, demo
from searches import SEEDS, sampler_settings, small_latent
from trainings import figures_of, trainer


def test_progress_pictures_and_figures(client: ComfyClient) -> None:
    graph = Graph()
    node = trainer(graph, iterations=3, batch=3)
    run = client.run(graph.nodes)
    told = [event for event in run.of_kind("chords") if event["node_id"] == node.name]
    assert [event["iteration"] for event in told if event["kind"] == "iteration"] == [1, 2, 3]
    assert (told[-1]["kind"], told[-1]["status"]) == ("done", "success")
    assert any(preview.node_id == node.name for preview in run.previews)
    figures = figures_of(run, node)
    (text,) = [output["text"] for output in run.outputs.values() if "text" in output and output["text"][0][0] == "{"]
    assert json.loads(text[0]) == figures
    assert [len(values) for values in figures["history"]] == [3, 3, 3]
    assert figures["drift"][0] < 1e-6 < figures["drift"][2]
    assert figures["prompts"] == ["prompt 1", "prompt 2"]


def _at(iteration: int, act: Callable[[dict[str, Any]], Any]) -> Callable[[str, dict[str, Any]], None]:
    """A listener that acts when this iteration is told."""

    def listen(kind: str, data: dict[str, Any]) -> None:
        if kind == "chords" and data["kind"] == "iteration" and data["iteration"] == iteration:
            act(data)

    return listen


def _cancelled(client: ComfyClient, graph: Graph, iteration: int) -> None:
    """Run the graph, and cancel it at this iteration."""
    with pytest.raises(Interrupted):
        client.run(graph.nodes, on_event=_at(iteration, lambda data: client.interrupt()))


def test_accept_takes_the_best_so_far(client: ComfyClient) -> None:
    graph = Graph()
    node = trainer(graph, iterations=500, patience=0)
    figures = figures_of(client.run(graph.nodes, on_event=_at(6, lambda data: client.accept(data["prompt_id"]))), node)
    assert "accepted" in figures["stopped"]
    assert len(figures["history"]) < 500


def test_a_cancelled_training_can_leave_its_best_to_the_next_run(client: ComfyClient) -> None:
    graph = Graph()
    node = trainer(graph, iterations=500, patience=0, when_cancelled="keep the best")
    _cancelled(client, graph, 6)
    figures = figures_of(client.run(graph.nodes), node)
    assert 6 <= len(figures["history"]) < 500
    assert "cancelled" in figures["stopped"]
    graph.nodes[node.name]["inputs"] |= {"iterations": 1}  # other inputs: a training of its own
    assert len(figures_of(client.run(graph.nodes), node)["history"]) == 1


def test_a_cancelled_training_is_forgotten_unless_asked_for(client: ComfyClient) -> None:
    graph = Graph()
    trainer(graph, iterations=500, patience=0, when_cancelled="forget")
    _cancelled(client, graph, 3)
    _cancelled(client, graph, 1)  # the next run begins a training of its own


def test_a_cancel_within_a_model_call_keeps_the_best_too(client: ComfyClient) -> None:
    graph = Graph()
    cancelling = {"call": 6, "cancel": True, "salt": next(SEEDS)}
    model = graph.add("TestFails", model=graph.add("ChordsDemoModel")[0], **cancelling)
    node = trainer(graph, model=model[0], vae=["1", 1], when_cancelled="keep the best", keep="1", patience=0)
    with pytest.raises(Interrupted):
        client.run(graph.nodes)
    figures = figures_of(client.run(graph.nodes), node)
    assert "cancelled after" in figures["stopped"]


def test_a_value_that_breaks_is_rolled_back_and_told(client: ComfyClient) -> None:
    graph = Graph()
    node = trainer(graph, objective=lambda graph: graph.add("TestOddObjective", kind="nan later"), iterations=4)
    figures = figures_of(client.run(graph.nodes), node)
    (mark,) = figures["marks"]
    assert "NaN" in mark["text"]
    assert figures["history"][mark["iteration"]] == [None, None]
    assert len(figures["history"]) == 4


def test_what_cannot_be_trained_is_refused_before_a_model_call(client: ComfyClient) -> None:
    def refused(match: str, **changes: Any) -> None:
        graph = Graph()
        trainer(graph, **changes)
        with pytest.raises(ExecutionError, match=match):
            client.run(graph.nodes)

    def masked(graph: Graph) -> Node:
        mask = graph.add("SolidMask", value=1.0, width=128, height=128)
        return graph.add("SetLatentNoiseMask", samples=small_latent(graph), mask=mask)

    def lora(kind: str) -> Callable[[Graph], Any]:
        return lambda graph: graph.add("TestLoraNames", lora=graph.add("TestDemoLora", model=["1", 0]), kind=kind)[0]

    no_prompts = {"positive.positive0": None, "positive.positive1": None}
    refused("positive.*no prompt.*prompts", **no_prompts, prompts="\n  \n")
    refused("clip.*needed", prompts="a big star\n\na small star")
    refused("latent.*mask", latent=masked)
    refused("vae.*connect", vae=None)
    refused("rank.*300 is above", rank=300)
    refused("pattern: .*img_in", layers="pattern", pattern="no_such_layer")
    refused("pattern: is empty", layers="pattern")
    refused("keep: .*auto", keep="last")
    refused("keep: has 7", keep="1, 7")
    refused("lora: .*text encoder", lora=lora("with text encoder"))
    refused("lora: .*plain LoRA", lora=lora("dora"))
    refused("lora: is of another model", lora=lora("other model"))
    refused("lora: is incomplete", lora=lora("incomplete"))
    refused("text: ", objective=_prompt_objective)
    refused("image: has 4 pictures", objective=lambda graph: graph.add("SDOObjectiveReference", image=_pictures(graph)))
    refused("mask: has 4 masks", objective=_masked_objective)


def _pictures(graph: Graph) -> Node:
    """Four white pictures."""
    return graph.add("EmptyImage", width=128, height=128, batch_size=4, color=0xFFFFFF)


def _masked_objective(graph: Graph) -> Node:
    """A colour within a mask of its own for each of four pictures, among other objectives."""
    mask = graph.add("ImageToMask", image=_pictures(graph), channel="red")
    colour = graph.add("SDOObjectiveColour", colour="#0000ff", mask=mask)
    return graph.add("SDOObjectiveCombine", objective_1=colour, weight_1=1.0)


def test_models_that_cannot_be_trained_are_refused(client: ComfyClient) -> None:
    def refused(match: str, model: Callable[[Graph], Any]) -> None:
        graph = Graph()
        trainer(graph, model=model)
        with pytest.raises(ExecutionError, match=match):
            client.run(graph.nodes)

    cache = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    refused("model: .*out of order", lambda graph: graph.add("EasyCache", model=["1", 0], **cache))
    own = {"unet_name": "demo_copy.safetensors", "weight_dtype": "fp8_e5m2"}
    refused("model: .*quantised", lambda graph: graph.add("TestQuantised", model=graph.add("UNETLoader", **own)))
    detached = {"model": ["1", 0], "scale": 1.0, "detach": True}
    refused("model: .*no gradient", lambda graph: graph.add("TestOtherPatch", **detached))
    for kind, match in {
        "block": "model: .*part diffusion_model.double_blocks.0",
        "network": "model: .*part diffusion_model",
        "multi-GPU": "model: .*multi-GPU",
    }.items():
        refused(match, lambda graph, kind=kind: graph.add("TestUntrainable", model=["1", 0], kind=kind))


def test_prompts_that_use_no_trained_layer_at_the_kept_steps(client: ComfyClient) -> None:
    """A prompt that acts at the first steps only counts as nothing; where all are so, they are refused."""
    graph = Graph()
    demo(graph)
    prompt = graph.add("ChordsDemoPrompt", text="a big yellow star")
    early = graph.add("ConditioningSetTimestepRange", conditioning=prompt, start=0.0, end=0.3)
    settings = {"keep": "6", "cfg": 1.0, "iterations": 2, "positive.positive0": early}
    node = trainer(graph, **settings)
    assert len(figures_of(client.run(graph.nodes), node)["history"]) == 2
    graph.nodes[node.name]["inputs"]["positive.positive1"] = early[0]
    with pytest.raises(ExecutionError, match="model: gives no gradient: no trained layer takes part"):
        client.run(graph.nodes)


def test_a_training_that_fails_can_leave_its_best_to_the_next_run(client: ComfyClient) -> None:
    graph = Graph()
    failing = {"call": 6, "cancel": False, "salt": next(SEEDS)}
    model = graph.add("TestFails", model=graph.add("ChordsDemoModel")[0], **failing)
    node = trainer(graph, model=model[0], vae=["1", 1], when_cancelled="keep the best", keep="1", patience=0)
    with pytest.raises(ExecutionError, match="failed as asked"):
        client.run(graph.nodes)
    figures = figures_of(client.run(graph.nodes), node)
    assert "failed after" in figures["stopped"]


def test_a_training_whose_pictures_fail_still_gives_the_lora(run_graph: RunGraph) -> None:
    graph = Graph()
    node = trainer(graph, vae=lambda graph: graph.add("TestFailingVae", vae=["1", 1]), iterations=2)
    inputs = {**demo(graph), "latent_image": small_latent(graph), **sampler_settings()}
    graph.save("model", graph.add("KSampler", **{**inputs, "model": node[0]}))
    graph.save("without", graph.add("KSampler", **inputs))
    run, latents = run_graph(graph)
    figures = figures_of(run, node)
    assert "no memory, as asked" in figures["message"]
    assert figures["objective"] == {"before": [], "after": []} and len(figures["history"]) == 2
    assert not torch.equal(latents["model"], latents["without"])


def test_the_rank_of_a_small_layer_is_as_large_as_it_can_be(client: ComfyClient) -> None:
    """The layer that reads the latent has 64 inputs."""
    graph = Graph()
    node = trainer(graph, layers="all linear", rank=128, iterations=1)
    figures = figures_of(client.run(graph.nodes), node)
    assert figures["rank"] == 128 and "img_in" in figures["layers"]


def _prompt_objective(graph: Graph) -> Node:
    """Similar to the prompt of the picture at hand."""
    clip = graph.add("TestTinyClip", width=16, width_g=0, projection=1.0, seed=0)
    vision = graph.add("TestTinyClipVision", width=16, seed=0)
    return graph.add("SDOObjectiveText", clip_vision=vision, clip=clip, text="{prompt}")


@pytest.mark.parametrize("objective", ["Text", "Preference"])
def test_a_text_is_compared_with_pictures_of_several_conditionings(client: ComfyClient, objective: str) -> None:
    """Whose own texts nobody knows."""
    graph = Graph()
    demo(graph)
    clip = graph.add("TestTinyClip", width=16, width_g=0, projection=1.0, seed=0)
    vision = graph.add("TestTinyClipVision", width=16, seed=0)
    inputs = {"clip_vision": vision, "clip": clip, "text": "a star"}
    if objective == "Preference":
        inputs["file"] = "tiny_preference.safetensors"
    node = trainer(graph, objective=graph.add(f"SDOObjective{objective}", **inputs), iterations=2)
    figures = figures_of(client.run(graph.nodes), node)
    assert figures["prompts"] == ["prompt 1", "prompt 2"]
    assert all(value is not None for values in figures["history"] for value in values)


def test_prompts_are_lines_of_text_and_the_objective_knows_them(client: ComfyClient) -> None:
    graph = Graph()
    clip = {"width": 1024, "width_g": 0, "projection": 1.0, "seed": 0}
    node = trainer(
        graph,
        **{"positive.positive0": None, "positive.positive1": None},
        prompts="  a big star\n\na small circle\n",
        clip=lambda graph: graph.add("TestTinyClip", **clip),
        objective=_prompt_objective,
        iterations=2,
    )
    figures = figures_of(client.run(graph.nodes), node)
    assert figures["prompts"] == ["a big star", "a small circle"]
    assert all(value is not None for values in figures["history"] for value in values)
