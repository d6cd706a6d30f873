"""How the screenshots are stored: PNG with few colours, thumbnails of nodes, and an animation."""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _env import REPO

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS, FREQUENT_COLOURS = 256, 160  # of a palette: all, and those that stay as they are
FRAMES_A_SECOND = 5
LENGTH_S, HOLD_S = 7.5, 2.5  # how long the run takes in the animation, and how long its end stays
THUMBNAILS = REPO / "docs" / "images" / "nodes"
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


def small_png(png: bytes) -> bytes:
    """The picture with a palette, which keeps the file small."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    out = io.BytesIO()
    image.quantize(palette=_palette([image]), dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _palette(images: Sequence[Image]) -> Image:
    """A palette for all of these pictures: their most frequent colours, and approximations of all others.

    Each other colour counts once. By area, the few pixels of a small thing would get a colour of something else.
    """
    from PIL import Image

    counts: Counter[Any] = Counter()
    for image in images:
        counts.update({colour: count for count, colour in image.getcolors(image.width * image.height) or []})
    ordered = [colour for colour, _count in counts.most_common()]
    frequent, rare = ordered[:FREQUENT_COLOURS], ordered[FREQUENT_COLOURS:]
    values = [value for colour in frequent for value in colour]
    if rare:
        others = Image.new("RGB", (len(rare), 1))
        others.putdata(rare)
        values += (others.quantize(COLOURS - FREQUENT_COLOURS).getpalette() or [])[: 3 * (COLOURS - FREQUENT_COLOURS)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(values)
    return palette


def animate(frames: Sequence[tuple[float, bytes]], path: Path) -> str:
    """Save pictures (seconds since the start, PNG) as a GIF of ten seconds, and say what was done.

    A picture that is equal to the one before only makes that one longer.
    """
    from PIL import Image

    images = [Image.open(io.BytesIO(png)).convert("RGB") for _at, png in frames]
    scale = LENGTH_S / frames[-1][0]
    at = [seconds * scale for seconds, _png in frames]
    kept = [0]
    for index in range(1, len(images)):
        long_enough = at[index] - at[kept[-1]] >= 1 / FRAMES_A_SECOND or index == len(images) - 1
        if long_enough and images[index].tobytes() != images[kept[-1]].tobytes():
            kept.append(index)
    palette = _palette([images[index] for index in kept])
    drawn = [images[index].quantize(palette=palette, dither=Image.Dither.NONE) for index in kept]
    gaps = [at[after] - at[before] for before, after in itertools.pairwise(kept)]
    lengths = [round(1000 * seconds) for seconds in (*gaps, HOLD_S)]
    drawn[0].save(path, save_all=True, append_images=drawn[1:], duration=lengths, loop=0, optimize=True)
    return f"{len(frames)} pictures in {frames[-1][0]:.1f} s: {len(kept)} are shown, {1 / scale:.1f} times as fast"


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
    small.quantize(palette=_palette([small]), dither=Image.Dither.NONE).save(path, optimize=True)
