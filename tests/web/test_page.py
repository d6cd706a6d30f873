"""A page tells the server whether its ground is light, and its nodes draw their pictures on the same ground."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _templates import BY_API
from client import ComfyClient
from frontend import Frontend, in_both_frontends

OpenFrontend = Callable[..., Frontend]

ADD_REPORT = """
const sampler = graph.nodes.find((node) => node.type === "ChordsKSampler");
const report = LiteGraph.createNode("ChordsReport");
graph.add(report);
report.pos = [sampler.pos[0] + 900, sampler.pos[1]];
sampler.connect(1, report, 0);
return report.id;
"""

# The brightness of the corner of the picture that a node shows, 0 to 255; null without a picture.
GROUND = """
const node = document.querySelector(`.lg-node[data-node-id="${argument}"] img`);
const picture = graph.getNodeById(argument).imgs?.[0] ?? node;
if (picture?.naturalWidth !== 1400) return null;
const context = document.createElement("canvas").getContext("2d");
context.drawImage(picture, 0, 0);
return Math.round(context.getImageData(0, 0, 1, 1).data.slice(0, 3).reduce((sum, part) => sum + part) / 3);
"""

SET_PALETTE = "await app.extensionManager.setting.set('Comfy.ColorPalette', argument);"
SET_GROUND = "document.documentElement.style.setProperty('--bg-color', argument);"


@pytest.fixture
def frontend(open_frontend: OpenFrontend, client: ComfyClient) -> Iterator[Frontend]:
    yield open_frontend(**{"Comfy.ColorPalette": "light"})
    client.post("/settings/Comfy.ColorPalette", "dark")


def _told(frontend: Frontend, act: Callable[[], object]) -> bool:
    """The ground that the page tells when something is done."""
    with frontend.page.expect_request(lambda request: request.url.endswith("/chords/page")) as told:
        act()
    told.value.response()  # the server knows it
    light: bool = told.value.post_data_json["light"]
    return light


@in_both_frontends
def test_pictures_have_the_ground_of_the_page(frontend: Frontend, tmp_path: Path) -> None:
    workflow = json.loads(BY_API["chords_demo"].path.read_text(encoding="utf-8"))
    path = tmp_path / "light.json"
    path.write_text(json.dumps({**workflow, "id": str(uuid.uuid4())}), encoding="utf-8")
    frontend.load_file(path)
    report = frontend.evaluate(ADD_REPORT)
    sampler = frontend.evaluate("return graph.nodes.find((node) => node.type === 'ChordsKSampler').id")

    def ground() -> int | None:
        return frontend.evaluate(GROUND, report)

    frontend.set_widget(sampler, "steps", 5)
    frontend.run()
    frontend.until(lambda: (ground() or 0) > 220, "the report is light")
    assert not _told(frontend, lambda: frontend.evaluate(SET_PALETTE, "dark"))
    frontend.set_widget(sampler, "steps", 6)  # the host does not run again what it has run
    frontend.run()
    frontend.until(lambda: 0 < (ground() or 0) < 40, "the report is dark")


@in_both_frontends
def test_the_colour_of_the_ground_decides_however_it_is_written(frontend: Frontend) -> None:
    """Palettes of users may leave out that they are light."""
    frontend.page.wait_for_function("() => document.documentElement.style.cssText")
    assert not _told(frontend, lambda: frontend.evaluate(SET_PALETTE, "dark"))
    beyond = "oklch(0.97 0.25 110)"  # a yellow beyond sRGB: its blue is below 0
    for light in ("#eee", "oklch(0.95 0.01 200)", beyond, "color-mix(in srgb, white 90%, black)", "hsl(60 100% 80%)"):
        assert _told(frontend, lambda colour=light: frontend.evaluate(SET_GROUND, colour))
        assert not _told(frontend, lambda: frontend.evaluate(SET_GROUND, "rgb(40 40 60)"))
