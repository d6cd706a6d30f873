"""What the pack's pictures are made of: key figures, cards, signs, and text that fits.

Needs Pillow and the standard library only.
"""

from __future__ import annotations

import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from .language import current, translated
from .palette import Colour, palette

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""left, top, right, bottom"""

# All lengths are in pixels of the finished picture. It is drawn larger and then reduced, which smooths every edge.
SCALE = 2
WIDTH = 1400
MARGIN = 32
EDGE = MARGIN + 22  # of the content of a card


@dataclass(frozen=True)
class KeyFigure:
    """A key figure at the top of a picture."""

    value: str
    meaning: str
    colour: Colour = field(default_factory=lambda: palette().text)


def stack(sections: Sequence[Sheet]) -> Image.Image:
    """The finished RGB picture: the sections from top to bottom."""
    picture = Image.new("RGB", (WIDTH * SCALE, sum(section.image.height for section in sections)), palette().background)
    top = 0
    for section in sections:
        picture.paste(section.image, (0, top))
        top += section.image.height
    return picture.reduce(SCALE)


def header(title: str, message: str = "", figures: Sequence[KeyFigure] = ()) -> Sheet:
    """The top of a picture: its title, at most three lines of message, and a row of figures (about five fit).

    Its letters are large, because a node shows the picture at less than half its size.
    """
    lines = wrap(message, 20, WIDTH - 2 * MARGIN, max_lines=3)
    top = 104 + 28 * len(lines)
    sheet = Sheet(top + (96 if figures else 0))
    sheet.text((MARGIN, 50), fit(title, 40, WIDTH - 2 * MARGIN), 40, palette().text, bold=True)
    for line, text in enumerate(lines):
        sheet.text((MARGIN, 100 + 28 * line), text, 20, palette().dim)
    column = (WIDTH - 2 * MARGIN) / max(len(figures), 3)
    for place, figure in enumerate(figures):
        left, room = MARGIN + place * column, column - 17 - 8
        sheet.box((left, top + 5, left + 3, top + 75), figure.colour, radius=1.5)
        sheet.text((left + 17, top + 23), fit(figure.value, 36, room), 36, figure.colour, bold=True)
        sheet.text((left + 17, top + 62), fit(figure.meaning, 19, room), 19, palette().dim)
    return sheet


def words(message: str, note: str) -> Sheet:
    """A card with a text in place of a plot: at most eight lines of message, then a line of note."""
    lines = wrap(message, 20, WIDTH - 2 * EDGE, max_lines=8)
    sheet = Sheet(124 + 30 * len(lines))
    sheet.box((MARGIN, 8, WIDTH - MARGIN, sheet.height - MARGIN), palette().card, radius=12)
    for line, text in enumerate(lines):
        sheet.text((EDGE, 42 + 30 * line), text, 20, palette().text)
    sheet.text((EDGE, 52 + 30 * len(lines)), note, 16, palette().dim)
    return sheet


def draw_signs(sheet: Sheet, y: float, signs: Sequence[Sign]) -> None:
    """A row of signs with their meanings."""
    left = float(MARGIN)
    for draw, meaning in signs:
        draw(sheet, (left + 8, y))
        sheet.text((left + 24, y), meaning, 17, palette().dim)
        left += 24 + text_width(meaning, 17) + 26


class Sheet:
    """A section of the picture to draw on: as wide as the picture, ``height`` pixels high."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.image = Image.new("RGB", (WIDTH * SCALE, round(height) * SCALE), palette().background)
        self._draw = ImageDraw.Draw(self.image)

    def card(self, title: str, unit: str) -> None:
        """A card that fills the section, with its title and, beside it, a unit or a note."""
        self.box((MARGIN, 8, WIDTH - MARGIN, self.height - 10), palette().card, radius=12)
        self.text((EDGE, 38), title, 22, palette().text, bold=True)
        self.text((EDGE + text_width(title, 22) + 16, 39), unit, 18, palette().dim)

    def text(
        self, at: Point, text: str, size: float, colour: Colour, anchor: str = "lm", *, bold: bool = False
    ) -> None:
        place = at[0] * SCALE, at[1] * SCALE
        self._draw.text(place, plain(text), colour, font(size), anchor, stroke_width=round(size / 30) if bold else 0)

    def box(self, box: Box, colour: Colour, radius: float = 0.0) -> None:
        left, top, right, bottom = (round(length * SCALE) for length in box)
        corners = left, top, max(left, right - 1), max(top, bottom - 1)  # the last pixel counts
        if radius >= 1:
            self._draw.rounded_rectangle(corners, radius * SCALE, colour)
        else:
            self._draw.rectangle(corners, colour)

    def hatch(self, box: Box, colour: Colour) -> None:
        left, top, right, bottom = (round(length * SCALE) for length in box)
        if right <= left:
            return
        mask = Image.new("1", (right - left, bottom - top))
        draw = ImageDraw.Draw(mask)
        for x in range(-mask.height, mask.width, 6 * SCALE):
            draw.line([(x, mask.height), (x + mask.height, 0)], 1, SCALE)
        self.image.paste(colour, (left, top), mask)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        self._draw.line([(x * SCALE, y * SCALE) for x, y in points], colour, round(width * SCALE), "curve")

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], colour)

    def dashes(self, x: float, top: float, bottom: float, colour: Colour) -> None:
        for y in range(round(top), round(bottom), 9):
            self.line([(x, y), (x, min(y + 5, bottom))], colour, 1.5)

    def dot(self, at: Point, radius: float, colour: Colour) -> None:
        (x, y), reach = at, radius * SCALE
        self._draw.ellipse((x * SCALE - reach, y * SCALE - reach, x * SCALE + reach, y * SCALE + reach), colour)

    def picture(self, at: Point, picture: Image.Image, width: float, height: float) -> None:
        """``picture``, resized to these pixels, with its top left corner ``at``."""
        size = max(1, round(width * SCALE)), max(1, round(height * SCALE))
        resized = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        self.image.paste(resized, (round(at[0] * SCALE), round(at[1] * SCALE)))

    def diamond(self, at: Point, radius: float, colour: Colour) -> None:
        x, y = at
        self.polygon([(x - radius, y), (x, y - radius), (x + radius, y), (x, y + radius)], colour)

    def cross(self, at: Point, radius: float, colour: Colour) -> None:
        x, y = at
        self.line([(x - radius, y - radius), (x + radius, y + radius)], colour, 2.5)
        self.line([(x - radius, y + radius), (x + radius, y - radius)], colour, 2.5)

    def wedge(self, at: Point, radius: float, colour: Colour) -> None:
        """A triangle that points down."""
        x, y = at
        self.polygon([(x - radius, y - 0.6 * radius), (x + radius, y - 0.6 * radius), (x, y + 0.7 * radius)], colour)

    def elbow(self, begin: Point, end: Point, colour: Colour) -> None:
        """An arrow down from ``begin``, then right to ``end``."""
        (x, y), (right, bottom) = begin, end
        head = min(6.0, 0.6 * (right - x))
        self.line([(x, y), (x, bottom), (right - head, bottom)], colour, 1.5)
        self.polygon(
            [(right - head, bottom - 0.7 * head), (right, bottom), (right - head, bottom + 0.7 * head)], colour
        )


# A word with the space before it. Japanese and Chinese may break after any letter, but not before a closing sign.
_WORDS = re.compile(r" ?(?:[\u2e80-\uffef][、。，；：！？）」]*|[^ \u2e80-\uffef]+[、。，；：！？）」]*)")

Sign = tuple[Callable[[Sheet, Point], None], str]
"""A function that draws the sign around a point, at most 8 pixels to each side, and the meaning of the sign."""


def font(size: float) -> ImageFont.FreeTypeFont:
    return _font(str(current().font_file), size)


@lru_cache(maxsize=64)
def _font(file: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size * SCALE, layout_engine=ImageFont.Layout.BASIC)


def text_width(text: str, size: float) -> float:
    return font(size).getlength(plain(text)) / SCALE


def plain(text: str) -> str:
    """``text`` on one line and in the current language, in letters that the font has: the English font has no accents,
    and other scripts are question marks in it."""
    text = "".join(letter if letter.isprintable() else " " for letter in translated(text))
    if not current().english:
        return text
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() or letter == "·" else "?" for letter in letters)


def fit(text: str, size: float, width: float) -> str:
    """``text``, cut and ended by an ellipsis if it is wider than ``width`` pixels."""
    text = translated(text)
    if text_width(text, size) <= width:
        return text
    ends = range(1, len(text))
    fitting = bisect_right(ends, width, key=lambda end: text_width(text[:end] + "…", size))
    return text[:fitting].rstrip() + "…"


def wrap(text: str, size: float, width: float, max_lines: int) -> list[str]:
    """``text`` in at most ``max_lines`` lines of ``width`` pixels; the last line is cut if that is too few."""
    lines: list[str] = []
    for word in _WORDS.findall(" ".join(translated(text).split())):
        if lines and (len(lines) == max_lines or text_width(lines[-1] + word, size) <= width):
            lines[-1] += word
        else:
            lines.append(word.lstrip())
    return [fit(line, size, width) for line in lines]


def ticks(limit: float, whole: bool = False) -> list[float]:
    """At most eleven round values from 0 to ``limit``; whole numbers only if ``whole``."""
    magnitude = 10.0 ** math.floor(math.log10(limit / 10))
    step = next(step * magnitude for step in (1, 2, 5, 10) if limit / (step * magnitude) <= 10)
    if whole:
        step = max(1.0, step)
    return [round(step * tick, 9) for tick in range(math.floor(limit / step + 1e-9) + 1)]


def duration(seconds: float) -> str:
    """A time in words: three digits of milliseconds or seconds, or minutes and seconds."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"
