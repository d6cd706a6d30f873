"""Modules of the nodes without a host, and what a picture has written where."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.text import Text
from PIL import Image, ImageDraw

Box = tuple[float, float, float, float]
"""left, top, right, bottom"""
Colour = tuple[int, int, int]

MIN_CONTRAST = 4.5  # of a text, as WCAG 2.1 asks


@pytest.fixture(scope="session")
def node_module(repo: Path) -> Callable[[str], ModuleType]:
    """Imports a module of the nodes, without the other nodes, which need a host."""
    package = ModuleType("chords_pictures")
    package.__path__ = [str(repo / "nodes")]
    sys.modules.setdefault(package.__name__, package)
    return lambda name: importlib.import_module(f"chords_pictures.{name}")


@pytest.fixture(params=["dark", "light"])
def ground(node_module: Callable[[str], ModuleType], request: pytest.FixtureRequest) -> Iterator[str]:
    """A test draws on this ground."""
    with node_module("plots.palette").drawn_on(light=request.param == "light"):
        yield request.param


def contrast(one: Colour, other: Colour) -> float:
    """Of two colours, as WCAG 2.1 has it: 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@dataclass
class Surface:
    """A section or a plot: its size, and the box of each text on it."""

    width: float
    height: float
    boxes: list[tuple[str, Box]] = field(default_factory=list)


@dataclass
class Written:
    """All texts that were drawn, by Pillow and by matplotlib."""

    surfaces: dict[int, tuple[Any, Surface]] = field(default_factory=dict)  # by the id of what was drawn on
    contrasts: list[tuple[str, float]] = field(default_factory=list)  # of each text to its ground

    def add(self, owner: Any, surface: Image.Image, text: str, box: Box, colour: Colour) -> None:
        """A text that will be drawn on ``surface``."""
        if not text.strip():
            return
        self.surfaces.setdefault(id(owner), (owner, Surface(*surface.size)))[1].boxes.append((text, box))
        left, top, right, bottom = map(round, box)
        found = surface.crop((left, top, max(right, left + 1), max(bottom, top + 1))).convert("RGB")
        _, ground = max(found.getcolors(found.width * found.height))
        self.contrasts.append((text, contrast(colour, ground)))

    @property
    def texts(self) -> list[str]:
        return [text for _, surface in self.surfaces.values() for text, _ in surface.boxes]

    def check(self) -> None:
        """No text is cut, no text overlaps another, and each can be read on its ground."""
        assert self.surfaces
        for _, surface in self.surfaces.values():
            for text, (left, top, right, bottom) in surface.boxes:
                assert min(left, top) >= -0.5, f"{text!r} is cut"
                assert right <= surface.width + 0.5 and bottom <= surface.height + 0.5, f"{text!r} is cut"
            for (one, a), (other, b) in combinations(surface.boxes, 2):
                apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                assert apart, f"{one!r} and {other!r} overlap"
        faint = [text for text, contrast in self.contrasts if contrast < MIN_CONTRAST]
        assert not faint, f"{faint} can hardly be read"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """What is written while a test draws."""
    found = Written()
    pillow, agg = ImageDraw.ImageDraw.text, RendererAgg.draw_text

    def by_pillow(
        self: ImageDraw.ImageDraw, at: Any, text: str, fill: Any, font: Any, anchor: str, **options: Any
    ) -> None:
        found.add(self, self._image, text, self.textbbox(at, text, font, anchor, **options), fill)
        pillow(self, at, text, fill, font, anchor, **options)

    def by_matplotlib(
        self: RendererAgg, gc: Any, x: Any, y: Any, text: str, prop: Any, angle: float, ismath: Any, mtext: Any
    ) -> None:
        box = Text.get_window_extent(mtext, self)  # without an arrow; y points up
        drawn = Image.frombuffer("RGBA", (int(self.width), int(self.height)), bytes(self.buffer_rgba()))
        red, green, blue = (round(255 * part) for part in gc.get_rgb()[:3])
        colour = red, green, blue
        found.add(self, drawn, text, (box.x0, self.height - box.y1, box.x1, self.height - box.y0), colour)
        agg(self, gc, x, y, text, prop, angle, ismath, mtext)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", by_pillow)
    monkeypatch.setattr(RendererAgg, "draw_text", by_matplotlib)
    yield found
