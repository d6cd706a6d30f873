"""The browser's pictures in the README: a graph after its run, the stream of a run as an animation, and thumbnails.

The runs are real, on a ComfyUI on the CPU with the demo model. For the animation each model call waits as well, so that
it takes as long as that of a large model.
"""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _env import REPO, say
from _screenshot_graphs import DECODED, NEGATIVE, PREVIEW, SAMPLING, WIRES, Graph, Node, node

if TYPE_CHECKING:
    from PIL.Image import Image

    from screenshots import FrontendPage

IMAGES = REPO / "docs" / "images"
THUMBNAILS = IMAGES / "nodes"
TEST_NODES = REPO / "tests" / "host" / "pack"  # among them a model whose calls take longer
VIEWPORT = (1900, 1500)  # width, height
THUMBNAIL = 240  # pixels: the width, and at most 3/4 of it high
SHOWN = (  # the nodes in the README's table
    "ChordsKSampler",
    "ChordsKSamplerAdvanced",
    "ChordsSampler",
    "ChordsDevices",
    "ChordsStreamPreview",
    "ChordsReport",
    "ChordsBenchmark",
    "ChordsScheduler",
    "SDOLatentOptimizer",
    "SDOTrainLoRA",
    "ChordsDemoModel",
)
WITH_PICTURES = ("ChordsStreamPreview", "ChordsReport", "ChordsBenchmark")  # shown whole: the pictures are the point

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
    """A run on lanes whose calls take some time, and CHORDS Stream Preview."""
    folded: tuple[Node, ...] = (
        node("demo", "ChordsDemoModel", True),
        node("positive", "ChordsDemoPrompt", True, text=STREAM_TEXT),
        node("negative", "ChordsDemoPrompt", True, text=""),
        LATENT,
        node("devices", "ChordsDevices", True, cpu_lanes=STREAM_CORES),
    )
    slow = node("model", "TestSlowModel", True, milliseconds=CALL_MS)
    seed = SEED | {"seed": STREAM_SEED - 1}
    sampler = node("sampler", "ChordsKSampler", **SAMPLING | {"steps": STREAM_STEPS}, **seed, cores=STREAM_CORES)
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

FRAMES_A_SECOND = 5
LENGTH_S, HOLD_S = 7.5, 2.5  # how long the run takes in the animation, and how long its end stays
LIMIT_S = 120.0


def make_graph(page: FrontendPage, folder: Path = IMAGES) -> Path:
    """The README's first picture: a graph after its run."""
    return _save_png(page.picture(FIRST), folder / "graph.png")


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
    animate(frames, path)
    return path


def animate(frames: Sequence[tuple[float, bytes]], path: Path) -> None:
    """Save pictures (seconds, PNG) as a GIF of ten seconds. Pictures equal to the one before only make that one longer."""
    from PIL import Image

    images = [Image.open(io.BytesIO(png)).convert("RGB") for _at, png in frames]
    scale = LENGTH_S / frames[-1][0]
    at = [seconds * scale for seconds, _png in frames]
    kept = [0]
    for index in range(1, len(images)):
        long_enough = at[index] - at[kept[-1]] >= 1 / FRAMES_A_SECOND or index == len(images) - 1
        if long_enough and images[index].tobytes() != images[kept[-1]].tobytes():
            kept.append(index)
    say(f"{len(frames)} pictures in {frames[-1][0]:.1f} s; {len(kept)} are shown, {1 / scale:.1f} times as fast")
    palette = _palette([images[index] for index in kept])
    drawn = [images[index].quantize(palette=palette, dither=Image.Dither.NONE) for index in kept]
    gaps = [at[after] - at[before] for before, after in itertools.pairwise(kept)]
    lengths = [round(1000 * seconds) for seconds in (*gaps, HOLD_S)]
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=lengths, loop=0, optimize=True)


def _palette(images: Sequence[Image]) -> Image:
    """A palette for all of them, from every third picture side by side, the last one included."""
    from PIL import Image

    chosen = [*images[:-1:3], images[-1]]
    sheet = Image.new("RGB", (chosen[0].width, chosen[0].height * len(chosen)))
    for index, image in enumerate(chosen):
        sheet.paste(image, (0, index * image.height))
    return sheet.quantize(255)


def thumbnail(picture: Image, box: tuple[int, int, int, int], whole: bool) -> Image:
    """A node's part of a picture, small: its upper part, or all of it if ``whole``."""
    from PIL import Image

    left, top, right, bottom = box
    if not whole:
        bottom = min(bottom, top + (right - left) * 3 // 4)
    part = picture.crop((left, top, right, bottom))
    if whole:
        part.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        return part
    height = round(part.height * THUMBNAIL / part.width)
    return part.resize((THUMBNAIL, height), Image.Resampling.LANCZOS)


def save_thumbnail(png: bytes, box: tuple[int, int, int, int], name: str, folder: Path = THUMBNAILS) -> None:
    """Write the thumbnail of a node from a picture of it in a graph."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    small = thumbnail(Image.open(io.BytesIO(png)).convert("RGB"), box, name in WITH_PICTURES)
    path = folder / f"{name}.png"
    small.quantize(128).save(path, optimize=True)


def _save_png(png: bytes, path: Path) -> Path:
    from screenshots import small_png

    path.write_bytes(small_png(png))
    return path


def make_readme_pictures(open_page: Callable[..., FrontendPage]) -> None:
    """All of them, except the thumbnails, which come with the pictures of the help pages."""
    for make in (make_graph, make_stream):
        path = make(open_page("en", VIEWPORT, {"Comfy.NodeBadge.NodeSourceBadgeMode": "None"}))
        say(f"{path.relative_to(REPO)}: {path.stat().st_size / 1024:.0f} KB")
