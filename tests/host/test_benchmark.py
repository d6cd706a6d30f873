"""CHORDS Benchmark: its figures are those of the runs it made, and what it measured is kept."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import threading
import time
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from _server import ComfyServer
from client import ComfyClient, Interrupted, UsageError, ValidationError, load_workflow
from graphs import Graph, demo, empty_latent, lanes, settings
from PIL import Image

SEEDS = iter(range(70_000, 80_000))  # the host does not run again what it has run


def _kept(server: ComfyServer) -> Path:
    return server.folder / "user" / "chords" / "measured.json"


def _graph(sleep: float | None = None, sampler: str = "euler", **changes: Any) -> tuple[Graph, Any]:
    """A benchmark on four lanes; ``sleep``: milliseconds a call of a model that takes no processor."""
    graph = Graph()
    inputs = demo(graph) | settings(sampler, seed=next(SEEDS)) | {"latent_image": empty_latent(graph)}
    inputs["vae"] = [inputs["model"][0], 1]
    if sleep is not None:
        inputs["model"] = graph.add("TestSleepingModel", model=inputs["model"], milliseconds=sleep)
    defaults = {"devices": lanes(graph, 4), "cores": "4", "repeats": 1}
    return graph, graph.add("ChordsBenchmark", **{**inputs, **defaults, **changes})


def _measured(client: ComfyClient, *arguments: Any, **changes: Any) -> SimpleNamespace:
    """What a benchmark told: its ``figures``, and the ``picture`` that it shows."""
    graph, node = _graph(*arguments, **changes)
    text = graph.add("PreviewAny", source=node[1])
    run = client.run(graph.nodes)
    output = run.outputs[node.name]
    figures = json.loads(run.outputs[text.name]["text"][0], parse_constant=_not_json)
    assert output["benchmark"] == [figures] and output["text"] == [figures["advice"]]
    (shown,) = output["images"]
    return SimpleNamespace(figures=figures, picture=Image.open(io.BytesIO(client.view(shown))), graph=graph)


def _not_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def _by_name(figures: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in figures["rows"]}


def test_its_picture_is_on_the_ground_of_the_page(client) -> None:
    page = ComfyClient(client.url)
    page.post("/chords/page", {"client_id": page.client_id, "language": "en", "light": True})
    measured = _measured(page, steps=3)
    assert min(measured.picture.convert("RGB").getpixel((0, 0))) > 220


def test_figures_of_the_sweep(run_graph, client) -> None:
    """Each row tells of its own runs; differences are those of the latents that the nodes give."""
    measured = _measured(client, repeats=2, steps=20)
    figures, rows = measured.figures, _by_name(measured.figures)
    names = ["KSampler", "automatic", "1 core, near", "4 cores, near", "1 core, fast", "4 cores, fast"]
    names += ["4 cores, CHORDS, first result", "4 cores, CHORDS", "4 cores, CHORDS, exact"]
    assert list(rows) == names
    assert figures["runs"] == 3 + 2 * len(names)  # three to warm up
    for row in figures["rows"]:
        assert len(row["all_seconds"]) == 2 and row["seconds"] == median(row["all_seconds"])
        assert row["speedup"] == figures["rows"][0]["seconds"] / row["seconds"]
        assert 0 < row["first"]["seconds"] <= row["accepted"]["seconds"] == row["seconds"]
    assert rows["KSampler"]["accepted"]["rmse"] == 0 and rows["KSampler"]["node"] == "KSampler"
    first, exact = rows["4 cores, CHORDS, first result"], rows["4 cores, CHORDS, exact"]
    assert exact["accepted"]["rmse"] == exact["accepted"]["largest"] == 0 and exact["accepted"]["psnr"] is None
    assert [hit["core"] for hit in exact["hits"]] == [0, 4, 3, 2, 1]
    assert exact["first"]["rmse"] == exact["hits"][1]["rmse"] == first["accepted"]["rmse"] > 0
    assert exact["first"]["seconds"] < exact["seconds"]
    assert measured.picture.width == 1400
    evidence = rows["4 cores, CHORDS"]
    assert evidence["inputs"] == {"fidelity": "auto", "cores": 4, "method": "CHORDS", "accept": "auto"}
    assert first["accepted"]["depth"] < evidence["accepted"]["depth"] <= 20
    assert evidence["accepted"]["rmse"] < 0.05
    window, alone = rows["4 cores, near"], rows["1 core, near"]
    assert window["inputs"] == {"fidelity": "near", "cores": 4, "method": "auto", "accept": "auto"}
    assert window["accepted"]["depth"] == len(window["hits"]) < alone["accepted"]["depth"] < 20
    assert max(window["accepted"]["rmse"], alone["accepted"]["rmse"]) < 0.02

    # The same by hand.
    graph = Graph()
    inputs = demo(graph) | settings(seed=figures["task"]["seed"], steps=20) | {"latent_image": empty_latent(graph)}
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("ours", graph.add(first["node"], **inputs, devices=lanes(graph, 4), **first["inputs"]))
    _, latents = run_graph(graph)
    stock, difference = latents["stock"].double(), (latents["ours"] - latents["stock"]).double()
    scale = stock.square().mean().sqrt()
    assert first["accepted"]["rmse"] == pytest.approx(float(difference.square().mean().sqrt() / scale), rel=1e-5)
    assert first["accepted"]["largest"] == pytest.approx(float(difference.abs().max() / scale), rel=1e-5)
    assert 10 < first["accepted"]["psnr"] < 100


def test_where_calls_take_their_time_several_lanes_are_recommended(client) -> None:
    """A model that answers to the same in few calls as in many, 100 ms each: what is fastest is close enough, too."""
    figures = _measured(client, 100.0, steps=20).figures
    best = figures["rows"][figures["recommended"]["row"]]
    assert best["node"] == figures["recommended"]["node"] == "ChordsKSampler"
    assert best["accepted"]["rmse"] < 0.02 and best["speedup"] > 1.3
    assert best["name"] in figures["advice"]


def test_a_sampler_that_cannot_run_in_parallel_is_not_swept(client) -> None:
    graph, node = _graph(sampler="euler_ancestral", cores="2, 4")
    graph.nodes[node.name]["inputs"]["devices"] = lanes(graph, 4, split="off")[0]
    figures = client.run(graph.nodes).outputs[node.name]["benchmark"][0]
    assert [row["name"] for row in figures["rows"]] == ["KSampler", "automatic"]
    assert figures["recommended"]["node"] == "KSampler" and figures["recommended"]["inputs"] == {}
    assert "euler_ancestral" in figures["advice"]


def test_without_cores_what_the_devices_could_gain_from_is_tried(client) -> None:
    figures = _measured(client, cores="", devices=None).figures
    assert {row["cores"] for row in figures["rows"][1:]} == {1}  # one device, the CPU
    figures = _measured(client, steps=7, cores="").figures  # too few steps to save any
    assert {row["cores"] for row in figures["rows"][1:]} == {1}


def test_what_runs_on_one_core_by_itself_is_tried_as_a_window_all_the_same(client) -> None:
    """So that its figures show what several cores would do for this picture."""
    rows = _by_name(_measured(client, sampler="uni_pc", steps=12).figures)
    assert rows["automatic"]["cores"] == 1
    assert (rows["4 cores, near"]["method"], rows["4 cores, near"]["cores"]) == ("secant", 4)


@pytest.mark.parametrize("cores", ["two", "2; 4", "0", "-2", "65", "2.5"])
def test_bad_cores_are_refused_before_anything_runs(client, cores: str) -> None:
    graph, node = _graph(cores=cores)
    with pytest.raises(ValidationError, match="cores: numbers from 1 to 64") as refused:
        client.run(graph.nodes)
    assert list(refused.value.node_errors) == [node.name]


def test_nothing_to_sample_is_told(client) -> None:
    graph, _ = _graph(denoise=0.0)
    with pytest.raises(Exception, match="denoise: at 0 there is nothing to sample"):
        client.run(graph.nodes)


def test_an_interrupt_ends_it_at_once(client) -> None:
    """Within a run, though many are to come; the next prompt is not affected."""
    graph, _ = _graph(100.0, repeats=20)
    begun = threading.Event()
    ended: list[float] = []

    def on_event(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["value"] > 0:
            begun.set()

    def interrupt() -> None:
        begun.wait()
        ended.append(time.monotonic())
        client.interrupt()

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(Interrupted):
        client.run(graph.nodes, on_event=on_event)
    assert time.monotonic() - ended[0] < 60  # all runs would take minutes on any machine
    thread.join()
    assert _measured(client, cores="2").figures["advice"]


def test_progress_counts_all_runs(client) -> None:
    graph, node = _graph(10.0)
    seen: list[tuple[int, int]] = []

    def on_event(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == node.name:
            seen.append((data["value"], data["max"]))

    client.run(graph.nodes, on_event=on_event)
    assert len({most for _, most in seen}) == 1
    values = [value for value, _ in seen]
    assert values == sorted(values) and values[-1] == seen[0][1] and len(set(values)) > 10


# --- what is kept


def test_what_was_measured_is_kept_by_model_size_and_devices(server: ComfyServer, client) -> None:
    figures = _measured(client).figures
    _measured(client, cores="2", devices=None)
    _measured(client)
    entries = json.loads(_kept(server).read_text(encoding="utf-8"))["entries"]
    keys = [json.dumps(entry["key"]) for entry in entries]
    assert len(keys) == len(set(keys)) and len(keys) >= 2
    newest = entries[0]
    assert newest["key"]["model"].startswith("chords_demo_flow.safetensors")
    assert newest["key"]["latent"] == figures["task"]["latent"] == [1, 16, 16, 16]
    assert len(newest["key"]["devices"]) == 4 and newest["key"]["guided"] is True
    assert newest["measured"]["step"] > 0
    assert "4" in newest["measured"]["rounds"] and len(newest["measured"]["calls"]) == 4
    # Which of them the runs on one core had is a matter of time: a device for itself, or two that shared each call.
    assert "1" in newest["measured"]["rounds"] or newest["measured"]["splits"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="with one processor there are no two lanes to choose")
def test_what_was_measured_decides_how_many_devices_are_used(server: ComfyServer, client, run_graph) -> None:
    """Where a round on two devices was measured to take much longer than a call on one, one core does it."""
    _measured(client, steps=20, cores="2")

    def planned(seconds: float) -> dict[str, Any]:
        content = json.loads(_kept(server).read_text(encoding="utf-8"))
        content["entries"][0]["measured"] |= {"step": 1.0, "rounds": {"2": seconds}, "calls": {}, "splits": {}}
        _kept(server).write_text(json.dumps(content), encoding="utf-8")
        graph = Graph()
        inputs = demo(graph) | settings(seed=next(SEEDS), steps=20) | {"latent_image": empty_latent(graph)}
        ours = graph.add("ChordsKSampler", **inputs, devices=lanes(graph, 4))
        graph.save("ours", ours)
        return run_graph(graph)[0].outputs[ours.name]["chords"][0]

    assert planned(1.0)["cores"] == 2
    assert planned(5.0)["cores"] == 1


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"entries": 3}', '{"entries": [{"key": {}}, 7, null]}'])
def test_a_broken_file_is_replaced(server: ComfyServer, client, broken: str) -> None:
    _kept(server).parent.mkdir(parents=True, exist_ok=True)
    _kept(server).write_text(broken, encoding="utf-8")
    _measured(client, steps=3, cores="1")
    assert len(json.loads(_kept(server).read_text(encoding="utf-8"))["entries"]) == 1


# --- the script


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_script", repo / "scripts" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_measures_a_workflow(script: ModuleType, server: ComfyServer, tmp_path: Path, capsys) -> None:
    settings = ["--set", "6.steps=12", "--cores", "2", "--repeats", "1", "--output", str(tmp_path / "out")]
    assert script.main([*settings, "--server", server.url]) == 0
    figures = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert figures["task"]["steps"] == 12 and len(figures["rows"][0]["all_seconds"]) == 1
    assert Image.open(tmp_path / "out" / "benchmark.png").width == 1400
    told = capsys.readouterr().out
    assert figures["advice"] in told
    for row in figures["rows"]:
        assert f"{row['name']} " in told


def test_the_script_says_what_is_wrong(script: ModuleType, server: ComfyServer, tmp_path: Path, capsys) -> None:
    assert script.main(["--cores", "two", "--server", server.url]) == 2
    assert "cores: numbers from 1 to 64" in capsys.readouterr().err
    assert script.main([str(tmp_path / "no.json"), "--server", server.url]) == 2
    assert script.main(["--server", "http://127.0.0.1:9"]) == 3


def _workflow(**classes: str) -> dict[str, Any]:
    """Loader, sampler, and what a user may have put behind it."""
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": classes.get("sampler", "KSampler"), "inputs": {**links, "seed": 1, "steps": 20}},
        "5": {"class_type": "LatentUpscale", "inputs": {"samples": ["4", 0]}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["7", 0]}},
        "7": {"class_type": "VAELoader", "inputs": {"vae_name": "y"}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["6", 0]}},
    }


def test_the_script_takes_the_sampler_with_its_inputs_and_the_vae_behind_it(script: ModuleType) -> None:
    workflow = _workflow()
    graph, node = script.benchmark_graph(workflow)
    assert node == "4" and sorted(graph) == ["1", "2", "3", "4", "7"]
    assert graph["4"]["class_type"] == "ChordsBenchmark"
    assert graph["4"]["inputs"] == {**workflow["4"]["inputs"], "vae": ["7", 0]}
    assert workflow == _workflow()  # the user's is as it was


def test_the_script_drops_what_is_to_be_tried(script: ModuleType, repo: Path) -> None:
    graph, node = script.benchmark_graph(load_workflow(repo / "workflows" / "api" / "chords_demo.json"))
    assert (
        not {"fidelity", "cores", "method", "accept"} & graph[node]["inputs"].keys()
        and graph[node]["inputs"]["devices"]
    )
    ready = load_workflow(repo / "workflows" / "api" / "chords_benchmark.json")
    graph, node = script.benchmark_graph(ready)
    assert graph[node] == ready[node]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda workflow: workflow["4"].update(class_type="KSamplerAdvanced"), "none of the nodes"),
        (lambda workflow: workflow.update({"9": workflow["4"]}), r"name one by --node \(4, 9\)"),
        (lambda workflow: workflow.pop("6"), "no VAE Decode"),
    ],
)
def test_the_script_refuses_what_it_cannot_measure(script: ModuleType, change: Any, problem: str) -> None:
    workflow = _workflow()
    change(workflow)
    with pytest.raises(UsageError, match=problem):
        script.benchmark_graph(workflow)
