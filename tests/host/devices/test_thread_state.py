"""State that newer hosts keep by thread: no thread of ours leaves any, however its runs end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from client import ComfyClient, ExecutionError, Interrupted
from graphs import Graph, demo, empty_latent, lanes, settings

RUNS = 50
_SALTS = itertools.count(1)


def _keeps_by_thread(client: ComfyClient, on: bool) -> dict[str, list[str]]:
    graph = Graph()
    node = graph.add("TestKeepsByThread", salt=next(_SALTS), on=on)
    return client.run(graph.nodes).outputs.get(node.name, {})


def _run(client: ComfyClient, kind: str) -> None:
    """One run: on lanes, on pairs or teams of devices, with a VAE for previews, or with a bad end."""
    graph = Graph()
    salt = next(_SALTS)
    inputs: dict[str, Any] = demo(graph) | settings(seed=salt, steps=4) | {"latent_image": empty_latent(graph)}
    split = {"pairs": "guidance", "teams": "tokens"}.get(kind, "off")
    inputs["devices"] = lanes(graph, 2 if split != "off" else 3, split)
    if split == "off":
        inputs |= {"cores": 3, "accept": "first"}
    if kind == "previews":
        inputs["preview_vae"] = graph.add("ChordsDemoModel")[1]
    if kind in ("cancel", "error"):
        inputs["model"] = graph.add("TestEndsBadly", model=inputs["model"], how=kind, salt=salt)
    if kind == "lost":
        inputs["model"] = graph.add("TestFailingLane", model=inputs["model"], lanes="1,2", from_call=1)
    sampler = graph.add("ChordsKSampler", **inputs)
    graph.add("ChordsStreamPreview", run=sampler[1])
    graph.save("latent", sampler)
    if kind in ("cancel", "error"):
        with pytest.raises(Interrupted if kind == "cancel" else ExecutionError):
            client.run(graph.nodes)
    else:
        client.run(graph.nodes)


def test_no_thread_leaves_any(client: ComfyClient) -> None:
    ways = itertools.cycle(["lanes", "error", "previews", "pairs", "cancel", "teams", "lost"])
    _keeps_by_thread(client, on=True)
    try:
        for way in itertools.islice(ways, RUNS):
            _run(client, way)
    finally:
        found = _keeps_by_thread(client, on=False)
    assert not found["left"] and not found["wrong"]
    kinds = "lane", "chords-member", "chords-preview-vae", "(_worker_loop)"
    assert all(any(kind in name for name in found["made"]) for kind in kinds)  # each kind of thread has made some
