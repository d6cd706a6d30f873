"""scripts/demo.py: which settings it samples, and what it says about them. (It is run as a whole by hand.)"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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
def workflow(script: ModuleType) -> dict[str, Any]:
    return json.loads(script.WORKFLOW.read_text(encoding="utf-8"))


def test_the_stock_one_has_the_stock_inputs_and_no_other(script: ModuleType, workflow: dict[str, Any]) -> None:
    graphs = script.variants(workflow)
    stock, ours = graphs[script.STOCK][SAMPLER], graphs[script.WINDOW][SAMPLER]
    assert (stock["class_type"], ours["class_type"]) == ("KSampler", "ChordsKSampler")
    names = ["model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image"]
    assert list(stock["inputs"]) == [*names, "denoise"]
    assert stock["inputs"] == {name: ours["inputs"][name] for name in stock["inputs"]}


def test_the_others_say_what_they_set_whatever_the_workflow_has(script: ModuleType, workflow: dict[str, Any]) -> None:
    graphs = script.variants(workflow)
    found = {
        name: tuple(graph[SAMPLER]["inputs"][key] for key in ("fidelity", "cores", "method", "accept"))
        for name, graph in graphs.items()
        if name != script.STOCK
    }
    assert found == {
        script.WINDOW: ("auto", 4, "auto", "auto"),
        script.EXACT: ("exact", 4, "auto", "auto"),
        script.NEAR: ("near", 1, "auto", "auto"),
    }


def test_the_words_below_the_table_tell_what_the_runs_took(script: ModuleType, workflow: dict[str, Any]) -> None:
    rows = [{"depth": 20}, {"depth": 8, "variant": script.NAMES[script.WINDOW]}]
    said = script.notes(rows, workflow, 3)
    assert "4 cores take 8 instead of 20 model calls in a row, 2.50 times fewer" in said
