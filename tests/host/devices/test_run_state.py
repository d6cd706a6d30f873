"""Attributes that the host sets on the model for a run, as newer hosts do: every copy of the model has them, too."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from client import ComfyClient
from graphs import Graph, Node, lanes, settings

from tests.host.compatibility.parallel_rows import STEPS, Sampled, add_parallel, check_parallel, chords_inputs

ROUNDING = 1e-4
_SALTS = itertools.count(1)

SetAttributes = Callable[[str], None]


@pytest.fixture
def sets_attributes(client: ComfyClient) -> Iterator[SetAttributes]:
    """Has the host set attributes on models for each run, until the test ends."""

    def run(what: str) -> None:
        graph = Graph()
        graph.add("TestSetsAttributes", salt=next(_SALTS), what=what)
        client.run(graph.nodes)

    yield run
    run("nothing")


def _sampled(graph: Graph, reload: bool = True, size: int = 128) -> Sampled:
    """A sampling of picture and sound, of which a mask leaves half of the picture as it is."""
    picture: Node = graph.add("TestLatentOfType", dtype="float32")
    if size != 128:
        picture = graph.add(
            "LatentUpscale", samples=picture, upscale_method="bilinear", width=size, height=size, crop="disabled"
        )
    masked = graph.add("SetLatentNoiseMask", samples=picture, mask=graph.add("TestMask", value=1.0))
    latent = graph.add("LTXVConcatAVLatent", video_latent=masked, audio_latent=graph.add("TestSoundLatent"))
    sampling: dict[str, Any] = {
        "model": graph.add("TestTwoPartModel", name="demo_copy.safetensors", reload=reload),
        "positive": graph.add("ChordsDemoPrompt", text="a red circle"),
        "negative": graph.add("ChordsDemoPrompt", text=""),
        "latent_image": latent,
        **settings(steps=STEPS),
    }
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **sampling, **chords)


def _check_parts(run_graph, graph: Graph, sampled: Sampled) -> list[tuple[int, ...]]:
    """Check that both parts were sampled in parallel, on every lane; returns their shapes."""
    ours: list[str] = []

    def kept(chords: dict[str, Any]) -> Node:
        sampler = sampled(chords)
        ours.extend([sampler.name] if chords else [])
        return sampler

    for number in (0, 1):

        def part(chords: dict[str, Any], number: int = number) -> Any:
            return graph.add("LTXVSeparateAVLatent", av_latent=kept(chords))[number]

        add_parallel(graph, part, f"{number} ")
    run, latents = run_graph(graph)
    assert not any(run.outputs[name]["chords"][0]["lost_lanes"] for name in ours)
    return [check_parallel(latents, f"{number} ").shape for number in (0, 1)]


@pytest.mark.parametrize("reload", [True, False], ids=["reloaded", "in_memory"])
def test_every_lane_has_them(run_graph, sets_attributes: SetAttributes, reload: bool) -> None:
    """Picture and sound with a mask, then of another size: a copy has nothing of an earlier run."""
    sets_attributes("values")
    shapes = []
    for size in (128, 192):
        graph = Graph()
        shapes += _check_parts(run_graph, graph, _sampled(graph, reload, size))
    assert shapes == [(1, 16, 16, 16), (1, 16, 8), (1, 16, 24, 24), (1, 16, 8)]


def test_devices_that_share_calls_have_them(run_graph, sets_attributes: SetAttributes) -> None:
    sets_attributes("values")
    graph = Graph()
    sampled = _sampled(graph)
    found = []
    for chords in ({}, {"devices": lanes(graph, 2, "guidance")}):
        parts = graph.add("LTXVSeparateAVLatent", av_latent=sampled(chords))
        found.append(f"{len(found)}")
        graph.save(found[-1], parts[1])
    _, latents = run_graph(graph)
    assert float((latents["1"] - latents["0"]).norm() / latents["0"].norm()) < ROUNDING


def test_what_cannot_be_copied_means_one_device(run_graph, sets_attributes: SetAttributes) -> None:
    sets_attributes("object")
    graph = Graph()
    sampled = _sampled(graph)
    ours = sampled(chords_inputs(graph, "exact", 4))
    for name, sampler in (("ours", ours), ("stock", sampled({}))):
        graph.save(name, graph.add("LTXVSeparateAVLatent", av_latent=sampler)[1])
    run, latents = run_graph(graph)
    summary = run.outputs[ours.name]["chords"][0]
    assert "run_plan (_Plan) is set on the model for this run" in summary["message"]
    assert summary["devices"] == ["cpu"] and not summary["lost_lanes"]
    assert torch.equal(latents["ours"], latents["stock"])
