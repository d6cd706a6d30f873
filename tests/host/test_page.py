"""What a page tells of itself: nodes draw the pictures of its prompts on its ground, those of others on a dark one."""

from __future__ import annotations

import io
import itertools
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from client import ComfyClient
from graphs import Graph, Link, Node, demo, empty_latent, settings
from PIL import Image
from searches import optimizer
from trainings import trainer

SEEDS = itertools.count(90_000)  # the host does not run again what it has run


def _report(graph: Graph) -> Link:
    inputs = demo(graph) | settings(steps=3, seed=next(SEEDS))
    sampler = graph.add("ChordsKSampler", **inputs, latent_image=empty_latent(graph))
    return graph.add("ChordsReport", run=sampler[1])[0]


def _search(graph: Graph) -> Link:
    return optimizer(graph, iterations=1)[2]


def _training(graph: Graph) -> Link:
    return trainer(graph, iterations=1)[2]


def _ground(client: ComfyClient, add: Callable[[Graph], Link]) -> int:
    """Of a picture that a node draws: the brightness of its corner, 0 to 255."""
    graph = Graph()
    saved: Node = graph.add("SaveImage", images=add(graph), filename_prefix="ground")
    (image,) = client.run(graph.nodes).outputs[saved.name]["images"]
    brightness: int = Image.open(io.BytesIO(client.view(image))).convert("L").getpixel((0, 0))
    return brightness


@pytest.mark.parametrize("add", [_report, _search, _training])
def test_pictures_are_on_the_ground_that_the_page_told_last(client: ComfyClient, add: Callable[[Graph], Link]) -> None:
    page, other = ComfyClient(client.url), ComfyClient(client.url)
    assert page.post("/chords/page", {"client_id": page.client_id, "language": "en", "light": True}) == {}
    assert _ground(page, add) > 220
    assert _ground(other, add) < 40
    page.post("/chords/page", {"client_id": page.client_id, "language": "en"})
    assert _ground(page, add) < 40


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b"null", b"[" * 4000, b"\xff\xfe", b'{"client_id": "a"}', b'{"language": "ja"}',
     b'{"client_id": 7, "language": "ja"}', b'{"client_id": "", "language": "ja"}',
     b'{"client_id": "a", "language": ["ja"]}', b'{"client_id": "a", "language": "' + b"j" * 300 + b'"}',
     b'{"client_id": "a", "language": "ja", "light": 1}', b'{"client_id": "a", "language": "ja", "light": null}',
     b'{"client_id": "a", "language": "ja", "light": "true"}',
     b'{"client_id": "a", "language": "ja", "x": "' + b"a" * 5000 + b'"}'],
    ids=range(17),
)  # fmt: skip
def test_bad_bodies_are_refused(client: ComfyClient, body: bytes) -> None:
    request = urllib.request.Request(f"{client.url}/chords/page", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 400 and b"client_id" in refused.value.read()
