"""The browser's pictures in the README: a graph after its run, and the stream of a run as an animation.

The runs are real, on a ComfyUI on the CPU with the demo model. For the animation each model call waits as well, so that
it takes as long as that of a large model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _env import REPO, say
from _screenshot_files import FRAMES_A_SECOND, animate, small_png
from _screenshot_graphs import DECODED, NEGATIVE, PREVIEW, SAMPLING, WIRES, Graph, Node, node

if TYPE_CHECKING:
    from screenshots import FrontendPage

IMAGES = REPO / "docs" / "images"
TEST_NODES = REPO / "tests" / "host" / "pack"  # among them a model whose calls take longer
VIEWPORT = (1900, 1500)  # width, height

SEED: dict[str, Any] = {"seed": 7, "control_after_generate": "fixed"}
TEXT = "a big red circle on the left and a small yellow star on the right, blue background"
PROMPT = node("positive", "ChordsDemoPrompt", text=TEXT)
LATENT = node("latent", "EmptySD3LatentImage", True, width=128, height=128)
FIRST = Graph(
    (
        (node("model", "ChordsDemoModel"), PROMPT, NEGATIVE, LATENT),
        (node("sampler", "ChordsKSampler", **SAMPLING, **SEED, fidelity="near"),),
        (node("decode", "VAEDecode", True), PREVIEW),
    ),
    (*WIRES, *DECODED),
    runs=True,
)
"""Text to image on one device with fidelity at near."""

STREAM_TEXT = "a small orange triangle on the left and a big white star on the right, purple background"
STREAM_SEED = 2  # the draft has another background here, so that one sees what comes after it
STREAM_STEPS, STREAM_CORES, CALL_MS = 30, 4, 1200


def _stream_graph() -> Graph:
    """A run on lanes whose calls take some time, and CHORDS Stream Preview; all else is folded."""
    folded: tuple[Node, ...] = (
        node("demo", "ChordsDemoModel", True),
        node("positive", "ChordsDemoPrompt", True, text=STREAM_TEXT),
        node("negative", "ChordsDemoPrompt", True, text=""),
        LATENT,
        node("devices", "ChordsDevices", True, cpu_lanes=STREAM_CORES),
    )
    slow = node("model", "TestSlowModel", True, milliseconds=CALL_MS)
    seed = SEED | {"seed": STREAM_SEED - 1}
    sampler = node("sampler", "ChordsKSampler", True, **SAMPLING | {"steps": STREAM_STEPS}, **seed, cores=STREAM_CORES)
    wires = (*WIRES, "demo.MODEL > model.model", "devices.CHORDS_DEVICE_SET > sampler.devices")
    shown = ("sampler.CHORDS_RUN > show.run", "demo.VAE > show.vae", "demo.VAE > sampler.preview_vae")
    return Graph((folded, (slow, sampler), (node("show", "ChordsStreamPreview"),)), (*wires, *shown))


START = """() => {
  const { api } = window.comfyAPI.api;
  window.chordsOver = false;
  api.addEventListener("execution_success", () => { window.chordsOver = true; }, { once: true });
  api.addEventListener("execution_error", () => { window.chordsOver = true; }, { once: true });
  window.comfyAPI.app.app.queuePrompt(0);
}"""
OVER = "() => window.chordsOver"
RENAME = """([type, title]) => {
  window.comfyAPI.app.app.rootGraph.nodes.find((node) => node.type === type).title = title;
}"""

LIMIT_S = 240.0  # for the recorded run


def make_graph(page: FrontendPage, folder: Path = IMAGES) -> Path:
    """The README's first picture: a graph after its run."""
    path = folder / "graph.png"
    path.write_bytes(small_png(page.picture(FIRST)))
    return path


def make_stream(page: FrontendPage, folder: Path = IMAGES) -> Path:
    """The animation: two runs, of which the second is recorded, because the first one prepares the lanes."""
    graph = _stream_graph()
    page.build(graph)
    page.page.evaluate(RENAME, ["TestSlowModel", "A slower model"])
    page.run()
    clip = page.clip()
    page.set_widget("ChordsKSampler", "seed", STREAM_SEED)
    page.page.evaluate(START)
    frames: list[tuple[float, bytes]] = []
    began, over = time.monotonic(), False
    while not over and time.monotonic() - began < LIMIT_S:
        over = page.page.evaluate(OVER)
        if over:
            page.page.wait_for_timeout(800)  # the last picture loads
        frames.append((time.monotonic() - began, page.page.screenshot(clip=clip)))
        page.page.wait_for_timeout(1000 / FRAMES_A_SECOND / 4)
    path = folder / "stream.gif"
    say(animate(frames, path))
    return path


def make_readme_pictures(open_page: Callable[..., FrontendPage]) -> None:
    """All of them, except the thumbnails, which come with the pictures of the help pages."""
    for make in (make_graph, make_stream):
        path = make(open_page("en", VIEWPORT, {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"}))
        say(f"{path.relative_to(REPO)}: {path.stat().st_size / 1024:.0f} KB")
