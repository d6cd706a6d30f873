"""The swap in both formats of a workflow: what the official workflows do not have, and odd values."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _templates import BY_API
from swap import NotAWorkflow, back, summary, swap

from tests.tools.workflow_samples import Json, api_workflow, node_types, sampler_select, saved_node, saved_workflow


def test_the_api_format_changes_in_the_class_type_only() -> None:
    expected = api_workflow()
    for name, kind in {"3": "ChordsKSampler", "9:4": "ChordsKSamplerAdvanced", "5": "ChordsSampler"}.items():
        expected[name]["class_type"] = kind
    expected["3"]["_meta"]["title"] = "KSampler (CHORDS)"  # the title was the stock node's name, not the user's
    result = swap(api_workflow())
    assert result.workflow == expected
    assert sum(result.done.values()) == 3
    assert result.left == ["6 KSamplerSelect (feeds no SamplerCustom)", "8 SomeOtherSampler"]
    assert back(expected).workflow == api_workflow()


def test_back_leaves_what_needs_ours() -> None:
    workflow = swap(api_workflow()).workflow
    workflow["3"]["inputs"] |= {"fidelity": "near", "cores": 4, "method": "CHORDS", "accept": "exact"}
    workflow["10"] = {"class_type": "ChordsDevices", "inputs": {}}
    workflow["5"]["inputs"]["devices"] = ["10", 0]
    workflow["11"] = {"class_type": "ChordsReport", "inputs": {"run": ["9:4", 1]}}
    result = back(workflow)
    assert result.workflow["3"] == api_workflow()["3"]
    assert result.workflow["5"] == workflow["5"] and result.workflow["9:4"] == workflow["9:4"]
    assert result.left == [
        "9:4 ChordsKSamplerAdvanced (disconnect CHORDS_RUN first)",
        "5 ChordsSampler (disconnect devices first)",
    ]


def test_back_leaves_connected_nodes_of_a_saved_workflow(repo: Path) -> None:
    workflow = json.loads(BY_API["chords_streaming"].path.read_text(encoding="utf-8"))
    result = back(workflow)
    assert result.workflow == workflow
    assert result.left == ["6 ChordsKSampler (disconnect devices and CHORDS_RUN first)"]


def test_a_reroute_is_followed() -> None:
    nodes = [sampler_select(), saved_node(2, "Reroute", [""]), saved_node(3, "SamplerCustom", ["sampler"])]
    links = [[1, 1, 0, 2, 0, "SAMPLER"], [2, 2, 0, 3, 0, "SAMPLER"]]
    assert node_types(swap(saved_workflow(nodes, links)))[0] == "ChordsSampler"
    assert node_types(swap(saved_workflow(nodes, links[:1])))[0] == "KSamplerSelect"


def test_a_loop_of_reroutes_ends() -> None:
    nodes = [sampler_select(), saved_node(2, "Reroute", [""]), saved_node(3, "Reroute", [""])]
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "*"], [3, 3, 0, 2, 0, "*"]]
    assert node_types(swap(saved_workflow(nodes, links)))[0] == "KSamplerSelect"


@pytest.mark.parametrize("wired", [True, False])
def test_a_sampler_that_goes_into_a_subgraph_is_followed_by_name(wired: bool) -> None:
    inner = {
        "id": "sub",
        "inputs": [{"name": "noise"}, {"name": "sampler"}],
        "outputs": [],
        "nodes": [saved_node(5, "SamplerCustomAdvanced", ["noise", "sampler"])],
        "links": [{"id": 1, "origin_id": -10, "origin_slot": 1, "target_id": 5, "target_slot": 1, "type": "SAMPLER"}],
    }
    nodes = [sampler_select(), saved_node(2, "sub", ["sampler", "noise"])]  # its inputs are in another order
    workflow = saved_workflow(nodes, [[1, 1, 0, 2, 0 if wired else 1, "SAMPLER"]], [inner])
    assert node_types(swap(workflow))[0] == ("ChordsSampler" if wired else "KSamplerSelect")


def test_a_sampler_that_comes_out_of_a_subgraph_is_followed() -> None:
    inner = {
        "id": "sub",
        "inputs": [],
        "outputs": [{"name": "SIGMAS"}, {"name": "SAMPLER"}],
        "nodes": [sampler_select(5)],
        "links": [{"id": 1, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 1, "type": "SAMPLER"}],
    }
    nodes = [saved_node(2, "sub"), saved_node(3, "SamplerCustom", ["sampler"])]
    assert node_types(swap(saved_workflow(nodes, [[1, 2, 1, 3, 0, "SAMPLER"]], [inner])))[-1] == "ChordsSampler"
    assert node_types(swap(saved_workflow(nodes, [[1, 2, 0, 3, 0, "SIGMAS"]], [inner])))[-1] == "KSamplerSelect"


def test_loops_of_subgraphs_end() -> None:
    """A subgraph that holds itself, with links into it, around it and out of it."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    ends = [(6, 0, 5, 0), (-10, 0, 5, 0), (6, 0, -20, 0), (5, 0, -20, 0)]
    links = [dict(zip(names, (number, *end), strict=True)) for number, end in enumerate(ends)]
    inner = {
        "id": "A",
        "inputs": [{"name": "s"}],
        "nodes": [saved_node(5, "A", ["s"]), sampler_select(6)],
        "links": links,
    }
    workflow = saved_workflow([saved_node(1, "A"), sampler_select(2)], [[1, 2, 0, 1, 0, "S"]], [inner])
    assert "KSamplerSelect" in node_types(swap(workflow)) and "ChordsSampler" not in node_types(swap(workflow))
    workflow["nodes"].append(saved_node(3, "SamplerCustom", ["sampler"]))
    workflow["links"].append([2, 1, 0, 3, 0, "S"])
    assert node_types(swap(workflow)) == ["A", "KSamplerSelect", "SamplerCustom", "A", "ChordsSampler"]


def test_a_node_with_an_unknown_number_of_widget_values_stays_and_is_named() -> None:
    old = saved_workflow([saved_node(1, "KSampler", widgets_values=[7, 20, 8, "euler", "normal", 1])], [])
    result = swap(old)
    assert result.workflow == old
    assert "1 KSampler (6 values instead of 7" in summary(result)


def test_a_group_node_is_named() -> None:
    workflow = saved_workflow([], [])
    workflow["extra"] = {"groupNodes": {"mine": {"nodes": [{"type": "KSampler"}]}, "other": {"nodes": []}}}
    assert swap(workflow).left == ["group node 'mine' (convert it to a subgraph)"]


def test_a_title_of_the_users_own_stays() -> None:
    nodes = [saved_node(1, "KSampler", title="KSampler"), saved_node(2, "KSampler", title="draft")]
    titles = [node["title"] for node in swap(saved_workflow(nodes, [])).workflow["nodes"]]
    assert titles == ["KSampler (CHORDS)", "draft"]


def test_upsamplers_are_not_samplers() -> None:
    nodes = [saved_node(1, "LTXVLatentUpsampler"), saved_node(2, "SamplerLCM")]
    assert swap(saved_workflow(nodes, [])).left == ["2 SamplerLCM"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a JSON object is needed, but this is a list"),
        ("nodes", "this is a str"),
        ({}, "it is empty"),
        ({"a": 1}, "neither nodes and links"),
        ({"nodes": 3}, "not as the browser saves them"),
        ({"nodes": [{}], "links": []}, "not as the browser saves them"),
        ({"nodes": [], "links": [], "definitions": {"subgraphs": [{}]}}, "not as the browser saves them"),
        ({"prompt": {"1": {"class_type": "KSampler", "inputs": {}}}, "client_id": "x"}, "holds one under 'prompt'"),
    ],
)
def test_a_value_that_is_not_a_workflow_is_refused(value: Any, message: str) -> None:
    with pytest.raises(NotAWorkflow, match=message):
        swap(value)


@pytest.mark.parametrize("change", [swap, back])
@pytest.mark.parametrize("shape", ["chain of reroutes", "one consumer", "many instances", "samplers"])
def test_large_workflows_take_seconds(shape: str, change: Callable[[Any], Any]) -> None:
    """Time that grows with the square of the number of nodes would be many minutes here."""
    count, subgraphs = 20_000, None
    if shape == "samplers":
        nodes = [saved_node(number, "KSampler", ["model"]) for number in range(count)]
        links = [[number, 0, 0, number, 0, "MODEL"] for number in range(count)]
    else:
        nodes = [sampler_select(number) for number in range(count)] + [saved_node(count, "SamplerCustom", ["sampler"])]
        links = [[number, number, 0, count, 0, "SAMPLER"] for number in range(count)]
    if shape == "chain of reroutes":
        nodes += [saved_node(count + number, "Reroute", [""]) for number in range(1, count)]
        links = [[0, 0, 0, count + 1, 0, "SAMPLER"]]
        links += [[number, count + number, 0, count + number + 1, 0, "*"] for number in range(1, count - 1)]
    if shape == "many instances":
        inner_links = [[number, number, 0, -20, number, "SAMPLER"] for number in range(count)]
        inner = {"id": "A", "nodes": [sampler_select(number) for number in range(count)], "links": inner_links}
        subgraphs = [inner]
        nodes += [saved_node(count + number, "A") for number in range(1, count)]
    workflow = saved_workflow(nodes, links, subgraphs)
    workflow = swap(workflow).workflow if change is back else workflow
    began = time.process_time()
    change(workflow)
    assert time.process_time() - began < 60


ODD_VALUES = [None, True, -1, 1.5, "", "x", [], {}, [[]], [{}], {"a": 1}, float("nan"), "\ud83d", 10**30, -10, -20]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each value inside a JSON value."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from _places(item, (*path, key))


def _with_odd_values(workflow: Json, chance: random.Random, count: int) -> Json:
    workflow = copy.deepcopy(workflow)
    for _ in range(count):
        *path, last = chance.choice(list(_places(workflow)))
        holder: Any = workflow
        for key in path:
            holder = holder[key]
        holder[last] = copy.deepcopy(chance.choice(ODD_VALUES))
        if not workflow:
            break
    return workflow


@pytest.mark.parametrize("form", ["saved", "API"])
def test_odd_values_anywhere_are_refused_or_harmless(form: str, repo: Path) -> None:
    """A value of a wrong type in any place gives NotAWorkflow or nothing, and no other error."""
    inner = {
        "id": "sub",
        "inputs": [{"name": "noise"}, {"name": "sampler"}],
        "outputs": [{"name": "SAMPLER"}],
        "nodes": [saved_node(5, "SamplerCustomAdvanced", ["noise", "sampler"]), sampler_select(6)],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 1, "target_id": 5, "target_slot": 1, "type": "SAMPLER"},
            {"id": 2, "origin_id": 6, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "SAMPLER"},
        ],
    }
    nodes = [
        sampler_select(),
        saved_node(2, "sub", ["sampler", "noise"]),
        saved_node(3, "Reroute", [""]),
        saved_node(4, "KSampler", ["model"], widgets_values=[7, "fixed", 20, 8, "euler", "normal", 1]),
        saved_node(7, "SamplerCustom", ["sampler"]),
    ]
    links = [[1, 1, 0, 3, 0, "*"], [2, 3, 0, 2, 0, "*"], [3, 2, 0, 7, 0, "*"], [4, 9, 0, 4, 0, "MODEL"]]
    workflow = saved_workflow(nodes, links, [inner])
    workflow["extra"] = {"groupNodes": {"mine": {"nodes": [{"type": "KSampler"}]}}}
    if form == "API":
        workflow = api_workflow()
    chance, refused = random.Random(7), 0
    for base in (workflow, swap(workflow).workflow):
        for _ in range(1500):
            odd = _with_odd_values(base, chance, chance.randint(1, 3))
            for change in (swap, back):
                try:
                    summary(change(odd))
                except NotAWorkflow:
                    refused += 1
    assert 500 < refused < 5500
