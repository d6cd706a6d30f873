"""CHORDS Report: its figures agree with the run they tell of, and its picture has everything in its place."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from statistics import fmean
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from graphs import Graph, demo, empty_latent, lanes, settings
from PIL import Image, ImageChops, ImageDraw

from chords_core import (
    AdaptivePlan,
    BatchPool,
    ChordsPlan,
    OnDemand,
    Plan,
    Recorder,
    Result,
    SequentialPlan,
    ThreadPool,
    lattice_starts,
    sample,
)
from tests.core.problems import Slow, geometric, noise, nonlinear

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


# --- the picture alone


@pytest.fixture(scope="module")
def timeline(repo: Path) -> ModuleType:
    """The module that draws, without the other nodes, which need a host."""
    package = ModuleType("chords_pictures")
    package.__path__ = [str(repo / "nodes")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module("chords_pictures.plots.timeline")


CARD = SimpleNamespace(
    title=("about 14 of 20 calls in a row", "1.4x fewer"),
    detail=("4 cores on cuda:0, cuda:1, cuda:2, cuda:3", "about 0.4 % from KSampler's picture; " * 9),
    advice=("set cores to 0 for the fastest choice",),
)


def _broken(x: Any, sigma: float) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\n" * 50)


def _run(steps: int, cores: int, accept: int = 1, lanes: int | None = None, *, lose: bool = False, end_at: int = 99):
    """A record such as the samplers make, of a run on lanes of about a millisecond a call; it may lose the first
    lane, and is ended by its user once hit ``end_at`` is there."""
    lanes = lanes or cores
    recorder, starts = Recorder(), lattice_starts(steps, cores)
    with ThreadPool([_broken if lose and lane == 0 else Slow(lane) for lane in range(lanes)]) as pool:
        result = sample(
            nonlinear,
            noise(6, scale=10.0),
            geometric(steps),
            starts=starts,
            accept=OnDemand(accept, lambda: len(recorder.hits) > end_at),
            pool=pool,
            on_event=recorder,
        )
    plan = ChordsPlan(steps, ("so many were asked for",), tuple(starts), accept)
    return _record(recorder, result, plan, "chords" if cores > 1 else "sequential", lanes, len(recorder.hits) > end_at)


def _within(steps: int, cores: int) -> SimpleNamespace:
    """The same within a tolerance."""
    recorder = Recorder()
    with ThreadPool([Slow(lane) for lane in range(cores)]) as pool:
        x, sigmas = noise(6, scale=10.0), geometric(steps)
        plan = AdaptivePlan(steps, ("so many were asked for",), cores, 8, 0.01)
        result = sample(nonlinear, x, sigmas, pool=pool, on_event=recorder, **plan.sample_options())
    return _record(recorder, result, plan, plan.method, cores)


def _in_rows(steps: int, rows: int) -> SimpleNamespace:
    """The same with the cores as rows of one call."""
    recorder, slow = Recorder(), Slow(0)
    pool = BatchPool(lambda xs, sigmas: [slow(x, sigma) for x, sigma in zip(xs, sigmas, strict=True)], rows)
    plan = AdaptivePlan(steps, ("so many were asked for",), rows, 8, 0.01)
    sigmas = geometric(steps)
    result = sample(None, noise(6, scale=10.0), sigmas, pool=pool, on_event=recorder, **plan.sample_options())
    return _record(recorder, result, plan, plan.method, rows, rows=rows)


def _record(
    recorder: Recorder,
    result: Result,
    plan: Plan,
    method: str,
    lanes: int,
    by_request: bool = False,
    rows: int = 1,
) -> SimpleNamespace:
    return SimpleNamespace(
        message=f"{plan.cores} cores ({method}): a result after {result.depth} model calls",
        method=method,
        solver="euler",
        plan=plan,
        lanes=("cuda:0",) * lanes if rows > 1 else tuple(f"cuda:{lane}" for lane in range(lanes)),
        rows=rows,
        depth=result.depth,
        evaluations=result.evaluations,
        seconds=2 * recorder.timeline().seconds,
        timeline=recorder.timeline(),
        by_request=by_request,
        estimate=result.estimate,
        card=CARD,
    )


def _stock(**changes: Any) -> SimpleNamespace:
    record = {
        "message": "one core, exactly as in KSampler: euler_ancestral is not one of those that run in parallel. " * 4,
        "method": "stock",
        "solver": "euler_ancestral",
        "plan": SequentialPlan(20, ()),
        "lanes": ("cpu",),
        "rows": 1,
        "depth": 20,
        "evaluations": 0,
        "seconds": 4.2,
        "timeline": None,
        "by_request": False,
        "estimate": 0.0,
    }
    return SimpleNamespace(**{**record, "card": None, **changes})


PICTURES: dict[str, Callable[[], SimpleNamespace]] = {
    "4 cores": lambda: _run(20, 4),
    "8 cores": lambda: _run(50, 8),
    "to the exact result": lambda: _run(50, 8, accept=8),
    "one core": lambda: _run(20, 1),
    "one step": lambda: _run(1, 1),
    "2 cores": lambda: _run(10, 2),
    "2 cores, 200 steps": lambda: _run(200, 2),
    "16 cores": lambda: _run(50, 16, accept=16),
    "64 cores": lambda: _run(200, 64),
    "cores that take turns": lambda: _run(20, 4, lanes=2),
    "ended early": lambda: _run(20, 4, accept=4, end_at=1),
    "ended with the draft": lambda: _run(50, 8, accept=8, end_at=0),
    "a lost lane": lambda: _run(20, 4, accept=4, lose=True),
    "one core, fewer calls": lambda: _within(20, 1),
    "a window of 4 cores": lambda: _within(20, 4),
    "a window of 8 cores": lambda: _within(50, 8),
    "4 rows in one call": lambda: _in_rows(20, 4),
    "8 rows in one call": lambda: _in_rows(50, 8),
    "stock": _stock,
    "nothing sampled": lambda: _stock(message="", method="", solver="", plan=SequentialPlan(0, ()), seconds=0.0),
    "other letters": lambda: SimpleNamespace(
        **{**vars(_run(20, 2)), "lanes": ("ray://a-host-with-a-long-name:10001/0", "Gerät 1 \N{HIGH VOLTAGE SIGN}")}
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_in_the_picture_overlaps_or_is_cut(
    timeline: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    texts: dict[Any, list[tuple[str, tuple[float, float, float, float]]]] = {}
    draw_text = ImageDraw.ImageDraw.text

    def text(self: ImageDraw.ImageDraw, at, string: str, fill, font, anchor: str, **options: Any) -> None:
        texts.setdefault(self, []).append((string, self.textbbox(at, string, font, anchor, **options)))
        draw_text(self, at, string, fill, font, anchor, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    picture = timeline.draw_timeline(PICTURES[name]())
    assert picture.mode == "RGB" and picture.width == 1400
    for sheet, written in texts.items():
        width, height = sheet._image.size
        for string, (left, top, right, bottom) in written:
            assert 0 <= left and 0 <= top and right <= width and bottom <= height, f"{string!r} is cut"
        for (one, a), (other, b) in combinations(written, 2):
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, f"{one!r} and {other!r} overlap"


def test_the_picture_tells_what_was_lost(timeline: ModuleType) -> None:
    """Red is for lost lanes, gold for the result."""

    def has(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
        return colour in {found for _, found in picture.getcolors(maxcolors=1 << 24)}

    whole, lost = timeline.draw_timeline(_run(20, 4)), timeline.draw_timeline(_run(20, 4, lose=True))
    assert not has(whole, timeline.RED) and has(lost, timeline.RED)
    assert has(whole, timeline.GOLD)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("4 cores", "numbered by step"),
        ("a window of 8 cores", "numbered by step"),
        ("ended early", "ended early, by request"),
    ],
)
def test_the_words_beside_the_rounds(timeline: ModuleType, name: str, told: str) -> None:
    run = PICTURES[name]()
    about = timeline._about_rounds(run, numbered=True)
    assert told in about and ("request" in about) == run.by_request


def test_lanes_are_told_apart(timeline: ModuleType) -> None:
    for count in range(1, 65):
        assert len(set(timeline.distinct_colours(count))) == count
