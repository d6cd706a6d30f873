"""On a real GPU: near KSampler's picture with several rows in one model call. Without CUDA it is skipped."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from _env import venv_python
from _server import ComfyServer
from client import ComfyClient, Run
from graphs import Graph, Node, RunGraph, demo, empty_latent, runner, settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED ON A GPU: torch sees no CUDA device")

STEPS = 20
NEAR = 0.05  # five times the tolerance; KSampler's own bits change by 1e-3 from batch to batch
SEEDS = count(1)  # the host does not run again what it has run


@pytest.fixture(scope="module")
def server(comfy_host: Path, tiny_models: list[str]):
    """One live ComfyUI on the GPU, as it starts by itself."""
    with ComfyServer(comfy_host, threads=1, cpu=False, python=str(venv_python()), arguments=tiny_models) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ComfyServer) -> ComfyClient:
    return server.client()


@pytest.fixture(scope="module")
def run_graph(server: ComfyServer, client: ComfyClient) -> RunGraph:
    return runner(server, client)


def _sampling(graph: Graph, **changes: Any) -> dict[str, Any]:
    return demo(graph) | settings(steps=STEPS, seed=next(SEEDS)) | {"latent_image": empty_latent(graph)} | changes


def _summary(run: Run, node: Node) -> dict[str, Any]:
    found: dict[str, Any] = run.outputs[node.name]["chords"][0]
    return found


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def _kept(server: ComfyServer) -> list[dict[str, Any]]:
    path = server.folder / "user" / "chords" / "measured.json"
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["entries"] if path.exists() else []
    return entries


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="with several GPUs each core has its own")
@pytest.mark.parametrize("cfg", [1.0, 3.5])
def test_a_small_model_stays_near_whatever_a_trial_finds(run_graph: RunGraph, server: ComfyServer, cfg: float) -> None:
    """The demo model needs as long for 8 rows as for one, but solving the window takes longer than that."""
    stock_seconds, seconds, latents = [], [], {}
    for _ in range(4):
        graph = Graph()
        inputs = _sampling(graph, cfg=cfg)
        stock = graph.add("ChordsKSampler", **inputs)
        ours = graph.add("ChordsKSampler", **inputs, fidelity="near")
        graph.save("stock", stock)
        graph.save("ours", ours)
        run, latents = run_graph(graph)
        found = _summary(run, ours)
        stock_seconds.append(_summary(run, stock)["seconds"])
        seconds.append(found["seconds"])
    assert found["rows"] == found["cores"]
    assert any(entry["measured"]["rows"] for entry in _kept(server))
    ratio = min(stock_seconds[1:]) / min(seconds[1:])
    print(f"cfg {cfg}: {STEPS} steps, {found['depth']} calls of {found['rows']} rows, {ratio:.2f} times as fast")
    assert _distance(latents["ours"], latents["stock"]) < NEAR


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="with several GPUs each core has its own")
@pytest.mark.parametrize("cfg", [1.0, 3.5])
@pytest.mark.parametrize("rows", [2, 4, 8])
def test_rows_are_near(run_graph: RunGraph, cfg: float, rows: int) -> None:
    """Of a model whose calls are told to take a second, and no longer for so many rows."""
    graph = Graph()
    inputs = _sampling(graph, cfg=cfg)
    told: dict[str, Any] = {"seconds": json.dumps({1: 1.0, rows: 1.0}), "shape": "[1, 16, 16, 16]", "cfg": cfg}
    told |= {"fails_from": 0, "trial": False, "salt": next(SEEDS)}
    inputs["model"] = graph.add("TestRowTimes", model=inputs["model"], **told)
    graph.save("stock", graph.add("KSampler", **inputs))
    ours = graph.add("ChordsKSampler", **inputs, fidelity="near")
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    found = _summary(run, ours)
    assert found["rows"] == found["cores"] == rows
    assert f"{rows} rows in one call on cuda:0" in found["message"]
    assert _distance(latents["ours"], latents["stock"]) < NEAR


def test_a_batch_in_rows_is_near(run_graph: RunGraph) -> None:
    graph = Graph()
    inputs = _sampling(graph, latent_image=empty_latent(graph, 3))
    graph.save("stock", graph.add("KSampler", **inputs))
    ours = graph.add("ChordsKSampler", **inputs, fidelity="near")
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    for found, stock in zip(latents["ours"].float(), latents["stock"].float(), strict=True):
        assert float((found - stock).norm() / stock.norm()) < NEAR, _summary(run, ours)["message"]
