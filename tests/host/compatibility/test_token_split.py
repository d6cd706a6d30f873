"""Which rows of docs/compatibility.md share their calls by tokens: the stock latent bit for bit either way."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch
from graphs import Graph, Node

from tests.host.compatibility.parallel_rows import Patch, on_model, sampled_by_ksampler
from tests.host.compatibility.test_compatibility import (
    IN_ORDER,
    PARALLEL,
    _context_windows,
    _gligen,
    _unet,
    _weight_hook,
)

_SALTS = count(5900)


def _averaging(graph: Graph, sampling: dict[str, Any]) -> None:
    """A running average of another pack around the model call; each run has its own."""
    on_model("TestPatch", kind="in_object", salt=next(_SALTS))(graph, sampling)


SHARED: list[Patch] = [
    *PARALLEL,
    _context_windows,
    on_model("APG", eta=1.0, norm_threshold=5.0, momentum=-0.5),
]
WHOLE: list[tuple[Patch, str]] = [
    *((patch, "hooks") for patch, reason in IN_ORDER if reason == "hooks with keyframes"),
    (_weight_hook, "hooks"),
    (_gligen, "GLIGEN"),
    (on_model("EasyCache", reuse_threshold=0.0001, start_percent=0.3, end_percent=0.9, verbose=False), "wraps"),
    (_averaging, "keeps state from call to call"),
    (
        on_model("LoraLoaderBypassModelOnly", lora_name="tiny_lora.safetensors", strength_model=0.7),
        "injected into the loaded model",
    ),
]


def _names(patches: list[Patch]) -> list[str]:
    return [patch.__name__.strip("_") for patch in patches]


def _tokens(graph: Graph, count: int = 2) -> Node:
    return graph.add("ChordsDevices", devices="auto", cpu_lanes=count, split="tokens")


def _run(run_graph, sample: Any, patch: Patch) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """The record of a run on two devices, its latent and the stock latent."""
    graph = Graph()
    ours = sample(graph, patch)({"devices": _tokens(graph)})
    graph.save("ours", ours)
    graph.save("stock", sample(graph, patch)({}))
    run, latents = run_graph(graph)
    return run.outputs[ours.name]["chords"][0], latents["ours"], latents["stock"]


@pytest.mark.parametrize("patch", SHARED, ids=_names(SHARED))
def test_calls_are_shared_and_the_picture_is_the_stock_one(run_graph, patch: Patch) -> None:
    summary, ours, stock = _run(run_graph, sampled_by_ksampler, patch)
    assert summary["split"] == "tokens 2", summary["message"]
    assert torch.equal(ours, stock)


@pytest.mark.parametrize(("patch", "reason"), WHOLE, ids=_names([patch for patch, _ in WHOLE]))
def test_calls_are_not_shared_and_the_message_says_why(run_graph, patch: Patch, reason: str) -> None:
    summary, ours, stock = _run(run_graph, sampled_by_ksampler, patch)
    assert summary["split"] == "off" and summary["devices"] == ["cpu"]
    assert "calls are not shared by tokens" in summary["message"] and reason in summary["message"]
    if patch.__name__ != "EasyCache":  # with it the stock sampler differs from run to run
        assert torch.equal(ours, stock)


def test_a_unet_is_not_shared(run_graph) -> None:
    summary, ours, stock = _run(run_graph, _unet, lambda graph, sampling: sampling.update(sampler_name="lcm"))
    assert "UNetModel is not a network that can be shared by tokens" in summary["message"]
    assert summary["devices"] == ["cpu"] and torch.equal(ours, stock)
