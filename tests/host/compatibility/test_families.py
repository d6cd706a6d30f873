"""The model families on the workflows page, each as a tiny model of the host's own class: parallel, and by tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import Graph, settings

from tests.host.compatibility.parallel_rows import STEPS, Sampled, add_parallel, check_parallel, is_close

FAMILIES = ["flux_2", "hunyuan_video_1.5", "qwen_image_edit", "wan2.2_14b", "z_image_turbo"]
WITHOUT_MORE = ["z_image_turbo"]  # its prompts have a text only


def _sampled(graph: Graph, family: str, plain: bool = False, **changes: Any) -> Sampled:
    made = graph.add("TestFamily", family=family, plain=plain)
    inputs = {"model": made[0], "positive": made[1], "negative": made[2], "latent_image": made[3]}
    inputs |= settings(**{"steps": STEPS, **changes})
    return lambda chords: graph.add("ChordsKSampler" if chords else "KSampler", **inputs, **chords)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_in_parallel(run_graph, family: str) -> None:
    """With references, first frames and second encoders, which change the result."""
    graph = Graph()
    add_parallel(graph, _sampled(graph, family))
    graph.save("plain", _sampled(graph, family, plain=True)({}))
    _, latents = run_graph(graph)
    stock = check_parallel(latents)
    assert is_close(stock, latents["plain"]) == (family in WITHOUT_MORE)


@pytest.mark.parametrize("cfg", [1.0, 3.5], ids=["distilled", "guided"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_shares_its_calls_by_tokens(run_graph, family: str, cfg: float) -> None:
    """Four steps, as with the LoRAs for few steps."""
    graph = Graph()
    sampled = _sampled(graph, family, steps=4, cfg=cfg)
    graph.save("stock", sampled({}))
    ours = sampled({"devices": graph.add("ChordsDevices", devices="auto", cpu_lanes=2, split="tokens")})
    graph.save("ours", ours)
    run, latents = run_graph(graph)
    summary = run.outputs[ours.name]["chords"][0]
    assert summary["split"] == "tokens 2", summary["message"]
    assert latents["stock"].isfinite().all() and latents["stock"].std() > 0.05
    assert torch.equal(latents["ours"], latents["stock"])
