"""The parts of the client that need no server: settings, decoded messages, progress on a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from client import Preview, Progress, Run, UsageError, override
from comfy_client import decode

WORKFLOW = {
    "1": {"class_type": "Prompt", "inputs": {"text": "", "v1.5": 0}, "_meta": {"title": "Prompt"}},
    "2": {"class_type": "ChordsKSampler", "inputs": {"steps": 4, "positive": ["1", 0]}, "_meta": {"title": "v1.5 one"}},
    "3": {"class_type": "Prompt", "inputs": {"text": ""}, "_meta": {"title": "Twice"}},
    "4": {"class_type": "Prompt", "inputs": {"text": ""}, "_meta": {"title": "Twice"}},
    "5:6": {"class_type": "SaveImage", "inputs": {}},
}


def chords(kind: str, **fields: Any) -> dict[str, Any]:
    """An event of a CHORDS run of node 2."""
    return {"node_id": "2", "kind": kind, **fields}


def _unused(_class_type: str) -> set[str]:
    raise AssertionError("nobody has to ask the server")


def _overridden(*settings: str) -> dict[str, Any]:
    workflow = json.loads(json.dumps(WORKFLOW))
    override(workflow, list(settings), lambda class_type: {"text", "cores", "images"} if class_type != "X" else None)
    return workflow


# ------------------------------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.5", 3.5),
        ("true", True),
        ("null", None),
        ('["1", 0]', ["1", 0]),
        ('"3"', "3"),
        ("exact", "exact"),
        ("", ""),
        ("NaN", "NaN"),
        ("a red star, b=c", "a red star, b=c"),
        ("日本", "日本"),
    ],
)
def test_values_are_json_or_text(text: str, value: Any) -> None:
    assert _overridden(f"1.text={text}")["1"]["inputs"]["text"] == value


@pytest.mark.parametrize(
    ("setting", "node", "key"),
    [
        ("2.steps=9", "2", "steps"),
        ("Prompt.text=9", "1", "text"),
        ("v1.5 one.steps=9", "2", "steps"),
        ("Prompt.v1.5=9", "1", "v1.5"),
        ("5:6.images=9", "5:6", "images"),
        ("SaveImage.images=9", "5:6", "images"),  # without a title, the page shows the class
        ("2.positive=9", "2", "positive"),
        ("2.images.image0=9", "2", "images.image0"),
    ],
)
def test_nodes_are_found_by_id_and_title(setting: str, node: str, key: str) -> None:
    assert _overridden(setting)[node]["inputs"][key] == 9


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("steps=9", "not of the form NODE.INPUT=VALUE"),
        ("2.steps", "not of the form NODE.INPUT=VALUE"),
        (".steps=9", "not of the form NODE.INPUT=VALUE"),
        ("2.=9", "not of the form NODE.INPUT=VALUE"),
        ("9.steps=9", r"id or title '9'; there are 1 \(Prompt\), 2 \(v1.5 one\), 3"),
        ("Twice.text=9", r"2 nodes have the title 'Twice': name one by its id \(3, 4\)"),
        ("2.step=9", r"node 2 \(v1.5 one\) has no input 'step'; it has cores, images, positive, steps, text"),
    ],
)
def test_what_cannot_be_set_is_named(setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _overridden(setting)


def test_the_server_is_asked_for_absent_inputs_only() -> None:
    override(WORKFLOW | {}, [], _unused)
    override(json.loads(json.dumps(WORKFLOW)), ["2.steps=3", "1.text=x"], _unused)
    workflow = {"1": {"class_type": "X", "inputs": {}}}
    override(workflow, ["1.new=3"], lambda _class_type: None)  # the server will say what is wrong with the class
    assert workflow["1"]["inputs"] == {"new": 3}


def test_messages_are_decoded() -> None:
    assert decode(json.dumps({"type": "progress", "data": {"value": 3}})) == ("progress", {"value": 3})
    assert decode(json.dumps({"type": "of another pack", "data": [1, 2]})) == ("of another pack", {})
    assert decode(b"\0\0\0\1\0\0\0\2PNG").mime == "image/png"
    head = json.dumps({"node_id": "6", "image_type": "image/png"}).encode()
    preview = decode(b"\0\0\0\4" + len(head).to_bytes(4, "big") + head + b"PNG")
    assert isinstance(preview, Preview)
    assert (preview.data, preview.node_id, preview.mime) == (b"PNG", "6", "image/png")
    assert decode(b"\0\0\0\3text") is None


def test_node_seconds() -> None:
    events = [("executing", {"node": "1"}), ("progress", {}), ("executing", {"node": "2"})]
    run = Run("p", {"outputs": {}}, events=events, times=[1.0, 2.0, 4.5])
    assert run.node_seconds("1") == 3.5
    assert run.node_seconds("2") is None


# ------------------------------------------------------------------------------------------- progress


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((42, 24)))  # pytest asks, too
    progress = Progress(lambda node: f"node {node}" if node != "3" else "a title too long")
    progress("progress", {"node": "1", "value": 1, "max": 2})
    progress("chords", chords("plan", method="chords"))
    progress("progress", {"node": "2", "value": 1, "max": 99})
    progress("chords", chords("step", depth=3, of=4))
    progress("chords", chords("hit", index=1, core=3, depth=3, seconds=1.0, change=0.5))
    progress("progress", {"node": "3", "value": 5, "max": 2})
    progress.clear()
    drawn = capsys.readouterr().err.replace("\r", "\n").split("\n")
    assert [line.strip() for line in drawn if line.strip()] == [
        "node 1: [############............] 1/2",
        "node 2: [##################......] 3/4",
        "node 2: hit 1 (core 3): depth 3, 1.00 s, change 0.5000",
        "a title: [########################] 5/2",
    ]
    assert all(len(line) < 42 for line in drawn if "[" in line)


def test_quarters_elsewhere(capsys) -> None:
    progress = Progress(lambda node: f"node {node}")
    for value in range(1, 9):
        progress("progress", {"node": "1", "value": value, "max": 8})
    progress("progress", {"node": "2", "value": 0, "max": 0})
    assert capsys.readouterr().err.split("\n")[:-1] == [
        *("  node 1: 2 of 8", "  node 1: 4 of 8", "  node 1: 6 of 8", "  node 1: 8 of 8", "  node 2: 0 of 0")
    ]


# -------------------------------------------------------------------------------------------- packages


def test_scripts_can_import_the_client_before_they_install_its_packages(repo: Path) -> None:
    command = [sys.executable, "-S", "-c", "import client"]  # -S: without installed packages
    done = subprocess.run(command, cwd=repo / "scripts", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
