"""Metrics and the log of runs of a live server."""

from __future__ import annotations

import itertools
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient, ExecutionError
from graphs import Graph, demo, empty_latent, lanes, settings
from prometheus_client.parser import text_string_to_metric_families
from searches import optimizer

SEEDS = itertools.count(9100)  # the host does not repeat a run that it knows


@pytest.fixture(scope="module")
def run_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "runs.jsonl"


@pytest.fixture(scope="module")
def logging_server(comfy_host: Path, tiny_models: list[str], run_log: Path) -> Iterator[ComfyServer]:
    """A server with a log of runs, and without any run before."""
    options: dict[str, Any] = {"python": str(venv_python()), "arguments": tiny_models}
    with ComfyServer(
        comfy_host, threads=1, cpu=True, environment={"CHORDS_RUN_LOG": str(run_log)}, **options
    ) as running:
        yield running


def _scrape(server: ComfyServer) -> dict[tuple[str, frozenset], float]:
    """All samples, by name and labels."""
    with urllib.request.urlopen(f"{server.url}/chords/metrics", timeout=300) as answer:
        assert answer.headers.get_content_type() == "text/plain"
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def _value(found: dict[tuple[str, frozenset], float], name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def _lines(run_log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run_log.read_text(encoding="utf-8").splitlines()]


def _graph(**inputs: Any) -> Graph:
    graph = Graph()
    given = {**demo(graph), **settings(steps=12, seed=next(SEEDS)), "latent_image": empty_latent(graph), **inputs}
    graph.save("latent", graph.add("ChordsKSampler", devices=lanes(graph, 2), **given))
    return graph


def test_runs_are_counted_and_logged(logging_server: ComfyServer, run_log: Path) -> None:
    """A window on two lanes, and a sampler that does not run in parallel: the figures are those of their records."""
    client = logging_server.client()
    before = _scrape(logging_server)
    window = client.run(_graph(cores=2, fidelity="near").nodes)
    stock = client.run(_graph(sampler_name="euler_ancestral").nodes)
    found = _scrape(logging_server)

    def added(name: str, **labels: str) -> float:
        return _value(found, name, **labels) - _value(before, name, **labels)

    (record,) = [shown for output in window.outputs.values() for shown in output.get("chords", ())]
    assert record["method"] == "secant"
    assert added("chords_runs_total", method="secant", outcome="success") == 1
    assert added("chords_runs_total", method="stock", outcome="success") == 1
    assert added("chords_calls_in_row_total", method="secant") == record["depth"]
    assert added("chords_calls_in_row_saved_total", method="secant") == record["steps"] - record["depth"]
    assert added("chords_model_calls_total", method="secant") == record["evaluations"]
    assert added("chords_error_estimate_sum", method="secant") == pytest.approx(record["estimate"])
    assert added("chords_fallbacks_total", reason="sampler") == 1
    assert added("chords_queue_to_first_picture_seconds_count") == 2
    assert added("chords_queue_to_first_picture_seconds_sum") > 0
    calls = [value - before.get(key, 0.0) for key, value in found.items() if key[0] == "chords_call_seconds_count"]
    assert sum(calls) == record["evaluations"]
    assert _value(found, "chords_runs_in_progress") == _value(found, "chords_monitoring_failures_total") == 0
    lines = {line["prompt_id"]: line for line in _lines(run_log)}  # a scrape waits for the lines of the runs before
    assert lines[window.prompt_id]["calls_in_row"] == record["depth"]
    assert lines[window.prompt_id]["message"] == record["message"]
    assert lines[window.prompt_id]["devices"] == record["devices"]
    assert lines[stock.prompt_id]["fallbacks"] == ["sampler"]


def _failing(failing: str) -> Graph:
    """A run on four lanes, some of which fail at their third call."""
    graph = Graph()
    given = demo(graph)
    given["model"] = graph.add("TestFailingLane", model=given["model"], lanes=failing, from_call=2)
    given |= settings(steps=12, seed=next(SEEDS)) | {"cores": 4, "fidelity": "exact", "devices": lanes(graph, 4)}
    graph.save("latent", graph.add("ChordsKSampler", **given, latent_image=empty_latent(graph)))
    return graph


def test_a_lost_lane_counts_by_its_device(logging_server: ComfyServer, run_log: Path) -> None:
    run = logging_server.client().run(_failing("1").nodes)
    (record,) = [shown for output in run.outputs.values() for shown in output.get("chords", ())]
    (lost,) = record["lost_lanes"]
    events = {key: value for key, value in _scrape(logging_server).items() if key[0] == "chords_lane_events_total"}
    ((_, labels),) = events
    assert dict(labels)["state"] == "lost" and lost.startswith(dict(labels)["device"]) and set(events.values()) == {1}
    assert _lines(run_log)[-1]["lost_lanes"] == [lost] and _lines(run_log)[-1]["outcome"] == "success"


def test_a_run_that_fails_counts_as_an_error(logging_server: ComfyServer, run_log: Path) -> None:
    before = _scrape(logging_server)
    with pytest.raises(ExecutionError):
        logging_server.client().run(_failing("0,1,2,3").nodes)
    found = _scrape(logging_server)
    failed = [key for key in found if key[0] == "chords_runs_total" and ("outcome", "error") in key[1]]
    assert sum(found[key] - before.get(key, 0.0) for key in failed) == 1
    line = _lines(run_log)[-1]
    assert line["outcome"] == "error" and "broken on purpose" in line["error"]


def test_an_address_that_is_not_allowed_is_on_record(logging_server: ComfyServer, run_log: Path) -> None:
    """For an audit: the run goes on here, and the line names the prompt and the address."""
    graph = Graph()
    devices = graph.add("ChordsDevices", devices="auto", cpu_lanes=2, ray_address="192.0.2.1:6379")
    given = {**demo(graph), **settings(steps=12, seed=next(SEEDS)), "latent_image": empty_latent(graph)}
    graph.save("latent", graph.add("ChordsKSampler", devices=devices, **given))
    run = logging_server.client().run(graph.nodes)
    found = _scrape(logging_server)
    assert _value(found, "chords_fallbacks_total", reason="not_allowed") == 1
    line = _lines(run_log)[-1]
    assert line["prompt_id"] == run.prompt_id and "192.0.2.1:6379" in line["message"]
    assert "not_allowed" in line["fallbacks"]


def test_a_run_of_an_sdo_node_counts(logging_server: ComfyServer, run_log: Path) -> None:
    """By itself: the runs of samplers stay as they are."""
    before, graph = _scrape(logging_server), Graph()
    optimizer(graph, iterations=3)
    run = logging_server.client().run(graph.nodes)
    found = _scrape(logging_server)
    changed = {key: value - before.get(key, 0.0) for key, value in found.items() if value != before.get(key, 0.0)}
    counted = {(name, tuple(labels)): value for (name, labels), value in changed.items() if name.startswith("chords_")}
    assert counted and all(name.startswith("chords_sdo_") for name, _ in counted)
    assert _value(changed, "chords_sdo_runs_total", node="optimizer", outcome="success") == 1
    assert _value(changed, "chords_sdo_model_calls_total", node="optimizer") >= 3
    line = _lines(run_log)[-1]
    assert line["event"] == "sdo_run" and line["prompt_id"] == run.prompt_id and line["outcome"] == "success"
    assert line["iterations"] == line["of"] == 3


def test_a_scrape_does_not_disturb_a_run(logging_server: ComfyServer) -> None:
    """Scraped again and again while it runs, the server answers each time."""
    ended, scrapes = threading.Event(), []

    def scrape() -> None:
        while not ended.is_set():
            scrapes.append(_value(_scrape(logging_server), "chords_runs_in_progress"))
            ended.wait(0.05)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        logging_server.client().run(_graph(cores=2, fidelity="near").nodes)
    finally:
        ended.set()
        thread.join()
    assert scrapes and set(scrapes) <= {0.0, 1.0}


def test_metrics_are_there_on_the_common_server(server: ComfyServer, client: ComfyClient) -> None:
    """Without a log of runs, too."""
    client.run(_graph().nodes)
    assert sum(value for (name, _), value in _scrape(server).items() if name == "chords_runs_total") >= 1


def test_without_the_library_the_answer_says_how_to_install_it(comfy_host: Path, tmp_path: Path) -> None:
    """And runs end as they do with it, and are logged."""
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('not installed')\n", encoding="utf-8")
    log = tmp_path / "runs.jsonl"
    environment = {"PYTHONPATH": str(tmp_path), "CHORDS_RUN_LOG": str(log)}
    with ComfyServer(comfy_host, threads=1, cpu=True, environment=environment, python=str(venv_python())) as running:
        run = running.client().run(_graph().nodes)
        with pytest.raises(urllib.error.HTTPError) as caught:
            _scrape(running)
    assert caught.value.code == 501
    assert "python -m pip install prometheus-client" in json.loads(caught.value.read())["error"]
    assert [line["prompt_id"] for line in _lines(log)] == [run.prompt_id]
