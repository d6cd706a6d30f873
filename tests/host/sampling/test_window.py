"""The secant window on the live host: nearly the stock picture, faster, and the same on any devices."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from graphs import Graph, RunGraph, demo, empty_latent, lanes, settings
from torch import Tensor

from chords_core import plan

STEPS = 20
WINDOW = {"cores": 4, "method": "secant window"}


def _inputs(graph: Graph, solver: str = "euler", **changes: Any) -> dict[str, Any]:
    return demo(graph) | settings(solver, steps=STEPS) | {"latent_image": empty_latent(graph)} | changes


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("solver", ["euler", "ddim", "dpmpp_2m", "res_multistep", "uni_pc"])
def test_nearly_the_stock_picture_whatever_devices_compute_it(run_graph: RunGraph, solver: str) -> None:
    graph = Graph()
    inputs = _inputs(graph, solver)
    nodes = {
        "stock": graph.add("KSampler", **inputs),
        "four": graph.add("ChordsKSampler", **inputs, **WINDOW, devices=lanes(graph, 4)),
        "three": graph.add("ChordsKSampler", **inputs, **WINDOW, devices=lanes(graph, 3)),
        "turns": graph.add("ChordsKSampler", **inputs, **WINDOW),
    }
    for key, node in nodes.items():
        graph.save(key, node)
    run, latents = run_graph(graph)
    assert torch.equal(latents["four"], latents["turns"]) and torch.equal(latents["four"], latents["three"])
    assert 0 < _distance(latents["four"], latents["stock"]) < 0.05
    summary = run.outputs[nodes["four"].name]["chords"][0]
    assert (summary["method"], summary["cores"], summary["tolerance"]) == ("secant", 4, 0.01)
    assert summary["depth"] == len(summary["hits"]) < STEPS  # a result a round
    assert summary["evaluations"] == 4 * summary["depth"]
    assert f"4 cores in a window: {summary['depth']} of {STEPS} calls in a row" in summary["message"]


def test_later_results_are_closer(run_graph: RunGraph) -> None:
    graph = Graph()
    inputs = _inputs(graph)
    graph.save("stock", graph.add("KSampler", **inputs))
    accepts = ("first", "second", "third")
    nodes = {accept: graph.add("ChordsKSampler", **inputs, **WINDOW, accept=accept) for accept in accepts}
    for accept, node in nodes.items():
        graph.save(accept, node)
    run, latents = run_graph(graph)
    first, second, third = (_distance(latents[accept], latents["stock"]) for accept in accepts)
    assert third < second < first
    depths = [run.outputs[nodes[accept].name]["chords"][0]["depth"] for accept in accepts]
    assert depths == sorted(depths) and depths[0] < depths[-1] < STEPS


def test_exact_is_the_stock_picture(run_graph: RunGraph) -> None:
    """Which a window comes close to only, so that CHORDS makes it."""
    graph = Graph()
    inputs = _inputs(graph)
    node = graph.add("ChordsKSampler", **inputs, **WINDOW, accept="exact", devices=lanes(graph, 4))
    graph.save("ours", node)
    graph.save("stock", graph.add("KSampler", **inputs))
    run, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])
    assert run.outputs[node.name]["chords"][0]["method"] == "chords"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="with one processor there are no two lanes to choose")
def test_several_devices_take_it_by_themselves(run_graph: RunGraph) -> None:
    graph = Graph()
    node = graph.add("ChordsKSampler", **_inputs(graph), devices=lanes(graph, 4))
    graph.save("ours", node)
    summary = run_graph(graph)[0].outputs[node.name]["chords"][0]
    chosen = plan(STEPS, min(4, os.cpu_count() or 1), tolerance=0.01)
    assert (summary["method"], summary["cores"]) == ("secant", chosen.cores)
    assert summary["depth"] < STEPS


@pytest.mark.parametrize("inputs", [WINDOW, {"cores": 4}])
def test_a_number_of_cores_is_a_window_whether_or_not_the_method_is_named(
    run_graph: RunGraph, inputs: dict[str, Any]
) -> None:
    graph = Graph()
    node = graph.add("ChordsKSampler", **_inputs(graph), **inputs, devices=lanes(graph, 4))
    graph.save("ours", node)
    summary = run_graph(graph)[0].outputs[node.name]["chords"][0]
    assert (summary["method"], summary["cores"]) == ("secant", 4)


def test_with_guidance_shared_by_pairs_it_is_the_same_apart_from_rounding(run_graph: RunGraph) -> None:
    graph = Graph()
    inputs = _inputs(graph) | {"cores": 2, "method": "secant window"}
    shared = graph.add("ChordsDevices", devices="auto", cpu_lanes=4, split="guidance")
    node = graph.add("ChordsKSampler", **inputs, devices=shared)
    graph.save("pairs", node)
    graph.save("alone", graph.add("ChordsKSampler", **inputs, devices=lanes(graph, 2)))
    run, latents = run_graph(graph)
    summary = run.outputs[node.name]["chords"][0]
    assert all("+" in device for device in summary["devices"]) and len(summary["devices"]) == 2
    assert _distance(latents["pairs"], latents["alone"]) < 1e-4
