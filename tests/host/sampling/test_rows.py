"""Several rows in one model call on one device: near KSampler's picture, only where that is asked for and gains, and
never where the host or a patch would take one sigma for all rows. What a call takes is told by a test node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import torch
from _server import ComfyServer
from client import Run
from graphs import Graph, Node, RunGraph, demo, empty_latent, settings
from scrapes import new_fallbacks
from torch import Tensor

from tests.host.compatibility.parallel_rows import on_model
from tests.host.compatibility.test_compatibility import _gligen_of_a_unet, _weight_hook

STEPS = 20
FREE = {1: 1.0, 2: 1.0, 4: 1.0}
AS_LONG_AS_CALLS = {1: 1.0, 2: 2.0}
NEAR = 0.03
"""Three times the tolerance of `near`: the 90th percentile is about twice the tolerance."""

SALTS = count(1)  # the host does not run again what it has run

Change = Callable[[Graph, dict[str, Any]], None]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_kept(client: Any) -> Iterator[None]:
    """Other tests of this server find no times of these."""
    yield
    graph = Graph()
    told = {"seconds": "{}", "shape": "[]", "cfg": 1.0, "fails_from": 0, "trial": False, "salt": next(SALTS)}
    inputs = demo(graph) | settings(steps=1) | {"latent_image": empty_latent(graph)}
    inputs["model"] = graph.add("TestRowTimes", model=inputs["model"], **told)
    graph.save("ours", graph.add("ChordsKSampler", **inputs))
    client.run(graph.nodes)


def sampling(
    graph: Graph,
    change: Change,
    seconds: dict[int, float],
    sampler: str = "euler",
    fails_from: int = 0,
    trial: bool = False,
) -> dict[str, Any]:
    """The inputs of a KSampler with the demo model, of which calls of several rows are known to take so long."""
    inputs = demo(graph) | settings(sampler, steps=STEPS) | {"latent_image": empty_latent(graph)}
    change(graph, inputs)
    shape = [BATCHES.get(change, 1), CHANNELS.get(change, 16), 16, 16]
    told: dict[str, Any] = {"seconds": json.dumps(seconds), "shape": json.dumps(shape)}
    told |= {"cfg": inputs["cfg"], "fails_from": fails_from, "trial": trial, "salt": next(SALTS)}
    inputs["model"] = graph.add("TestRowTimes", model=inputs["model"], **told)
    return inputs


def summary(run: Run, node: Node) -> dict[str, Any]:
    found: dict[str, Any] = run.outputs[node.name]["chords"][0]
    return found


def difference(found: Tensor, wanted: Tensor) -> float:
    """Relative RMS, of the item where it is largest."""
    items = zip(found, wanted, strict=True)
    return max(float((one - other).norm() / other.norm()) for one, other in items)


def plain(graph: Graph, inputs: dict[str, Any]) -> None:
    pass


def unguided(graph: Graph, inputs: dict[str, Any]) -> None:
    inputs["cfg"] = 1.0


def batch_of_three(graph: Graph, inputs: dict[str, Any]) -> None:
    inputs["latent_image"] = empty_latent(graph, 3)


def _picture(graph: Graph) -> Node:
    return graph.add("KSampler", **demo(graph), **settings(seed=3, steps=8), latent_image=empty_latent(graph))


def image_to_image(graph: Graph, inputs: dict[str, Any]) -> None:
    inputs |= {"latent_image": _picture(graph), "denoise": 0.7}


def masked(graph: Graph, inputs: dict[str, Any]) -> None:
    mask = graph.add("SolidMask", value=1.0, width=128, height=64)
    empty = graph.add("SolidMask", value=0.0, width=128, height=128)
    half = graph.add("MaskComposite", destination=empty, source=mask, x=0, y=0, operation="add")
    inputs["latent_image"] = graph.add("SetLatentNoiseMask", samples=_picture(graph), mask=half)


def a_batch_with_a_mask(graph: Graph, inputs: dict[str, Any]) -> None:
    masked(graph, inputs)
    inputs["latent_image"] = graph.add("RepeatLatentBatch", samples=inputs["latent_image"], amount=3)


def an_area_and_a_masked_prompt(graph: Graph, inputs: dict[str, Any]) -> None:
    area = graph.add(
        "ConditioningSetAreaPercentage",
        conditioning=inputs["positive"],
        width=0.5,
        height=1.0,
        x=0.0,
        y=0.0,
        strength=1.0,
    )
    other = graph.add("ChordsDemoPrompt", text="a big green star on the right, blue background")
    mask = graph.add("SolidMask", value=0.7, width=128, height=128)
    second = graph.add("ConditioningSetMask", conditioning=other, mask=mask, strength=0.8, set_cond_area="default")
    inputs["positive"] = graph.add("ConditioningCombine", conditioning_1=area, conditioning_2=second)


def a_lora_in_bypass_mode(graph: Graph, inputs: dict[str, Any]) -> None:
    lora = {"lora_name": "tiny_lora.safetensors", "strength_model": 0.3}
    inputs["model"] = graph.add("LoraLoaderBypassModelOnly", model=inputs["model"], **lora)


def gligen_on_a_unet(graph: Graph, inputs: dict[str, Any]) -> None:
    loader = graph.add("TestUNet", seed=1)
    negative = graph.add("ConditioningZeroOut", conditioning=loader[1])
    inputs |= {"model": loader[0], "positive": loader[1], "negative": negative}
    _gligen_of_a_unet(graph, inputs)


def rescaled(graph: Graph, inputs: dict[str, Any]) -> None:
    """A patch that computes with the sigma of each item."""
    inputs["model"] = graph.add("RescaleCFG", model=inputs["model"], multiplier=0.7)


BATCHES = {batch_of_three: 3, a_batch_with_a_mask: 3}
CHANNELS = {gligen_on_a_unet: 4}


@pytest.mark.parametrize(
    ("change", "sampler"),
    [
        (plain, "euler"),
        (plain, "dpmpp_2m"),
        (unguided, "euler"),
        (image_to_image, "euler"),
        (batch_of_three, "euler"),
        (masked, "res_multistep"),
        (a_batch_with_a_mask, "euler"),
        (an_area_and_a_masked_prompt, "euler"),
        (rescaled, "euler"),
        (a_lora_in_bypass_mode, "euler"),
        (gligen_on_a_unet, "euler"),
    ],
)
def test_rows_give_what_the_same_window_gives_with_calls_of_its_own(
    run_graph: RunGraph, change: Change, sampler: str
) -> None:
    """Apart from rounding; and so they are near KSampler's picture."""
    graph = Graph()
    inputs = sampling(graph, change, FREE, sampler)
    graph.save("stock", graph.add("KSampler", **inputs))
    ours = graph.add("ChordsKSampler", **inputs, fidelity="near")
    graph.save("rows", ours)
    run, latents = run_graph(graph)
    found = summary(run, ours)
    assert found["rows"] == found["cores"] > 1, found["message"]
    assert f"{found['rows']} rows in one call on cpu" in found["message"]
    assert found["depth"] == found["evaluations"] < STEPS
    graph = Graph()
    inputs = sampling(graph, change, FREE, sampler)
    window = graph.add("ChordsKSampler", **inputs, fidelity="near", cores=found["cores"])
    graph.save("window", window)
    run, expected = run_graph(graph)
    assert (summary(run, window)["rows"], summary(run, window)["depth"]) == (1, found["depth"])
    assert difference(latents["rows"], expected["window"]) < 1e-3
    assert difference(latents["rows"], latents["stock"]) < NEAR


def ours_and_stock(
    run_graph: RunGraph, change: Change, seconds: dict[int, float], fails_from: int = 0, **chords: Any
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The summary of a sampling, its latent, and KSampler's."""
    graph = Graph()
    inputs = sampling(graph, change, seconds, fails_from=fails_from)
    graph.save("stock", graph.add("KSampler", **inputs))
    ours = graph.add("ChordsKSampler", **inputs, **chords)
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    return summary(run, ours), latents["ours"], latents["stock"]


@pytest.mark.parametrize("fidelity", ["auto", "exact"])
def test_ksamplers_own_picture_is_never_made_in_rows(run_graph: RunGraph, fidelity: str) -> None:
    found, ours, stock = ours_and_stock(run_graph, plain, FREE, fidelity=fidelity)
    assert found["rows"] == 1 and torch.equal(ours, stock)


@pytest.mark.parametrize("chords", [{"cores": 1}, {"cores": 2}, {"method": "secant window"}, {"accept": "first"}])
def test_an_advanced_input_overrides_it(run_graph: RunGraph, chords: dict[str, Any]) -> None:
    found, _, _ = ours_and_stock(run_graph, plain, FREE, fidelity="fast", **chords)
    assert found["rows"] == 1 and found["cores"] == chords.get("cores", 1)


@pytest.mark.parametrize("seconds", [AS_LONG_AS_CALLS, {}], ids=["slow", "not measured"])
def test_without_a_gain_one_core_makes_each_call_and_nothing_is_said_of_rows(
    run_graph: RunGraph, seconds: dict[int, float]
) -> None:
    """On a CPU nothing is tried that was not measured."""
    found, ours, stock = ours_and_stock(run_graph, plain, seconds, fidelity="near")
    assert (found["rows"], found["cores"]) == (1, 1) and "row" not in found["message"].replace("in a row", "")
    assert difference(ours, stock) < NEAR


def test_a_trial_is_kept_and_not_repeated(run_graph: RunGraph, server: ComfyServer) -> None:
    """On a CPU one core makes each call: rows take as long as calls, or the calls are too short to gain anything."""
    graph = Graph()
    inputs = sampling(graph, plain, {}, trial=True)
    both = [graph.add("ChordsKSampler", **{**inputs, "seed": seed}, fidelity="near") for seed in (1, 2)]
    for name, each in zip(("one", "two"), both, strict=True):
        graph.save(name, each)
    before = len(server.log())
    run, _ = run_graph(graph)
    assert {summary(run, each)["rows"] for each in both} <= {1, 2, 4, 8}
    assert server.log()[before:].count("a call takes by its rows 1:") == 1
    assert "1" in _kept_rows(server)


def _kept_rows(server: ComfyServer) -> dict[str, float]:
    """The kept seconds of calls by their number of rows."""
    (entry,) = json.loads((server.folder / "user" / "chords" / "measured.json").read_text(encoding="utf-8"))["entries"]
    found: dict[str, float] = entry["measured"]["rows"]
    return found


def a_part_of_the_steps(graph: Graph, inputs: dict[str, Any]) -> None:
    early = graph.add("ConditioningSetTimestepRange", conditioning=inputs["positive"], start=0.0, end=0.4)
    other = graph.add("ChordsDemoPrompt", text="a small star")
    late = graph.add("ConditioningSetTimestepRange", conditioning=other, start=0.4, end=1.0)
    inputs["positive"] = graph.add("ConditioningCombine", conditioning_1=early, conditioning_2=late)


def a_mask_that_changes(graph: Graph, inputs: dict[str, Any]) -> None:
    masked(graph, inputs)
    inputs["model"] = graph.add("DifferentialDiffusion", model=inputs["model"], strength=1.0)


def a_part_of_the_sigmas(graph: Graph, inputs: dict[str, Any]) -> None:
    """A patch that reads the first sigma of a call."""
    patch = {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35}
    methods = {"downscale_method": "bicubic", "upscale_method": "bicubic", "downscale_after_skip": True}
    inputs["model"] = graph.add("PatchModelAddDownscale", model=inputs["model"], **patch, **methods)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (a_part_of_the_steps, "a prompt applies to a part of the steps only"),
        (a_mask_that_changes, "the mask changes from step to step"),
        (a_part_of_the_sigmas, "takes one sigma for all rows of a call"),
        (_weight_hook, "conditioning hooks change the model's weights"),
        (on_model("TestCompiled", by="host"), "a compiled model would be compiled again for each number of rows"),
    ],
)
def test_what_has_one_sigma_for_all_rows_gets_calls_of_one_row(
    run_graph: RunGraph, change: Change, reason: str
) -> None:
    found, ours, stock = ours_and_stock(run_graph, change, FREE, fidelity="near")
    assert (found["rows"], found["cores"]) == (1, 1)
    assert f"one row in each model call: {reason}" in found["message"] or reason in found["message"]
    assert difference(ours, stock) < NEAR


def controlled(end: float) -> Change:
    def applied(graph: Graph, inputs: dict[str, Any]) -> None:
        control = graph.add("ControlNetLoader", control_net_name="tiny_flux.safetensors")
        image = graph.add("TestImage", red=0.9, green=0.2, blue=0.1, broken=False)
        given = {"positive": inputs["positive"], "negative": inputs["negative"], "control_net": control, "image": image}
        node = graph.add("ControlNetApplyAdvanced", **given, strength=0.5, start_percent=0.0, end_percent=end)
        inputs |= {"positive": node[0], "negative": node[1]}

    return applied


def test_a_controlnet_can_be_part_of_a_call_of_several_rows(run_graph: RunGraph) -> None:
    found, ours, stock = ours_and_stock(run_graph, controlled(1.0), FREE, fidelity="near")
    assert found["rows"] > 1, found["message"]
    assert difference(ours, stock) < NEAR


def test_a_controlnet_for_a_part_of_the_steps_gets_its_steps_in_order(run_graph: RunGraph) -> None:
    found, ours, stock = ours_and_stock(run_graph, controlled(0.5), FREE, fidelity="near")
    assert found["rows"] == 1 and "a ControlNet applies to a part of the steps only" in found["message"]
    assert torch.equal(ours, stock)


def test_after_rows_that_fail_in_a_run_it_begins_again_on_one_core(run_graph: RunGraph, server: ComfyServer) -> None:
    """Which makes fewer calls than KSampler. The message says it, and no later run tries so many rows. The first call
    of several rows is that of the check, which compares them with calls of one."""
    with new_fallbacks(server) as counted:
        found, ours, stock = ours_and_stock(run_graph, plain, FREE, fails_from=4, fidelity="near")
    assert "it took longer, because a call of" in found["message"] and "too little memory" in found["message"]
    assert "rows" in counted
    assert (found["rows"], found["cores"]) == (1, 1) and found["evaluations"] == found["depth"] < STEPS
    assert difference(ours, stock) < NEAR and not found["lost_lanes"]
    assert "4" not in _kept_rows(server)


def test_rows_that_fail_in_the_check_are_not_used(run_graph: RunGraph, server: ComfyServer) -> None:
    found, ours, stock = ours_and_stock(run_graph, plain, FREE, fails_from=1, fidelity="near")
    assert (found["rows"], found["cores"]) == (1, 1)
    assert "one row in each model call: a call of" in found["message"] and "too little memory" in found["message"]
    assert set(_kept_rows(server)) == {"1"}
    assert difference(ours, stock) < NEAR


def test_a_report_shows_the_rows(run_graph: RunGraph) -> None:
    """A call of several rows is one call, and nothing is made up of how long a call of one row takes."""
    graph = Graph()
    ours = graph.add("ChordsKSampler", **sampling(graph, plain, FREE), fidelity="fast")
    text = graph.add("PreviewAny", source=graph.add("ChordsReport", run=ours[1])[1])
    run, _ = run_graph(graph)
    found, figures = summary(run, ours), json.loads(run.outputs[text.name]["text"][0])
    assert found["devices"] == figures["devices"] == ["cpu"] and found["rows"] == 4
    assert figures["evaluations"] == figures["depth"] < STEPS and figures["speedup"] is None
    assert [lane["device"] for lane in figures["lanes"]] == ["cpu"] * 4
