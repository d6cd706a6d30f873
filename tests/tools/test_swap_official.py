"""The swap command on all official workflows: the samplers change, and nothing else does."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from swap import back, is_saved, summary, swap

from tests.tools.workflow_samples import OURS, Json, graphs_of

NEW_WIDGETS = {"fidelity": "auto", "cores": 0, "method": "auto", "accept": "auto"}
NEW_INPUTS = ["devices", "preview_vae", *NEW_WIDGETS]
PACKAGE = "comfyui_workflow_templates_json"


@pytest.fixture(scope="module")
def official() -> dict[str, Json]:
    """The official workflows by name."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        pytest.fail(f"{PACKAGE} is missing: run python scripts/test.py --setup-only", pytrace=False)
    (folder,) = found.submodule_search_locations
    files = sorted((Path(folder) / "templates").glob("*.json"))
    values = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    return {name: value for name, value in values.items() if is_saved(value)}


def _nodes(workflow: Json) -> Iterator[Json]:
    for graph in graphs_of(workflow):
        yield from graph["nodes"]


def _link(raw: Any) -> list[Any]:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return [raw[name] for name in names] if isinstance(raw, dict) else list(raw)


def _wires(graph: Json) -> dict[Any, tuple[Any, ...]]:
    """The links of a graph by id: the output where each begins, and the name of the input where it ends."""
    inputs = {node["id"]: [item["name"] for item in node.get("inputs", [])] for node in graph["nodes"]}
    wires = {}
    for number, origin, output, target, slot, kind in map(_link, graph["links"]):
        wires[number] = (origin, output, target, inputs[target][slot] if target in inputs else slot, kind)
    return wires


def _less_nodes(workflow: Json) -> Json:
    """A workflow without its nodes and links."""
    rest = copy.deepcopy(workflow)
    for graph in graphs_of(rest):
        del graph["nodes"], graph["links"]
    return rest


def _without(values: list[Json]) -> list[Json]:
    return [item for item in values if item["name"] not in [*NEW_INPUTS, "CHORDS_RUN"]]


def _check_node(old: Json, new: Json) -> None:
    if old["type"] not in OURS or new["type"] == old["type"]:
        assert new == old
        return
    assert new["type"] == OURS[old["type"]]
    changed = {"type", "inputs", "outputs", "widgets_values", "widgets_values_named", "properties"}
    assert {k: v for k, v in new.items() if k not in changed} == {k: v for k, v in old.items() if k not in changed}
    assert new["widgets_values"] == [*old["widgets_values"], *NEW_WIDGETS.values()]
    assert _without(new["inputs"]) == old["inputs"] and _without(new["outputs"]) == old["outputs"]
    names = [item["name"] for item in new["inputs"]]
    sockets = [item["name"] for item in new["inputs"] if "widget" not in item]
    assert names[: len(sockets)] == sockets and sockets[-2:] == ["devices", "preview_vae"]
    assert names[-len(NEW_WIDGETS) :] == list(NEW_WIDGETS)
    assert all(item["link"] is None and item["shape"] == 7 for item in new["inputs"] if item["name"] in NEW_INPUTS)
    runs = [] if old["type"] == "KSamplerSelect" else ["CHORDS_RUN"]
    assert [item["name"] for item in new["outputs"]] == [item["name"] for item in old["outputs"]] + runs
    named = new.get("widgets_values_named")
    if named is not None:
        assert list(named.items())[-len(NEW_WIDGETS) :] == list(NEW_WIDGETS.items())
    about = {"Node name for S&R", "cnr_id", "ver"}
    properties = [{k: v for k, v in node["properties"].items() if k not in about} for node in (old, new)]
    assert properties[0] == properties[1]
    name = "Node name for S&R"  # some nodes have another name there
    assert old["properties"][name] != old["type"] or new["properties"][name] == new["type"]
    assert new["properties"].get("cnr_id") != "comfy-core"


def test_the_official_workflows_change_in_the_samplers_and_in_nothing_else(official: dict[str, Json]) -> None:
    assert len(official) > 600
    swapped: Counter[str] = Counter()
    for name, old in official.items():
        before = copy.deepcopy(old)
        new = swap(old).workflow
        assert old == before, name  # the argument is not changed
        assert _less_nodes(new) == _less_nodes(old), name
        for graph, changed in zip(graphs_of(old), graphs_of(new), strict=True):
            assert _wires(changed) == _wires(graph), name
            for node, other in zip(graph["nodes"], changed["nodes"], strict=True):
                _check_node(node, other)
                swapped[node["type"]] += other["type"] != node["type"]
    assert swapped["KSampler"] > 150 and swapped["KSamplerAdvanced"] > 30 and swapped["KSamplerSelect"] > 100


def test_every_sampler_that_can_be_swapped_is_swapped(official: dict[str, Json]) -> None:
    """In the official workflows every KSamplerSelect feeds a SamplerCustom of some kind."""
    for name, workflow in official.items():
        stay = [node["type"] for node in _nodes(swap(workflow).workflow) if node["type"] in OURS]
        assert not stay, name


def test_widgets_that_subgraphs_show_outside_are_still_there(official: dict[str, Json]) -> None:
    """A subgraph's node names the widgets that it shows by inner node and widget. Both names stay."""
    shown = 0
    for name, workflow in official.items():
        new = swap(workflow).workflow
        subgraphs = {graph["id"]: graph for graph in graphs_of(new)[1:]}
        for node in _nodes(new):
            if node["type"] not in subgraphs:
                continue
            inner = {str(item["id"]): item for item in subgraphs[node["type"]]["nodes"]}
            for owner, widget in node["properties"].get("proxyWidgets", []):
                if owner in inner and inner[owner]["type"] in OURS.values():
                    stock = {"seed", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "denoise"}
                    assert widget in stock | {"control_after_generate", "start_at_step", "end_at_step", "add_noise"}
                    shown += 1
            for graph_input in subgraphs[node["type"]]["inputs"]:
                for number in graph_input.get("linkIds") or []:
                    assert number in _wires(subgraphs[node["type"]]), name
    assert shown > 50


def test_back_restores_the_workflow(official: dict[str, Json]) -> None:
    for name, old in official.items():
        expected = copy.deepcopy(old)
        for node in _nodes(expected):
            if node["type"] in OURS:
                node["properties"].pop("ver", None)  # the version of the pack is not kept
        assert back(swap(old).workflow).workflow == expected, name


def test_a_second_swap_changes_nothing(official: dict[str, Json]) -> None:
    for name in ("flux_dev_full_text_to_image", "sdxl_simple_example", "image_to_video_wan"):
        once = swap(official[name]).workflow
        again = swap(once)
        assert (again.workflow, summary(again)) == (once, "nothing to swap")
