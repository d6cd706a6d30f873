"""The blueprints of subgraphs/, which the host offers in its node library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from client import ComfyClient

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
PLAIN = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")  # of inputs with a widget
Json = dict[str, Any]


def _subgraph(name: str) -> Json:
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    (subgraph,) = workflow["definitions"]["subgraphs"]
    return subgraph


def test_the_host_offers_them_with_their_content(client: ComfyClient) -> None:
    """Under the name of the file, as of this pack."""
    offered = client.get_json("/global_subgraphs")
    mine = {entry["name"]: key for key, entry in offered.items() if entry["info"]["node_pack"].endswith("CHORDS")}
    assert sorted(mine) == NAMES and len(NAMES) == 3
    for name, key in mine.items():
        assert offered[key]["source"] == "custom_node"
        entry = client.get_json(f"/global_subgraphs/{key}")
        assert json.loads(entry["data"]) == json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_its_nodes_are_those_of_the_host(client: ComfyClient, name: str) -> None:
    """With the inputs that they have there, and a value for each widget; a list of choices has the value."""
    nodes = client.object_info()
    for node in _subgraph(name)["nodes"]:
        known = nodes[node["type"]]
        given = {**known["input"].get("required", {}), **known["input"].get("optional", {})}
        assert {item["name"] for item in node["inputs"]} == set(given), node["type"]
        assert [item["name"] for item in node["outputs"]] == known["output_name"]
        values = iter(node.get("widgets_values", []))
        for item in (item for item in node["inputs"] if "widget" in item):
            value, spec = next(values), given[item["name"]]
            more = spec[1] if len(spec) > 1 else {}
            choices = spec[0] if isinstance(spec[0], list) else more.get("options")
            if choices and item["name"] != "ckpt_name":
                assert value in choices, (node["type"], item["name"], value)
            if more.get("control_after_generate"):
                assert next(values) in ("fixed", "randomize")
        assert list(values) == [], node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_each_link_begins_and_ends_where_it_says(name: str) -> None:
    graph = _subgraph(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    given = {number for node in nodes.values() for item in node["inputs"] if (number := item["link"]) is not None}
    assert {link["id"] for link in graph["links"]} >= given
    for link in graph["links"]:
        origin = graph["inputs"] if link["origin_id"] == -10 else nodes[link["origin_id"]]["outputs"]
        target = graph["outputs"] if link["target_id"] == -20 else nodes[link["target_id"]]["inputs"]
        first, last = origin[link["origin_slot"]], target[link["target_slot"]]
        assert first["type"] == last["type"] == link["type"]
        assert link["id"] in (first.get("linkIds") or first.get("links"))
        assert link["id"] in last["linkIds"] if "linkIds" in last else link["id"] == last["link"]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_under_this_pack(name: str) -> None:
    """The library shows the category, the description and the title of the node."""
    workflow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    (outer,), graph = workflow["nodes"], _subgraph(name)
    assert outer["type"] == graph["id"] and outer["title"] == graph["name"] == name
    assert graph["category"] == "CHORDS" and graph["description"] == workflow["extra"]["BlueprintDescription"]
    assert [item["name"] for item in outer["inputs"]] == [item["name"] for item in graph["inputs"]]
    assert [item["name"] for item in outer["outputs"]] == [item["name"] for item in graph["outputs"]]
