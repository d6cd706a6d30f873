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
from PIL import ImageDraw

Box = tuple[float, float, float, float]
"""left, top, right, bottom"""


@pytest.fixture(scope="session")
def node_module(repo: Path) -> Callable[[str], ModuleType]:
    """Imports a module of the nodes, without the other nodes, which need a host."""
    package = ModuleType("chords_pictures")
    package.__path__ = [str(repo / "nodes")]
    sys.modules.setdefault(package.__name__, package)
    return lambda name: importlib.import_module(f"chords_pictures.{name}")


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

    def add(self, owner: Any, size: tuple[float, float], text: str, box: Box) -> None:
        if text.strip():
            self.surfaces.setdefault(id(owner), (owner, Surface(*size)))[1].boxes.append((text, box))

    @property
    def texts(self) -> list[str]:
        return [text for _, surface in self.surfaces.values() for text, _ in surface.boxes]

    def check(self) -> None:
        """No text is cut, and no text overlaps another."""
        assert self.surfaces
        for _, surface in self.surfaces.values():
            for text, (left, top, right, bottom) in surface.boxes:
                assert min(left, top) >= -0.5, f"{text!r} is cut"
                assert right <= surface.width + 0.5 and bottom <= surface.height + 0.5, f"{text!r} is cut"
            for (one, a), (other, b) in combinations(surface.boxes, 2):
                apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                assert apart, f"{one!r} and {other!r} overlap"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """What is written while a test draws."""
    found = Written()
    pillow, agg = ImageDraw.ImageDraw.text, RendererAgg.draw_text

    def by_pillow(
        self: ImageDraw.ImageDraw, at: Any, text: str, fill: Any, font: Any, anchor: str, **options: Any
    ) -> None:
        found.add(self, self._image.size, text, self.textbbox(at, text, font, anchor, **options))
        pillow(self, at, text, fill, font, anchor, **options)

    def by_matplotlib(
        self: RendererAgg, gc: Any, x: Any, y: Any, text: str, prop: Any, angle: float, ismath: Any, mtext: Any
    ) -> None:
        box = Text.get_window_extent(mtext, self)  # without an arrow; y points up, which makes no difference here
        found.add(self, (self.width, self.height), text, (box.x0, box.y0, box.x1, box.y1))
        agg(self, gc, x, y, text, prop, angle, ismath, mtext)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", by_pillow)
    monkeypatch.setattr(RendererAgg, "draw_text", by_matplotlib)
    yield found
