"""The comparison on a user's workflow, on the live server."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient, UsageError
from comparison.saved_to_api import to_api
from comparison.variants import is_link, variants_of
from workflow_swap.validation import is_saved

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
PAGE_ONLY = ("Note", "MarkdownNote")
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(server: ComfyServer, repo: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the command with a file of the page, and with few steps."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [str(venv_python()), str(repo / "scripts" / "compare.py"), str(_of_the_demo())]
        command += ["--server", server.url, "--output", "out", "--set", "6.steps=4", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, encoding="utf-8", **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _of_the_demo() -> Path:
    """The pack's first workflow of the demo model, in which node 6 is the sampler."""
    for path in sorted(FOLDER.glob("*.json")):
        nodes = {node["id"]: node["type"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
        if "ChordsDemoModel" in nodes.values() and nodes.get(6) == "ChordsKSampler":
            return path
    raise AssertionError("the pack has no workflow of the demo model")


def _saved_files(server: ComfyServer) -> set[Path]:
    return {path for path in server.output_directory.rglob("*") if path.is_file()}


def test_a_workflow_of_the_page_is_compared(start: Start, server: ComfyServer, tmp_path: Path) -> None:
    before = _saved_files(server)
    process = start("--seeds", "2", "--variants", "exact", "near", "LazyCache", "--first-seed", "4100")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "round 2 of 2" in err and "Page: " in out
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    rows = {row["name"]: row for row in figures["rows"]}
    names = ["KSampler", "KSampler (CHORDS), exact", "KSampler (CHORDS), near", "LazyCache"]
    assert list(rows) == names and figures["complete"] and not figures["failed"]
    exact = rows["KSampler (CHORDS), exact"]
    assert exact["worst"] == 0 and exact["psnr"] is None  # KSampler's own picture
    assert exact["calls"] == 4 and exact["message"]
    for row in rows.values():
        assert row["rounds"] == 2 and 0 < row["seconds"] <= row["seconds_90"]
        assert all(run["whole"] >= run["seconds"] > 0 and run["first"] > 0 for run in row["runs"])
        assert row["memory"]["RAM"] > 0
    speeds = [
        stock["seconds"] / one["seconds"] for stock, one in zip(rows["KSampler"]["runs"], exact["runs"], strict=True)
    ]
    assert exact["speed_90"] <= max(speeds) and min(speeds) <= exact["speed"] <= max(speeds)
    assert figures["conditions"]["comfyui"] and figures["conditions"]["first_seed"] == 4100
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<img src="data:image/jpeg;base64,', page)) == 2 * len(names)
    assert figures["advice"].split(":")[0].split("'")[0] in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.html", "comparison.json"}
    assert _saved_files(server) == before  # nothing is saved on the server


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_it_and_leaves_what_was_measured(start: Start, client: ComfyClient, tmp_path: Path) -> None:
    process = start("--seeds", "500", "--variants", "LazyCache", "--first-seed", "5100")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("round 3 of 500"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in err, err
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert not figures["complete"] and figures["rows"][0]["rounds"] >= 2
    client.wait(client.queue({"1": {"class_type": "ChordsDemoModel", "inputs": {}}, **_shown()}))  # it goes on to work


def _shown() -> dict[str, Any]:
    return {
        "2": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def test_saved_workflows_become_the_prompts_that_the_page_makes(client: ComfyClient) -> None:
    """The pack's workflows are there as the page saves them and as it exports them. Apart from inputs that one of them
    lacks, which are not needed, both are the same, also with subgraphs, bypassed nodes and reroutes."""
    classes, exported = client.object_info(), {}
    for path in (FOLDER / "api").glob("*.json"):
        prompt = json.loads(path.read_text(encoding="utf-8"))
        exported[path.name] = prompt
    for path in sorted(FOLDER.glob("*.json")):
        found = to_api(json.loads(path.read_text(encoding="utf-8")), classes)
        prompt = {name: node for name, node in found.prompt.items() if node["class_type"] not in PAGE_ONLY}
        if not {node["class_type"] for node in prompt.values()} <= classes.keys():
            continue  # a model that an older ComfyUI does not know
        assert not found.faults.keys() & prompt.keys(), path.name
        assert any(_same(prompt, other) for other in exported.values()), path.name
        assert len(variants_of(prompt, classes).all) >= 5, path.name


def _same(prompt: dict[str, Any], exported: dict[str, Any]) -> bool:
    """Whether both have the same nodes, and the same values of the inputs that both have, with all links."""
    if {name: node["class_type"] for name, node in prompt.items()} != {
        name: node["class_type"] for name, node in exported.items()
    }:
        return False
    for name, node in exported.items():
        ours = prompt[name]["inputs"]
        if any(ours[key] != value for key, value in node["inputs"].items() if key in ours):
            return False
        if any(is_link(value) and key not in ours for key, value in node["inputs"].items()):
            return False
    return True


def test_official_workflows_are_compared_or_it_says_why_not(client: ComfyClient) -> None:
    """Of those with samplers, most can be; none leads to an error that nobody has foreseen."""
    classes, counted, reasons = client.object_info(), 0, set()
    for name, workflow in _official():
        found = to_api(workflow, classes)
        try:
            prompt = variants_of(found.prompt, classes).all[0].prompt
        except UsageError as error:
            reasons.add(str(error).partition(":")[0])
            continue
        counted += not prompt.keys() & found.faults.keys()
        missing = [link for node in prompt.values() for link in node["inputs"].values() if is_link(link)]
        assert all(str(link[0]) in prompt for link in missing), name
    assert counted > 30 and len(reasons) < 6, reasons


def _official() -> Iterator[tuple[str, dict[str, Any]]]:
    spec = importlib.util.find_spec("comfyui_workflow_templates_json")
    assert spec is not None and spec.submodule_search_locations
    for path in sorted(Path(spec.submodule_search_locations[0], "templates").glob("*.json")):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        if is_saved(workflow):
            yield path.stem, workflow
