"""The demo model shows what its prompt says, on the live host, through the stock sampler and through ours."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from graphs import Graph, demo, empty_latent, lanes, settings
from PIL import Image

from demo.content import find, matches

PROMPTS = (
    "a big red circle in the center, blue background",
    "a big yellow star on the left, black background",
    "a small green square at the top, white background",
    "a big purple ring on the right, yellow background",
    "a big white triangle at the bottom, green background",
    "a big orange cross in the center, purple background",
    "a small blue circle at the bottom, orange background",
    "a big black square on the left, red background",
    "a small red circle on the left and a big yellow square on the right, black background",
    "a big blue ring at the top and a small white circle at the bottom, green background",
)
ENOUGH = 8


@pytest.mark.parametrize(
    ("kind", "fidelity"),
    [("KSampler", None), ("ChordsKSampler", "fast")],
    ids=["stock", "four cores"],
)
def test_pictures_show_their_prompts(client, kind: str, fidelity: str | None) -> None:
    graph = Graph()
    chords = {} if fidelity is None else {"cores": 4, "fidelity": fidelity, "devices": lanes(graph, 2)}
    saved = {}
    for seed, prompt in enumerate(PROMPTS):
        inputs = demo(graph, prompt)
        sampled = graph.add(kind, **inputs, **settings(seed=seed, steps=20), latent_image=empty_latent(graph), **chords)
        decoded = graph.add("VAEDecode", samples=sampled, vae=[inputs["model"][0], 1])
        saved[prompt] = graph.add("PreviewImage", images=decoded).name
    run = client.run(graph.nodes)
    shown, findings = [], []
    for prompt, node in saved.items():
        picture = _picture(client.view(run.outputs[node]["images"][0]))
        assert picture.shape == (3, 128, 128)
        findings.append((prompt, [(finding.shape, round(finding.area, 3)) for finding in find(picture, prompt)]))
        shown.append(matches(picture, prompt))
    assert sum(shown) >= ENOUGH, findings


def _picture(data: bytes) -> torch.Tensor:
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)
