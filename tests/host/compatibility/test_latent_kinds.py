"""Latents that are no pictures, by tiny models of the host's own classes: sound, video with sound, 3D objects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from client import ComfyClient
from graphs import Graph, Node, lanes, settings

from tests.host.compatibility.parallel_rows import STEPS, Sampled, add_parallel, check_parallel

KINDS = ["LTXAV", "LTXAV-masked", "MiniMaxH3", "ACEStep", "ACEStep15", "StableAudio", "Hunyuan3D", "TripoSplat"]
OF_TWO_PARTS = ("LTXAV", "MiniMaxH3", "TripoSplat")
MANY_STEPS = 20
ROUNDING = 1e-4
NEAR = 0.05  # of the norm. `near` aims at 0.01, with networks that are trained: random weights are less smooth


def _sampling(graph: Graph, kind: str, **changes: Any) -> dict[str, Any]:
    name, _, masked = kind.partition("-")
    loader = graph.add("TestModelOfKind", kind=name)
    latent, sound = loader[2], loader[3]
    if masked:
        mask = graph.add("TestMask", value=1.0)
        latent = graph.add("SetLatentNoiseMask", samples=latent, mask=mask)
        sound = graph.add("SetLatentNoiseMask", samples=sound, mask=mask)
    if name in OF_TWO_PARTS:
        latent = graph.add("LTXVConcatAVLatent", video_latent=latent, audio_latent=sound)
    negative = graph.add("ConditioningZeroOut", conditioning=loader[1])
    prompts = {"model": loader[0], "positive": loader[1], "negative": negative}
    return {**prompts, "latent_image": latent, **settings(**{"steps": STEPS, "cfg": 3.0, **changes})}


def _parts(graph: Graph, kind: str, sampler: Node) -> list[Any]:
    if not kind.startswith(OF_TWO_PARTS):
        return [sampler]
    parts = graph.add("LTXVSeparateAVLatent", av_latent=sampler)
    return [parts[0], parts[1]]


@pytest.mark.parametrize("kind", KINDS)
def test_lanes(run_graph, kind: str) -> None:
    graph = Graph()
    sampling = _sampling(graph, kind)

    def part(number: int) -> Sampled:
        def sampled(chords: dict[str, Any]) -> Any:
            sampler = graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)
            return _parts(graph, kind, sampler)[number]

        return sampled

    count = 2 if kind.startswith(OF_TWO_PARTS) else 1
    for number in range(count):
        add_parallel(graph, part(number), f"{number} ")
    _, latents = run_graph(graph)
    for number in range(count):
        check_parallel(latents, f"{number} ")


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_calls_and_all_of_them(run_graph, kind: str) -> None:
    """On one device: the stock latent with every call, and nearly that with some of them. A guided call on two devices
    is the same call."""
    graph = Graph()
    sampling = _sampling(graph, kind, steps=MANY_STEPS)
    near = graph.add("ChordsKSampler", **sampling, fidelity="near", devices=lanes(graph, 1))
    samplers = {
        "stock": graph.add("KSampler", **sampling),
        "exact": graph.add("ChordsKSampler", **sampling, fidelity="exact", devices=lanes(graph, 1)),
        "pair": graph.add("ChordsKSampler", **sampling, fidelity="exact", devices=lanes(graph, 2, "guidance")),
        "near": near,
    }
    for name, sampler in samplers.items():
        for number, latent in enumerate(_parts(graph, kind, sampler)):
            graph.save(f"{number} {name}", latent)
    run, latents = run_graph(graph)
    summary = run.outputs[near.name]["chords"][0]
    assert summary["evaluations"] < MANY_STEPS
    whole = {
        name: torch.cat([latents[key].flatten() for key in sorted(latents) if key.endswith(f" {name}")])
        for name in samplers
    }
    off = {name: float((latent - whole["stock"]).norm() / whole["stock"].norm()) for name, latent in whole.items()}
    assert torch.equal(whole["exact"], whole["stock"])
    assert off["pair"] < ROUNDING
    assert off["near"] < NEAR  # of all parts together, as `fidelity` says


@pytest.mark.parametrize("kind", KINDS)
def test_previews_do_not_break(client: ComfyClient, server, kind: str) -> None:
    """With the preview node, with previews of steps, and with a VAE that is not for this latent."""
    graph = Graph()
    sampling = _sampling(graph, kind, seed=11)
    chords = {"cores": 4, "accept": "exact", "devices": lanes(graph, 4)}
    for vae in ({}, {"preview_vae": graph.add("ChordsDemoModel")[1]}):
        sampler = graph.add("ChordsKSampler", **sampling, **chords, **vae)
        graph.add("ChordsStreamPreview", run=sampler[1])
        graph.save("with" if vae else "without", _parts(graph, kind, sampler)[0])
    before = len(server.log())
    run = client.run(graph.nodes, extra={"extra_data": {"preview_method": "latent2rgb"}})
    hits = [event for event in run.of_kind("chords") if event["kind"] == "hit"]
    assert len(hits) >= 8
    assert "Traceback" not in server.log()[before:]
