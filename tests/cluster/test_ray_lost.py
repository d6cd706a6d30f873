"""A live ComfyUI whose Ray cluster ends: it goes on, does the prompt itself and says so, and nothing is left over."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient, Run
from safetensors.torch import load_file
from torch import Tensor

sys.path += [str(Path(__file__).resolve().parents[1] / "host"), str(Path(__file__).parent)]

from graphs import Graph, demo, empty_latent, lanes, settings
from heads import ENVIRONMENT, Head
from processes import ENDED_SECONDS, named

ENOUGH_SECONDS = 600.0
PROMPT_SECONDS = 900.0  # of which Ray may take minutes on a busy machine
LONGER_TIMEOUTS = {"connect": 90.0}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with Head(tmp_path_factory.mktemp("head"), cores=2) as head:
        yield head


@pytest.fixture(scope="module")
def server(comfy_host: Path, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    pack = {"CHORDS_RAY_ADDRESSES": head.address, **ENVIRONMENT, "CHORDS_TEST_RAY_SECONDS": json.dumps(LONGER_TIMEOUTS)}
    pack["RAY_gcs_rpc_server_reconnect_timeout_s"] = "20"  # by default Ray tries for a minute, then ends the process
    paths = tmp_path_factory.mktemp("packs") / "paths.yaml"
    paths.write_text(json.dumps({"nodes": {"base_path": str(Path(__file__).parent), "custom_nodes": "packs"}}))
    arguments, python = ["--extra-model-paths-config", str(paths)], str(venv_python())
    with ComfyServer(comfy_host, threads=1, cpu=True, python=python, arguments=arguments, environment=pack) as running:
        assert "IMPORT FAILED" not in running.log()
        yield running


@pytest.fixture(scope="module")
def client(server: ComfyServer) -> ComfyClient:
    return server.client()


@pytest.fixture(autouse=True)
def _the_same_server(server: ComfyServer) -> Iterator[None]:
    """After each test the server is the same process, and it runs."""
    before = psutil.Process(server.pid)
    yield
    assert before.is_running() and before.status() != psutil.STATUS_ZOMBIE
    assert psutil.Process(server.pid) == before


def _graph(address: str | None, seed: int, steps: int = 12) -> tuple[Graph, str]:
    """The graph, and the name of its sampler. Without an address it uses lanes of this machine."""
    graph = Graph()
    devices = lanes(graph, 2) if address is None else graph.add("ChordsDevices", ray_address=address, ray_workers=2)
    inputs = demo(graph) | settings(seed=seed, steps=steps) | {"latent_image": empty_latent(graph)}
    sampler = graph.add("ChordsKSampler", **inputs, cores=4, accept="first", devices=devices)
    graph.save("latent", sampler)
    return graph, sampler.name


def _latent(server: ComfyServer, run: Run, graph: Graph) -> Tensor:
    (file,) = run.outputs[graph.saved["latent"]]["latents"]
    return load_file(server.output_directory / file["subfolder"] / file["filename"])["latent_tensor"]


def _run(server: ComfyServer, client: ComfyClient, address: str | None, seed: int) -> tuple[dict[str, Any], Tensor]:
    """The summary of the sampler, and the latent."""
    graph, sampler = _graph(address, seed)
    run = client.run(graph.nodes, time_limit=PROMPT_SECONDS)
    return run.outputs[sampler]["chords"][0], _latent(server, run, graph)


def _wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + ENOUGH_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _on_ray(server: ComfyServer, client: ComfyClient, head: Head, seed: int) -> None:
    summary, latent = _run(server, client, head.address, seed)
    assert all(name.startswith("ray:") for name in summary["devices"]), summary["message"]
    assert torch.equal(latent, _run(server, client, None, seed)[1])


def _here(server: ComfyServer, client: ComfyClient, head: Head, seed: int) -> None:
    summary, latent = _run(server, client, head.address, seed)
    assert summary["devices"] == ["cpu"]
    assert "no Ray worker is available, so the run was done here" in summary["message"]
    assert head.address in summary["message"]
    assert torch.equal(latent, _run(server, client, None, seed)[1])


def test_a_head_that_is_lost_between_prompts_and_comes_back(server, client, head) -> None:
    _on_ray(server, client, head, 1)
    head.kill()
    for seed in (2, 3):
        _here(server, client, head, seed)
    head.start()
    for seed in (4, 5):
        _on_ray(server, client, head, seed)


def test_a_head_that_was_restarted_before_the_next_prompt(server, client, head) -> None:
    """It is another cluster at the same address."""
    _on_ray(server, client, head, 11)
    head.kill()
    head.start()
    _on_ray(server, client, head, 12)


def test_a_head_that_is_lost_so_long_that_ray_ends_the_child_process(server, client, head) -> None:
    """Ray ends a connected process some time after that: here the child process, not ComfyUI."""
    _on_ray(server, client, head, 21)
    before = len(server.log())
    head.kill()
    _wait_until(lambda: "the connection to Ray is lost" in server.log()[before:])
    _here(server, client, head, 22)
    head.start()


@pytest.mark.parametrize("how", ["killed", "raylet stopped"])
def test_a_head_that_is_lost_in_a_run(server, client, head, how: str) -> None:
    _on_ray(server, client, head, 31)
    graph, sampler = _graph(head.address, 32, steps=600)  # so many that it does not end before the head is killed
    prompt = client.queue(graph.nodes)
    _wait_until(lambda: any(event["kind"] == "step" for event in client.chords_events(prompt)))
    if how == "killed":
        head.kill()
    else:
        head.named("raylet").suspend()
    _wait_until(lambda: client.history(prompt) is not None)
    history = client.history(prompt)
    assert history["status"]["status_str"] == "success"
    if how == "killed":
        assert "all Ray workers were lost, so it was done here" in history["outputs"][sampler]["chords"][0]["message"]
    head.kill()
    head.start()
    _on_ray(server, client, head, 33)


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_nothing_of_ray_is_left_when_the_server_ends(comfy_host: Path, end: str) -> None:
    """In the middle of a run on a Ray of its own."""
    with ComfyServer(comfy_host, threads=1, cpu=True, python=str(venv_python()), environment=ENVIRONMENT) as server:
        client = server.client()
        graph, _ = _graph("local", 41, steps=300)
        prompt = client.queue(graph.nodes)
        _wait_until(lambda: any(event["kind"] == "step" for event in client.chords_events(prompt)))
        process = psutil.Process(server.pid)
        theirs = process.children(recursive=True)
        assert named(theirs, "raylet")
        getattr(process, end)()
        _, alive = psutil.wait_procs(theirs, timeout=ENDED_SECONDS)
        assert not alive
