"""Prompts one after another in one server: each result is as if it were the first, and no copy of a model is left."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from graphs import Graph, demo, settings

from tests.host.compatibility.parallel_rows import STEPS, check_parallel, chords_inputs

_SALTS = count(5000)  # the host does not repeat a run that it knows


def _prompt_equals_stock(
    run_graph, loader: str = "demo_copy.safetensors", width: int = 64, height: int = 64, lora: float = 0.0
) -> torch.Tensor:
    """Run one prompt with new inputs, check it, and return the stock latent."""
    graph = Graph()
    sampling = demo(graph) | settings(steps=STEPS, seed=next(_SALTS))
    sampling["latent_image"] = graph.add("EmptyLatentImage", width=width, height=height, batch_size=1)
    sampling["model"] = graph.add("UNETLoader", unet_name=loader, weight_dtype="default")
    if "wan" in loader:
        sampling["positive"] = graph.add("LotusConditioning")
        sampling["negative"] = graph.add("ConditioningZeroOut", conditioning=sampling["positive"])
        sampling["latent_image"] = graph.add(
            "EmptyHunyuanLatentVideo", width=width, height=height, length=9, batch_size=1
        )
    if lora:
        sampling["model"] = graph.add(
            "LoraLoaderModelOnly", model=sampling["model"], lora_name="tiny_lora.safetensors", strength_model=lora
        )
    # Ours runs first: nothing of the stock sampler's run can help it.
    graph.save("exact", graph.add("ChordsKSampler", **sampling, **chords_inputs(graph, "exact", 4)))
    graph.save("first", graph.add("ChordsKSampler", **sampling, **chords_inputs(graph, "first", 4)))
    graph.save("alone", graph.add("ChordsKSampler", **sampling, **chords_inputs(graph, "first", 1)))
    graph.save("stock", graph.add("KSampler", **sampling))
    run, latents = run_graph(graph)
    used = sorted(len(output["chords"][0]["devices"]) for output in run.outputs.values() if "chords" in output)
    assert used == [1, 4, 4]
    return check_parallel(latents)


def _memory(run_graph) -> tuple[int, int]:
    """The number of loaded models, and of diffusion models in memory."""
    graph = Graph()
    node = graph.add("TestLoadedModels", salt=next(_SALTS))
    output = run_graph(graph)[0].outputs[node.name]
    return output["loaded"][0], output["alive"][0]


def test_other_models_in_a_row(run_graph) -> None:
    """Models of the same shape and of another one, more models than copies are kept of, and the first ones again."""
    for loader in ("demo_copy", "demo_other", "tiny_wan", "demo_copy", "demo_other"):
        _prompt_equals_stock(run_graph, f"{loader}.safetensors")


def test_other_weights_in_a_row(run_graph) -> None:
    """The same model without a LoRA, with it, with another strength, and the first two again."""
    for strength in (0.0, 0.5, -0.5, 0.0, 0.5):
        _prompt_equals_stock(run_graph, lora=strength)


def test_other_sizes_in_a_row(run_graph) -> None:
    for width, height in ((64, 64), (32, 96), (128, 32), (64, 64)):
        _prompt_equals_stock(run_graph, width=width, height=height)


@pytest.mark.parametrize("lora", [0.0, 0.5], ids=["plain", "lora"])
def test_models_that_the_host_unloads_between_prompts(run_graph, client, lora: float) -> None:
    """The host keeps the model object, and removes its weights and those of the copies from the devices."""
    _prompt_equals_stock(run_graph, lora=lora)
    assert _memory(run_graph)[0] >= 4
    client.post("/free", {"unload_models": True})
    assert _memory(run_graph)[0] == 0
    _prompt_equals_stock(run_graph, lora=lora)
    _prompt_equals_stock(run_graph, lora=-lora)


def test_models_that_the_host_frees_between_prompts(run_graph, client) -> None:
    """Nothing of the model or its copies remains in memory, and the model is loaded again."""
    _prompt_equals_stock(run_graph, lora=0.5)
    _prompt_equals_stock(run_graph, "demo_other.safetensors")
    client.post("/free", {"unload_models": True, "free_memory": True})
    assert _memory(run_graph) == (0, 0)
    _prompt_equals_stock(run_graph, "demo_other.safetensors")
    _prompt_equals_stock(run_graph, lora=0.5)
