"""How near the picture is to KSampler's: what each fidelity keeps, on one device and on several, whatever the graph."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from client import ExecutionError
from graphs import Graph, demo, empty_latent, lanes, settings
from torch import Tensor

STEPS = 20
LIMITS = {"near": 0.05, "fast": 0.15}  # of the worst picture


def _inputs(graph: Graph, solver: str = "euler", **changes: Any) -> dict[str, Any]:
    return demo(graph) | settings(solver) | {"latent_image": empty_latent(graph), "steps": STEPS} | changes


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def _compared(
    run_graph, solver: str = "euler", ours: dict[str, Any] | None = None, count: int = 1, **changes: Any
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The summary of our run with these further inputs on so many lanes, its latent, and the stock one."""
    graph = Graph()
    inputs = _inputs(graph, solver, **changes)
    more = {"devices": lanes(graph, count)} if count > 1 else {}
    node = graph.add("ChordsKSampler", **inputs, **(ours or {"fidelity": "near"}), **more)
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", node)
    run, latents = run_graph(graph)
    return run.outputs[node.name]["chords"][0], latents["ours"], latents["stock"]


# --- one device


@pytest.mark.parametrize("ours", [{}, {"fidelity": "auto"}, {"fidelity": "exact"}, {"accept": "exact"}])
def test_on_one_device_it_is_ksamplers_picture_bit_for_bit(run_graph, ours: dict[str, Any]) -> None:
    summary, found, stock = _compared(run_graph, ours=ours or {"cores": 0})
    assert torch.equal(found, stock)
    assert (summary["depth"], summary["estimate"], summary["tolerance"]) == (STEPS, 0.0, None)
    advised = "fidelity near: about a third less time" in summary["message"]
    assert advised == (ours in ({}, {"fidelity": "auto"}))


@pytest.mark.parametrize(
    ("solver", "steps"),
    [("euler", 20), ("ddim", 20), ("dpmpp_2m", 20), ("res_multistep", 20), ("uni_pc", 50), ("uni_pc_bh2", 50)],
)
@pytest.mark.parametrize("fidelity", ["near", "fast"])
def test_one_device_makes_fewer_calls(run_graph, solver: str, steps: int, fidelity: str) -> None:
    summary, ours, stock = _compared(run_graph, solver, {"fidelity": fidelity}, steps=steps)
    assert summary["cores"] == 1 and summary["evaluations"] == summary["depth"] < steps
    assert 0 < _distance(ours, stock) < LIMITS[fidelity]
    assert 0 < summary["estimate"] < 0.1
    assert f"{summary['depth']} of {steps} calls" in summary["message"]
    assert "% from KSampler's picture" in summary["message"]


def test_fast_makes_no_more_calls_than_near(run_graph) -> None:
    near, *_ = _compared(run_graph, ours={"fidelity": "near"}, steps=50)
    fast, *_ = _compared(run_graph, ours={"fidelity": "fast"}, steps=50)
    assert fast["depth"] < near["depth"] < 40


@pytest.mark.parametrize("fidelity", ["auto", "near", "fast"])
def test_few_steps_are_all_made(run_graph, fidelity: str) -> None:
    summary, ours, stock = _compared(run_graph, ours={"fidelity": fidelity}, steps=4)
    assert torch.equal(ours, stock)
    assert ("at 4 steps" in summary["message"]) == (fidelity != "auto")


def test_a_sampler_that_needs_nearly_every_step_takes_it_and_says_so(run_graph) -> None:
    summary, ours, stock = _compared(run_graph, "uni_pc", {"fidelity": "near"})
    assert torch.equal(ours, stock)
    assert "uni_pc needs nearly every call" in summary["message"]


# --- several devices


@pytest.mark.parametrize("fidelity", ["auto", "near", "fast"])
def test_several_cores_keep_the_fidelity(run_graph, fidelity: str) -> None:
    summary, ours, stock = _compared(run_graph, ours={"fidelity": fidelity, "cores": 4}, count=4)
    assert (summary["cores"], summary["method"]) == (4, "secant")
    assert summary["depth"] < 13
    assert _distance(ours, stock) < LIMITS.get(fidelity, LIMITS["near"])
    assert "4 cores in a window" in summary["message"] and "% from KSampler's picture" in summary["message"]


def test_auto_takes_several_lanes(run_graph) -> None:
    summary, ours, stock = _compared(run_graph, ours={"fidelity": "auto"}, count=2)
    assert summary["cores"] == min(2, os.cpu_count() or 1)
    assert _distance(ours, stock) < LIMITS["near"]


def test_exact_with_several_cores_shows_results_before_the_exact_one(run_graph) -> None:
    summary, ours, stock = _compared(run_graph, ours={"fidelity": "exact", "cores": 4}, count=4)
    assert summary["method"] == "chords" and summary["estimate"] == 0.0 and len(summary["hits"]) > 2
    assert _distance(ours, stock) < 1e-5


def test_a_number_of_cores_gives_the_same_picture_on_any_number_of_lanes(run_graph) -> None:
    graph = Graph()
    inputs = _inputs(graph) | {"steps": 30, "fidelity": "near", "cores": 4}
    nodes = {
        "four": graph.add("ChordsKSampler", **inputs, devices=lanes(graph, 4)),
        "turns": graph.add("ChordsKSampler", **inputs),
    }
    for key, node in nodes.items():
        graph.save(key, node)
    stream = graph.add("ChordsStreamPreview", run=nodes["four"][1], vae=[inputs["model"][0], 1])
    graph.save("stream", stream[1])
    _, latents = run_graph(graph)
    assert torch.equal(latents["four"], latents["turns"])
    assert torch.equal(latents["four"], latents["stream"][-1:])  # the best is the last


@pytest.mark.parametrize(("ours", "method"), [({"method": "CHORDS"}, "chords"), ({"accept": "second"}, "secant")])
def test_a_method_and_a_result_that_are_named_override_it(run_graph, ours: dict[str, Any], method: str) -> None:
    summary, *_ = _compared(run_graph, ours={"fidelity": "near", "cores": 4, **ours}, count=4)
    assert (summary["method"], summary["tolerance"]) == (method, None)


# --- what jumps from step to step


@pytest.mark.parametrize(("cores", "count"), [(1, 1), (4, 4)])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.6), (0.3, 0.7)])
def test_a_prompt_for_a_part_of_the_steps(run_graph, start: float, end: float, cores: int, count: int) -> None:
    graph = Graph()
    inputs = _inputs(graph)
    inputs["positive"] = graph.add(
        "ConditioningSetTimestepRange", conditioning=inputs["positive"], start=start, end=end
    )
    node = graph.add("ChordsKSampler", **inputs, fidelity="near", cores=cores, devices=lanes(graph, count))
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", node)
    run, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])
    assert "a prompt applies to a part of the steps only" in run.outputs[node.name]["chords"][0]["message"]


@pytest.mark.parametrize(("start", "end"), [(0.2, 0.6), (0.5, 1.0), (0.0, 0.4)])
def test_a_patch_that_acts_in_a_part_of_the_steps(run_graph, start: float, end: float) -> None:
    layers = {"double_layers": "1", "single_layers": "0", "scale": 2.8, "rescaling_scale": 0.0}
    _, ours, stock = _patched(run_graph, "SkipLayerGuidanceDiT", start_percent=start, end_percent=end, **layers)
    assert _distance(ours, stock) < LIMITS["near"]


def test_a_patch_that_acts_in_all_steps(run_graph) -> None:
    summary, ours, stock = _patched(run_graph, "RescaleCFG", multiplier=0.5)
    assert summary["evaluations"] < STEPS
    assert 0 < _distance(ours, stock) < LIMITS["near"]


def test_a_mask_that_changes_from_step_to_step(run_graph) -> None:
    graph = Graph()
    inputs = _inputs(graph)
    inputs["model"] = graph.add("DifferentialDiffusion", model=inputs["model"])
    mask = graph.add("SolidMask", value=0.5, width=128, height=128)
    inputs["latent_image"] = graph.add("SetLatentNoiseMask", samples=inputs["latent_image"], mask=mask)
    node = graph.add("ChordsKSampler", **inputs, fidelity="near")
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", node)
    _, latents = run_graph(graph)
    assert _distance(latents["ours"], latents["stock"]) < LIMITS["near"]


def test_what_must_see_its_steps_in_order_gets_every_step(run_graph) -> None:
    cached = {"reuse_threshold": 0.2, "start_percent": 0.1, "end_percent": 0.9, "verbose": False}
    summary, ours, stock = _patched(run_graph, "EasyCache", **cached)
    assert torch.equal(ours, stock)
    assert "step to step" in summary["message"]


def _patched(run_graph, node: str, **inputs: Any) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The summary with fidelity near of a model that another node has patched, its latent, and the stock one."""
    graph = Graph()
    found = _inputs(graph)
    found["model"] = graph.add(node, model=found["model"], **inputs)
    ours = graph.add("ChordsKSampler", **found, fidelity="near")
    graph.save("stock", graph.add("KSampler", **found))
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    return run.outputs[ours.name]["chords"][0], latents["ours"], latents["stock"]


# --- in other places


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
        ("ours", graph.add("ChordsSampler", sampler_name="euler", fidelity="near")),
    ):
        graph.save(key, graph.add("SamplerCustomAdvanced", sampler=sampler, **shared))
    _, latents = run_graph(graph)
    assert 0 < _distance(latents["ours"], latents["stock"]) < LIMITS["near"]


def test_progress_goes_to_the_end_in_steps(run_graph) -> None:
    graph = Graph()
    ours = graph.add("ChordsKSampler", **_inputs(graph, seed=12), fidelity="near")
    graph.save("ours", ours)
    run, _ = run_graph(graph)
    progress = [(data["value"], data["max"]) for data in run.of_kind("progress") if data["node"] == ours.name]
    assert progress[-1] == (STEPS, STEPS)
    assert [value for value, _ in progress] == sorted(value for value, _ in progress)


def test_an_unknown_choice_is_refused(run_graph) -> None:
    graph = Graph()
    graph.save("ours", graph.add("ChordsKSampler", **_inputs(graph), fidelity="closest"))
    with pytest.raises((ExecutionError, RuntimeError), match="fidelity"):
        run_graph(graph)
