"""Quantised models: GGUF files by a loader as packs have it, and the host's own format, in parallel and in SDO."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch
from client import ExecutionError
from graphs import Graph, Node
from searches import optimizer

from tests.host.compatibility.parallel_rows import (
    Patch,
    add_parallel,
    check_parallel,
    is_close,
    on_model,
    sampled_by_ksampler,
)

_SALTS = count(9900)


def _gguf(graph: Graph) -> Node:
    return graph.add("TestLoaderGGUF", name="tiny_q8.gguf", salt=next(_SALTS))


def _fp8(graph: Graph) -> Node:
    return graph.add("UNETLoader", unet_name="tiny_fp8.safetensors", weight_dtype="default")


LOADERS = {"gguf": _gguf, "fp8": _fp8}
_LORA = on_model("LoraLoaderModelOnly", lora_name="tiny_lora.safetensors", strength_model=0.5)


def _loaded(kind: str, *patches: Patch, steps: int | None = None) -> Patch:
    def patch(graph: Graph, sampling: dict[str, Any]) -> None:
        sampling["model"] = LOADERS[kind](graph)
        for each in patches:
            each(graph, sampling)
        if steps is not None:
            sampling["steps"] = steps

    return patch


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("kind", LOADERS)
def test_a_quantised_model_runs_in_parallel(run_graph, kind: str, lora: bool) -> None:
    """With a LoRA, too, which such a loader keeps beside the weights."""
    graph = Graph()
    add_parallel(graph, sampled_by_ksampler(graph, _loaded(kind, *[_LORA] * lora)))
    graph.save("whole", sampled_by_ksampler(graph, lambda graph, sampling: None)({}))
    graph.save("other", sampled_by_ksampler(graph, _loaded(kind, *[_LORA] * (not lora)))({}))
    _, latents = run_graph(graph)
    stock = check_parallel(latents)
    assert not torch.equal(stock, latents["whole"]) and not is_close(stock, latents["other"])


@pytest.mark.parametrize("kind", LOADERS)
def test_calls_of_a_quantised_model_are_left_out(run_graph, kind: str) -> None:
    graph = Graph()
    sampled = sampled_by_ksampler(graph, _loaded(kind, steps=20))
    node = sampled({"cores": 1, "fidelity": "near"})
    graph.save("near", node)
    graph.save("stock", sampled({}))
    run, latents = run_graph(graph)
    summary, stock = run.outputs[node.name]["chords"][0], latents["stock"]
    assert summary["depth"] < 20, summary["message"]
    assert 0 < float((latents["near"] - stock).norm() / stock.norm()) < 0.05


@pytest.mark.parametrize("kind", LOADERS)
def test_calls_of_a_quantised_model_are_shared_by_tokens(run_graph, kind: str) -> None:
    graph = Graph()
    sampled = sampled_by_ksampler(graph, _loaded(kind))
    node = sampled({"devices": graph.add("ChordsDevices", devices="auto", cpu_lanes=2, split="tokens")})
    graph.save("ours", node)
    graph.save("stock", sampled({}))
    run, latents = run_graph(graph)
    summary = run.outputs[node.name]["chords"][0]
    assert summary["split"] == "tokens 2", summary["message"]
    assert torch.equal(latents["ours"], latents["stock"])


@pytest.mark.parametrize("kind", LOADERS)
def test_a_search_refuses_a_quantised_model_and_says_why(client, kind: str) -> None:
    graph = Graph()
    optimizer(graph, model=LOADERS[kind])
    with pytest.raises(ExecutionError, match="model: no gradient .*quantised; use a file in fp16, bf16 or plain fp8"):
        client.run(graph.nodes)
