"""The nodes as users meet them: drop-in, honest about what they chose, clear about what is wrong."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from client import Interrupted
from graphs import Graph, demo, empty_latent, lanes, settings, threads_of_runs

from chords_core import plan

CHORDS_NODES = {
    "ChordsKSampler": ["LATENT", "CHORDS_RUN"],
    "ChordsKSamplerAdvanced": ["LATENT", "CHORDS_RUN"],
    "ChordsSampler": ["SAMPLER"],
    "ChordsScheduler": ["SIGMAS"],
    "ChordsBenchmark": ["IMAGE", "STRING"],
    "ChordsDevices": ["CHORDS_DEVICE_SET"],
    "ChordsStreamPreview": ["IMAGE", "LATENT"],
    "ChordsReport": ["IMAGE", "STRING"],
    "ChordsDemoModel": ["MODEL", "VAE"],
    "ChordsDemoPrompt": ["CONDITIONING"],
    "SDOLatentOptimizer": ["LATENT", "LATENT", "IMAGE", "STRING", "MODEL", "CONDITIONING"],
}


def _inputs(info: dict[str, Any]) -> dict[str, Any]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


@pytest.mark.parametrize("name", CHORDS_NODES)
def test_node_is_there_with_its_outputs_and_tooltips(client, name: str) -> None:
    info = client.object_info(name)[name]
    for key, spec in _inputs(info).items():
        stock = key in ("add_noise", "start_at_step", "end_at_step", "return_with_leftover_noise")
        assert stock or spec[1].get("tooltip"), key
    assert info["output"] == CHORDS_NODES[name]
    assert info["category"].startswith("CHORDS")
    assert info["description"]


def test_no_socket_type_has_the_name_of_a_node(client) -> None:
    """Clients that make a class of each node and of each type write both names in the same way."""

    def plain(name: str) -> str:
        return name.replace("_", "").lower()

    infos = client.object_info()
    ours = [info for name, info in infos.items() if info["category"].startswith("CHORDS")]
    types = {kind for info in ours for kind in info["output"]}
    types |= {spec[0] for info in ours for spec in _inputs(info).values() if isinstance(spec[0], str)}
    own = {kind for kind in types if kind.startswith(("CHORDS_", "SDO_"))}
    assert {"CHORDS_RUN", "CHORDS_DEVICE_SET", "SDO_OBJECTIVE"} <= own
    assert not {plain(name) for name in infos} & {plain(kind) for kind in own}


@pytest.mark.parametrize(
    ("ours", "stock"), [("ChordsKSampler", "KSampler"), ("ChordsKSamplerAdvanced", "KSamplerAdvanced")]
)
def test_every_stock_input_is_kept(client, ours: str, stock: str) -> None:
    our_inputs = _inputs(client.object_info(ours)[ours])
    stock_inputs = _inputs(client.object_info(stock)[stock])
    assert list(our_inputs)[: len(stock_inputs)] == list(stock_inputs)
    for name, (_, options) in ((name, (*spec, {})[:2]) for name, spec in stock_inputs.items()):
        ours_options = our_inputs[name][1] if len(our_inputs[name]) > 1 else {}
        for key in ("default", "min", "max", "step", "round", "control_after_generate"):
            assert ours_options.get(key) == options.get(key), (name, key)


def test_swapped_class_type_runs_with_no_other_change(run_graph, client) -> None:
    graph = Graph()
    latent = graph.add("KSampler", **demo(graph), **settings(), latent_image=empty_latent(graph))
    graph.save("latent", latent)
    _, stock = run_graph(graph)
    graph.nodes[latent.name]["class_type"] = "ChordsKSampler"
    run, swapped = run_graph(graph)
    # One CPU device, nothing chosen: nothing to gain, so the very same latent.
    assert torch.equal(swapped["latent"], stock["latent"])
    assert "one core" in run.outputs[latent.name]["text"][0]


def test_advanced_swapped_with_no_other_change(run_graph) -> None:
    graph = Graph()
    inputs = demo(graph) | settings() | {"latent_image": empty_latent(graph)}
    inputs["noise_seed"] = inputs.pop("seed")
    del inputs["denoise"]
    steps = {"add_noise": "enable", "start_at_step": 2, "end_at_step": 9, "return_with_leftover_noise": "enable"}
    graph.save("stock", graph.add("KSamplerAdvanced", **inputs, **steps))
    graph.save("ours", graph.add("ChordsKSamplerAdvanced", **inputs, **steps))
    _, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])


@pytest.mark.parametrize("changes", [{"denoise": 0.0}, {"steps": 1}, {"cfg": 1.0}], ids=str)
def test_corners_equal_stock(run_graph, changes: dict[str, Any]) -> None:
    graph = Graph()
    picture = graph.add("KSampler", **demo(graph), **settings(steps=4), latent_image=empty_latent(graph))
    inputs = demo(graph) | settings(**changes) | {"latent_image": picture}
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", graph.add("ChordsKSampler", **inputs, cores=4, accept="exact", devices=lanes(graph, 4)))
    _, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])


def test_noise_of_a_batch_item_equals_stock(run_graph) -> None:
    graph = Graph()
    second = graph.add("LatentFromBatch", samples=empty_latent(graph, 3), batch_index=1, length=1)
    inputs = demo(graph) | settings() | {"latent_image": second}
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", graph.add("ChordsKSampler", **inputs, cores=4, accept="exact", devices=lanes(graph, 4)))
    _, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])


def test_shipped_workflow_runs(client, repo) -> None:
    workflow = json.loads((repo / "workflows" / "api" / "chords_demo.json").read_text(encoding="utf-8"))
    run = client.run(workflow)
    (image,) = run.images
    assert client.view(image).startswith(b"\x89PNG")


def _run_one(
    run_graph, sampler: str = "euler", steps: int = 12, **chords: Any
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Stock and CHORDS side by side: the run's summary and both latents."""
    graph = Graph()
    inputs = demo(graph) | settings(sampler, steps=steps) | {"latent_image": empty_latent(graph)}
    node = graph.add("ChordsKSampler", **inputs, **chords, devices=lanes(graph, 4))
    graph.save("ours", node)
    graph.save("stock", graph.add("KSampler", **inputs))
    run, latents = run_graph(graph)
    return run.outputs[node.name]["chords"][0], latents["ours"], latents["stock"]


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "lcm", "heun"])
def test_other_samplers_run_as_stock_and_say_so(run_graph, sampler: str) -> None:
    summary, ours, stock = _run_one(run_graph, sampler, cores=4, accept="first")
    assert torch.equal(ours, stock)
    assert sampler in summary["message"]
    assert "exactly as in KSampler" in summary["message"]


def test_single_step_of_uni_pc_is_the_stock_ones(run_graph) -> None:
    graph = Graph()
    inputs = demo(graph) | settings("uni_pc", steps=1) | {"latent_image": empty_latent(graph)}
    graph.save("ours", graph.add("ChordsKSampler", **inputs, cores=4, accept="first"))
    graph.save("stock", graph.add("KSampler", **inputs))
    _, latents = run_graph(graph)
    assert torch.equal(latents["ours"], latents["stock"])


def test_the_choice_is_told(run_graph) -> None:
    summary, _, _ = _run_one(run_graph, cores=4, accept="first", method="CHORDS")
    assert summary["method"] == "chords"
    assert summary["cores"] == 4
    assert summary["starts"] == [0, 2, 4, 6]
    assert summary["depth"] == 9
    assert len(summary["devices"]) == 4
    assert "4 cores" in summary["message"] and "9 model calls instead of 12" in summary["message"]
    assert [hit["core"] for hit in summary["hits"]] == [0, 4]


def test_chords_ends_by_evidence_if_nothing_else_is_asked_for(run_graph) -> None:
    """With a result that differs little from the one before it, or with the exact one; the message says which."""
    summary, ours, stock = _run_one(run_graph, cores=4, method="CHORDS")
    assert summary["method"] == "chords" and len(summary["hits"]) > 2  # a draft, and two to compare
    assert (ours - stock).norm() <= 0.05 * stock.norm()
    assert f"at most 5% off, or exact, after {summary['depth']} model calls" in summary["message"]


def test_fewer_than_twelve_steps_are_one_core_unless_a_number_is_given(run_graph) -> None:
    summary, ours, stock = _run_one(run_graph, steps=11)
    assert summary["cores"] == 1 and torch.equal(ours, stock)
    if (os.cpu_count() or 1) > 1:
        assert "at 11 steps there is little to gain" in summary["message"]
    assert _run_one(run_graph, steps=11, cores=4)[0]["cores"] == 4


def test_auto_uses_the_lanes_there_are(run_graph) -> None:
    """On a CPU no more of them than the processor has cores: further ones would take turns."""
    summary, ours, stock = _run_one(run_graph)
    expected = plan(summary["steps"], min(4, os.cpu_count() or 1), tolerance=0.01)
    assert (summary["method"], summary["cores"]) == (expected.method, expected.cores)
    assert summary["depth"] <= summary["steps"]
    assert (ours - stock).norm() <= 0.05 * stock.norm()


def test_unknown_device_is_refused_before_any_call(run_graph) -> None:
    graph = Graph()
    devices = graph.add("ChordsDevices", devices="cuda:17", cpu_lanes=1)
    node = graph.add("ChordsKSampler", **demo(graph), **settings(), latent_image=empty_latent(graph), devices=devices)
    graph.save("latent", node)
    with pytest.raises(Exception, match="devices.*no 'cuda:17'.*auto"):
        run_graph(graph)


def test_nan_names_core_and_step(run_graph) -> None:
    """Of several cores that ask at once, the one that answers first."""
    for cores, place in ((1, "core 1 at step 1"), (4, "core [1-4] at step [1-4]")):
        graph = Graph()
        inputs = demo(graph) | settings(seed=cores) | {"latent_image": empty_latent(graph)}
        inputs["model"] = graph.add("UNETLoader", unet_name="tiny_nan.safetensors", weight_dtype="default")
        graph.save("latent", graph.add("ChordsKSampler", **inputs, cores=cores, devices=lanes(graph, 4)))
        with pytest.raises(Exception, match=f"NaN or infinity in {place} of"):
            run_graph(graph)


def test_interrupt_stops_all_lanes_and_the_next_run_works(run_graph, client) -> None:
    graph = Graph()
    inputs = demo(graph) | settings(seed=1, steps=400) | {"latent_image": empty_latent(graph)}
    held = {"results": 1, "calls": 200, "salt": 1}  # of 1600: however late the cancel comes, it comes in the middle
    inputs["model"] = graph.add("TestHeldModel", model=inputs["model"], **held)
    node = graph.add("ChordsKSampler", **inputs, cores=4, accept="exact", devices=lanes(graph, 4))
    graph.save("latent", node)
    seen: list[int] = []

    def interrupt_soon(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == node.name:
            seen.append(data["value"])
            if len(seen) == 3:
                client.interrupt()

    with pytest.raises(Interrupted):
        client.run(graph.nodes, on_event=interrupt_soon)
    client.post("/chords_test/let_go", {})  # lanes have their usual timeouts again
    assert 3 <= seen[-1] < 100  # of 400
    graph = Graph()
    threads = graph.add("TestThreads", salt=1)
    assert not threads_of_runs(client.run(graph.nodes).outputs[threads.name]["threads"])
    summary, ours, stock = _run_one(run_graph, cores=4, accept="exact")
    assert summary["cores"] == 4
    assert torch.equal(ours, stock)


def test_a_run_leaves_the_host_as_it_was(run_graph, client) -> None:
    def state(salt: int) -> dict[str, Any]:
        graph = Graph()
        node = graph.add("TestThreads", salt=salt)
        return client.run(graph.nodes).outputs[node.name]

    before = state(2)
    _run_one(run_graph, cores=4, accept="second")
    after = state(3)
    assert after["intra_op"] == before["intra_op"]
    assert not threads_of_runs(after["threads"])
    assert after["current_patchers"] == [0]


def test_progress_reaches_the_end_in_stock_steps(run_graph) -> None:
    graph = Graph()
    inputs = demo(graph) | settings(seed=11) | {"latent_image": empty_latent(graph)}
    node = graph.add("ChordsKSampler", **inputs, cores=4, accept="first", devices=lanes(graph, 4))
    graph.save("latent", node)
    run, _ = run_graph(graph)
    progress = [(data["value"], data["max"]) for data in run.of_kind("progress") if data["node"] == node.name]
    assert progress[-1] == (12, 12)
    assert [value for value, _ in progress] == sorted(value for value, _ in progress)
