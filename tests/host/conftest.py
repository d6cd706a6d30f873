"""Tests against a live ComfyUI with tiny models; a failing test shows what the server wrote meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient

sys.path.append(str(Path(__file__).parent))

from graphs import RunGraph, runner

LOG_LINES = 60


@pytest.fixture(scope="session")
def tiny_models(comfy_host: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What to start ComfyUI with to give it tiny models and the nodes of the tests."""
    models = tmp_path_factory.mktemp("models")
    script = Path(__file__).parent / "tiny_models.py"
    subprocess.run([str(venv_python()), str(script), str(comfy_host), str(models)], check=True)
    kinds = ("diffusion_models", "loras", "classifiers", "controlnet", "gligen")
    folders = {"base_path": str(models), **{kind: kind for kind in kinds}}
    paths = models / "paths.yaml"
    nodes = {"base_path": str(Path(__file__).parent), "custom_nodes": "pack"}
    paths.write_text(json.dumps({"models": folders, "nodes": nodes}), encoding="utf-8")  # JSON is YAML
    return ["--extra-model-paths-config", str(paths)]


@pytest.fixture(scope="session")
def server(comfy_host: Path, tiny_models: list[str], on_cpu: bool):
    """One live ComfyUI with this pack and tiny models, on the CPU, one intra-op thread a call."""
    python = str(venv_python())
    with ComfyServer(comfy_host, threads=1, cpu=on_cpu, python=python, arguments=tiny_models) as running:
        yield running


@pytest.fixture(scope="session")
def run_graph(server: ComfyServer, client: ComfyClient) -> RunGraph:
    """Runs a graph; returns the run and its saved latents by name."""
    return runner(server, client)


@pytest.fixture(autouse=True, scope="module")
def _nothing_measured(request: pytest.FixtureRequest) -> None:
    """What one file of tests has measured is no longer kept in the next: it decides how samplers use their devices."""
    if "server" in request.fixturenames:
        server: ComfyServer = request.getfixturevalue("server")
        (server.folder / "user" / "chords" / "measured.json").unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _log_of_this_test(server: ComfyServer, request: pytest.FixtureRequest) -> None:
    """Remember where the server's log stood when the test began."""
    request.node.server_log = (server, len(server.log()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed and hasattr(item, "server_log"):
        running, begin = item.server_log
        lines = running.log()[begin:].splitlines()[-LOG_LINES:]
        report.sections.append(("ComfyUI's log during this test", "\n".join(lines)))
    return report
