"""A card with pictures in rows, each with its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..host.phrases import Phrase, in_turn
from .drawing import EDGE, WIDTH, Point, Sheet, fit
from .palette import palette

_TOP = 62.0  # of the first row in the card


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture, and what is written above it.

    ``detail``: a second line, in small letters. ``also``: names of other settings that gave the same picture.
    ``best``: it has a gold frame.
    """

    label: str
    detail: str
    picture: Image.Image
    best: bool = False
    also: tuple[str, ...] = ()

    @property
    def visible(self) -> bool:
        """Whether it has any pixels."""
        return bool(self.picture.width and self.picture.height)


@dataclass(frozen=True)
class Grid:
    """How pictures are arranged: ``columns`` in a row, ``gap`` pixels between them, each at most ``max_height`` pixels
    high and enlarged at most ``max_enlargement`` times. Narrow pictures stand closer together, but each keeps
    ``min_width`` pixels for its label, which is in the dimmer colour of texts with ``dim_labels``."""

    columns: int
    gap: float
    max_height: float
    max_enlargement: float = float("inf")
    min_width: float = 0.0
    dim_labels: bool = False


def picture_card(note: str, pictures: Sequence[Shown], grid: Grid) -> Sheet:
    """The pictures in rows, each as large as fits, with its own aspect ratio. ``note``: what their details mean."""
    column = (WIDTH - 2 * EDGE - (grid.columns - 1) * grid.gap) / grid.columns
    sizes = [_size(shown.picture, column, grid) for shown in pictures]
    pitch = max(min(grid.min_width, column), *(width for width, _ in sizes)) + grid.gap
    starts = range(0, len(pictures), grid.columns)
    rows = [list(zip(pictures, sizes, strict=True))[start : start + grid.columns] for start in starts]
    label_heights = [max(_label_height(shown) for shown, _ in row) for row in rows]
    heights = [
        above + max(height for _, (_, height) in row) + 22 for above, row in zip(label_heights, rows, strict=True)
    ]
    sheet = Sheet(_TOP + sum(heights) + 10)
    sheet.card(Phrase("Pictures"), note)
    top = _TOP
    for row, above, height in zip(rows, label_heights, heights, strict=True):
        for place, (shown, size) in enumerate(row):
            left = EDGE + place * pitch
            _draw_label(sheet, (left, top), shown, pitch - grid.gap, dim=grid.dim_labels)
            _draw_picture(sheet, (left, top + above), shown, size)
        top += height
    return sheet


def _size(picture: Image.Image, column: float, grid: Grid) -> tuple[float, float]:
    factor = min(column / picture.width, grid.max_height / picture.height, grid.max_enlargement)
    return factor * picture.width, factor * picture.height


def _label_height(shown: Shown) -> float:
    return 76.0 if shown.also else 54.0 if shown.detail else 32.0


def _draw_label(sheet: Sheet, at: Point, shown: Shown, width: float, *, dim: bool) -> None:
    (left, top), colour = at, palette().dim if dim else palette().text
    sheet.text((left, top + 10), fit(shown.label, 18, width), 18, palette().gold if shown.best else colour)
    if shown.detail:
        sheet.text((left, top + 34), fit(shown.detail, 16, width), 16, palette().dim)
    if shown.also:
        also = Phrase("also {names}", names=in_turn(shown.also))
        sheet.text((left, top + 56), fit(also, 16, width), 16, palette().dim)


def _draw_picture(sheet: Sheet, at: Point, shown: Shown, size: tuple[float, float]) -> None:
    (left, top), (width, height) = at, size
    if shown.best:
        sheet.box((left - 3, top - 3, left + width + 3, top + height + 3), palette().gold)
    sheet.picture(at, shown.picture, width, height)
