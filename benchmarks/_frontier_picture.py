"""The picture of benchmarks/frontier.py: frontier.png."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._frontier_records import CLOSE, DEVICES, DIVERGED, Book, Record, by_method, cfg_of, select
from benchmarks._report import INK, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PURPLE, GREY, RED = "#3b6fd4", "#e07a3f", "#2f9e77", "#8a4fbf", "#8a8f9c", "#c8364b"
FIDELITY_CURVES = (  # method, cores, colour, line
    ("fewer steps", 1, GREY, ":"),
    ("ParaDiGMS (Picard)", 8, GREY, "--"),
    ("SRDS", 8, GREEN, "--"),
    ("CHORDS, authors' starts", 8, ORANGE, "--"),
    ("CHORDS, planner", 8, ORANGE, "-"),
    ("secant window", 8, PURPLE, "-"),
    ("fewer calls", 1, BLUE, "--"),
    ("fewer calls, secant window", 8, BLUE, "-"),
)


def front(records: Iterable[Record], cores: int) -> list[tuple[int, float]]:
    """(depth, median) of the records that are better than all records of less depth."""
    least: dict[int, float] = {}
    for record in records:
        if record["cores"] <= cores:
            depth = record["depth"]
            least[depth] = min(least.get(depth, math.inf), record["median"])
    points: list[tuple[int, float]] = []
    for depth, value in sorted(least.items()):
        if value < DIVERGED and (not points or value < points[-1][1]):
            points.append((depth, max(value, 1e-5)))
    return points


def picture(book: Book, path: Path) -> None:
    """Fidelity above and accuracy below; with guidance on the left, without guidance on the right."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with figure(13, 9.4, 110, grid=True, layout="constrained") as drawn:
        axes = drawn.subplots(2, 2, subplot_kw={"yscale": "log"})
        for column, problem in enumerate(("demo cfg4", "demo cfg1")):
            records = select(book.records, problem=problem)
            if records:
                _plot_fidelity(axes[0][column], records, f"CFG {cfg_of(problem)}")
                _plot_accuracy(axes[1][column], records, f"CFG {cfg_of(problem)}")
            else:
                axes[0][column].set_axis_off()
                axes[1][column].set_axis_off()
        for axis in axes.flat:
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
            if axis.get_legend_handles_labels()[0]:
                place = "upper right" if axis in axes[0] else "best"
                axis.legend(fontsize=8.5, loc=place, frameon=True, framealpha=0.85, edgecolor="none")
        seeds = book.facts["seeds"]
        drawn.suptitle(f"Parallel sampling of the demo model, medians over {seeds} held-out seeds", fontweight="bold")
        drawn.savefig(path)


def _plot_fidelity(axes: Axes, records: Sequence[Record], title: str) -> None:
    aimed = {steps: select(records, part="fidelity", solver="euler", steps=steps) for steps in (50, 20)}
    steps = 50 if aimed[50] else 20
    for method, cores, colour, line in FIDELITY_CURVES:
        points = front(by_method(aimed[steps]).get(method, []), cores)
        label = f"{method}, {cores} cores" if cores > 1 else f"{method}, one core"
        _plot(axes, points, line, colour, label)
    axes.axhline(CLOSE, color=INK, lw=0.8)
    axes.annotate("1 %", (1, CLOSE), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set(title=f"Fidelity to Euler's {steps} steps, {title}", xlim=(5, steps + 1), ylim=(3e-4, 0.5))
    axes.set(xlabel="model calls in a row", ylabel="relative difference to its result")


def _plot_accuracy(axes: Axes, records: Sequence[Record], title: str) -> None:
    from matplotlib.ticker import NullFormatter

    stock, ours = select(records, part="stock"), select(records, part="accuracy")
    _plot(axes, front(select(stock, method="euler, standard"), 1), ":", GREY, "Euler, standard grid")
    _plot(axes, front(select(stock, method="dpmpp_2m, standard"), 1), "--", GREY, "DPM++ 2M, standard grid")
    _plot(axes, front(stock, 1), "-", INK, "best stock sampler and grid")
    for cores, colour in zip(DEVICES, (RED, ORANGE, PURPLE, BLUE), strict=True):
        _plot(axes, front(ours, cores), "-", colour, f"ours, {cores} cores" if cores > 1 else "ours, one core")
    axes.set(title=f"Accuracy, {title}", xscale="log", xlabel="model calls in a row")
    axes.set(ylabel="relative error to the solution of the ODE")
    axes.set_xticks([6, 8, 11, 15, 20, 28, 40, 60], labels=["6", "8", "11", "15", "20", "28", "40", "60"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(5.6, 64)
    axes.set_ylim(top=0.3)


def _plot(axes: Axes, points: Sequence[tuple[int, float]], line: str, colour: str, label: str) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), line, marker="o", ms=3, lw=1.7, color=colour, label=label)
