"""scripts/demo.py: which settings it samples, and what it says about them. (It is run as a whole by hand.)"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

SAMPLER = "6"


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    """By its path: the folder demo/ has the same name."""
    spec = importlib.util.spec_from_file_location("demo_script", repo / "scripts" / "demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def told() -> ModuleType:
    return importlib.import_module("_demo_page")


@pytest.fixture(scope="module")
def workflow(script: ModuleType) -> dict[str, Any]:
    return json.loads(script.WORKFLOW.read_text(encoding="utf-8"))


def test_the_stock_one_has_the_stock_inputs_and_no_other(script: ModuleType, workflow: dict[str, Any]) -> None:
    graphs = script.variants(workflow)
    stock, ours = graphs[script.STOCK][SAMPLER], workflow[SAMPLER]
    assert stock["class_type"] == "KSampler"
    names = ["model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image"]
    assert list(stock["inputs"]) == [*names, "denoise"]
    assert stock["inputs"] == {name: ours["inputs"][name] for name in stock["inputs"]}


def test_the_first_gain_is_one_input_on_one_device(script: ModuleType, workflow: dict[str, Any]) -> None:
    """The demo says: replace KSampler, set fidelity to near, and nothing else. Then it has to do just this."""
    graphs = script.variants(workflow)
    stock, near = graphs[script.STOCK], graphs[script.NEAR]
    assert near[SAMPLER]["class_type"] == "ChordsKSampler"
    assert near[SAMPLER]["inputs"] == {**stock[SAMPLER]["inputs"], "fidelity": "near"}
    assert "ChordsDevices" not in {node["class_type"] for node in near.values()}


def test_the_others_say_what_they_set_whatever_the_workflow_has(script: ModuleType, workflow: dict[str, Any]) -> None:
    """All have the seed, the prompt and the steps of the stock one."""
    graphs = script.variants(workflow)
    stock = graphs[script.STOCK][SAMPLER]["inputs"]
    for name in (script.STREAM, script.WINDOW):
        added = {"devices": workflow[SAMPLER]["inputs"]["devices"], **script.SETTINGS[name]}
        assert graphs[name][SAMPLER]["inputs"] == {**stock, **added}
        assert graphs[name][added["devices"][0]]["inputs"]["cpu_lanes"] == script.LANES
    assert graphs[script.STREAM][script.RESULTS]["inputs"]["run"] == [SAMPLER, 1]


def test_the_search_is_short_and_draws_no_curve(script: ModuleType) -> None:
    whole = json.loads(script.SEARCH.read_text(encoding="utf-8"))
    short = script.search_graph(whole)
    assert [name for name in whole if name not in short] == ["15"]
    assert short["9"]["inputs"] == {**whole["9"]["inputs"], "iterations": script.ITERATIONS}


def _found(**near: Any) -> dict[str, Any]:
    stock = {"depth": 20, "evaluations": 20, "difference": 0.0, "picture": "a.png", "seconds": 0.4}
    exact = {"depth": 20, "evaluations": 56, "difference": 0.0, "picture": "c.png"}
    results = [{"depth": depth, "picture": f"{depth}.png"} for depth in (4, 11, 20)]
    search = {"objective": [0.4, 0.0002], "iterations": 2, "seconds": 6.0, "before": "e.png", "after": "f.png"}
    return {
        "ksampler": stock,
        "one_gpu_near": {**stock, "depth": 13, "difference": 0.0025, "picture": "b.png", "seconds": 0.3, **near},
        "stream": {**exact, "results": results},
        "four_gpus": {**exact, "depth": 8, "difference": 0.0078, "picture": "d.png"},
        "search": search,
        "repeats": 3,
        "processors": 2,
    }


def test_the_summary_begins_with_the_gain_and_how_near_the_picture_is(told: ModuleType) -> None:
    summary = " ".join(told.summary(_found()).split())
    gain = "13 model calls instead of 20, 1.5x fewer: 0.30 s instead of 0.40 s, 0.2% from KSampler's picture."
    assert summary.startswith(f"1. One GPU, fewer model calls {gain} Set: ")
    assert "Four devices: 8 calls in a row instead of 20, 2.5x fewer, 0.8% from KSampler's picture." in summary
    assert (
        "Four devices: a draft is there after 4 of 20 calls in a row" in summary
        and "The last one: KSampler's picture, bit for bit." in summary
    )


@pytest.mark.parametrize(("columns", "widest"), [(60, 60), (300, 100)])
def test_the_summary_fits_the_terminal(
    told: ModuleType, monkeypatch: pytest.MonkeyPatch, columns: int, widest: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert widest - 20 < max(len(line) for line in told.summary(_found()).splitlines()) <= widest


def test_what_is_told_to_be_set_is_what_the_run_has(
    script: ModuleType, told: ModuleType, workflow: dict[str, Any]
) -> None:
    graphs = script.variants(workflow)
    for name, said in zip((script.NEAR, script.STREAM, script.WINDOW), told.SETTINGS, strict=False):
        for key, value in script.SETTINGS[name].items():
            assert f"{key}: {value}" in said
        for class_type, node in (("ChordsDevices", "CHORDS Devices"), ("ChordsStreamPreview", "CHORDS Stream Preview")):
            has_node = class_type in {each["class_type"] for each in graphs[name].values()}
            assert (node in said) == has_node, (name, node)


@pytest.mark.parametrize(("difference", "said"), [(0.0, "bit for bit"), (1e-6, "less than 0.1%"), (0.031, "3.1%")])
def test_a_distance_never_reads_smaller_than_it_is(told: ModuleType, difference: float, said: str) -> None:
    assert said in told.headlines(_found(difference=difference))[0][1]


def test_the_page_shows_each_picture_with_a_caption(told: ModuleType) -> None:
    page = told.page(_found())
    shown = re.findall(r'<img src="([^"]+)" alt="([^"]+)">', page)
    names = ["a", "b", "difference", "4", "11", "20", "a", "d", "e", "f"]
    assert [file for file, _ in shown] == [f"{name}.png" for name in names]
    assert all(f"<figcaption>{caption}</figcaption>" in page for _, caption in shown)
    assert "http" not in page  # nothing from elsewhere


def test_the_picture_of_a_difference_is_stronger_than_the_difference(told: ModuleType, tmp_path: Path) -> None:
    for name, value in (("a", 100), ("b", 103), ("c", 200)):
        Image.new("RGB", (2, 2), (value, 100, 100)).save(tmp_path / f"{name}.png")
    for name, value in (("b", 3 * told.CONTRAST), ("c", 255)):
        told.magnified(tmp_path / "a.png", tmp_path / f"{name}.png", tmp_path / "difference.png")
        assert Image.open(tmp_path / "difference.png").getpixel((0, 0)) == (value, 0, 0)
