"""Fewer model calls than steps: nearly the stock picture earlier, on one device too, and only where it is asked for."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from client import ExecutionError
from graphs import Graph, demo, empty_latent, lanes, settings
from torch import Tensor

from chords_core import choose_calls, plan

STEPS = 20
CALLS = 13  # what auto takes for 20 steps


def _inputs(graph: Graph, solver: str = "euler", **changes: Any) -> dict[str, Any]:
    return demo(graph) | settings(solver) | {"latent_image": empty_latent(graph), "steps": STEPS} | changes


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _compared(run_graph, solver: str = "euler", extra: dict[str, Any] | None = None, **changes: Any):
    """The summary of our run with ``extra`` inputs, its latent, and the stock one."""
    graph = Graph()
    inputs = _inputs(graph, solver, **changes)
    ours = graph.add("ChordsKSampler", **inputs, **(extra or {"calls": "auto"}))
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    return run.outputs[ours.name]["chords"][0], latents["ours"], latents["stock"]


@pytest.fixture
def processors() -> int:
    """Lanes on a CPU beyond these would only take turns."""
    return os.cpu_count() or 1


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "res_multistep", "uni_pc"])
def test_auto_is_nearly_the_stock_picture_for_half_the_calls(run_graph, solver: str) -> None:
    summary, ours, stock = _compared(run_graph, solver)
    assert (summary["evaluations"], summary["depth"], summary["cores"]) == (CALLS, CALLS, 1)
    assert 0 < _distance(ours, stock) < 0.05
    assert f"the model called at {CALLS} of {STEPS} steps" in summary["message"]


@pytest.mark.parametrize(("calls", "made"), [("1/2", 10), ("1/3", 7)])
def test_the_share_of_the_steps_can_be_chosen(run_graph, calls: str, made: int) -> None:
    summary, ours, stock = _compared(run_graph, extra={"calls": calls})
    assert summary["evaluations"] == made
    assert 0 < _distance(ours, stock) < 0.5


@pytest.mark.parametrize(
    "extra", [{}, {"calls": "every step"}, {"calls": "auto", "accept": "exact"}, {"calls": "auto", "cores": 0}]
)
def test_without_it_or_exact_it_is_the_stock_latent(run_graph, extra: dict[str, Any]) -> None:
    steps = 8 if extra.get("cores") == 0 else STEPS  # where too few calls would be saved, auto makes them all
    _, ours, stock = _compared(run_graph, extra={"accept": "auto", **extra}, steps=steps)
    assert torch.equal(ours, stock)


def test_lanes_make_it_faster_and_a_number_of_cores_fixes_the_picture(run_graph) -> None:
    graph = Graph()
    inputs = _inputs(graph) | {"steps": 30, "calls": "auto"}
    graph.save("stock", graph.add("KSampler", **_inputs(graph, steps=30)))
    graph.save("one", graph.add("ChordsKSampler", **inputs))
    nodes = {
        "four": graph.add("ChordsKSampler", **inputs, cores=4, devices=lanes(graph, 4)),
        "turns": graph.add("ChordsKSampler", **inputs, cores=4),
    }
    for key, node in nodes.items():
        graph.save(key, node)
    stream = graph.add("ChordsStreamPreview", run=nodes["four"][1], vae=[inputs["model"][0], 1])
    graph.save("stream", stream[1])
    run, latents = run_graph(graph)
    assert torch.equal(latents["four"], latents["turns"])
    assert torch.equal(latents["four"], latents["stream"][-1:])  # the best is the last
    summary = run.outputs[nodes["four"].name]["chords"][0]
    assert (summary["cores"], summary["calls"], summary["method"]) == (4, 15, "secant")
    assert summary["depth"] < 15
    assert _distance(latents["four"], latents["stock"]) < 0.05
    assert "cores in a window" in summary["message"]


def test_auto_takes_the_lanes_that_pay(run_graph, processors: int) -> None:
    graph = Graph()
    node = graph.add("ChordsKSampler", **_inputs(graph, steps=30), calls="auto", devices=lanes(graph, 4))
    graph.save("latent", node)
    run, _ = run_graph(graph)
    summary = run.outputs[node.name]["chords"][0]
    assert summary["cores"] == plan(30, min(4, processors), calls=choose_calls(30)).cores


def test_what_must_see_its_steps_in_order_gets_every_step(run_graph) -> None:
    graph = Graph()
    inputs = _inputs(graph)
    cached = {"reuse_threshold": 0.2, "start_percent": 0.1, "end_percent": 0.9, "verbose": False}
    inputs["model"] = graph.add("EasyCache", model=inputs["model"], **cached)
    ours = graph.add("ChordsKSampler", **inputs, calls="auto")
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])
    assert "step to step" in run.outputs[ours.name]["text"][0]


def test_a_prompt_for_a_part_of_the_steps_gets_every_step(run_graph) -> None:
    """Where it ends the prediction jumps, and must not be interpolated across."""
    graph = Graph()
    inputs = _inputs(graph)
    inputs["positive"] = graph.add("ConditioningSetTimestepRange", conditioning=inputs["positive"], start=0.0, end=0.6)
    ours = graph.add("ChordsKSampler", **inputs, calls="auto")
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])
    assert "every step is taken" in run.outputs[ours.name]["text"][0]


def test_under_a_guider_in_custom_sampling(run_graph) -> None:
    graph = Graph()
    inputs = _inputs(graph)
    guided = {name: inputs[name] for name in ("model", "positive", "negative", "cfg")}
    shared = {
        "noise": graph.add("RandomNoise", noise_seed=inputs["seed"]),
        "guider": graph.add("CFGGuider", **guided),
        "sigmas": graph.add("BasicScheduler", model=inputs["model"], scheduler="simple", steps=STEPS, denoise=1.0),
        "latent_image": inputs["latent_image"],
    }
    for key, sampler in (
        ("stock", graph.add("KSamplerSelect", sampler_name="euler")),
        ("ours", graph.add("ChordsSampler", sampler_name="euler", calls="auto")),
    ):
        graph.save(key, graph.add("SamplerCustomAdvanced", sampler=sampler, **shared))
    _, latents = run_graph(graph)
    assert 0 < _distance(latents["ours"], latents["stock"]) < 0.05


def test_progress_goes_to_the_end_in_steps(run_graph) -> None:
    graph = Graph()
    ours = graph.add("ChordsKSampler", **_inputs(graph, seed=12), calls="auto")
    graph.save("ours", ours)
    run, _ = run_graph(graph)
    progress = [(data["value"], data["max"]) for data in run.of_kind("progress") if data["node"] == ours.name]
    assert progress[-1] == (STEPS, STEPS)
    assert [value for value, _ in progress] == sorted(value for value, _ in progress)


def test_an_unknown_choice_is_refused(run_graph) -> None:
    graph = Graph()
    graph.save("ours", graph.add("ChordsKSampler", **_inputs(graph), calls="fewest"))
    with pytest.raises((ExecutionError, RuntimeError), match="calls"):
        run_graph(graph)


def _guided(run_graph, node: str, **inputs: Any) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The summary with `calls` auto of a model that another node has patched, its latent, and the stock one."""
    graph = Graph()
    found = _inputs(graph)
    found["model"] = graph.add(node, model=found["model"], **inputs)
    ours = graph.add("ChordsKSampler", **found, calls="auto")
    graph.save("stock", graph.add("KSampler", **found))
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    return run.outputs[ours.name]["chords"][0], latents["ours"], latents["stock"]


@pytest.mark.parametrize(("start", "end"), [(0.2, 0.6), (0.5, 1.0), (0.0, 0.4)])
def test_a_patch_that_acts_in_a_part_of_the_steps_takes_every_step(run_graph, start: float, end: float) -> None:
    layers = {"double_layers": "1", "single_layers": "0", "scale": 2.8, "rescaling_scale": 0.0}
    summary, ours, stock = _guided(run_graph, "SkipLayerGuidanceDiT", start_percent=start, end_percent=end, **layers)
    assert torch.equal(ours, stock)
    assert "acts in a part of the steps only" in summary["message"]


def test_a_patch_that_acts_in_all_steps_takes_as_few_as_without(run_graph) -> None:
    summary, ours, stock = _guided(run_graph, "RescaleCFG", multiplier=0.5)
    assert summary["evaluations"] == CALLS
    assert 0 < _distance(ours, stock) < 0.05
