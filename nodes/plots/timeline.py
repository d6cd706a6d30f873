"""The timeline of a run as a picture: what each core does in each round, and each lane at each second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from ..host.known_sentences import phrase_of
from ..host.phrases import Phrase, counted_phrase
from ..host.sampling.percent import SMALLEST, one_digit
from .drawing import (
    EDGE,
    MARGIN,
    WIDTH,
    KeyFigure,
    Point,
    Sheet,
    Sign,
    draw_signs,
    duration,
    fit,
    header,
    stack,
    text_width,
    ticks,
    words,
    wrap,
)
from .language import current, joined, translated
from .palette import Colour, distinct_colours, faded, palette

if TYPE_CHECKING:
    from ...chords_core import EvaluationMark, HitMark, RectificationMark, Timeline
    from ..host.sampling.run_record import ChordsRun

_LEFT, _RIGHT = 206, 1118  # of the plots; names and figures are beside them
_PLOT_TOP = 90.0  # in its card


def draw_timeline(run: ChordsRun) -> Image.Image:
    """The record of a run as an RGB picture, 1400 pixels wide and as high as its cores and lanes need."""
    timeline = run.timeline
    title, message, figures = _told(run)
    if timeline is None or not timeline.evaluations:
        told = words(message or Phrase("nothing has been sampled"), Phrase("No timeline was recorded in this run."))
        return stack([header(title, figures=figures), told])
    top = header(title, message, figures)
    return stack([top, _rounds(run, timeline), _lanes(run, timeline), _legend(run, timeline)])


# --- the sections of the picture, from the top


def _rounds(run: ChordsRun, timeline: Timeline) -> Sheet:
    """One row per core, one column per round: model calls, jumps, corrections and results."""
    cores = max(evaluation.core for evaluation in timeline.evaluations)
    reached = max(evaluation.depth for evaluation in timeline.evaluations)
    rows = _rows(cores, height=min(44.0, max(12.0, 560 / cores)))
    plot = _plot(rows, limit=max(run.plan.steps, reached))
    sheet = Sheet(plot.bottom + 56)
    about = f"{translated(_about_rounds(run, numbered=_numbered(plot, rows[0])))}  ·  {translated(_title(run))}"
    sheet.card(Phrase("Rounds"), fit(about, 18, WIDTH - 2 * EDGE - text_width(Phrase("Rounds"), 22) - 16))
    _draw_axis(sheet, plot, ticks(plot.limit, whole=True), lambda tick: f"{tick:.0f}", reached)
    accepted, windowed = _accepted(timeline), _windowed(run)
    if accepted is not None:
        slower = rows[: accepted.core - 1] if accepted.core else rows
        _draw_gain(
            sheet, plot, reached, slower, f"{plot.limit / accepted.depth:.1f}x", Phrase("fewer model calls in a row")
        )
        # Not further down, where the label of a faster core may be.
        bottom = rows[accepted.core - 1].bottom if accepted.core else plot.bottom
        _draw_end(sheet, plot, accepted.depth, bottom, counted_phrase(accepted.depth, "1 round", "{count} rounds"))
    for core, row in enumerate(rows, start=1):
        sheet.text((EDGE, row.middle), Phrase("core {core}", core=core), row.font, palette().text)
        if cores > 1 and core in (1, cores) and not windowed:
            end = Phrase("exact") if core == 1 else Phrase("fastest")
            sheet.text((_LEFT - 18, row.middle), end, row.font, palette().dim, "rm")
    _draw_evaluations(sheet, plot, rows, timeline.evaluations, distinct_colours(len(run.lanes)))
    if not windowed:
        _draw_jumps(sheet, plot, rows, timeline)
    _draw_rectifications(sheet, plot, rows, timeline.rectified)
    for hit in timeline.hits:
        label = None if not windowed else Phrase("result") if hit is accepted else ""
        _draw_hit(sheet, plot, rows, hit, palette().gold if hit is accepted else palette().dim, label)
    return sheet


def _lanes(run: ChordsRun, timeline: Timeline) -> Sheet:
    """One row per lane along the seconds: when it is at work, when it is idle, when it is lost."""
    lanes = len(run.lanes)
    rows = _rows(lanes, height=min(34.0, max(12.0, 420 / lanes)))
    sequential = timeline.sequential_seconds(run.plan.steps) if run.plan.cores > 1 and run.rows == 1 else None
    plot = _plot(rows, limit=max(timeline.seconds, sequential or 0.0))
    sheet = Sheet(plot.bottom + 56)
    sheet.card(Phrase("Lanes"), Phrase("the same calls by the clock"))
    _draw_axis(sheet, plot, ticks(plot.limit), _clock(plot.limit), timeline.seconds)
    _draw_end(sheet, plot, timeline.seconds, plot.bottom, duration(timeline.seconds))
    if sequential is not None:
        gain = (
            f"{sequential / timeline.seconds:.1f}x",
            Phrase("every step on one lane: {time}", time=duration(sequential)),
        )
        _draw_gain(sheet, plot, timeline.seconds, rows, *gain)
    busy, pace = timeline.busy(), timeline.seconds_per_evaluation()
    for lane, (row, device) in enumerate(zip(rows, run.lanes, strict=True)):
        share = Phrase("{percent} % busy", percent=f"{100 * busy.get(lane, 0.0):.0f}")
        called = Phrase("{time} a call", time=duration(pace[lane])) if lane in pace else None
        figures = "  ·  ".join(translated(figure) for figure in (called, share) if figure is not None)
        sheet.text((EDGE, row.middle), fit(device, row.font, _LEFT - EDGE - 18), row.font, palette().text)
        sheet.text((WIDTH - EDGE, row.middle), figures, row.font - 1, palette().dim, "rm")
        sheet.hatch((plot.x(0), row.cell_top, plot.x(timeline.seconds), row.cell_bottom), palette().grid)
    _draw_work(sheet, plot, rows, timeline.evaluations, distinct_colours(lanes))
    for mark in timeline.lost:
        row, left = rows[mark.lane], plot.x(mark.seconds)
        gone = left, row.cell_top, plot.x(timeline.seconds), row.cell_bottom
        sheet.box(gone, faded(palette().red, 0.25), radius=4)
        sheet.cross((left, row.middle), min(6.0, 0.35 * row.height), palette().red)
    below = rows[-1].bottom + 13
    sheet.text((EDGE, below), Phrase("results"), rows[0].font, palette().text)
    for hit in timeline.hits:
        sheet.diamond((plot.x(hit.seconds), below), 6, palette().gold if hit is _accepted(timeline) else palette().dim)
    return sheet


def _legend(run: ChordsRun, timeline: Timeline) -> Sheet:
    """The lanes that were lost, then the meaning of the signs."""
    sheet = Sheet(48 + 24 * len(timeline.lost))
    for line, mark in enumerate(timeline.lost):
        text = Phrase(
            "{device} was lost after {time}: {error}",
            device=run.lanes[mark.lane],
            time=duration(mark.seconds),
            error=phrase_of(mark.error),
        )
        (told,) = wrap(text, 18, WIDTH - 2 * MARGIN - 26, max_lines=1)
        y = 12.0 + 24 * line
        sheet.cross((MARGIN + 8, y), 5, palette().red)
        sheet.text((MARGIN + 26, y), told, 18, palette().red)
    y = sheet.height - 30
    draw_signs(sheet, y, _signs(run, timeline))
    return sheet


def _signs(run: ChordsRun, timeline: Timeline) -> list[Sign]:
    """The signs in this picture with their meaning."""
    colour = distinct_colours(len(run.lanes))[0]
    several = run.plan.cores > 1
    signs: list[tuple[bool, Callable[[Sheet, Point], None], str]] = [
        (
            True,
            lambda sheet, at: sheet.box((at[0] - 8, at[1] - 7, at[0] + 8, at[1] + 7), colour, radius=4),
            Phrase("model call, in its lane's colour") if several else Phrase("model call"),
        ),
        (
            several and not _windowed(run),
            lambda sheet, at: sheet.elbow((at[0] - 5, at[1] - 7), (at[0] + 8, at[1] + 3), palette().dim),
            Phrase("jump: starts a core"),
        ),
        (
            bool(timeline.rectified),
            lambda sheet, at: sheet.wedge(at, 6.5, palette().text),
            Phrase("corrected by the slower core"),
        ),
        (
            len(timeline.hits) > 1,
            lambda sheet, at: sheet.diamond(at, 6, palette().dim),
            Phrase("earlier result, and its change") if several and not _windowed(run) else Phrase("earlier result"),
        ),
        (bool(timeline.hits), lambda sheet, at: sheet.diamond(at, 6, palette().gold), Phrase("result")),
        (
            True,
            lambda sheet, at: sheet.hatch((at[0] - 8, at[1] - 7, at[0] + 8, at[1] + 7), palette().grid),
            Phrase("idle"),
        ),
        (bool(timeline.lost), lambda sheet, at: sheet.cross(at, 5, palette().red), Phrase("lost")),
    ]
    return [(draw, meaning) for shown, draw, meaning in signs if shown]


# --- what the sections say


def _figures(run: ChordsRun) -> list[KeyFigure]:
    timeline, steps = run.timeline, run.plan.steps
    if timeline is None or not timeline.evaluations:
        return [KeyFigure(duration(run.seconds), Phrase("sampling time"))] if run.seconds else []
    more = run.seconds > 1.05 * timeline.seconds  # to copy the model, say
    of_all = Phrase("sampling, of {time} in all", time=duration(run.seconds))
    time = KeyFigure(duration(timeline.seconds), of_all if more else Phrase("sampling time"))
    in_all = Phrase("model call in all") if run.evaluations == 1 else Phrase("model calls in all")
    calls = KeyFigure(f"{run.evaluations}", in_all)
    estimate = []
    if run.estimate:
        estimate = [KeyFigure(_estimated(run.estimate), Phrase("from KSampler's picture"), palette().gold)]
    if run.plan.cores == 1:
        if _windowed(run):
            calls = KeyFigure(_of(run.evaluations, steps), Phrase("model calls"))
        return [
            calls,
            time,
            KeyFigure(duration(timeline.sequential_seconds(1) or 0.0), Phrase("a model call")),
            *estimate,
        ]
    figures = [KeyFigure(_of(run.depth, steps), Phrase("model calls in a row")), calls, time]
    alone, change, accepted = timeline.sequential_seconds(steps), timeline.accuracy_estimate, _accepted(timeline)
    if run.rows > 1:  # what a call of one row takes is not in the record
        figures[1], alone = KeyFigure(f"{run.rows}", Phrase("rows in one call")), None
    if alone is not None:
        figures.append(KeyFigure(duration(alone), Phrase("every step on one lane")))
    if accepted is not None and accepted.core == 1:
        figures.append(KeyFigure(Phrase("exact"), Phrase("what one core gives"), palette().gold))
    elif estimate:
        figures += estimate
    elif change is not None:
        figures.append(KeyFigure(_percent(change), Phrase("change from the one before"), palette().gold))
    return figures


def _about_rounds(run: ChordsRun, numbered: bool) -> str:
    about = Phrase("model calls in a row, numbered by step") if numbered else Phrase("model calls in a row")
    return joined([about, Phrase("ended early, by request")] if run.by_request else [about])


def _title(run: ChordsRun) -> str:
    method = {
        "chords": "CHORDS",
        "secant": Phrase("Secant window"),
        "sequential": Phrase("One core"),
        "stock": Phrase("As in KSampler"),
        "": "CHORDS",
    }
    steps = run.plan.steps
    parts = (
        method.get(run.method, run.method),
        run.solver,
        Phrase("{count} cores", count=run.plan.cores) if run.plan.cores > 1 else "",
        counted_phrase(steps, "1 step", "{count} steps") if steps else "",
    )
    return "  ·  ".join(translated(part) for part in parts if part)


def _told(run: ChordsRun) -> tuple[str, str, list[KeyFigure]]:
    """The headline, the message and the key figures: what was gained, then how and why."""
    card = run.card
    if card is None:
        return _title(run), run.message, _figures(run)
    title = current().texts.get(", ", ", ").join(map(translated, card.title))
    return title, joined((*card.detail, *card.advice)), _figures(run)


def _of(calls: int, steps: int) -> Phrase:
    return Phrase("{calls} of {steps}", calls=calls, steps=steps)


def _estimated(estimate: float) -> Phrase:
    if estimate < SMALLEST:
        return Phrase("less than 0.1 %")
    return Phrase("about {percent} %", percent=one_digit(estimate))


def _windowed(run: ChordsRun) -> bool:
    """Whether each round gives a result of its own, so that there are too many for labels. On one core, too, each call
    does if steps may be left out."""
    return run.method == "secant" or (run.plan.cores == 1 and run.timeline is not None and len(run.timeline.hits) > 1)


def _accepted(timeline: Timeline) -> HitMark | None:
    """The result: a run ends with its newest hit."""
    return timeline.hits[-1] if timeline.hits else None


def _clock(limit: float) -> Callable[[float], str]:
    """How the seconds of an axis up to ``limit`` are written."""
    return (lambda seconds: f"{1000 * seconds:g} ms") if limit < 1 else (lambda seconds: f"{seconds:g} s")


def _percent(share: float) -> str:
    percent = 100 * share
    if percent >= 99.5:
        return f"{percent:.0f} %"
    return f"{percent:.2g} %" if percent >= 0.01 or percent == 0 else "< 0.01 %"


# --- plots


@dataclass(frozen=True)
class _Plot:
    """The place of a plot on its sheet; from left to right it goes from 0 to ``limit``."""

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
    """The row of a core or of a lane; its cells leave a gap to the cells of the next row."""

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
        return int(min(18.0, self.height - 1))


def _rows(count: int, height: float) -> list[_Row]:
    return [_Row(_PLOT_TOP + 6 + row * height, height) for row in range(count)]


def _plot(rows: Sequence[_Row], limit: float) -> _Plot:
    """A plot around the rows, with room for one more row below them."""
    return _Plot(_PLOT_TOP, rows[-1].bottom + 26, limit)


def _gap(width: float) -> float:
    """The gap at each end of a cell: none if cells are too narrow to be seen one by one."""
    return min(1.5, 0.1 * width) if width >= 3 else 0.0


def _numbered(plot: _Plot, row: _Row) -> bool:
    """Whether cells have room for a number."""
    return plot.unit >= 26 and row.height >= 22


def _draw_evaluations(
    sheet: Sheet,
    plot: _Plot,
    rows: Sequence[_Row],
    evaluations: Sequence[EvaluationMark],
    colours: Sequence[Colour],
) -> None:
    """A cell for each evaluation at its core and round, in the colour of its lane, with the number of its step."""
    gap, radius = _gap(plot.unit), min(6.0, 0.25 * plot.unit)
    for evaluation in evaluations:
        row, left, right = rows[evaluation.core - 1], plot.x(evaluation.depth - 1), plot.x(evaluation.depth)
        sheet.box((left + gap, row.cell_top, right - gap, row.cell_bottom), colours[evaluation.lane], radius)
        if _numbered(plot, row):
            sheet.text(((left + right) / 2, row.middle), f"{evaluation.index + 1}", 16, palette().background, "mm")


def _draw_jumps(sheet: Sheet, plot: _Plot, rows: Sequence[_Row], timeline: Timeline) -> None:
    """Arrows from the first evaluation of each core to that of the next core, and to the draft."""
    first = {evaluation.core: evaluation.depth for evaluation in reversed(timeline.evaluations)}
    for core in sorted(first):
        if core + 1 in first:
            end = plot.x(first[core + 1] - 1), rows[core].middle
            sheet.elbow((plot.x(first[core] - 0.5), rows[core - 1].cell_bottom), end, palette().dim)
    for hit in timeline.hits:
        if hit.core == 0:
            end = plot.x(hit.depth) + 4, rows[-1].bottom + 12
            sheet.elbow((plot.x(hit.depth - 0.5), rows[-1].cell_bottom), end, palette().dim)


def _draw_rectifications(
    sheet: Sheet, plot: _Plot, rows: Sequence[_Row], rectified: Sequence[RectificationMark]
) -> None:
    """A sign for each correction between its two cores, at the end of its round."""
    radius = min(6.5, max(3.5, 0.5 * plot.unit), 0.2 * rows[0].height)
    for mark in rectified:
        sheet.wedge((plot.x(mark.depth), rows[mark.core - 1].top), radius, palette().text)


def _draw_hit(
    sheet: Sheet, plot: _Plot, rows: Sequence[_Row], hit: HitMark, colour: Colour, named: str | None = None
) -> None:
    """A sign at the end of the core's row, or below the rows for the draft. ``named``: another label."""
    if hit.core == 0:
        radius, middle, font, label = 5.5, rows[-1].bottom + 12, 16, Phrase("draft") if named is None else named
    else:
        row = rows[hit.core - 1]
        radius, middle, font, label = (
            min(8.0, 0.4 * row.height),
            row.middle,
            row.font,
            Phrase("result {index}", index=hit.index),
        )
        if hit.change is not None and hit.change < 1 and len(rows) > 1:  # a larger one is from a mere draft
            label = f"{translated(label)}  ·  {_percent(hit.change)}"
    x = plot.x(hit.depth) + radius + 7
    sheet.diamond((x, middle), radius, colour)
    sheet.text((x + radius + 7, middle), label, font, colour)


def _draw_work(
    sheet: Sheet, plot: _Plot, rows: Sequence[_Row], evaluations: Sequence[EvaluationMark], colours: Sequence[Colour]
) -> None:
    """A cell for each evaluation on its lane; its length is the time of the evaluation."""
    for evaluation in evaluations:
        row, left = rows[evaluation.lane], plot.x(evaluation.began)
        width = plot.x(evaluation.began + evaluation.seconds) - left
        gap = _gap(width) / 2
        cell = left + gap, row.cell_top, left + width - gap, row.cell_bottom
        sheet.box(cell, colours[evaluation.lane], radius=min(4.0, 0.2 * width))


def _draw_gain(sheet: Sheet, plot: _Plot, end: float, rows: Sequence[_Row], gain: str, meaning: str) -> None:
    """The gain in words, in the part of the plot that was not needed, if ``rows`` leave room there."""
    if not rows:
        return
    width, height = plot.x(plot.limit) - plot.x(end), rows[-1].bottom - rows[0].top
    size = min(52.0, height - 30)
    if size >= 24 and width >= max(text_width(meaning, 18), text_width(gain, size)) + 40:
        colour, x = palette().gain, plot.x((plot.limit + end) / 2)
        middle = rows[0].top + height / 2
        sheet.text((x, middle - 12), gain, size, colour, "mm", bold=True)
        sheet.text((x, middle + size / 2 + 4), meaning, 18, colour, "mm")


def _draw_axis(sheet: Sheet, plot: _Plot, ticks: Sequence[float], label: Callable[[float], str], end: float) -> None:
    """Ticks below the plot. The part beyond ``end`` was not needed and is tinted."""
    if end < plot.limit:
        not_needed = plot.x(end), plot.top, plot.x(plot.limit), plot.bottom
        sheet.box(not_needed, faded(palette().gold, 0.07), radius=6)
    for tick in ticks:
        sheet.line([(plot.x(tick), plot.top), (plot.x(tick), plot.bottom + 5)], palette().grid, 1)
        sheet.text((plot.x(tick), plot.bottom + 16), label(tick), 17, palette().dim, "mm")


def _draw_end(sheet: Sheet, plot: _Plot, value: float, bottom: float, label: str) -> None:
    """A line where the run ended, down to ``bottom``, with a label above the plot."""
    x = plot.x(value)
    sheet.dashes(x, plot.top - 4, bottom, palette().gold)
    sheet.text((x, plot.top - 15), label, 18, palette().gold, "mm")
