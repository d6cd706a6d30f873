"""The pack however it was installed: under another name, as a link, in a path with spaces, beside packs that get in the
way, and as the registry's zip. Loading it changes nothing of the host."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import shutil
import sys
import threading
import types
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from _env import venv_python
from _server import ComfyServer
from _templates import BY_API
from graphs import Graph, demo, empty_latent, lanes, runner, settings

NEIGHBOURS = Path(__file__).parent / "neighbours"
OTHER_NAME = "our.pack,v1.0(linked)"  # without a space: the host serves no web files from a folder that has one
LOADED_NAME = OTHER_NAME.replace(".", "_x_")
REGISTRY_NAME = "chords-sampler"  # where the registry's clients put it


@dataclass
class Installed:
    """A server with the pack in a folder of this name, and what the neighbours noted, if they are there."""

    server: ComfyServer
    name: str
    noted: dict[str, Any]

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.server.url + urllib.parse.quote(path), timeout=120) as answer:
            return answer.read()


@pytest.fixture(scope="module")
def linked(comfy_host: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """A link of another name in a path with spaces, loaded after one troublesome pack and before another."""
    base = tmp_path_factory.mktemp("comfy base") / "Comfy UI"
    shutil.copytree(NEIGHBOURS / "before", base / "custom_nodes" / "before")
    (base / "more nodes").mkdir()
    (base / "more nodes" / OTHER_NAME).symlink_to(repo, target_is_directory=True)
    shutil.copytree(NEIGHBOURS / "after", base / "last nodes" / "after")
    sections = {name: {"base_path": str(base), "custom_nodes": name} for name in ("more nodes", "last nodes")}
    (base / "paths.yaml").write_text(json.dumps(sections), encoding="utf-8")  # JSON is YAML
    noted = base / "noted.json"
    arguments = ["--base-directory", str(base), "--extra-model-paths-config", str(base / "paths.yaml")]
    environment = {"CHORDS_TEST_STATE": str(noted)}
    with _server(comfy_host, arguments, environment) as server:
        yield Installed(server, OTHER_NAME, json.loads(noted.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def unzipped(comfy_host: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """The files that the registry's zip has, as its clients unpack them."""
    base = tmp_path_factory.mktemp("unzipped")
    names = [".git", *_lines(repo / ".gitignore"), *_lines(repo / ".comfyignore")]

    def left_out(folder: str, entries: list[str]) -> list[str]:
        patterns = names if Path(folder) == repo else [name for name in names if name.startswith(("*", "__"))]
        return [entry for entry in entries if any(fnmatch.fnmatch(entry, pattern) for pattern in patterns)]

    shutil.copytree(repo, base / "custom_nodes" / REGISTRY_NAME, ignore=left_out)
    with _server(comfy_host, ["--base-directory", str(base)], {}) as server:
        yield Installed(server, REGISTRY_NAME, {})


def _server(host: Path, arguments: list[str], environment: dict[str, str]) -> ComfyServer:
    return ComfyServer(
        host, threads=1, cpu=True, python=str(venv_python()), arguments=arguments, environment=environment
    )


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip("/") for line in lines if line and not line.startswith("#")]


@pytest.fixture(params=["linked", "unzipped"])
def installed(request: pytest.FixtureRequest) -> Installed:
    return request.getfixturevalue(request.param)


def test_all_nodes_are_there(installed: Installed, client) -> None:
    assert "IMPORT FAILED" not in installed.server.log()
    mine = {name for name in client.object_info() if name.startswith(("Chords", "SDO"))}
    assert len(mine) > 20
    assert mine <= set(installed.server.client().object_info())


def test_it_samples_and_one_core_is_the_stock_sampler(installed: Installed) -> None:
    graph = Graph()
    inputs = demo(graph) | settings(steps=8) | {"latent_image": empty_latent(graph)}
    two = lanes(graph, 2)
    graph.save("stock", graph.add("KSampler", **inputs))
    graph.save("exact", graph.add("ChordsKSampler", **inputs, cores=2, accept="exact", devices=two))
    graph.save("first", graph.add("ChordsKSampler", **inputs, cores=2, accept="first", devices=two))
    _, latents = runner(installed.server, installed.server.client())(graph)
    assert torch.equal(latents["exact"], latents["stock"])
    assert 0 < float((latents["first"] - latents["stock"]).norm() / latents["stock"].norm()) < 0.05


def test_its_extension_help_and_workflows_are_served_under_its_folders_name(installed: Installed, repo: Path) -> None:
    script = f"/extensions/{installed.name}/chords.js"
    assert script in {urllib.parse.unquote(path) for path in json.loads(installed.get("/extensions"))}
    assert installed.get(script) == (repo / "web" / "chords.js").read_bytes()
    workflows = json.loads(installed.get("/api/workflow_templates"))[installed.name]
    assert BY_API["chords_streaming"].name in workflows
    name = BY_API["chords_streaming"].path.name
    shown = json.loads(installed.get(f"/api/workflow_templates/{installed.name}/{name}"))
    assert any(node["type"] == "ChordsStreamPreview" for node in shown["nodes"])


def test_its_blueprints_are_offered_as_of_its_folder(installed: Installed, repo: Path) -> None:
    offered = json.loads(installed.get("/global_subgraphs")).values()
    mine = {entry["name"] for entry in offered if entry["info"]["node_pack"] == f"custom_nodes.{installed.name}"}
    assert mine == {path.stem for path in (repo / "subgraphs").glob("*.json")} and mine


def test_packs_with_nodes_of_their_own_load_before_and_after_it(linked: Installed) -> None:
    nodes = linked.server.client().object_info()
    assert {"NeighbourBefore", "NeighbourAfter"} <= set(nodes)
    ours = [name for name in linked.noted["modules"] if name.endswith(".nodes.samplers")]
    assert len(ours) == 1 and LOADED_NAME in ours[0]  # between the two


def test_loading_it_changes_nothing_of_the_host(linked: Installed) -> None:
    """Stock samplers' code, lists of samplers and schedulers, nodes, settings, sys.path, threads: as they were."""
    assert linked.noted["changes"] == []


def test_what_a_pack_could_change_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neighbours' eyes are good: a planted change of each kind is named."""
    spec = importlib.util.spec_from_file_location("host_state", NEIGHBOURS / "before" / "host_state.py")
    assert spec is not None and spec.loader is not None
    host_state = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(host_state)
    module = types.ModuleType("comfy.planted")
    source = (
        "NODE_CLASS_MAPPINGS, NAMES, TABLE, LIMIT = {'a': 1}, ['euler'], {'a': 1}, 5\ndef sample(x): return x\n"
        "def other(x): return -x\nclass Sampler:\n    LIST = ['a']\n    def run(self): return 1\n"
    )
    exec(source, vars(module))  # noqa: S102
    module.Sampler.__module__ = module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    before = host_state.current()
    module.NODE_CLASS_MAPPINGS["b"] = 2  # as the host does for every pack
    assert host_state.changes(before, host_state.current()) == []
    module.sample.__code__ = module.other.__code__
    module.NAMES.append("chords")
    module.TABLE["a"] = 2
    module.LIMIT = 6
    module.new = 1
    module.Sampler.LIST.append("b")
    module.Sampler.run = lambda self: 2
    module.NODE_CLASS_MAPPINGS["a"] = 3
    monkeypatch.setattr(sys, "path", [*sys.path, "/elsewhere"])
    monkeypatch.setenv("CHORDS_PLANTED", "1")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="planted")
    thread.start()
    found = {name.removeprefix("comfy.planted.") for name in host_state.changes(before, host_state.current())}
    stop.set()
    thread.join()
    wanted = {"sample()", "NAMES[]", "TABLE[]", "LIMIT", "new", "Sampler.LIST[]", "Sampler.run", "Sampler.run()"}
    assert found == wanted | {"NODE_CLASS_MAPPINGS[]", "sys.path", "os.environ", "threads"}


def test_loading_it_imports_nothing_large(linked: Installed) -> None:
    """Nothing but itself, the standard library and parts of ComfyUI: no ray, matplotlib, av, scipy or the like."""
    parts = {name.split(".")[0] for name in linked.noted["modules"] if LOADED_NAME not in name}
    known = set(sys.stdlib_module_names) | {"comfy", "comfy_api", "comfy_execution"}
    assert parts - known == set()
