"""Gradients inside ComfyUI are right, and a search leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from client import ComfyClient
from graphs import Graph, RunGraph, demo, empty_latent, threads_of_runs
from searches import PROMPT, SEEDS, optimizer, sampler_settings, small_latent


@pytest.mark.parametrize("sigma", [1.0, 0.4])
def test_gradients_inside_the_host_are_those_of_the_network(client, sigma: float) -> None:
    """Replaced weights, checkpointed blocks and the host's writing into its inputs change nothing."""
    graph = Graph()
    node = graph.add("TestGradient", **demo(graph, PROMPT), cfg=4.0, sigma=sigma)
    (error,) = client.run(graph.nodes).outputs[node.name]["error"]
    assert error < 1e-4


def test_gradients_through_blocks_that_share_lists_options_and_containers(client) -> None:
    graph = Graph()
    node = graph.add("TestBlocks", salt=next(SEEDS))
    (errors,) = client.run(graph.nodes).outputs[node.name]["errors"]
    assert errors
    assert all(error < 1e-5 for error in errors.values()), errors


def test_what_a_network_keeps_of_a_prompt_does_not_take_its_gradient(client) -> None:
    """In an attribute, a list, a dictionary, a block, or by one block for the others; the network is then as before.

    What is no memory stays: what a call sets for its blocks, and tables.
    """
    graph = Graph()
    node = graph.add("TestKeptPrompt", salt=next(SEEDS))
    (found,) = client.run(graph.nodes).outputs[node.name]["found"]
    assert len(found) > 8
    assert all(max(each["errors"]) < 1e-5 for each in found.values()), found
    assert all(each["same"] for each in found.values()), found


@pytest.mark.parametrize("by", ["host", "blocks"])
def test_compiled_models_run_uncompiled_in_a_search(client, run_graph: RunGraph, by: str) -> None:
    """The search is that of the plain model. The best is then sampled by the compiled one, as KSampler would."""

    def searched(compiled: bool) -> dict[str, torch.Tensor]:
        graph = Graph()

        def model(graph: Graph) -> Any:
            loaded = graph.add("UNETLoader", unet_name="demo_copy.safetensors", weight_dtype="default")
            return graph.add("TestCompiled", model=loaded, by=by, salt=seed) if compiled else loaded

        optimizer(graph, model=model, seed=seed, iterations=2, steps=2)
        return run_graph(graph)[1]

    seed = next(SEEDS)
    plain = searched(False)
    _output(client, "TestCompiledCalls")
    ours = searched(True)
    in_the_search, by_the_host = _output(client, "TestCompiledCalls")["calls"]
    assert in_the_search == 0 and by_the_host > 0
    for name, latent in plain.items():
        assert torch.allclose(ours[name], latent, rtol=1e-3, atol=1e-4), name


def test_a_copy_of_a_streamed_network_has_none_of_its_buffers(client) -> None:
    """With dynamic VRAM a copied buffer is freed twice, which takes the server down."""
    graph = Graph()
    node = graph.add("TestStreamedCopy")
    same, apart, kept, copied_too = client.run(graph.nodes).outputs[node.name]["found"]
    assert (same, apart, kept, copied_too) == (True, True, True, False)


def test_the_model_is_afterwards_as_before(run_graph: RunGraph, client: ComfyClient) -> None:
    """After seven searches inference is the same bit for bit, and no memory, model or thread is left."""

    def generated(salt: int) -> torch.Tensor:
        graph = Graph()
        inputs = demo(graph, PROMPT)
        inputs["model"] = graph.add("TestRandomDelay", model=inputs["model"], salt=salt)
        graph.save("latent", graph.add("KSampler", **inputs, **sampler_settings(), latent_image=small_latent(graph)))
        return run_graph(graph)[1]["latent"]

    def memory_after_a_search() -> int:
        graph = Graph()
        optimizer(graph, latent=empty_latent, iterations=2, steps=2)
        run_graph(graph)
        return _output(client, "TestResidentMemory")["bytes"][0]

    before = generated(1)
    memory_after_a_search()  # the first loads the models
    earlier = min(memory_after_a_search() for _ in range(3))
    later = min(memory_after_a_search() for _ in range(3))
    assert later - earlier < 3e6  # one graph left by each search is more, and so is a copy of the model, 28 MB
    assert torch.equal(generated(2), before)
    found = _output(client, "TestThreads")
    assert not threads_of_runs(found["threads"])
    assert found["current_patchers"] == [0]


def _output(client: ComfyClient, node_type: str) -> dict[str, Any]:
    """What a node of the tests reports of the server."""
    graph = Graph()
    node = graph.add(node_type, salt=next(SEEDS))
    return client.run(graph.nodes).outputs[node.name]
