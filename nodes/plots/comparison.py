"""A benchmark as a picture: the time of each setting, its difference from KSampler, and its picture.

Needs no host: Pillow and matplotlib only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..host.phrases import Phrase
from ..recommendation import Entry
from .drawing import (
    EDGE,
    MARGIN,
    WIDTH,
    KeyFigure,
    Sheet,
    duration,
    fit,
    header,
    plain,
    stack,
    text_width,
    words,
)
from .palette import Colour, distinct_colours, faded, palette
from .pictures import Grid, Shown, picture_card
from .style import (
    HOW_TO_INSTALL,
    TICK_SIZE,
    MatplotlibMissing,
    draw_legend,
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

__all__ = ["Comparison", "Shown", "decibels", "draw_comparison", "percent"]

# All in pixels of the plot, which fills its card from left to right.
_PLOT_TOP, _SIDE = 62.0, 22.0  # of the plot in its card; from the edge of the card to its content
_NAMES, _TIMES = 372.0, 358.0  # the right ends of the columns of names and of times
_LEFT, _RIGHT = 386.0, 814.0  # of the bars
_COLUMNS = (
    (Phrase("speed"), 918.0),
    (Phrase("first picture"), 1050.0),
    (Phrase("difference"), 1172.0),
    ("PSNR", 1304.0),
)  # their right ends
_HEAD, _ROW, _FOOT = 42.0, 42.0, 74.0  # the heights of the titles of the columns, of a row, of the axis and the legend
_FONT = 18
_EARLY = 0.995  # of the time of the result: a picture that comes earlier is a first picture
_PICTURES = Grid(columns=5, gap=22, max_height=240, min_width=WIDTH)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What to draw.

    ``about``: the task and the devices, in words. ``entries``: one per setting, KSampler's first. ``best``: the index
    of the recommended entry. ``headline`` and ``advice``: the verdict, in words. ``pictures``: what the settings made.
    """

    about: str
    entries: tuple[Entry, ...]
    best: int
    headline: str
    advice: str
    pictures: tuple[Shown, ...]


def draw_comparison(comparison: Comparison) -> Image.Image:
    """The benchmark as an RGB picture, 1400 pixels wide and as high as its settings and pictures need.

    From the top: the recommendation and its key figures; one row per setting, with a bar and its figures; the
    pictures. Without matplotlib, a text that says how to install it takes the place of the rows.
    """
    best = comparison.entries[comparison.best]
    sections = [
        header(comparison.headline, comparison.advice, _figures(comparison.entries[0], best)),
        _settings(comparison),
    ]
    if pictures := [shown for shown in comparison.pictures if shown.visible]:
        note = Phrase("time until it is there, difference of the latent from KSampler's, PSNR")
        sections.append(picture_card(note, pictures, _PICTURES))
    return stack([*sections, Sheet(MARGIN / 2)])


def percent(share: float) -> str:
    """A difference in words: "equal", a percentage, or "-" where there is none."""
    if share == 0:
        return Phrase("equal")
    if not math.isfinite(share):
        return "-"
    if share >= 0.995:
        return f"{100 * share:.0f} %"
    return f"{100 * share:.2g} %" if share >= 1e-4 else "< 0.01 %"


def decibels(psnr: float) -> str:
    """A PSNR in words; infinite is "equal", and NaN is "-"."""
    return Phrase("equal") if psnr == math.inf else f"{psnr:.1f} dB" if math.isfinite(psnr) else "-"


def _figures(stock: Entry, best: Entry) -> list[KeyFigure]:
    if best is stock:
        return [KeyFigure(duration(stock.seconds), Phrase("with KSampler"), palette().gold)]
    return [
        KeyFigure(f"{stock.seconds / best.seconds:.2f}x", Phrase("the speed of KSampler"), palette().gold),
        KeyFigure(duration(best.seconds), Phrase("with {name}", name=best.name)),
        KeyFigure(duration(stock.seconds), Phrase("with KSampler")),
        KeyFigure(percent(best.rmse), Phrase("difference of the latent")),
        KeyFigure(decibels(best.psnr), Phrase("PSNR of the picture")),
    ]


def _settings(comparison: Comparison) -> Sheet:
    """The card with a row per setting."""
    try:
        figure = _plot(comparison.entries, comparison.best)
    except MatplotlibMissing:
        return words(Phrase("The plot of the times needs matplotlib."), HOW_TO_INSTALL)
    height = _height(len(comparison.entries))
    sheet = Sheet(_PLOT_TOP + height + 28)
    title = Phrase("Settings")
    sheet.card(title, fit(comparison.about, 18, WIDTH - 2 * EDGE - text_width(title, 22) - 16))
    sheet.picture((MARGIN, _PLOT_TOP), render(figure), WIDTH - 2 * MARGIN, height)
    return sheet


# --- the plot


def _height(rows: int) -> float:
    return _HEAD + _ROW * rows + _FOOT


def _plot(entries: Sequence[Entry], best: int) -> Figure:
    """A row per setting: its name and its time, a bar as long as the time, and the other figures."""
    width, height = WIDTH - 2 * MARGIN, _height(len(entries))
    figure = new_figure(width, height)
    axes = figure.add_axes((_LEFT / width, _FOOT / height, (_RIGHT - _LEFT) / width, 1 - (_HEAD + _FOOT) / height))
    prepare_axes(axes)
    limit = max(max(entry.times) for entry in entries) or 1.0
    axes.set(xlim=(0, limit), ylim=(len(entries) - 0.5, -0.5))
    ticks = round_ticks(0, limit, 5)
    set_ticks(axes.xaxis, ticks, [f"{1000 * tick:g} ms" if limit < 1 else f"{tick:g} s" for tick in ticks])
    set_ticks(axes.yaxis, [], [])
    for row, entry in enumerate(entries):
        _draw_bar(axes, row, entry.seconds, limit, _colour(row, best))
        _draw_spread(axes, row, entry)
        _write_row(axes, row, entry, entries[0], best=row == best)
    axes.axvline(entries[0].seconds, **line(palette().dim, 1.5, linestyle=(0, (3.5, 2.5))), zorder=4)
    early = [(entry.first, row) for row, entry in enumerate(entries) if entry.first < _EARLY * entry.seconds]
    axes.plot([first for first, _ in early], [row for _, row in early], **marker("D", 6, palette().card), zorder=5)
    for title, right in ((Phrase("time"), _TIMES), *_COLUMNS):
        _write(axes, right, -0.5 - 0.5 * _HEAD / _ROW, title, TICK_SIZE, palette().dim)
    draw_legend(figure, _signs(entries), _SIDE)
    return figure


def _draw_bar(axes: Axes, row: int, seconds: float, limit: float, colour: Colour) -> None:
    """With round corners; at least 3 pixels long."""
    from matplotlib.patches import FancyBboxPatch

    across, up = limit / (_RIGHT - _LEFT), 1 / _ROW  # a pixel in seconds and in rows
    length, thickness = max(seconds, 3 * across), 22 * up
    radius = min(4 * across, length / 2)
    style = f"round,pad=0,rounding_size={radius}"
    bar = FancyBboxPatch((0, row - thickness / 2), length, thickness, boxstyle=style, mutation_aspect=up / across)
    bar.set(facecolor=rgb(colour), edgecolor="none", linewidth=0, zorder=2)
    axes.add_patch(bar)


def _draw_spread(axes: Axes, row: int, entry: Entry) -> None:
    """Between the fastest run and the slowest."""
    low, high = min(entry.times), max(entry.times)
    if high > low:
        axes.plot([low, high], [row, row], **_spread_line(), clip_on=False, zorder=3)


def _spread_line() -> dict[str, Any]:
    colour = palette().text
    return line(colour, 1.5, marker="|", markersize=points(8), markeredgewidth=points(1.5), markeredgecolor=rgb(colour))


def _write_row(axes: Axes, row: int, entry: Entry, stock: Entry, *, best: bool) -> None:
    colour = palette().gold if best else palette().text
    if best:
        from matplotlib.patches import Rectangle

        ground = axes.get_yaxis_transform()
        left, right = ((edge - _LEFT) / (_RIGHT - _LEFT) for edge in (_SIDE - 10, WIDTH - 2 * MARGIN - _SIDE + 10))
        band = Rectangle((left, row - 0.47), right - left, 0.94, transform=ground, clip_on=False, zorder=0)
        band.set(facecolor=rgb(faded(palette().gold, 0.09)), edgecolor="none", linewidth=0)
        axes.add_patch(band)
    name = fit(entry.name, _FONT, _NAMES - _SIDE - 102)
    _write(axes, _SIDE, row, name, _FONT, colour, side="left")
    figures = (
        f"{stock.seconds / entry.seconds:.2f}x",
        duration(entry.first),
        "" if entry is stock else percent(entry.rmse),
        "" if entry is stock else decibels(entry.psnr),
    )
    _write(axes, _TIMES, row, duration(entry.seconds), _FONT, colour)
    for (_, right), figure in zip(_COLUMNS, figures, strict=True):
        _write(axes, right, row, figure, _FONT, colour)


def _write(axes: Axes, x: float, row: float, words: str, size: float, colour: Colour, side: str = "right") -> None:
    """``words`` that end, or begin, at ``x`` pixels from the left edge of the figure."""
    axes.text(
        (x - _LEFT) / (_RIGHT - _LEFT),
        row,
        plain(words),
        transform=axes.get_yaxis_transform(),
        horizontalalignment=side,
        verticalalignment="center_baseline",
        **text(size, colour),
    )


def _colour(row: int, best: int) -> Colour:
    return palette().gold if row == best else _stock_colour() if row == 0 else _our_colour()


def _stock_colour() -> Colour:
    return faded(palette().dim, 0.7)


def _our_colour() -> Colour:
    return distinct_colours(1)[0]


def _signs(entries: Sequence[Entry]) -> list[tuple[Artist, str]]:
    """The signs that are in this plot, and their meaning."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colours = ((_stock_colour(), "KSampler"), (_our_colour(), "CHORDS"), (palette().gold, Phrase("recommended")))
    signs: list[tuple[Artist, str]] = [(Patch(facecolor=rgb(c), edgecolor="none"), name) for c, name in colours]
    if any(entry.first < _EARLY * entry.seconds for entry in entries):
        signs.append((Line2D([], [], **marker("D", 6, palette().dim)), Phrase("first picture, before the result")))
    if any(len(entry.times) > 1 for entry in entries):
        signs.append((Line2D([], [], **_spread_line()), Phrase("from the fastest run to the slowest")))
    return signs
