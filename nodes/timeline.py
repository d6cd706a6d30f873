"""The timeline of a run as a picture: what each core did in each round, and each lane at each second."""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from ..chords_core import Evaluation, HitMark, RectificationMark, Timeline
    from .host.report import ChordsRun

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""left, top, right, bottom"""

# All lengths are in pixels of the finished picture; it is drawn larger and reduced, which smooths every edge.
_SCALE = 2
_WIDTH = 1400
_MARGIN = 32
_EDGE = _MARGIN + 22  # of what stands in a card
_LEFT, _RIGHT = 184, 1158  # of the plots; beside them are names and figures
_PLOT_TOP = 86.0  # in its card

_BACKGROUND: Colour = (15, 18, 24)
_CARD: Colour = (24, 28, 37)
_GRID: Colour = (46, 53, 67)
_DIM: Colour = (148, 157, 175)
_TEXT: Colour = (232, 235, 242)
_GOLD: Colour = (255, 201, 77)  # what the run ended with
_RED: Colour = (255, 107, 107)  # what was lost


def draw_timeline(run: ChordsRun) -> Image.Image:
    """The record of a run as an RGB picture, 1400 pixels wide and as high as its cores and lanes need."""
    timeline = run.timeline
    if timeline is None or not timeline.evaluations:
        sections = [_header(run), _words(run)]
    else:
        sections = [_header(run), _rounds(run, timeline), _lanes(run, timeline), _legend(run, timeline)]
    picture = Image.new("RGB", (_WIDTH * _SCALE, sum(section.height for section in sections)), _BACKGROUND)
    top = 0
    for section in sections:
        picture.paste(section, (0, top))
        top += section.height
    return picture.reduce(_SCALE)


# --- the sections of the picture, from the top


def _header(run: ChordsRun) -> Image.Image:
    recorded = run.timeline is not None and bool(run.timeline.evaluations)
    message = _wrap(run.message, 15, _WIDTH - 2 * _MARGIN, most=2) if recorded else []
    figures = _figures(run)
    top = 92 + 22 * len(message)
    sheet = _Sheet(top + (84 if figures else 0))
    sheet.text((_MARGIN, 46), _title(run), 30, _TEXT, bold=True)
    for line, text in enumerate(message):
        sheet.text((_MARGIN, 86 + 22 * line), text, 15, _DIM)
    for place, figure in enumerate(figures):
        left = _MARGIN + place * (_WIDTH - 2 * _MARGIN) / max(len(figures), 3)
        sheet.box((left, top + 5, left + 3, top + 61), figure.colour, radius=1.5)
        sheet.text((left + 17, top + 20), figure.value, 28, figure.colour, bold=True)
        sheet.text((left + 17, top + 51), figure.meaning, 15, _DIM)
    return sheet.image


def _words(run: ChordsRun) -> Image.Image:
    """In place of a timeline."""
    message = _wrap(run.message or "nothing has been sampled", 20, _WIDTH - 2 * _EDGE, most=8)
    sheet = _Sheet(124 + 30 * len(message))
    sheet.box((_MARGIN, 8, _WIDTH - _MARGIN, sheet.height - _MARGIN), _CARD, radius=12)
    for line, text in enumerate(message):
        sheet.text((_EDGE, 42 + 30 * line), text, 20, _TEXT)
    sheet.text((_EDGE, 52 + 30 * len(message)), "No timeline was recorded in this run.", 16, _DIM)
    return sheet.image


def _rounds(run: ChordsRun, timeline: Timeline) -> Image.Image:
    """A row a core, a column a round: evaluations, spawns, rectifications and hits."""
    cores = max(evaluation.core for evaluation in timeline.evaluations)
    reached = max(evaluation.depth for evaluation in timeline.evaluations)
    rows = _rows(cores, height=min(44.0, max(12.0, 560 / cores)))
    plot = _plot(rows, limit=max(run.plan.steps, reached))
    sheet = _Sheet(plot.bottom + 56)
    sheet.card("Rounds", _about_rounds(run, timeline, numbered=_numbered(plot, rows[0])))
    _draw_axis(sheet, plot, _ticks(plot.limit, whole=True), lambda tick: f"{tick:.0f}", reached)
    accepted = _accepted(timeline)
    if accepted is not None:
        slower = rows[: accepted.core - 1] if accepted.core else rows
        _draw_gain(sheet, plot, reached, slower, f"{plot.limit / accepted.depth:.1f}x", "fewer model calls in a row")
        # No further down: there a faster core's label may be.
        bottom = rows[accepted.core - 1].bottom if accepted.core else plot.bottom
        _draw_end(sheet, plot, accepted.depth, bottom, f"{accepted.depth} round{'s' * (accepted.depth != 1)}")
    for core, row in enumerate(rows, start=1):
        sheet.text((_EDGE, row.middle), f"core {core}", row.font, _TEXT)
        if cores > 1 and core in (1, cores):
            sheet.text((_LEFT - 18, row.middle), "exact" if core == 1 else "fastest", row.font, _DIM, "rm")
    _draw_evaluations(sheet, plot, rows, timeline.evaluations, _lane_colours(len(run.devices)))
    _draw_jumps(sheet, plot, rows, timeline)
    _draw_rectifications(sheet, plot, rows, timeline.rectified)
    for hit in timeline.hits:
        _draw_hit(sheet, plot, rows, hit, _GOLD if hit is accepted else _DIM)
    return sheet.image


def _lanes(run: ChordsRun, timeline: Timeline) -> Image.Image:
    """A row a lane, along the seconds: when it evaluated, when it was idle, when it was lost."""
    lanes = len(run.devices)
    rows = _rows(lanes, height=min(34.0, max(12.0, 420 / lanes)))
    sequential = timeline.sequential_seconds(run.plan.steps) if run.plan.cores > 1 else None
    plot = _plot(rows, limit=max(timeline.seconds, sequential or 0.0))
    sheet = _Sheet(plot.bottom + 56)
    sheet.card("Lanes", "the same calls by the clock")
    _draw_axis(sheet, plot, _ticks(plot.limit), _clock(plot.limit), timeline.seconds)
    _draw_end(sheet, plot, timeline.seconds, plot.bottom, _duration(timeline.seconds))
    if sequential is not None:
        gain = f"{sequential / timeline.seconds:.1f}x", f"one lane at this pace: {_duration(sequential)}"
        _draw_gain(sheet, plot, timeline.seconds, rows, *gain)
    busy, pace = timeline.busy(), timeline.seconds_per_evaluation()
    for lane, (row, device) in enumerate(zip(rows, run.devices, strict=True)):
        share = f"{100 * busy.get(lane, 0.0):.0f} % busy"
        figures = f"{_duration(pace[lane])} a call  ·  {share}" if lane in pace else share
        sheet.text((_EDGE, row.middle), _fit(device, row.font, _LEFT - _EDGE - 18), row.font, _TEXT)
        sheet.text((_WIDTH - _EDGE, row.middle), figures, row.font - 1, _DIM, "rm")
        sheet.hatch((plot.x(0), row.cell_top, plot.x(timeline.seconds), row.cell_bottom), _GRID)
    _draw_work(sheet, plot, rows, timeline.evaluations, _lane_colours(lanes))
    for mark in timeline.lost:
        row, left = rows[mark.lane], plot.x(mark.seconds)
        gone = left, row.cell_top, plot.x(timeline.seconds), row.cell_bottom
        sheet.box(gone, _mix(_RED, _CARD, 0.25), radius=4)
        sheet.cross((left, row.middle), min(6.0, 0.35 * row.height), _RED)
    below = rows[-1].bottom + 13
    sheet.text((_EDGE, below), "hits", rows[0].font, _TEXT)
    for hit in timeline.hits:
        sheet.diamond((plot.x(hit.seconds), below), 6, _GOLD if hit is _accepted(timeline) else _DIM)
    return sheet.image


def _legend(run: ChordsRun, timeline: Timeline) -> Image.Image:
    """What was lost, then what the signs mean."""
    sheet = _Sheet(48 + 24 * len(timeline.lost))
    for line, mark in enumerate(timeline.lost):
        text = f"{run.devices[mark.lane]} was lost after {_duration(mark.seconds)}: {mark.error}"
        (told,) = _wrap(text, 15, _WIDTH - 2 * _MARGIN - 26, most=1)
        y = 12.0 + 24 * line
        sheet.cross((_MARGIN + 8, y), 5, _RED)
        sheet.text((_MARGIN + 26, y), told, 15, _RED)
    y = sheet.height - 30
    left = float(_MARGIN)
    for draw, meaning in _signs(run, timeline):
        draw(sheet, (left + 8, y))
        sheet.text((left + 24, y), meaning, 14, _DIM)
        left += 24 + _length(meaning, 14) + 30
    return sheet.image


def _signs(run: ChordsRun, timeline: Timeline) -> list[tuple[Callable[[_Sheet, Point], None], str]]:
    """The signs in this picture, each drawn about a point, with their meaning."""
    colour = _lane_colours(len(run.devices))[0]
    several = run.plan.cores > 1
    signs: list[tuple[bool, Callable[[_Sheet, Point], None], str]] = [
        (
            True,
            lambda sheet, at: sheet.box((at[0] - 8, at[1] - 7, at[0] + 8, at[1] + 7), colour, radius=4),
            "model call, in its lane's colour" if several else "model call",
        ),
        (
            several,
            lambda sheet, at: sheet.elbow((at[0] - 5, at[1] - 7), (at[0] + 8, at[1] + 3), _DIM),
            "jump: starts a core",
        ),
        (
            bool(timeline.rectified),
            lambda sheet, at: sheet.wedge(at, 6.5, _TEXT),
            "rectified by the slower core",
        ),
        (
            len(timeline.hits) > 1,
            lambda sheet, at: sheet.diamond(at, 6, _DIM),
            "hit: an estimate of the end, and its change" if several else "hit",
        ),
        (bool(timeline.hits), lambda sheet, at: sheet.diamond(at, 6, _GOLD), "result"),
        (
            True,
            lambda sheet, at: sheet.hatch((at[0] - 8, at[1] - 7, at[0] + 8, at[1] + 7), _GRID),
            "idle",
        ),
        (bool(timeline.lost), lambda sheet, at: sheet.cross(at, 5, _RED), "lost"),
    ]
    return [(draw, meaning) for shown, draw, meaning in signs if shown]


# --- what the sections say


@dataclass(frozen=True)
class _Figure:
    """A number to read first."""

    value: str
    meaning: str
    colour: Colour = _TEXT


def _figures(run: ChordsRun) -> list[_Figure]:
    timeline, steps = run.timeline, run.plan.steps
    if timeline is None or not timeline.evaluations:
        return [_Figure(_duration(run.seconds), "sampling time")] if run.seconds else []
    more = run.seconds > 1.05 * timeline.seconds  # to copy the model, say
    time = _Figure(
        _duration(timeline.seconds), f"sampling, of {_duration(run.seconds)} in all" if more else "sampling time"
    )
    calls = _Figure(f"{run.evaluations}", f"model call{'s' * (run.evaluations != 1)} in all")
    if run.plan.cores == 1:
        return [calls, time, _Figure(_duration(timeline.sequential_seconds(1) or 0.0), "a model call")]
    figures = [_Figure(f"{run.depth} of {steps}", "model calls in a row"), calls, time]
    speedup, change, accepted = timeline.speedup(steps), timeline.accuracy_estimate, _accepted(timeline)
    if speedup is not None:
        figures.append(_Figure(f"{speedup:.2f}x", "the speed of one lane at this pace"))
    if accepted is not None and accepted.core == 1:
        figures.append(_Figure("exact", "what one core gives", _GOLD))
    elif change is not None:
        figures.append(_Figure(_percent(change), "change from the hit before", _GOLD))
    return figures


def _about_rounds(run: ChordsRun, timeline: Timeline, numbered: bool) -> str:
    accepted = _accepted(timeline)
    early = accepted is not None and accepted.index < run.plan.accept
    steps = ", numbered by step" if numbered else ""
    return f"model calls in a row{steps}" + (f"; ended early, before hit {run.plan.accept}" if early else "")


def _title(run: ChordsRun) -> str:
    method = {"chords": "CHORDS", "sequential": "One core", "stock": "As in KSampler", "": "CHORDS"}
    steps = run.plan.steps
    parts = (
        method.get(run.method, run.method),
        run.solver,
        f"{run.plan.cores} cores" if run.plan.cores > 1 else "",
        f"{steps} step{'s' * (steps != 1)}" if steps else "",
    )
    return "  ·  ".join(part for part in parts if part)


def _accepted(timeline: Timeline) -> HitMark | None:
    """A run ends with its newest hit."""
    return timeline.hits[-1] if timeline.hits else None


def _duration(seconds: float) -> str:
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 99.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"


def _clock(limit: float) -> Callable[[float], str]:
    """How to write the seconds of an axis up to ``limit``."""
    return (lambda seconds: f"{1000 * seconds:g} ms") if limit < 1 else (lambda seconds: f"{seconds:g} s")


def _percent(share: float) -> str:
    percent = 100 * share
    if percent >= 99.5:
        return f"{percent:.0f} %"
    return f"{percent:.2g} %" if percent >= 0.01 or percent == 0 else "< 0.01 %"


# --- plots


@dataclass(frozen=True)
class _Plot:
    """Where 0 to ``limit`` lies on the sheet, and from where to where the plot goes down."""

    top: float
    bottom: float
    limit: float

    def x(self, value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * min(1.0, max(0.0, value / self.limit))

    @property
    def unit(self) -> float:
        return (_RIGHT - _LEFT) / self.limit


@dataclass(frozen=True)
class _Row:
    """A core's or a lane's row; its cells leave a gap to those of its neighbours."""

    top: float
    height: float

    @property
    def bottom(self) -> float:
        return self.top + self.height

    @property
    def middle(self) -> float:
        return self.top + self.height / 2

    @property
    def cell_top(self) -> float:
        return self.top + 0.13 * self.height

    @property
    def cell_bottom(self) -> float:
        return self.bottom - 0.13 * self.height

    @property
    def font(self) -> int:
        """The size of text that fits."""
        return int(min(15.0, self.height - 1))


def _rows(count: int, height: float) -> list[_Row]:
    return [_Row(_PLOT_TOP + 6 + row * height, height) for row in range(count)]


def _plot(rows: Sequence[_Row], limit: float) -> _Plot:
    """Around the rows, with room for one more below them."""
    return _Plot(_PLOT_TOP, rows[-1].bottom + 26, limit)


def _gap(width: float) -> float:
    """What a cell of a row leaves free at either end: nothing where cells are too narrow to be seen one by one."""
    return min(1.5, 0.1 * width) if width >= 3 else 0.0


def _numbered(plot: _Plot, row: _Row) -> bool:
    """Whether cells have room for a number."""
    return plot.unit >= 26 and row.height >= 22


def _draw_evaluations(
    sheet: _Sheet,
    plot: _Plot,
    rows: Sequence[_Row],
    evaluations: Sequence[Evaluation],
    colours: Sequence[Colour],
) -> None:
    """A cell for each at its core and round, in its lane's colour, with the number of its step."""
    gap, radius = _gap(plot.unit), min(6.0, 0.25 * plot.unit)
    for evaluation in evaluations:
        row, left, right = rows[evaluation.core - 1], plot.x(evaluation.depth - 1), plot.x(evaluation.depth)
        sheet.box((left + gap, row.cell_top, right - gap, row.cell_bottom), colours[evaluation.lane], radius)
        if _numbered(plot, row):
            sheet.text(((left + right) / 2, row.middle), f"{evaluation.index + 1}", 14, _BACKGROUND, "mm")


def _draw_jumps(sheet: _Sheet, plot: _Plot, rows: Sequence[_Row], timeline: Timeline) -> None:
    """From each core's first evaluation to the next core's, and to the draft."""
    first = {evaluation.core: evaluation.depth for evaluation in reversed(timeline.evaluations)}
    for core in sorted(first):
        if core + 1 in first:
            end = plot.x(first[core + 1] - 1), rows[core].middle
            sheet.elbow((plot.x(first[core] - 0.5), rows[core - 1].cell_bottom), end, _DIM)
    for hit in timeline.hits:
        if hit.core == 0:
            end = plot.x(hit.depth) + 4, rows[-1].bottom + 12
            sheet.elbow((plot.x(hit.depth - 0.5), rows[-1].cell_bottom), end, _DIM)


def _draw_rectifications(
    sheet: _Sheet, plot: _Plot, rows: Sequence[_Row], rectified: Sequence[RectificationMark]
) -> None:
    """Each between the two cores, at the end of its round."""
    radius = min(6.5, max(3.5, 0.5 * plot.unit), 0.2 * rows[0].height)
    for mark in rectified:
        sheet.wedge((plot.x(mark.depth), rows[mark.core - 1].top), radius, _TEXT)


def _draw_hit(sheet: _Sheet, plot: _Plot, rows: Sequence[_Row], hit: HitMark, colour: Colour) -> None:
    """At the end of its core's row; the draft, which is no core's, below the rows."""
    if hit.core == 0:
        radius, middle, font, label = 5.5, rows[-1].bottom + 12, 14, "draft"
    else:
        row = rows[hit.core - 1]
        radius, middle, font, label = min(8.0, 0.4 * row.height), row.middle, row.font, f"hit {hit.index}"
        if hit.change is not None and len(rows) > 1:
            label += f"  ·  {_percent(hit.change)}"
    x = plot.x(hit.depth) + radius + 7
    sheet.diamond((x, middle), radius, colour)
    sheet.text((x + radius + 7, middle), label, font, colour)


def _draw_work(
    sheet: _Sheet, plot: _Plot, rows: Sequence[_Row], evaluations: Sequence[Evaluation], colours: Sequence[Colour]
) -> None:
    """A cell for each evaluation on its lane, as long as it took."""
    for evaluation in evaluations:
        row, left = rows[evaluation.lane], plot.x(evaluation.began)
        width = plot.x(evaluation.began + evaluation.seconds) - left
        gap = _gap(width) / 2
        cell = left + gap, row.cell_top, left + width - gap, row.cell_bottom
        sheet.box(cell, colours[evaluation.lane], radius=min(4.0, 0.2 * width))


def _draw_gain(sheet: _Sheet, plot: _Plot, end: float, rows: Sequence[_Row], gain: str, meaning: str) -> None:
    """In words, where it was not needed to go on, if ``rows`` leave room there."""
    if not rows:
        return
    width, height = plot.x(plot.limit) - plot.x(end), rows[-1].bottom - rows[0].top
    size = min(52.0, height - 30)
    if size >= 24 and width >= max(_length(meaning, 15), _length(gain, size)) + 40:
        colour, x = _mix(_GOLD, _CARD, 0.75), plot.x((plot.limit + end) / 2)
        middle = rows[0].top + height / 2
        sheet.text((x, middle - 12), gain, size, colour, "mm", bold=True)
        sheet.text((x, middle + size / 2 + 4), meaning, 15, colour, "mm")


def _draw_axis(sheet: _Sheet, plot: _Plot, ticks: Sequence[float], label: Callable[[float], str], end: float) -> None:
    """Ticks below the plot; what lies beyond ``end`` was not needed and is tinted."""
    if end < plot.limit:
        sheet.box((plot.x(end), plot.top, plot.x(plot.limit), plot.bottom), _mix(_GOLD, _CARD, 0.07), radius=6)
    for tick in ticks:
        sheet.line([(plot.x(tick), plot.top), (plot.x(tick), plot.bottom + 5)], _GRID, 1)
        sheet.text((plot.x(tick), plot.bottom + 16), label(tick), 14, _DIM, "mm")


def _draw_end(sheet: _Sheet, plot: _Plot, value: float, bottom: float, label: str) -> None:
    """Where the run ended: a line down to ``bottom``, labelled above the plot."""
    x = plot.x(value)
    sheet.dashes(x, plot.top - 4, bottom, _GOLD)
    sheet.text((x, plot.top - 15), label, 15, _GOLD, "mm")


def _ticks(limit: float, whole: bool = False) -> list[float]:
    """Round values from 0 to ``limit``, at most eleven, whole ones if they must be."""
    magnitude = 10.0 ** math.floor(math.log10(limit / 10))
    step = next(step * magnitude for step in (1, 2, 5, 10) if limit / (step * magnitude) <= 10)
    if whole:
        step = max(1.0, step)
    return [round(step * tick, 9) for tick in range(math.floor(limit / step + 1e-9) + 1)]


# --- drawing


class _Sheet:
    """A strip of the picture to draw on, as wide as the picture, ``height`` pixels high."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.image = Image.new("RGB", (_WIDTH * _SCALE, round(height) * _SCALE), _BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)

    def card(self, title: str, unit: str) -> None:
        """The ground of a section."""
        self.box((_MARGIN, 8, _WIDTH - _MARGIN, self.height - 10), _CARD, radius=12)
        self.text((_EDGE, 38), title, 19, _TEXT, bold=True)
        self.text((_EDGE + _length(title, 19) + 14, 39), unit, 15, _DIM)

    def text(
        self, at: Point, text: str, size: float, colour: Colour, anchor: str = "lm", *, bold: bool = False
    ) -> None:
        place = at[0] * _SCALE, at[1] * _SCALE
        self._draw.text(place, _plain(text), colour, _font(size), anchor, stroke_width=round(size / 30) if bold else 0)

    def box(self, box: Box, colour: Colour, radius: float = 0.0) -> None:
        left, top, right, bottom = (round(length * _SCALE) for length in box)
        corners = left, top, max(left, right - 1), max(top, bottom - 1)  # the last pixel counts
        if radius >= 1:
            self._draw.rounded_rectangle(corners, radius * _SCALE, colour)
        else:
            self._draw.rectangle(corners, colour)

    def hatch(self, box: Box, colour: Colour) -> None:
        left, top, right, bottom = (round(length * _SCALE) for length in box)
        if right <= left:
            return
        mask = Image.new("1", (right - left, bottom - top))
        draw = ImageDraw.Draw(mask)
        for x in range(-mask.height, mask.width, 6 * _SCALE):
            draw.line([(x, mask.height), (x + mask.height, 0)], 1, _SCALE)
        self.image.paste(colour, (left, top), mask)

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        self._draw.line([(x * _SCALE, y * _SCALE) for x, y in points], colour, round(width * _SCALE), "curve")

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], colour)

    def dashes(self, x: float, top: float, bottom: float, colour: Colour) -> None:
        for y in range(round(top), round(bottom), 9):
            self.line([(x, y), (x, min(y + 5, bottom))], colour, 1.5)

    def diamond(self, at: Point, radius: float, colour: Colour) -> None:
        x, y = at
        self.polygon([(x - radius, y), (x, y - radius), (x + radius, y), (x, y + radius)], colour)

    def cross(self, at: Point, radius: float, colour: Colour) -> None:
        x, y = at
        self.line([(x - radius, y - radius), (x + radius, y + radius)], colour, 2.5)
        self.line([(x - radius, y + radius), (x + radius, y - radius)], colour, 2.5)

    def wedge(self, at: Point, radius: float, colour: Colour) -> None:
        """Points down."""
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


@lru_cache(maxsize=32)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SCALE)


def _length(text: str, size: float) -> float:
    return _font(size).getlength(_plain(text)) / _SCALE


def _plain(text: str) -> str:
    """``text`` in letters that the font has: accents dropped, other scripts as question marks."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() or letter == "·" else "?" for letter in letters)


def _fit(text: str, size: float, width: float) -> str:
    """``text``, cut with an ellipsis where it is wider than ``width``."""
    if _length(text, size) <= width:
        return text
    ends = range(1, len(text))
    fitting = bisect_right(ends, width, key=lambda end: _length(text[:end] + "…", size))
    return text[:fitting].rstrip() + "…"


def _wrap(text: str, size: float, width: float, most: int) -> list[str]:
    """``text`` in at most so many lines of ``width``; the last is cut where that is too few."""
    lines: list[str] = []
    for word in text.split():
        if lines and (len(lines) == most or _length(f"{lines[-1]} {word}", size) <= width):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [_fit(line, size, width) for line in lines]


def _mix(colour: Colour, ground: Colour, share: float) -> Colour:
    red, green, blue = (round(share * c + (1 - share) * g) for c, g in zip(colour, ground, strict=True))
    return red, green, blue


def _lane_colours(lanes: int) -> list[Colour]:
    """One a lane: from green over blue to pink, as far from gold and red as they go; neighbours differ in lightness
    too where there are many."""
    hues = [235.0] if lanes == 1 else [150 + 190 * lane / (lanes - 1) for lane in range(lanes)]
    return [_oklch(0.78 - 0.1 * (lane % 2) * (lanes > 4), 0.125, hue) for lane, hue in enumerate(hues)]


def _oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """The sRGB colour nearest to an OKLCH one (Ottosson 2020); ``hue`` in degrees."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (
        round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055))
        for c in (min(1.0, max(0.0, c)) for c in linear)
    )
    return red, green, blue
