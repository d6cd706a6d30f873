"""Devices that share each call by tokens: every sampler's picture is KSampler's, bit for bit on a CPU."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from graphs import Graph, Node, RunGraph, demo, empty_latent, settings

ROUNDING = 1e-4  # of the latent's norm, where the guidance split takes part: the host batches the sides otherwise
_SEEDS = itertools.count(8100)


def devices(graph: Graph, count: int, split: str = "tokens") -> Node:
    return graph.add("ChordsDevices", devices="auto", cpu_lanes=count, split=split)


def pair(
    run_graph: RunGraph, count: int, split: str = "tokens", ours: dict[str, Any] | None = None, **changes: Any
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """The record of a run on so many devices, its latent, and KSampler's."""
    graph = Graph()
    inputs = demo(graph) | settings("euler", steps=4, cfg=1.0) | {"latent_image": empty_latent(graph)}
    given = inputs | changes
    given = {key: value(graph, inputs) if callable(value) else value for key, value in given.items()}
    shared = graph.add("ChordsKSampler", **given, **(ours or {}), devices=devices(graph, count, split))
    graph.save("shared", shared)
    graph.save("stock", graph.add("KSampler", **given))
    run, latents = run_graph(graph)
    return run.outputs[shared.name]["chords"][0], latents["shared"], latents["stock"]


@pytest.mark.parametrize("cfg", [1.0, 3.5])
@pytest.mark.parametrize(
    ("sampler", "count"),
    [("euler_ancestral", 2), ("lcm", 3), ("dpmpp_2m_sde", 4), ("euler", 2), ("uni_pc", 2), ("er_sde", 2)],
)
def test_any_sampler_gives_the_stock_picture(run_graph: RunGraph, sampler: str, count: int, cfg: float) -> None:
    summary, shared, stock = pair(run_graph, count, sampler_name=sampler, steps=5, cfg=cfg)
    assert torch.equal(shared, stock)
    assert summary["split"] == f"tokens {count}" and summary["cores"] == 1
    assert summary["devices"] == ["+".join(["cpu", *(f"cpu:{lane}" for lane in range(1, count))])]
    assert "share each call by tokens" in summary["message"] and summary["lost_lanes"] == []
