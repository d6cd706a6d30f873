"""The course of an optimisation as a picture: the objective iteration by iteration, and what came of it.

Needs no host: Pillow and the standard library alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from PIL import Image

from .drawing import (
    CARD,
    DIM,
    EDGE,
    GOLD,
    GRID,
    MARGIN,
    RED,
    TEXT,
    WIDTH,
    Colour,
    Figure,
    Point,
    Sheet,
    Sign,
    distinct_colours,
    draw_signs,
    fit,
    header,
    mix,
    stack,
    text_width,
    ticks,
    words,
)

_TOP, _BOTTOM = 86.0, 506.0  # of the plot, in its card
_STRIP = 26  # at the bottom of a plot with marks
_LINES = 8  # items of a batch that have a line of their own; of more the mean and the range are drawn
_MARKS = 6  # told in words
_COLUMNS, _TALLEST, _LARGER = 4, 480, 4  # pictures in a row, the height of one, and how far it is enlarged
_BESIDE = 20, 30  # from the end of a line to the text of its result; the second where there are several
_HUGE, _TINY = 1e300, 1e-300  # beyond these a value is none, and a difference nothing


@dataclass(frozen=True, eq=False)
class Course:
    """What an optimisation did, in numbers; lower values are better.

    ``title``: what was done, in a few words.
    ``history``: the objective at the start of each iteration done, for each of B >= 1 items; may be NaN or infinite.
    ``sampled``: of each iteration, whether its value is of a sampled trajectory, or of a carried one: a prediction.
        What the history has beyond it (an early stop fills it up) is not drawn.
    ``best`` [B]: the objective of the result. It stands where the history has it, or else at the end.
    ``iterations``: planned, >= 1.
    ``marks``: what happened (an item rolled back, say) at which iteration, from 0.
    ``stopped``: why it ended early, as the end of a sentence; None where it did not.
    ``figures``: label and value of each number to read first, about five; the last is the result's.
    ``pictures``: each with its label, of any size and mode.
    """

    title: str
    history: tuple[tuple[float, ...], ...]
    sampled: tuple[bool, ...]
    best: tuple[float, ...]
    iterations: int
    marks: tuple[tuple[int, str], ...] = ()
    stopped: str | None = None
    figures: tuple[tuple[str, str], ...] = ()
    pictures: tuple[tuple[str, Image.Image], ...] = ()


def draw_curve(course: Course) -> Image.Image:
    """The course as an RGB picture, 1400 pixels wide and as high as its marks and pictures need.

    From the top: the title, why it ended early, the figures; the objective against the iterations; the marks in words
    and the meaning of the signs; the pictures. Of up to eight items each has its line, of more the mean and the range
    are drawn. Values so far off that the others would lie in a line are drawn at the plot's edge; positive ones that
    fell a thousandfold are drawn in a logarithmic scale.
    """
    done, last = min(len(course.history), len(course.sampled)), len(course.figures) - 1
    message = ""
    if course.stopped is not None:
        message = f"Ended after {done} of {_iterations(course.iterations)}: {course.stopped}"
    figures = [
        Figure(value, label, GOLD if place == last else TEXT) for place, (label, value) in enumerate(course.figures)
    ]
    sections = [header(course.title, message, figures)]
    curves = _curves(course, done)
    if any(curve.shown for curve in curves):
        sections += _objective(course, curves, done)
    elif done:
        sections.append(words("No value of the objective is finite.", f"Ended after {_iterations(done)}."))
    else:
        sections.append(words("No iteration has been done.", f"Planned: {_iterations(course.iterations)}."))
    pictures = [(label, picture) for label, picture in course.pictures if picture.width and picture.height]
    if pictures:
        sections += [_pictures(pictures), Sheet(MARGIN - 10)]
    return stack(sections)


# --- the curves


@dataclass(frozen=True)
class _Curve:
    """An item's values at each iteration done, NaN where there is none, or the mean of many items'.

    ``kept``: the best of the sampled values so far, at the same iterations. ``result``: NaN where unknown; ``found``:
    its iteration, the number of those done for the end. ``lows``, ``highs``: of many items, else empty.
    """

    name: str
    colour: Colour
    values: tuple[float, ...]
    kept: tuple[float, ...]
    result: float
    found: int
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()

    @property
    def shown(self) -> list[float]:
        """All values there are to be seen."""
        found = (*self.values, *self.kept, self.result, *self.lows, *self.highs)
        return [value for value in found if not math.isnan(value)]

    @property
    def needed(self) -> list[float]:
        """Those without which the course cannot be understood."""
        return [value for value in (*self.values[:1], *self.kept, self.result) if not math.isnan(value)]


def _curves(course: Course, done: int) -> list[_Curve]:
    items = max([len(course.best), *(len(values) for values in course.history)], default=0)
    every = [_curve(course, item, done) for item in range(items)]
    if items == 1:
        return every
    colours = distinct_colours(items)
    if items <= _LINES:
        return [
            _Curve(f"item {item}", colours[item], curve.values, curve.kept, curve.result, curve.found)
            for item, curve in enumerate(every)
        ]
    together = list(zip(*(curve.values for curve in every), strict=True))
    return [
        _Curve(
            "mean",
            every[0].colour,
            tuple(_mean(values) for values in together),
            tuple(_mean(values) for values in zip(*(curve.kept for curve in every), strict=True)),
            _mean([curve.result for curve in every]),
            done,
            tuple(min(_known(values), default=math.nan) for values in together),
            tuple(max(_known(values), default=math.nan) for values in together),
        )
    ]


def _curve(course: Course, item: int, done: int) -> _Curve:
    values = tuple(_value(course.history[iteration], item) for iteration in range(done))
    best, kept, at = math.nan, [], done
    for iteration, value in enumerate(values):
        if course.sampled[iteration] and not math.isnan(value) and not value >= best:
            best, at = value, iteration
        kept.append(best)
    result = _value(course.best, item)
    # Items that were sampled together once more may have changed in their last bits.
    known = _known(kept)
    close = bool(known) and abs(result - best) <= 1e-3 * (known[0] - best) + 1e-6 * abs(best)
    found = at if close else done
    return _Curve("", distinct_colours(1)[0], values, tuple(kept), result, found)


def _value(values: Sequence[float], item: int) -> float:
    """NaN also for one that is missing or cannot be drawn."""
    value = float(values[item]) if item < len(values) else math.nan
    return value if abs(value) < _HUGE else math.nan


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: Sequence[float]) -> float:
    known = _known(values)
    return fmean(known) if known else math.nan


def _iterations(count: int) -> str:
    return f"{count} iteration{'s' * (count != 1)}"


# --- the scale


@dataclass(frozen=True)
class _Scale:
    """Where values lie between ``top`` and ``bottom`` of the sheet; ``low`` and ``high`` are logarithms if ``log``."""

    low: float
    high: float
    log: bool
    top: float
    bottom: float

    def y(self, value: float) -> float:
        """Beyond the scale: its end."""
        place = (self._place(value) - self.low) / (self.high - self.low)
        return self.bottom - (self.bottom - self.top) * min(1.0, max(0.0, place))

    def beyond(self, value: float) -> int:
        """1 above the scale, -1 below, 0 on it."""
        place = self._place(value)
        return (place > self.high) - (place < self.low)

    def ticks(self) -> list[float]:
        """About six round values."""
        if self.log:
            every = math.ceil((self.high - self.low) / 7)
            return [10.0**power for power in range(math.ceil(self.low), math.floor(self.high) + 1, every)]
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [tick * self.step for tick in range(first, last + 1)]

    @property
    def step(self) -> float:
        """From tick to tick of a linear scale."""
        span = self.high - self.low
        magnitude = 10.0 ** math.floor(math.log10(span / 7))
        return next(step * magnitude for step in (1, 2, 5, 10) if span / (step * magnitude) <= 7)

    def write(self, value: float, more: int = 0) -> str:
        """``value`` with the digits that tell one tick from the next, and so many more."""
        if self.log:
            return _exponent(f"{value:.{more + 1}g}" if more else f"{value:g}")
        reach, step = max(abs(self.low), abs(self.high)), self.step
        power = math.floor(math.log10(reach))
        if -4 < power < 6:
            return _signed(f"{value:.{max(0, more - math.floor(math.log10(step) + 1e-9))}f}")
        decimals = max(0, power - math.floor(math.log10(step) + 1e-9)) + more
        return _signed(f"{value / 10.0**power:.{decimals}f}") + (f"e{power}" if value else "")

    def _place(self, value: float) -> float:
        return math.log10(value) if self.log else value


def _scale(curves: Sequence[_Curve], bottom: float) -> _Scale:
    """From the lowest to the highest value, and a little more; without single ones that are far off."""
    shown = sorted(value for curve in curves for value in curve.shown)
    needed = [value for curve in curves for value in curve.needed] or shown
    log = shown[0] > _TINY and max(needed) / min(needed) >= 1000
    if log:
        shown, needed = [math.log10(value) for value in shown], [math.log10(value) for value in needed]
    tenth = round(0.1 * (len(shown) - 1))
    low, high = min(shown[tenth], *needed), max(shown[-1 - tenth], *needed)
    usual = high - low
    # What is not much further off is shown as it is; of what is, only that it is further off.
    low = shown[0] if low - shown[0] <= usual or not usual else low - 0.3 * usual
    high = shown[-1] if shown[-1] - high <= usual or not usual else high + 0.3 * usual
    if high - low <= max(_TINY, 1e-9 * max(abs(low), abs(high))):  # all the same
        half = 0.1 * abs(low) if abs(low) > _TINY else 1.0
        return _Scale(low - half, high + half, log, _TOP, bottom)
    room = 0.06 * (high - low)
    return _Scale(low - room, high + room, log, _TOP, bottom)


def _signed(number: str) -> str:
    """Without the sign of a zero."""
    return number[1:] if number.startswith("-") and not number.strip("-0.") else number


def _exponent(number: str) -> str:
    """1e-05 as 1e-5."""
    digits, e, power = number.partition("e")
    return f"{digits}e{int(power)}" if e else digits


# --- the sections of the picture


def _objective(course: Course, curves: Sequence[_Curve], done: int) -> list[Sheet]:
    """The plot, and below it the marks in words and the signs."""
    scale = _scale(curves, _BOTTOM - (_STRIP if course.marks else 0))
    labels = [(scale.y(tick), scale.write(tick)) for tick in scale.ticks()]
    left = EDGE + max((text_width(text, 14) for _, text in labels), default=0.0) + 14
    right = WIDTH - EDGE - _BESIDE[len(curves) > 1] - max(text_width(_told(curve, scale), 15) for curve in curves)
    plot = _Plot(left, right, max(course.iterations, done, 1), scale)
    sheet = Sheet(_BOTTOM + 56)
    sheet.card("Objective", _about(course, curves, scale))
    if done < plot.limit:
        sheet.box((plot.x(done), _TOP, right, _BOTTOM), mix(GOLD, CARD, 0.07), radius=6)
    for curve in curves:
        _draw_band(sheet, plot, curve)
    for tick in ticks(plot.limit, whole=True):
        sheet.line([(plot.x(tick), _TOP), (plot.x(tick), _BOTTOM + 5)], GRID, 1)
        sheet.text((plot.x(tick), _BOTTOM + 16), f"{tick:.0f}", 14, DIM, "mm")
    for y, text in labels:
        sheet.line([(left - 5, y), (right, y)], GRID, 1)
        sheet.text((left - 12, y), text, 14, DIM, "rm")
    if course.stopped is not None or done < plot.limit:
        sheet.dashes(plot.x(done), _TOP - 4, _BOTTOM, GOLD)
        sheet.text((plot.x(done), _TOP - 15), _iterations(done), 15, GOLD, "mm")
    for iteration in sorted({iteration for iteration, _ in course.marks}):
        sheet.dashes(plot.x(iteration), _TOP, _BOTTOM - 20, mix(RED, CARD, 0.45))
        sheet.cross((plot.x(iteration), _BOTTOM - 12), 5, RED)
    for curve in curves:
        _draw_values(sheet, plot, curve, mix(curve.colour, CARD, 0.42))
    for curve in curves:
        _draw_kept(sheet, plot, curve, done)
    for curve in curves:
        _draw_sampled(sheet, plot, curve, course.sampled)
    _draw_results(sheet, plot, curves, done)
    return [sheet, _legend(course, curves, scale, done)]


def _about(course: Course, curves: Sequence[_Curve], scale: _Scale) -> str:
    many = f"; {len(course.best)} items, their mean and range" if curves[0].lows else ""
    return "at each iteration, lower is better" + many + ("; logarithmic" if scale.log else "")


def _legend(course: Course, curves: Sequence[_Curve], scale: _Scale, done: int) -> Sheet:
    marks = [f"iteration {iteration}: {text}" for iteration, text in course.marks[:_MARKS]]
    more = len(course.marks) - len(marks)
    sheet = Sheet(48 + 24 * (len(marks) + (more > 0)))
    for line, text in enumerate(marks):
        sheet.cross((MARGIN + 8, 12 + 24 * line), 5, RED)
        sheet.text((MARGIN + 26, 12 + 24 * line), fit(text, 15, WIDTH - 2 * MARGIN - 26), 15, RED)
    if more > 0:
        sheet.text((MARGIN + 26, 12 + 24 * len(marks)), f"and {more} more", 15, RED)
    draw_signs(sheet, sheet.height - 30, _signs(curves, scale, course.sampled[:done]))
    return sheet


def _signs(curves: Sequence[_Curve], scale: _Scale, sampled: Sequence[bool]) -> list[Sign]:
    """The signs in this picture."""
    colour = curves[0].colour if len(curves) == 1 else TEXT  # theirs differ
    faint, many = mix(colour, CARD, 0.42), bool(curves[0].lows)
    signs: list[tuple[bool, Sign]] = [
        (
            True,
            (
                lambda sheet, at: sheet.line([(at[0] - 8, at[1]), (at[0] + 8, at[1])], colour, 3),
                "best of the sampled values so far" + (", mean of the items" if many else ""),
            ),
        ),
        (any(sampled), (lambda sheet, at: sheet.dot(at, 4, colour), "sampled")),
        (
            not all(sampled),
            (
                lambda sheet, at: sheet.line([(at[0] - 8, at[1]), (at[0] + 8, at[1])], faint, 1.5),
                "carried between samplings: a prediction",
            ),
        ),
        (
            many,
            (
                lambda sheet, at: sheet.box((at[0] - 8, at[1] - 7, at[0] + 8, at[1] + 7), _band(colour), radius=4),
                "from the lowest item to the highest",
            ),
        ),
        (
            any(scale.beyond(value) for curve in curves for value in curve.values if not math.isnan(value)),
            (lambda sheet, at: _draw_beyond(sheet, at, 1, colour), "off the scale"),
        ),
        (
            any(not math.isnan(curve.result) for curve in curves),
            (lambda sheet, at: sheet.diamond(at, 6, GOLD), "result"),
        ),
    ]
    return [sign for shown, sign in signs if shown]


def _pictures(pictures: Sequence[tuple[str, Image.Image]]) -> Sheet:
    """In rows, each as large as fits, its aspect kept."""
    columns, gap = min(len(pictures), _COLUMNS), 24
    widest = (WIDTH - 2 * EDGE - (columns - 1) * gap) / columns
    sizes = []
    for _, picture in pictures:
        factor = min(widest / picture.width, _TALLEST / picture.height, _LARGER)
        sizes.append((picture.width * factor, picture.height * factor))
    pitch = max(140.0, *(width for width, _ in sizes)) + gap
    rows = [sizes[place : place + columns] for place in range(0, len(sizes), columns)]
    heights = [28 + max(height for _, height in row) + 22 for row in rows]
    sheet = Sheet(62 + sum(heights) + 10)
    sheet.card("Pictures", "")
    for place, ((label, picture), size) in enumerate(zip(pictures, sizes, strict=True)):
        row, column = divmod(place, columns)
        left, top = EDGE + column * pitch, 62 + sum(heights[:row])
        sheet.text((left, top + 12), fit(label, 15, pitch - gap), 15, DIM)
        sheet.picture((left, top + 28), picture, *size)
    return sheet


# --- the plot


@dataclass(frozen=True)
class _Plot:
    """Iterations from 0 to ``limit``, values on their scale."""

    left: float
    right: float
    limit: int
    scale: _Scale

    def x(self, iteration: float) -> float:
        return self.left + (self.right - self.left) * min(1.0, max(0.0, iteration / self.limit))

    def at(self, iteration: float, value: float) -> Point:
        return self.x(iteration), self.scale.y(value)

    @property
    def radius(self) -> float:
        """Of a dot: smaller where they are many."""
        return min(4.0, max(1.3, 0.35 * (self.right - self.left) / self.limit))


def _runs(values: Sequence[float]) -> Iterator[range]:
    """The iterations without a gap, in runs."""
    begin = 0
    for iteration in range(len(values) + 1):
        if iteration == len(values) or math.isnan(values[iteration]):
            if begin < iteration:
                yield range(begin, iteration)
            begin = iteration + 1


def _band(colour: Colour) -> Colour:
    return mix(colour, CARD, 0.16)


def _draw_band(sheet: Sheet, plot: _Plot, curve: _Curve) -> None:
    """From the lowest item to the highest."""
    for run in _runs(curve.lows):
        above = [plot.at(iteration, curve.highs[iteration]) for iteration in run]
        below = [plot.at(iteration, curve.lows[iteration]) for iteration in reversed(run)]
        if len(run) > 1:
            sheet.polygon(above + below, _band(curve.colour))
        else:
            sheet.line(above + below, _band(curve.colour), 3)


def _draw_values(sheet: Sheet, plot: _Plot, curve: _Curve, colour: Colour) -> None:
    """The faint line through all there are, and what is off the scale."""
    for run in _runs(curve.values):
        points = [plot.at(iteration, curve.values[iteration]) for iteration in run]
        if len(points) > 1:
            sheet.line(points, colour, 1.5)
        else:
            sheet.dot(points[0], 0.6 * plot.radius, colour)
    for iteration, value in enumerate(curve.values):
        if not math.isnan(value) and plot.scale.beyond(value):
            _draw_beyond(sheet, plot.at(iteration, value), plot.scale.beyond(value), curve.colour)


def _draw_beyond(sheet: Sheet, at: Point, direction: int, colour: Colour) -> None:
    """A wedge that points up (1) or down (-1)."""
    (x, y), up = at, 6 * direction
    sheet.polygon([(x - 5, y + up / 2), (x + 5, y + up / 2), (x, y - up)], colour)


def _draw_kept(sheet: Sheet, plot: _Plot, curve: _Curve, done: int) -> None:
    """The strong line: down in steps, and at the end to the result."""
    points: list[Point] = []
    last = [*curve.kept, curve.result if not math.isnan(curve.result) else (*curve.kept, math.nan)[-1]]
    for iteration, value in enumerate(last):
        if math.isnan(value):
            continue
        if points:
            points.append((plot.x(iteration), points[-1][1]))
        points.append(plot.at(iteration, value))
    if len(points) > 1:
        sheet.line(points, curve.colour, 3)


def _draw_sampled(sheet: Sheet, plot: _Plot, curve: _Curve, sampled: Sequence[bool]) -> None:
    for iteration, value in enumerate(curve.values):
        if sampled[iteration] and not math.isnan(value) and not plot.scale.beyond(value):
            at = plot.at(iteration, value)
            if plot.radius > 3:
                sheet.dot(at, plot.radius + 1.5, CARD)
            sheet.dot(at, plot.radius, curve.colour)


def _told(curve: _Curve, scale: _Scale) -> str:
    """The result in words."""
    name = f"{curve.name}  ·  " if curve.name else ""
    return "" if math.isnan(curve.result) else name + scale.write(curve.result, more=2)


def _draw_results(sheet: Sheet, plot: _Plot, curves: Sequence[_Curve], done: int) -> None:
    """A diamond where each was found; beside the end of its line what it is, one below the other."""
    ends = sorted(
        (plot.scale.y(curve.result), place) for place, curve in enumerate(curves) if not math.isnan(curve.result)
    )
    for y, place in ends:
        sheet.diamond((plot.x(curves[place].found), y), 8, GOLD)
    x, room = plot.x(done), 20.0
    heights: list[float] = []
    for y, _ in ends:
        heights.append(max(y, heights[-1] + room if heights else _TOP + 8))
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], heights[place + 1] - room if place + 1 < len(heights) else _BOTTOM - 8)
    for (y, place), height in zip(ends, heights, strict=True):
        curve = curves[place]
        colour = GOLD if len(curves) == 1 else curve.colour
        if abs(height - y) > 1:
            sheet.line([(x + 11, y), (x + 25, height)], mix(colour, CARD, 0.6), 1)
        sheet.text((x + _BESIDE[len(curves) > 1], height), _told(curve, plot.scale), 15, colour)
