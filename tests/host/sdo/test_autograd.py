"""Gradients inside ComfyUI are right, and a search leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from graphs import Graph, demo, empty_latent
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


def test_a_copy_of_a_streamed_network_has_none_of_its_buffers(client) -> None:
    """With dynamic VRAM a copied buffer is freed twice, which takes the server down."""
    graph = Graph()
    node = graph.add("TestStreamedCopy")
    same, apart, kept, copied_too = client.run(graph.nodes).outputs[node.name]["found"]
    assert (same, apart, kept, copied_too) == (True, True, True, False)


def test_the_model_is_afterwards_as_before(run_graph, client, server) -> None:
    """Ten searches after a normal generation: inference bit for bit as before, memory and threads too."""

    def generated(salt: int) -> torch.Tensor:
        graph = Graph()
        inputs = demo(graph, PROMPT)
        inputs["model"] = graph.add("TestRandomDelay", model=inputs["model"], salt=salt)
        graph.save("latent", graph.add("KSampler", **inputs, **sampler_settings(), latent_image=small_latent(graph)))
        return run_graph(graph)[1]["latent"]

    def search() -> None:
        graph = Graph()
        optimizer(graph, latent=empty_latent, iterations=2, steps=2)
        run_graph(graph)

    before = generated(1)
    for _ in range(3):
        search()
    memory = _resident_bytes(server.pid)
    for _ in range(10):
        search()
    assert _resident_bytes(server.pid) - memory < 30e6  # one leaked graph is more, one copy of the model 28 MB
    assert torch.equal(generated(2), before)
    graph = Graph()
    node = graph.add("TestThreads", salt=next(SEEDS))
    after = client.run(graph.nodes).outputs[node.name]
    assert not [name for name in after["threads"] if "chords" in name]
    assert after["current_patchers"] == [0]


def _resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096
