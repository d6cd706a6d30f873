"""What takes part in a call beside the model: copies of it for lanes, and fewer calls on one device. And compiled
models, which stay on their device.

That copies give the stock latent is in test_compatibility.py.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch
from graphs import Graph, Node, demo, empty_latent, lanes, settings
from torch import Tensor

from tests.host.compatibility.parallel_rows import Patch, on_model
from tests.host.compatibility.test_compatibility import (
    _bypass_lora,
    _bypass_lora_and_weight_hook,
    _context_windows,
    _gligen,
    _scheduled_weight_hook,
    _weight_hook,
)

STEPS = 20
NEAR = 0.03
"""Three times the tolerance of `near`: the 90th percentile is about twice the tolerance."""

_SEEDS = count(5100)


def _nothing(graph: Graph, sampling: dict[str, Any]) -> None:
    """No patch."""


def _moving_windows(graph: Graph, sampling: dict[str, Any]) -> None:
    _context_windows(graph, sampling, context_schedule="looped_uniform")


def _sampled(run_graph: Any, patch: Patch, **chords: Any) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The record of a run, its latent and the stock latent. ``chords["lanes"]``: how many devices there are."""
    graph = Graph()
    sampling = demo(graph) | settings(steps=STEPS, seed=next(_SEEDS)) | {"latent_image": empty_latent(graph)}
    patch(graph, sampling)
    devices = lanes(graph, chords.pop("lanes", 1), split=chords.pop("split", "auto"))
    ours = graph.add("ChordsKSampler", **sampling, **chords, devices=devices)
    graph.save("ours", ours)
    graph.save("stock", graph.add("KSampler", **sampling))
    run, latents = run_graph(graph)
    return _summary(run, ours), latents["ours"], latents["stock"]


def _summary(run: Any, node: Node) -> dict[str, Any]:
    found: dict[str, Any] = run.outputs[node.name]["chords"][0]
    return found


def _difference(found: Tensor, wanted: Tensor) -> float:
    """Relative RMS."""
    return float((found - wanted).norm() / wanted.norm())


def _names(patches: list[Patch]) -> list[str]:
    return [patch.__name__.strip("_") for patch in patches]


FEWER = [_weight_hook, _gligen, _context_windows, _bypass_lora]


@pytest.mark.parametrize("patch", FEWER, ids=_names(FEWER))
def test_one_device_leaves_calls_out(run_graph, patch: Patch) -> None:
    found, ours, stock = _sampled(run_graph, patch, cores=1, fidelity="near")
    assert found["cores"] == 1 and found["depth"] < STEPS, found["message"]
    assert _difference(ours, stock) < NEAR


def test_one_device_makes_every_call_of_hooks_with_keyframes(run_graph) -> None:
    found, ours, stock = _sampled(run_graph, _scheduled_weight_hook, cores=1, fidelity="near")
    assert "the host remembers the keyframe from step to step" in found["message"]
    assert found["depth"] == STEPS and torch.equal(ours, stock)


def test_windows_that_move_from_step_to_step(run_graph) -> None:
    """Each lane finds the step of its call by itself, so that CHORDS is exact. By default every step is called."""
    found, ours, stock = _sampled(run_graph, _moving_windows, lanes=4, cores=4, accept="exact", method="CHORDS")
    assert found["cores"] == 4, found["message"]
    assert torch.equal(ours, stock)
    found, ours, stock = _sampled(run_graph, _moving_windows, cores=1, fidelity="near")
    assert "context windows move from step to step" in found["message"]
    assert found["depth"] == STEPS and torch.equal(ours, stock)


NOT_BY_SIDES = [_weight_hook, _gligen, _context_windows]


@pytest.mark.parametrize("patch", NOT_BY_SIDES, ids=_names(NOT_BY_SIDES))
def test_the_sides_of_guidance_stay_on_one_device(run_graph, patch: Patch) -> None:
    found, ours, stock = _sampled(run_graph, patch, lanes=2, split="guidance", fidelity="exact")
    assert found["devices"] == ["cpu"] and torch.equal(ours, stock)


def test_two_devices_share_the_sides_of_a_model_with_a_lora_in_bypass_mode(run_graph) -> None:
    found, ours, stock = _sampled(run_graph, _bypass_lora, lanes=2, split="guidance", fidelity="exact")
    assert found["devices"] == ["cpu+cpu:1"], found["message"]
    assert _difference(ours, stock) < 1e-4


def test_a_lost_lane_or_a_failed_run_leaves_no_lora_and_no_changed_weight_behind(run_graph) -> None:
    """The copies are those of the runs before."""
    patch = _bypass_lora_and_weight_hook

    def failing(graph: Graph, sampling: dict[str, Any], broken: str) -> None:
        patch(graph, sampling)
        sampling["model"] = graph.add("TestFailingLane", model=sampling["model"], lanes=broken, from_call=2)

    exact: dict[str, Any] = {"lanes": 4, "cores": 4, "accept": "exact"}
    found, ours, stock = _sampled(run_graph, lambda *given: failing(*given, "1,2"), **exact)
    assert len(found["lost_lanes"]) == 2 and torch.equal(ours, stock), found["message"]
    with pytest.raises(Exception, match="is broken on purpose"):
        _sampled(run_graph, lambda *given: failing(*given, "0,1,2,3"), **exact)
    for after in (_nothing, patch, _nothing):
        found, ours, stock = _sampled(run_graph, after, **exact)
        assert found["cores"] == 4 and torch.equal(ours, stock), found["message"]


def test_copies_with_weight_hooks_are_not_loaded_again_in_each_run(run_graph, server) -> None:
    """The host itself loads its model again, and only that one."""
    for times in (5, 1):  # to copy a model, the host takes it off its device
        graph = Graph()
        sampling = demo(graph) | settings(steps=STEPS, seed=next(_SEEDS)) | {"latent_image": empty_latent(graph)}
        sampling["model"] = graph.add("UNETLoader", unet_name="demo_other.safetensors", weight_dtype="default")
        _weight_hook(graph, sampling)
        ours = graph.add("ChordsKSampler", **sampling, cores=4, accept="exact", devices=lanes(graph, 4))
        graph.save("ours", ours)
        before = len(server.log())
        run, _ = run_graph(graph)
        assert _summary(run, ours)["cores"] == 4
        assert server.log()[before:].count("loaded completely") == times


COMPILED = ["host", "blocks"]


@pytest.mark.parametrize("by", COMPILED)
def test_a_compiled_model_stays_on_its_device(run_graph, by: str) -> None:
    for asked in ({"cores": 4, "accept": "exact"}, {"fidelity": "exact"}):
        found, ours, stock = _sampled(run_graph, on_model("TestCompiled", by=by), lanes=4, **asked)
        assert found["cores"] == 1 and found["devices"] == ["cpu"]
        assert "the model is compiled (torch.compile) for cpu, and a copy on each further device" in found["message"]
        assert torch.equal(ours, stock)


@pytest.mark.parametrize("by", COMPILED)
@pytest.mark.parametrize("count", [1, 4])
def test_the_device_of_a_compiled_model_leaves_calls_out(run_graph, by: str, count: int) -> None:
    found, ours, stock = _sampled(run_graph, on_model("TestCompiled", by=by), lanes=count, fidelity="near")
    assert found["cores"] == 1 and found["devices"] == ["cpu"] and found["depth"] < STEPS, found["message"]
    assert ("is compiled" in found["message"]) == (count > 1)
    assert _difference(ours, stock) < NEAR


@pytest.mark.parametrize("split", ["tokens", "guidance"])
def test_devices_do_not_share_the_calls_of_a_compiled_model(run_graph, split: str) -> None:
    found, ours, stock = _sampled(run_graph, on_model("TestCompiled", by="host"), lanes=2, split=split, cores=1)
    assert found["devices"] == ["cpu"] and torch.equal(ours, stock)
    assert ("calls are not shared by tokens: the model is compiled" in found["message"]) == (split == "tokens")


@pytest.mark.parametrize("patch", FEWER, ids=_names(FEWER))
def test_the_default_uses_several_devices(run_graph, patch: Patch) -> None:
    found, ours, stock = _sampled(run_graph, patch, lanes=2)
    assert found["cores"] == 2 and found["devices"] == ["cpu", "cpu:1"], found["message"]
    assert _difference(ours, stock) < NEAR
