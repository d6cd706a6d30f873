"""The swap tool: on all official workflows, and on what those do not have."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import random
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from swap import BadWorkflow, NotAWorkflow, back, is_api, is_saved, main, summary, swap, swap_text

OURS = {"KSampler": "ChordsKSampler", "KSamplerAdvanced": "ChordsKSamplerAdvanced", "KSamplerSelect": "ChordsSampler"}
NEW_WIDGETS = {"cores": 0, "accept": "auto", "calls": "every step", "method": "auto"}
NEW_INPUTS = ["devices", "preview_vae", *NEW_WIDGETS]
PACKAGE = "comfyui_workflow_templates_json"
Json = dict[str, Any]


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


def _graphs(workflow: Json) -> list[Json]:
    return [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]


def _nodes(workflow: Json) -> Iterator[Json]:
    for graph in _graphs(workflow):
        yield from graph["nodes"]


def _link(raw: Any) -> list[Any]:
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return [raw[name] for name in names] if isinstance(raw, dict) else list(raw)


def _wires(graph: Json) -> dict[Any, tuple[Any, ...]]:
    """The links of a graph by id: what they come from and, by name, which input they go to."""
    inputs = {node["id"]: [item["name"] for item in node.get("inputs", [])] for node in graph["nodes"]}
    wires = {}
    for number, origin, output, target, slot, kind in map(_link, graph["links"]):
        wires[number] = (origin, output, target, inputs[target][slot] if target in inputs else slot, kind)
    return wires


def _less_nodes(workflow: Json) -> Json:
    """All of a workflow but its nodes and links."""
    rest = copy.deepcopy(workflow)
    for graph in _graphs(rest):
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
    name = "Node name for S&R"  # some have one of their own there
    assert old["properties"][name] != old["type"] or new["properties"][name] == new["type"]
    assert new["properties"].get("cnr_id") != "comfy-core"


def test_the_official_workflows_change_in_the_samplers_and_in_nothing_else(official: dict[str, Json]) -> None:
    assert len(official) > 600
    swapped: Counter[str] = Counter()
    for name, old in official.items():
        before = copy.deepcopy(old)
        new = swap(old).workflow
        assert old == before, name  # what is given is not changed
        assert _less_nodes(new) == _less_nodes(old), name
        for graph, changed in zip(_graphs(old), _graphs(new), strict=True):
            assert _wires(changed) == _wires(graph), name
            for node, other in zip(graph["nodes"], changed["nodes"], strict=True):
                _check_node(node, other)
                swapped[node["type"]] += other["type"] != node["type"]
    assert swapped["KSampler"] > 150 and swapped["KSamplerAdvanced"] > 30 and swapped["KSamplerSelect"] > 100


def test_no_sampler_that_could_be_ours_stays(official: dict[str, Json]) -> None:
    """In the official workflows every KSamplerSelect feeds a SamplerCustom of some kind."""
    for name, workflow in official.items():
        stay = [node["type"] for node in _nodes(swap(workflow).workflow) if node["type"] in OURS]
        assert not stay, name


def test_what_subgraphs_show_outside_is_still_there(official: dict[str, Json]) -> None:
    """The widgets a subgraph's node shows are named by node and widget: both stay."""
    shown = 0
    for name, workflow in official.items():
        new = swap(workflow).workflow
        subgraphs = {graph["id"]: graph for graph in _graphs(new)[1:]}
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


def test_back_gives_what_there_was(official: dict[str, Json]) -> None:
    for name, old in official.items():
        expected = copy.deepcopy(old)
        for node in _nodes(expected):
            if node["type"] in OURS:
                node["properties"].pop("ver", None)  # the version of another pack's node is not kept
        assert back(swap(old).workflow).workflow == expected, name


def test_a_second_swap_changes_nothing(official: dict[str, Json]) -> None:
    for name in ("flux_dev_full_text_to_image", "sdxl_simple_example", "image_to_video_wan"):
        once = swap(official[name]).workflow
        again = swap(once)
        assert (again.workflow, summary(again)) == (once, "nothing to swap")


# ---- the API's format


def _api() -> Json:
    sampling = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "positive": ["2", 0], "model": ["1", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "KSampler", "clip": ["1", 1]}},
        "3": {"class_type": "KSampler", "inputs": {**sampling, "seed": 7}, "_meta": {"title": "KSampler"}},
        "9:4": {"class_type": "KSamplerAdvanced", "inputs": sampling, "_meta": {"title": "my second"}},
        "5": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "6": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "uni_pc"}},
        "7": {"class_type": "SamplerCustomAdvanced", "inputs": {"sampler": ["5", 0], "sigmas": ["1", 3]}},
        "8": {"class_type": "SomeOtherSampler", "inputs": {"sampler": ["6", 0]}},
    }


def test_the_api_format_changes_in_the_class_type_only() -> None:
    expected = _api()
    for name, kind in {"3": "ChordsKSampler", "9:4": "ChordsKSamplerAdvanced", "5": "ChordsSampler"}.items():
        expected[name]["class_type"] = kind
    expected["3"]["_meta"]["title"] = "KSampler (CHORDS)"  # where the title was the stock node's name, not the user's
    result = swap(_api())
    assert result.workflow == expected
    assert sum(result.done.values()) == 3
    assert result.left == ["6 KSamplerSelect (feeds no SamplerCustom)", "8 SomeOtherSampler"]
    assert back(expected).workflow == _api()


def test_back_leaves_what_needs_ours() -> None:
    workflow = swap(_api()).workflow
    workflow["3"]["inputs"] |= {"cores": 4, "accept": "exact", "calls": "auto", "method": "CHORDS"}
    workflow["10"] = {"class_type": "ChordsDevices", "inputs": {}}
    workflow["5"]["inputs"]["devices"] = ["10", 0]
    workflow["11"] = {"class_type": "ChordsReport", "inputs": {"run": ["9:4", 1]}}
    result = back(workflow)
    assert result.workflow["3"] == _api()["3"]
    assert result.workflow["5"] == workflow["5"] and result.workflow["9:4"] == workflow["9:4"]
    assert result.left == [
        "9:4 ChordsKSamplerAdvanced (disconnect CHORDS_RUN first)",
        "5 ChordsSampler (disconnect devices first)",
    ]


def test_back_leaves_connected_nodes_of_a_saved_workflow(repo: Path) -> None:
    workflow = json.loads((repo / "workflows" / "chords_streaming.json").read_text(encoding="utf-8"))
    result = back(workflow)
    assert result.workflow == workflow
    assert result.left == ["6 ChordsKSampler (disconnect devices and CHORDS_RUN first)"]


# ---- what the official workflows do not have


def _saved(nodes: list[Json], links: list[list[Any]], subgraphs: list[Json] | None = None) -> Json:
    workflow = {"nodes": nodes, "links": links, "groups": [], "extra": {}, "version": 0.4}
    return workflow | ({"definitions": {"subgraphs": subgraphs}} if subgraphs else {})


def _node(number: int, kind: str, inputs: list[str] | None = None, **more: Any) -> Json:
    sockets = [{"name": name, "type": "*", "link": None} for name in inputs or []]
    return {"id": number, "type": kind, "inputs": sockets, "outputs": [], "properties": {}, **more}


def _select(number: int = 1) -> Json:
    return _node(number, "KSamplerSelect", widgets_values=["euler"])


def _kinds(result: Any) -> list[str]:
    return [node["type"] for graph in _graphs(result.workflow) for node in graph["nodes"]]


def test_a_reroute_is_followed() -> None:
    nodes = [_select(), _node(2, "Reroute", [""]), _node(3, "SamplerCustom", ["sampler"])]
    links = [[1, 1, 0, 2, 0, "SAMPLER"], [2, 2, 0, 3, 0, "SAMPLER"]]
    assert _kinds(swap(_saved(nodes, links)))[0] == "ChordsSampler"
    assert _kinds(swap(_saved(nodes, links[:1])))[0] == "KSamplerSelect"


def test_a_loop_of_reroutes_ends() -> None:
    nodes = [_select(), _node(2, "Reroute", [""]), _node(3, "Reroute", [""])]
    links = [[1, 1, 0, 2, 0, "*"], [2, 2, 0, 3, 0, "*"], [3, 3, 0, 2, 0, "*"]]
    assert _kinds(swap(_saved(nodes, links)))[0] == "KSamplerSelect"


@pytest.mark.parametrize("wired", [True, False])
def test_a_sampler_that_goes_into_a_subgraph_is_followed_by_name(wired: bool) -> None:
    inner = {
        "id": "sub",
        "inputs": [{"name": "noise"}, {"name": "sampler"}],
        "outputs": [],
        "nodes": [_node(5, "SamplerCustomAdvanced", ["noise", "sampler"])],
        "links": [{"id": 1, "origin_id": -10, "origin_slot": 1, "target_id": 5, "target_slot": 1, "type": "SAMPLER"}],
    }
    nodes = [_select(), _node(2, "sub", ["sampler", "noise"])]  # its inputs in another order
    workflow = _saved(nodes, [[1, 1, 0, 2, 0 if wired else 1, "SAMPLER"]], [inner])
    assert _kinds(swap(workflow))[0] == ("ChordsSampler" if wired else "KSamplerSelect")


def test_a_sampler_that_comes_out_of_a_subgraph_is_followed() -> None:
    inner = {
        "id": "sub",
        "inputs": [],
        "outputs": [{"name": "SIGMAS"}, {"name": "SAMPLER"}],
        "nodes": [_select(5)],
        "links": [{"id": 1, "origin_id": 5, "origin_slot": 0, "target_id": -20, "target_slot": 1, "type": "SAMPLER"}],
    }
    nodes = [_node(2, "sub"), _node(3, "SamplerCustom", ["sampler"])]
    assert _kinds(swap(_saved(nodes, [[1, 2, 1, 3, 0, "SAMPLER"]], [inner])))[-1] == "ChordsSampler"
    assert _kinds(swap(_saved(nodes, [[1, 2, 0, 3, 0, "SIGMAS"]], [inner])))[-1] == "KSamplerSelect"


def test_widget_values_that_cannot_be_told_apart_are_left_and_named() -> None:
    old = _saved([_node(1, "KSampler", widgets_values=[7, 20, 8, "euler", "normal", 1])], [])
    result = swap(old)
    assert result.workflow == old
    assert "1 KSampler (6 values instead of 7" in summary(result)


def test_a_group_node_is_named() -> None:
    workflow = _saved([], [])
    workflow["extra"] = {"groupNodes": {"mine": {"nodes": [{"type": "KSampler"}]}, "other": {"nodes": []}}}
    assert swap(workflow).left == ["group node 'mine' (turn it into a subgraph)"]


def test_a_title_of_the_users_own_stays() -> None:
    nodes = [_node(1, "KSampler", title="KSampler"), _node(2, "KSampler", title="draft")]
    assert [node["title"] for node in swap(_saved(nodes, [])).workflow["nodes"]] == ["KSampler (CHORDS)", "draft"]


def test_upsamplers_are_no_samplers() -> None:
    nodes = [_node(1, "LTXVLatentUpsampler"), _node(2, "SamplerLCM")]
    assert swap(_saved(nodes, [])).left == ["2 SamplerLCM"]


# ---- files


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "a JSON object is needed, this is a list"),
        ("nodes", "this is a str"),
        ({}, "it is empty"),
        ({"a": 1}, "neither nodes and links"),
        ({"nodes": 3}, "not as the browser saves them"),
        ({"nodes": [{}], "links": []}, "not as the browser saves them"),
        ({"nodes": [], "links": [], "definitions": {"subgraphs": [{}]}}, "not as the browser saves them"),
        ({"prompt": {"1": {"class_type": "KSampler", "inputs": {}}}, "client_id": "x"}, "holds one under 'prompt'"),
    ],
)
def test_what_is_no_workflow_is_refused(value: Any, message: str) -> None:
    with pytest.raises(NotAWorkflow, match=message):
        swap(value)


@pytest.mark.parametrize("text", ['{"1": {"class_type": "KSampler", "inputs": {}}}', '{\n    "1": 2\n}\n'])
def test_a_file_keeps_its_form(text: str) -> None:
    value = json.loads(text)
    text = text if is_api(value) else text.replace("2", '{\n        "class_type": "é",\n        "inputs": {}\n    }')
    assert swap_text(text)[0] == text.replace("KSampler", "ChordsKSampler")


def test_the_command_line_needs_nothing_but_python(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(json.dumps(_api()), encoding="utf-8")
    script = str(repo / "scripts" / "swap.py")
    command = [sys.executable, "-I", "-S", script, str(tmp_path / "in.json"), str(tmp_path / "new" / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads((tmp_path / "new" / "out.json").read_text(encoding="utf-8")) == swap(_api()).workflow
    assert "1 KSampler -> ChordsKSampler" in done.stdout and "left as they are: 6 KSamplerSelect" in done.stdout


def test_a_folder_is_swapped_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "deep").mkdir(parents=True)
    for name, text in {"a.json": json.dumps(_api()), "deep/b.json": json.dumps(_api()), "c.json": "[]"}.items():
        (source / name).write_text(text, encoding="utf-8")
    assert main([str(source), str(target)]) == 0
    written = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert written == {"a.json", "deep/b.json"}
    assert "c.json: skipped" in capsys.readouterr().err
    assert main([str(target), str(target), "--back"]) == 0  # in place
    assert json.loads((target / "a.json").read_text(encoding="utf-8")) == _api()


@pytest.mark.parametrize("content", [b"{", b"[]", b"\x89PNG\xff\xfe"])
def test_a_bad_file_is_an_error_in_a_line(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.json").write_bytes(content)
    assert main([str(tmp_path / "in.json"), str(tmp_path / "out.json")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'in.json'}: ")
    assert not (tmp_path / "out.json").exists()


def test_a_file_that_is_not_there_is_an_error_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json"), str(tmp_path / "out.json")]) == 1
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        '{"1": {"class_type": "KSampler", "inputs": {"x": "\\ud83d half, \\u00e9 and \\ud83d\\ude00"}}}',
        '{"1": {"class_type": "KSampler", "inputs": {"x": "é \\ud83d", "y": "\\\\ud83d"}}}\r\n',
        '{\r\n\t"1": {\r\n\t\t"class_type": "KSampler",\r\n\t\t"inputs": {}\r\n\t}\r\n}\r\n',
        '{"1":{"class_type":"KSampler","inputs":{"x":NaN,"y":-Infinity,"z":123456789012345678901234567890}}}',
    ],
    ids=["escapes", "half a character among whole ones", "tabs and Windows", "what the host writes in pictures"],
)
def test_what_is_in_a_file_stays_as_it_is(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode())
    assert main([str(path), str(path)]) == 0
    assert path.read_bytes().decode() == text.replace('"KSampler"', '"ChordsKSampler"')


def test_a_file_in_which_nothing_is_to_swap_stays_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{ "1" : {"class_type":"Other",\n "inputs": {"x": 1E2}}}', encoding="utf-8")
    before = path.read_bytes()
    assert main([str(path), str(path)]) == 0
    assert path.read_bytes() == before


def _one_node(**changes: Any) -> Json:
    """A saved workflow of one KSampler, changed."""
    return _saved([_node(1, "KSampler") | changes], [])


def _deep(opening: str, closing: str, levels: int) -> str:
    return '{"1": {"class_type": "KSampler", "inputs": {"x": ' + opening * levels + "1" + closing * levels + "}}}"


BAD: dict[str, str | bytes] = {
    "empty": "",
    "not JSON": "{",
    "cut off": json.dumps(_one_node())[:-5],
    "deep lists": _deep("[", "]", 100_000),
    "deep objects": _deep('{"a": ', "}", 3000),
    "rather deep objects": _deep('{"a": ', "}", 900),
    "not UTF-8": '{"1": {"class_type": "KSampler", "inputs": {"x": "é"}}}'.encode("latin-1"),
    "UTF-16": json.dumps(_one_node()).encode("utf-16"),
    "zeros": bytes(1000),
    "a long number": json.dumps(_one_node()).replace("0.4", "9" * 5000),
    "a number too large": json.dumps(_one_node()).replace("0.4", "1e999"),
    "twins": '{"1": {"class_type": "KSampler", "inputs": {}}, "1": {"class_type": "KSampler", "inputs": {}}}',
    "half an API workflow": '{"1": {"class_type": "KSampler", "inputs": {}}, "2": {"class_type": "KSampler"}}',
    "no nodes": json.dumps(_saved([], []) | {"nodes": None}),
    "no links": json.dumps(_saved([], []) | {"links": {}}),
    "a node that is none": json.dumps(_saved([_node(1, "KSampler"), None], [])),
    "inputs of numbers": json.dumps(_one_node(inputs=[1, 2])),
    "inputs an object": json.dumps(_one_node(inputs={"a": 1})),
    "outputs a number": json.dumps(_one_node(outputs=5)),
    "an input's link a list": json.dumps(_one_node(inputs=[{"name": "model", "link": [1]}])),
    "an input's link a fraction": json.dumps(_one_node(inputs=[{"name": "model", "link": 1.5}])),
    "id a list": json.dumps(_one_node(id=[1])),
    "id null": json.dumps(_one_node(id=None)),
    "id a fraction": json.dumps(_one_node(id=1.5)),
    "id a truth": json.dumps(_one_node(id=True)),
    "ids twice": json.dumps(_saved([_node(1, "KSampler"), _node(1, "Other")], [])),
    "type a number": json.dumps(_one_node(type=7)),
    "a short link": json.dumps(_saved([_select()], [[1, 1, 0]])),
    "a link without ends": json.dumps(_saved([_select()], [{"id": 1}])),
    "a link from a list": json.dumps(_saved([_select()], [[1, [1], 0, 2, 0, "SAMPLER"]])),
    "a link null": json.dumps(_saved([_select()], [None])),  # type: ignore[list-item]
    "a subgraph null": json.dumps(_saved([_select()], [], [None])),  # type: ignore[list-item]
    "a subgraph without id": json.dumps(_saved([_select()], [], [{"nodes": [], "links": []}])),
    "subgraphs twice": json.dumps(_saved([_select()], [], 2 * [{"id": "a", "nodes": [], "links": []}])),
    "a subgraph's inputs": json.dumps(_saved([], [], [{"id": "a", "nodes": [], "links": [], "inputs": [1]}])),
}


def _bytes(content: str | bytes) -> bytes:
    return content if isinstance(content, bytes) else content.encode()


@pytest.mark.parametrize("direction", [[], ["--back"]], ids=["swap", "back"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_stays_and_is_named_in_one_line(
    name: str, direction: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(_bytes(BAD[name]))
    assert main([str(path), str(path), *direction]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: ") and len(line) < 500
    assert path.read_bytes() == _bytes(BAD[name])
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_with_bad_files_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for number, content in enumerate(BAD.values()):
        (source / f"{number:02}.json").write_bytes(_bytes(content))
    for name in ("00 first.json", "99 last.json"):
        (source / name).write_text(json.dumps(_api()), encoding="utf-8")
    (source / "other.json").write_text('{"name": "something else"}', encoding="utf-8")
    (source / "folder.json").mkdir()
    if os.name != "nt":
        (source / "loop.json").symlink_to("loop.json")
        (source / "gone.json").symlink_to("nowhere.json")
        os.mkfifo(source / "pipe.json")
    assert main([str(source), str(target)]) == 1
    told = capsys.readouterr()
    assert {path.name for path in target.iterdir()} == {"00 first.json", "99 last.json"}
    errors = [line for line in told.err.splitlines() if ": error: " in line]
    odd = 0 if os.name == "nt" else 3
    assert len(errors) == len(BAD) + odd and len(told.err.splitlines()) == len(errors) + 1
    assert "other.json: skipped: no workflow" in told.err
    assert f"; {len(errors)} files could not be swapped" in told.out


def test_a_target_in_the_source_is_not_swapped_again(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(_api()), encoding="utf-8")
    for _ in range(2):
        assert main([str(tmp_path), str(tmp_path / "out")]) == 0
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json")} == {"a.json", "out/a.json"}


def test_odd_names_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workflow = {"a\nb\ud83d": {"class_type": "A\x1bSampler", "inputs": {}}} | _api()
    (tmp_path / "a.json").write_text(json.dumps(workflow), encoding="utf-8")
    assert main([str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "a\\nb\\ud83d A\\x1bSampler" in line


def test_loops_of_subgraphs_end() -> None:
    """One that holds itself, with what goes in, around and out."""
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    ends = [(6, 0, 5, 0), (-10, 0, 5, 0), (6, 0, -20, 0), (5, 0, -20, 0)]
    links = [dict(zip(names, (number, *end), strict=True)) for number, end in enumerate(ends)]
    inner = {"id": "A", "inputs": [{"name": "s"}], "nodes": [_node(5, "A", ["s"]), _select(6)], "links": links}
    workflow = _saved([_node(1, "A"), _select(2)], [[1, 2, 0, 1, 0, "S"]], [inner])
    assert "KSamplerSelect" in _kinds(swap(workflow)) and "ChordsSampler" not in _kinds(swap(workflow))
    workflow["nodes"].append(_node(3, "SamplerCustom", ["sampler"]))
    workflow["links"].append([2, 1, 0, 3, 0, "S"])
    assert _kinds(swap(workflow)) == ["A", "KSamplerSelect", "SamplerCustom", "A", "ChordsSampler"]


@pytest.mark.parametrize("change", [swap, back])
@pytest.mark.parametrize("shape", ["chain of reroutes", "one consumer", "many instances", "samplers"])
def test_large_workflows_take_seconds(shape: str, change: Callable[[Any], Any]) -> None:
    """What grows with the square of the nodes would take many minutes."""
    count, subgraphs = 20_000, None
    if shape == "samplers":
        nodes = [_node(number, "KSampler", ["model"]) for number in range(count)]
        links = [[number, 0, 0, number, 0, "MODEL"] for number in range(count)]
    else:
        nodes = [_select(number) for number in range(count)] + [_node(count, "SamplerCustom", ["sampler"])]
        links = [[number, number, 0, count, 0, "SAMPLER"] for number in range(count)]
    if shape == "chain of reroutes":
        nodes += [_node(count + number, "Reroute", [""]) for number in range(1, count)]
        links = [[0, 0, 0, count + 1, 0, "SAMPLER"]]
        links += [[number, count + number, 0, count + number + 1, 0, "*"] for number in range(1, count - 1)]
    if shape == "many instances":
        inner_links = [[number, number, 0, -20, number, "SAMPLER"] for number in range(count)]
        inner = {"id": "A", "nodes": [_select(number) for number in range(count)], "links": inner_links}
        subgraphs = [inner]
        nodes += [_node(count + number, "A") for number in range(1, count)]
    workflow = _saved(nodes, links, subgraphs)
    workflow = swap(workflow).workflow if change is back else workflow
    began = time.monotonic()
    change(workflow)
    assert time.monotonic() - began < 60


ODD_VALUES = [None, True, -1, 1.5, "", "x", [], {}, [[]], [{}], {"a": 1}, float("nan"), "\ud83d", 10**30, -10, -20]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value in a JSON value is."""
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
    """Nothing but the one error, whatever stands where something else belongs."""
    inner = {
        "id": "sub",
        "inputs": [{"name": "noise"}, {"name": "sampler"}],
        "outputs": [{"name": "SAMPLER"}],
        "nodes": [_node(5, "SamplerCustomAdvanced", ["noise", "sampler"]), _select(6)],
        "links": [
            {"id": 1, "origin_id": -10, "origin_slot": 1, "target_id": 5, "target_slot": 1, "type": "SAMPLER"},
            {"id": 2, "origin_id": 6, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "SAMPLER"},
        ],
    }
    nodes = [
        _select(),
        _node(2, "sub", ["sampler", "noise"]),
        _node(3, "Reroute", [""]),
        _node(4, "KSampler", ["model"], widgets_values=[7, "fixed", 20, 8, "euler", "normal", 1]),
        _node(7, "SamplerCustom", ["sampler"]),
    ]
    links = [[1, 1, 0, 3, 0, "*"], [2, 3, 0, 2, 0, "*"], [3, 2, 0, 7, 0, "*"], [4, 9, 0, 4, 0, "MODEL"]]
    workflow = _saved(nodes, links, [inner])
    workflow["extra"] = {"groupNodes": {"mine": {"nodes": [{"type": "KSampler"}]}}}
    if form == "API":
        workflow = _api()
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


FULL = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_a_full_disk_leaves_the_old_file(repo: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(_api()), encoding="utf-8")
    before = path.read_bytes()
    command = [sys.executable, "-c", FULL, str(repo / "scripts" / "swap.py"), str(path), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_links_and_permissions_stay(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "a.json", tmp_path / "a.json"
    target.parent.mkdir()
    target.write_text(json.dumps(_api()), encoding="utf-8")
    target.chmod(0o640)
    link.symlink_to(target)
    assert main([str(link), str(link)]) == 0
    assert link.is_symlink() and json.loads(target.read_text(encoding="utf-8")) == swap(_api()).workflow
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(_api()), encoding="utf-8")

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([str(path), str(path)])
    assert json.loads(path.read_text(encoding="utf-8")) == _api() and len(list(tmp_path.iterdir())) == 1


def test_what_may_have_been_a_workflow_is_told_apart_from_other_files() -> None:
    for text in ("[]", "{}", '{"name": 1}'):
        with pytest.raises(NotAWorkflow) as other:
            swap_text(text)
        assert not isinstance(other.value, BadWorkflow)
    with pytest.raises(BadWorkflow):
        swap_text("{")
