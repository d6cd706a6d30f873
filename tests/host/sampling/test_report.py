"""CHORDS Report: its figures agree with the run they tell of, and its picture is the one that is saved."""

from __future__ import annotations

import io
import json
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from graphs import Graph, demo, empty_latent, lanes, settings
from PIL import Image, ImageChops

SEEDS = iter(range(20_000, 30_000))  # the host does not run again what it has run


# --- in a graph


def _reported(run_graph, client, model: tuple[str, dict[str, Any]] | None = None, **changes: Any) -> SimpleNamespace:
    """A run on four lanes with a report: the sampler's ``summary``, the report's ``figures`` and its ``picture``s:
    as shown on the node, and as saved from its output."""
    graph = Graph()
    inputs = demo(graph) | settings(seed=next(SEEDS)) | {"latent_image": empty_latent(graph)}
    if model is not None:
        inputs["model"] = graph.add(model[0], model=inputs["model"], **model[1])
    sampler = graph.add("ChordsKSampler", **{**inputs, "devices": lanes(graph, 4), **changes})
    report = graph.add("ChordsReport", run=sampler[1])
    text = graph.add("PreviewAny", source=report[1])
    saved = graph.add("SaveImage", images=report[0], filename_prefix="report")
    run, _ = run_graph(graph)
    assert set(run.outputs[report.name]) <= {"images", "animated"}
    (shown,), (saved_image,) = run.outputs[report.name]["images"], run.outputs[saved.name]["images"]
    assert shown["type"] == "temp"
    return SimpleNamespace(
        summary=run.outputs[sampler.name]["chords"][0],
        figures=json.loads(run.outputs[text.name]["text"][0], parse_constant=_not_json),
        pictures=[Image.open(io.BytesIO(client.view(image))).convert("RGB") for image in (shown, saved_image)],
    )


def _not_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def _check(reported: SimpleNamespace) -> None:
    """What holds for any run."""
    summary, figures = reported.summary, reported.figures
    for name in summary.keys() - {"hits"}:
        assert figures[name] == summary[name], name
    assert [(hit["core"], hit["depth"]) for hit in figures["hits"]] == [
        (hit["core"], hit["depth"]) for hit in summary["hits"]
    ]
    assert [lane["device"] for lane in figures["lanes"]] == summary["devices"]
    shown, saved_image = reported.pictures
    assert shown.size == saved_image.size and shown.width == 1400
    assert ImageChops.difference(shown, saved_image).getbbox() is None


def _check_timeline(figures: dict[str, Any]) -> None:
    """The figures follow from the evaluations."""
    evaluations = figures["timeline"]
    assert 0 < len(evaluations) <= figures["evaluations"]
    for lane in figures["lanes"]:
        own = [evaluation["seconds"] for evaluation in evaluations if evaluation["lane"] == lane["lane"]]
        assert lane["evaluations"] == len(own)
        if own:
            assert lane["seconds_per_evaluation"] == pytest.approx(fmean(own))
            assert lane["busy"] == pytest.approx(min(1.0, sum(own) / figures["sampling_seconds"]))
    pace = sorted(evaluation["seconds"] for evaluation in evaluations)[len(evaluations) // 10]
    assert figures["speedup"] == pytest.approx(figures["steps"] * pace / figures["sampling_seconds"])
    assert figures["accuracy_estimate"] == figures["hits"][-1]["change"]
    assert 0 < figures["sampling_seconds"] <= figures["seconds"]
    if figures["method"] != "secant" and figures["tolerance"] is None:
        starts = figures["starts"]
        assert all(each["depth"] == each["index"] - starts[each["core"] - 1] + each["core"] for each in evaluations)


@pytest.mark.parametrize(("accept", "hits"), [("first", [0, 4]), ("second", [0, 4, 3]), ("exact", [0, 4, 3, 2, 1])])
def test_of_four_lanes(run_graph, client, accept: str, hits: list[int]) -> None:
    reported = _reported(run_graph, client, cores=4, accept=accept, method="CHORDS")
    figures = reported.figures
    _check(reported)
    _check_timeline(figures)
    assert figures["method"] == "chords" and figures["solver"] == "euler" and figures["starts"] == [0, 2, 4, 6]
    assert len(figures["lanes"]) == 4 and not any(lane["lost"] for lane in figures["lanes"])
    assert [hit["core"] for hit in figures["hits"]] == hits
    assert figures["hits"][0]["change"] is None and 0 < figures["accuracy_estimate"] < 1
    assert {mark["core"] for mark in figures["rectifications"]} == {2, 3, 4}


@pytest.mark.parametrize(("cores", "method"), [(1, "sequential"), (4, "secant")])
def test_of_a_run_within_a_tolerance(run_graph, client, cores: int, method: str) -> None:
    """A result a round; nodes are numbered by step, whether or not the model is called at each."""
    reported = _reported(run_graph, client, cores=cores, steps=20, fidelity="near")
    figures = reported.figures
    _check(reported)
    _check_timeline(figures)
    assert figures["method"] == method and figures["rectifications"] == []
    assert figures["tolerance"] == 0.01 and 0 < figures["estimate"] < 0.1
    assert [hit["depth"] for hit in figures["hits"]] == list(range(1, figures["depth"] + 1))
    assert {evaluation["depth"] for evaluation in figures["timeline"]} == set(range(1, figures["depth"] + 1))
    assert max(evaluation["index"] for evaluation in figures["timeline"]) == 19


def test_of_one_core(run_graph, client) -> None:
    reported = _reported(run_graph, client, cores=1)
    figures = reported.figures
    _check(reported)
    _check_timeline(figures)
    assert figures["method"] == "sequential"
    assert [evaluation["index"] for evaluation in figures["timeline"]] == list(range(figures["steps"]))
    assert len(figures["lanes"]) == 1 and figures["rectifications"] == []
    steps = figures["steps"]  # the second fastest of so many calls is the pace, and the fastest may be an exception
    assert figures["speedup"] <= steps / (steps - 1)


@pytest.mark.parametrize("changes", [{"sampler_name": "euler_ancestral"}, {"denoise": 0.0}], ids=str)
def test_of_a_run_without_a_timeline(run_graph, client, changes: dict[str, Any]) -> None:
    """The stock sampler, and nothing at all: no figure is made up, and the picture says why."""
    reported = _reported(run_graph, client, cores=4, **changes)
    figures = reported.figures
    _check(reported)
    assert figures["message"]
    for name in ("speedup", "accuracy_estimate", "sampling_seconds"):
        assert figures[name] is None
    assert figures["timeline"] == figures["rectifications"] == []
    assert all(lane["evaluations"] == 0 and lane["seconds_per_evaluation"] is None for lane in figures["lanes"])


def test_of_a_lost_lane(run_graph, client) -> None:
    failing = "TestFailingLane", {"lanes": "2", "from_call": 1}
    reported = _reported(run_graph, client, failing, cores=4, accept="exact")
    figures = reported.figures
    _check(reported)
    _check_timeline(figures)
    lost = [lane for lane in figures["lanes"] if lane["lost"]]
    assert len(lost) == len(figures["lost_lanes"]) == 1
    assert "broken on purpose" in lost[0]["lost"] and lost[0]["evaluations"] == 1
