"""A benchmark as a picture: how long each setting took, how close it came, and what it made.

Needs no host: Pillow and the standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from ..recommendation import Entry
from .drawing import (
    CARD,
    DIM,
    EDGE,
    GOLD,
    GRID,
    MARGIN,
    TEXT,
    WIDTH,
    Colour,
    Figure,
    Point,
    Sheet,
    Sign,
    distinct_colours,
    draw_signs,
    duration,
    fit,
    header,
    mix,
    stack,
    text_width,
    ticks,
)

_TIMES = 330.0  # where the column of times ends; names stand to the left of it
_LEFT, _RIGHT = 354.0, 846.0  # of the bars
_COLUMNS = (("speed", 950.0), ("first picture", 1082.0), ("difference", 1204.0), ("PSNR", 1336.0))  # their right ends
_TOP, _ROW = 104.0, 38.0
_WIDE, _TALL, _GAP = 5, 240.0, 22.0  # pictures in a row, the height of one, and between two
_OURS: Colour = distinct_colours(1)[0]


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture with what is written above it. ``best``: it is the recommended setting's; ``also``: other settings that
    gave the same."""

    label: str
    detail: str
    picture: Image.Image
    best: bool = False
    also: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Comparison:
    """What to draw. ``about``: what was sampled on what; ``entries``: KSampler's first; ``best``: the place of the one
    to take, for the reason that ``advice`` gives."""

    about: str
    entries: tuple[Entry, ...]
    best: int
    advice: str
    pictures: tuple[Shown, ...]


def draw_comparison(comparison: Comparison) -> Image.Image:
    """The benchmark as an RGB picture, 1400 pixels wide and as high as its settings and pictures need.

    From the top: the recommendation and its figures; a row a setting, a bar beside its figures; the pictures.
    """
    best = comparison.entries[comparison.best]
    title = f"Take {best.name}" if comparison.best else "Stay with KSampler"
    top = header(title, comparison.advice, _figures(comparison.entries[0], best))
    pictures = [shown for shown in comparison.pictures if shown.picture.width and shown.picture.height]
    sections = [top, _settings(comparison), *([_pictures(pictures)] if pictures else []), _legend(comparison)]
    return stack(sections)


def percent(share: float) -> str:
    if share == 0:
        return "equal"
    if not math.isfinite(share):
        return "-"
    return f"{100 * share:.2g} %" if share >= 1e-4 else "< 0.01 %"


def decibels(psnr: float) -> str:
    return "equal" if psnr == math.inf else f"{psnr:.1f} dB" if math.isfinite(psnr) else "-"


def _figures(stock: Entry, best: Entry) -> list[Figure]:
    if best is stock:
        return [Figure(duration(stock.seconds), "with KSampler", GOLD)]
    return [
        Figure(f"{stock.seconds / best.seconds:.2f}x", "the speed of KSampler", GOLD),
        Figure(duration(best.seconds), f"with {best.name}"),
        Figure(duration(stock.seconds), "with KSampler"),
        Figure(percent(best.rmse), "difference of the latent"),
        Figure(decibels(best.psnr), "PSNR of the picture"),
    ]


def _settings(comparison: Comparison) -> Sheet:
    """A row a setting: its name, its seconds as a figure and as a bar, and the other figures."""
    entries = comparison.entries
    stock, bottom = entries[0], _TOP + _ROW * len(entries)
    limit = max(max(entry.times) for entry in entries) or 1.0
    sheet = Sheet(bottom + 50)
    sheet.card("Settings", fit(comparison.about, 15, WIDTH - 2 * EDGE - text_width("Settings", 19) - 14))
    sheet.text((_TIMES, _TOP - 18), "time", 14, DIM, "rm")
    for title, right in _COLUMNS:
        sheet.text((right, _TOP - 18), title, 14, DIM, "rm")
    for tick in (tick for tick in ticks(2 * limit) if tick <= limit):  # half as many, for their labels are long
        sheet.line([(_x(tick, limit), _TOP), (_x(tick, limit), bottom + 5)], GRID, 1)
        label = f"{1000 * tick:g} ms" if limit < 1 else f"{tick:g} s"
        sheet.text((_x(tick, limit), bottom + 17), label, 14, DIM, "mm")
    for place, entry in enumerate(entries):
        top, best = _TOP + _ROW * place, place == comparison.best
        middle, colour = top + _ROW / 2, GOLD if best else TEXT
        if best:
            sheet.box((EDGE - 10, top + 1, WIDTH - EDGE + 10, top + _ROW - 1), mix(GOLD, CARD, 0.09), radius=6)
        sheet.text((EDGE, middle), fit(entry.name, 15, _TIMES - EDGE - 90), 15, colour, bold=best)
        sheet.text((_TIMES, middle), duration(entry.seconds), 15, colour, "rm")
        bar = _LEFT, top + 8, max(_LEFT + 3, _x(entry.seconds, limit)), top + _ROW - 8
        sheet.box(bar, _colour(place, comparison.best), radius=4)
        _draw_range(sheet, _x(min(entry.times), limit), _x(max(entry.times), limit), middle)
        figures = (
            f"{stock.seconds / entry.seconds:.2f}x",
            duration(entry.first),
            percent(entry.rmse) if place else "",
            decibels(entry.psnr) if place else "",
        )
        for (_, right), figure in zip(_COLUMNS, figures, strict=True):
            sheet.text((right, middle), figure, 15, colour, "rm")
    sheet.dashes(_x(stock.seconds, limit), _TOP, bottom, DIM)
    for place, entry in enumerate(entries):
        if entry.first < 0.995 * entry.seconds:
            sheet.diamond((_x(entry.first, limit), _TOP + _ROW * (place + 0.5)), 6, CARD)
    return sheet


def _draw_range(sheet: Sheet, left: float, right: float, y: float) -> None:
    """Between the fastest and the slowest run, where that can be seen."""
    if right - left >= 2:
        sheet.line([(left, y), (right, y)], TEXT, 1.5)
        for x in (left, right):
            sheet.line([(x, y - 4), (x, y + 4)], TEXT, 1.5)


def _x(seconds: float, limit: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * seconds / limit


def _colour(place: int, best: int) -> Colour:
    return GOLD if place == best else mix(DIM, CARD, 0.7) if place == 0 else _OURS


def _pictures(pictures: Sequence[Shown]) -> Sheet:
    """In rows, each as large as fits, its aspect kept."""
    widest = (WIDTH - 2 * EDGE - (_WIDE - 1) * _GAP) / _WIDE
    rows = [pictures[place : place + _WIDE] for place in range(0, len(pictures), _WIDE)]
    words = [66 if any(shown.also for shown in row) else 46 for row in rows]  # the lines above the pictures
    factors = [[min(widest / shown.picture.width, _TALL / shown.picture.height) for shown in row] for row in rows]
    tallest = [
        max(factor * shown.picture.height for factor, shown in zip(*pair, strict=True))
        for pair in zip(factors, rows, strict=True)
    ]
    sheet = Sheet(62 + sum(words) + sum(tallest) + _GAP * len(rows) + 4)
    sheet.card("Pictures", "time until it is there, difference of the latent from KSampler's, PSNR")
    top = 62.0
    for row, above, height, scales in zip(rows, words, tallest, factors, strict=True):
        for column, (shown, factor) in enumerate(zip(row, scales, strict=True)):
            _draw_shown(sheet, shown, (EDGE + column * (widest + _GAP), top), above, widest, factor)
        top += above + height + _GAP
    return sheet


def _draw_shown(sheet: Sheet, shown: Shown, at: Point, above: float, widest: float, factor: float) -> None:
    """A picture ``factor`` times as large, its words above it."""
    left, top = at
    sheet.text((left, top + 10), fit(shown.label, 15, widest), 15, GOLD if shown.best else TEXT)
    sheet.text((left, top + 30), fit(shown.detail, 13, widest), 13, DIM)
    if shown.also:
        sheet.text((left, top + 49), fit(f"also {'; '.join(shown.also)}", 13, widest), 13, DIM)
    width, height = factor * shown.picture.width, factor * shown.picture.height
    if shown.best:
        sheet.box((left - 3, top + above - 3, left + width + 3, top + above + 3 + height), GOLD)
    sheet.picture((left, top + above), shown.picture, width, height)


def _legend(comparison: Comparison) -> Sheet:
    sheet = Sheet(44 + MARGIN / 2)
    signs: list[Sign] = [
        (_swatch(_colour(0, -1)), "KSampler"),
        (_swatch(_OURS), "CHORDS"),
        (_swatch(GOLD), "recommended"),
    ]
    if any(entry.first < 0.995 * entry.seconds for entry in comparison.entries):
        signs.append((lambda sheet, at: sheet.diamond(at, 6, DIM), "first picture, before the result"))
    if any(len(entry.times) > 1 for entry in comparison.entries):
        signs.append(
            (lambda sheet, at: _draw_range(sheet, at[0] - 8, at[0] + 8, at[1]), "from the fastest run to the slowest")
        )
    draw_signs(sheet, 22, signs)
    return sheet


def _swatch(colour: Colour) -> Callable[[Sheet, Point], None]:
    return lambda sheet, at: sheet.box((at[0] - 8, at[1] - 7, at[0] + 8, at[1] + 7), colour, radius=4)
