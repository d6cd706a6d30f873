"""The course of an optimisation as a picture: the objective at each iteration, and the result.

Needs no host: Pillow, NumPy and matplotlib only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .curves import Curve, Range, alone, make_curves, spread_apart, value_range, write
from .drawing import (
    EDGE,
    MARGIN,
    SCALE,
    WIDTH,
    KeyFigure,
    Sheet,
    fit,
    header,
    stack,
    words,
)
from .palette import Colour, distinct_colours, faded, palette
from .pictures import Grid, Shown, picture_card
from .style import (
    HOW_TO_INSTALL,
    LABEL_SIZE,
    MatplotlibMissing,
    draw_legend,
    fill_width,
    line,
    marker,
    new_figure,
    points,
    prepare_axes,
    render,
    rgb,
    round_ticks,
    set_ticks,
    text,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    from .curves import Values

_PLOT_TOP, _PLOT_HEIGHT = 56.0, 506.0  # in its card
_MAX_MARKS = 6  # described in words
_LABEL_DISTANCE = 20.0  # between the results of two curves
_PICTURES = Grid(columns=4, gap=24, max_height=480, max_enlargement=4, min_width=140, dim_labels=True)


@dataclass(frozen=True, eq=False)
class Course:
    """What an optimisation did, in numbers; lower values are better.

    ``title``: what was done, in a few words.
    ``history``: the objective at the start of each iteration done, for each of B >= 1 items; may be NaN or infinite.
    ``sampled``: for each iteration, whether its value is from a sampled trajectory; if not, it is a prediction from a
        carried trajectory. What the history has beyond it (an early stop fills it up) is not drawn.
    ``best`` [B]: the objective of the result. It stands at the iteration that has this value, else at the end.
    ``iterations``: planned, >= 1.
    ``marks``: the iteration, from 0, of each event (for example an item that was rolled back), and its description.
    ``stopped``: why it ended early, as the end of a sentence; None if it did not.
    ``figures``: label and value of each key figure, about five; the last one belongs to the result.
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

    From the top: the title, why it ended early, the key figures; the objective against the iterations, with the
    meaning of the signs; the marks in words; the pictures. Up to eight items have a line each; of more items the mean
    and the range are drawn. Values that would flatten all others are drawn at the edge of the plot. Positive values
    that fall by a factor of 1000 or more are drawn on a logarithmic scale. Without matplotlib, a text that says how to
    install it takes the place of the plot.
    """
    done, last = min(len(course.history), len(course.sampled)), len(course.figures) - 1
    message = ""
    if course.stopped is not None:
        message = f"Ended after {done} of {_iterations(course.iterations)}: {course.stopped}"
    colours = [palette().text] * last + [palette().gold]
    figures = [KeyFigure(value, label, colour) for (label, value), colour in zip(course.figures, colours, strict=False)]
    sections = [header(course.title, message, figures)]
    curves = make_curves(course.history[:done], course.sampled[:done], course.best)
    if any(curve.shown.size for curve in curves):
        sections += _objective(course, curves, done)
    elif done:
        sections.append(words("No value of the objective is finite.", f"Ended after {_iterations(done)}."))
    else:
        sections.append(words("No iteration has been done.", f"Planned: {_iterations(course.iterations)}."))
    shown = [Shown(label, "", picture) for label, picture in course.pictures]
    if visible := [picture for picture in shown if picture.visible]:
        sections += [picture_card("", visible, _PICTURES), Sheet(MARGIN - 10)]
    return stack(sections)


def _iterations(count: int) -> str:
    return f"{count} iteration{'s' * (count != 1)}"


def _objective(course: Course, curves: Sequence[Curve], done: int) -> list[Sheet]:
    """The card with the plot, and below it the marks in words."""
    marks = _described_marks(course.marks)
    try:
        plot = render(_plot(course, curves, done))
    except MatplotlibMissing:
        return [words("The plot of the objective needs matplotlib.", HOW_TO_INSTALL), marks]
    many = f"; {len(course.best)} items, their mean and range" if curves[0].lows.size else ""
    logarithmic = "; logarithmic" if value_range(curves).log else ""
    sheet = Sheet(_PLOT_TOP + _PLOT_HEIGHT + 30)
    sheet.card("Objective", f"at each iteration, lower is better{many}{logarithmic}")
    sheet.picture((EDGE, _PLOT_TOP), plot, WIDTH - 2 * EDGE, _PLOT_HEIGHT)
    return [sheet, marks]


def _described_marks(marks: Sequence[tuple[int, str]]) -> Sheet:
    described = [f"iteration {iteration}: {event}" for iteration, event in marks[:_MAX_MARKS]]
    if len(marks) > _MAX_MARKS:
        described.append(f"and {len(marks) - _MAX_MARKS} more")
    sheet = Sheet(12 + 24 * len(described) + (10 if described else 0))
    for number, event in enumerate(described):
        y = 14 + 24 * number
        if number < _MAX_MARKS:
            sheet.cross((MARGIN + 8, y), 5, palette().red)
        sheet.text((MARGIN + 26, y), fit(event, 15, WIDTH - 2 * MARGIN - 26), 15, palette().red)
    return sheet


# --- the plot


def _plot(course: Course, curves: Sequence[Curve], done: int) -> Figure:
    shown, limit = value_range(curves), max(course.iterations, done, 1)
    figure = new_figure(WIDTH - 2 * EDGE, _PLOT_HEIGHT)
    axes = figure.add_subplot()
    prepare_axes(axes)
    step = _set_scales(axes, shown, limit, strip=bool(course.marks))
    colours = distinct_colours(len(curves))
    _draw_end(axes, done, limit, stopped=course.stopped is not None)
    _draw_marks(axes, [min(iteration, limit) for iteration, _ in course.marks])
    radius = min(4.0, max(1.3, 0.35 * (WIDTH - 2 * EDGE) / limit))
    for curve, colour in zip(curves, colours, strict=True):
        _draw_range(axes, curve, shown, colour)
        _draw_values(axes, curve, shown, colour, radius)
    for curve, colour in zip(curves, colours, strict=True):
        _draw_best_so_far(axes, curve, colour)
    for curve, colour in zip(curves, colours, strict=True):
        _draw_sampled(axes, curve, shown, colour, course.sampled[:done], radius)
    labels = _draw_results(axes, curves, colours, shown, step)
    signs = _signs(curves, colours[0] if len(curves) == 1 else palette().text, shown, course.sampled[:done])
    draw_legend(figure, signs)
    fill_width(axes, bottom=56, top=30)
    _spread_labels(axes, labels)
    return figure


def _set_scales(axes: Axes, shown: Range, limit: int, *, strip: bool) -> float:
    """Scales, ticks and their labels; returns the distance of the ticks of a linear scale of values.

    ``strip``: leave a strip below the values, for marks.
    """
    across = round_ticks(0, limit, 10, whole=True)
    set_ticks(axes.xaxis, across, [f"{tick:.0f}" for tick in across])
    if shown.log:
        powers = round_ticks(math.log10(shown.low), math.log10(shown.high), 7, whole=True)
        up, step = [10.0**power for power in powers], 1.0
    else:
        up = round_ticks(shown.low, shown.high, 7)
        step = up[1] - up[0] if len(up) > 1 else shown.high - shown.low
    axes.set(xlim=(0, limit), ylim=(shown.low, shown.high), yscale="log" if shown.log else "linear")
    if strip:
        low, high = axes.transAxes.transform([(0, -0.06), (0, 1)])
        (_, bottom), (_, top) = axes.transData.inverted().transform([low, high])
        axes.set_ylim(bottom, top)
    set_ticks(axes.yaxis, up, [write(tick, shown, step) for tick in up])
    return step


def _draw_end(axes: Axes, done: int, limit: int, *, stopped: bool) -> None:
    """What was planned and not done is tinted; a line marks an early end."""
    if done < limit:
        axes.axvspan(done, limit, facecolor=rgb(faded(palette().gold, 0.07)), edgecolor="none", zorder=0)
    if done < limit or stopped:
        axes.axvline(done, **line(palette().gold, 1.5, linestyle=(0, (3.5, 2.5))), clip_on=False, zorder=2)
        axes.annotate(
            _iterations(done),
            (done, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, points(8)),
            textcoords="offset points",
            ha="center",
            va="bottom",
            **text(LABEL_SIZE, palette().gold),
        )


def _draw_marks(axes: Axes, iterations: Sequence[int]) -> None:
    for iteration in sorted(set(iterations)):
        dashes = line(faded(palette().red, 0.45), 1.5, linestyle=(0, (3.5, 2.5)))
        axes.axvline(iteration, 0.05, **dashes, clip_on=False, zorder=2)
    crosses = marker("x", 5, palette().red) | {"markeredgewidth": points(2.5)}
    axes.plot(iterations, [0.025] * len(iterations), transform=axes.get_xaxis_transform(), **crosses, zorder=5)


def _draw_range(axes: Axes, curve: Curve, shown: Range, colour: Colour) -> None:
    """From the lowest item to the highest."""
    if not curve.lows.size:
        return
    lows, highs = _within(curve.lows, shown), _within(curve.highs, shown)
    across, band = np.arange(len(lows)), rgb(faded(colour, 0.16))
    axes.fill_between(across, lows, highs, where=~np.isnan(lows), facecolor=band, edgecolor="none", zorder=0.6)
    single = alone(curve.lows)
    axes.vlines(across[single], lows[single], highs[single], colors=[band], linewidths=points(3), zorder=0.6)


def _draw_values(axes: Axes, curve: Curve, shown: Range, colour: Colour, radius: float) -> None:
    """A faint line through all values, a dot where one has no neighbour, a triangle where one is outside the range."""
    values, across, faint = _within(curve.values, shown), np.arange(len(curve.values)), faded(colour, 0.42)
    axes.plot(across, values, **line(faint, 1.5), zorder=3)
    single = alone(curve.values)
    axes.plot(across[single], values[single], **marker("o", 0.6 * radius, faint), zorder=3)
    beyond = shown.beyond(curve.values)
    for direction, shape in ((1, "^"), (-1, "v")):
        place = beyond == direction
        axes.plot(across[place], values[place], **marker(shape, 5, colour), zorder=5)


def _draw_best_so_far(axes: Axes, curve: Curve, colour: Colour) -> None:
    """A strong line, down in steps, and at the end to the result."""
    end = curve.best_so_far[-1:] if math.isnan(curve.result) else [curve.result]
    best = np.concatenate((curve.best_so_far, end))
    known = ~np.isnan(best)
    across = np.arange(len(best))[known]
    axes.plot(across, best[known], **line(colour, 3, drawstyle="steps-post"), clip_on=False, zorder=4)


def _draw_sampled(
    axes: Axes, curve: Curve, shown: Range, colour: Colour, sampled: Sequence[bool], radius: float
) -> None:
    place = np.array(sampled, dtype=bool) & ~np.isnan(curve.values) & (shown.beyond(curve.values) == 0)
    style = marker("o", radius, colour, edge=palette().card if radius > 3 else None)
    axes.plot(np.arange(len(place))[place], curve.values[place], **style, zorder=5)


def _draw_results(
    axes: Axes, curves: Sequence[Curve], colours: Sequence[Colour], shown: Range, step: float
) -> list[Annotation]:
    """A diamond where each result was found, and its value to the right of the end of its curve."""
    pairs = zip(reversed(curves), reversed(colours), strict=True)  # of equal results the first stands above
    found = [(curve, colour) for curve, colour in pairs if not math.isnan(curve.result)]
    labels = []
    for curve, colour in sorted(found, key=lambda item: item[0].result):
        axes.plot([curve.found], [curve.result], **marker("D", 9, palette().gold), zorder=6)
        name = f"{curve.name}  ·  " if curve.name else ""
        label = axes.annotate(
            name + write(curve.result, shown, step, more=2),
            (len(curve.values), curve.result),
            xytext=(points(20 if len(curves) == 1 else 32), 0),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": points(1), "color": rgb(faded(colour, 0.6))}
            | {"shrinkA": 0, "shrinkB": points(11), "relpos": (-0.04, 0.5)},
            **text(LABEL_SIZE, palette().gold if len(curves) == 1 else colour),
        )
        labels.append(label)
    return labels


def _spread_labels(axes: Axes, labels: Sequence[Annotation]) -> None:
    """Move labels up or down until none covers another; a line leads from a moved label to its curve."""
    up = [float(axes.transData.transform(label.xy)[1]) / SCALE for label in labels]
    box = axes.get_window_extent()
    low, high = box.y0 / SCALE + 8, box.y1 / SCALE - 8
    for label, place, moved in zip(labels, up, spread_apart(up, _LABEL_DISTANCE, low, high), strict=True):
        label.set_position((label.get_position()[0], points(moved - place)))
        if label.arrow_patch is not None:
            label.arrow_patch.set_visible(abs(moved - place) > 1)


def _within(values: Values, shown: Range) -> Values:
    """What is outside the range is drawn at its edge."""
    return np.clip(values, shown.low, shown.high)


def _signs(curves: Sequence[Curve], colour: Colour, shown: Range, sampled: Sequence[bool]) -> list[tuple[Artist, str]]:
    """The signs that are in this plot, and their meaning."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    many = bool(curves[0].lows.size)
    outside = any(shown.beyond(curve.values).any() for curve in curves)
    results = any(not math.isnan(curve.result) for curve in curves)
    best = "best of the sampled values so far" + (", mean of the items" if many else "")
    signs: list[tuple[bool, Artist, str]] = [
        (True, Line2D([], [], **line(colour, 3)), best),
        (any(sampled), Line2D([], [], **marker("o", 4, colour)), "sampled"),
        (
            not all(sampled),
            Line2D([], [], **line(faded(colour, 0.42), 1.5)),
            "carried between samplings: a prediction",
        ),
        (
            many,
            Patch(facecolor=rgb(faded(colour, 0.16)), edgecolor="none"),
            "from the lowest item to the highest",
        ),
        (outside, Line2D([], [], **marker("^", 5, colour)), "off the scale"),
        (results, Line2D([], [], **marker("D", 6, palette().gold)), "result"),
    ]
    return [(sign, meaning) for present, sign, meaning in signs if present]
