"""The report of the mixtures of benchmarks/scale.py: what a user does, tables, and two panels of its picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import product
from statistics import median
from typing import TYPE_CHECKING

from benchmarks._report import INK, table
from benchmarks._scale_mixtures import FIDELITIES, Row
from benchmarks._scale_mixtures_figures import (
    AUTO,
    BENCHMARK,
    CLOSE,
    EXACT,
    FIRST_RUN,
    LATER_RUNS,
    Rows,
    behind,
    cfg,
    kind_of,
    models_of,
    spread,
    values_of,
    where,
)
from benchmarks._scale_mixtures_reading import reading

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WORST = 12
_COLOURS = ("#3b6fd4", "#e07a3f", "#2f9e77", "#b0468f", "#8a8f9c", "#c9a227")


def mixtures(rows: Rows) -> list[str]:
    """The section."""
    return [
        "## Mixtures: which way is fastest, and what the pack chooses",
        "**Several GPUs were not measured.** This is a model of them, made of one GPU's measurements "
        "([token_split_gpu](token_split_gpu.md)):",
        "- A call by 2, 4 or 8 members takes as long as one member's share, plus the exchange over a link of so many "
        "GB/s into each device. Other numbers of members were not measured.",
        "- A round of calls is never shorter than the time in which the threads of all devices, in one process, launch "
        "their kernels.",
        "- With CFG above 1 a call has two sides; each takes as long as a call with CFG 1.",
        "- Several cores make a call each at the same time. Their number of rounds is the planner's estimate, and "
        "their arithmetic takes what the pack assumes (`solve_seconds`, measured on a CPU).",
        "- Euler, batch 1, nothing compiled. KSampler on one device is 1.00.",
        "",
        "*Exact* is one core at every step, whose picture is KSampler's apart from rounding. Names: *tokens 4* is a "
        "call that 4 devices share; *guidance* has one device a side, *guidance x tokens 2* two a side; *calls left "
        "out* is one core with `fidelity` at near; *3 cores* is a secant window likewise; *2 cores x tokens 4* has 4 "
        "devices a core. `auto` takes what is at least near.",
        "",
        *reading(rows),
        "",
        *_exact(rows),
        "",
        *_fastest(rows),
        "",
        *_choices(rows),
        "",
        *_worst(rows, LATER_RUNS, "without a benchmark"),
        "",
        *_worst(rows, BENCHMARK, "after a benchmark"),
    ]


# --- tables


def _exact(rows: Rows) -> list[str]:
    """The fastest way with KSampler's picture, by link; the number of steps makes no difference."""
    links, steps = values_of(rows, "link"), values_of(rows, "steps")[0]
    cells = []
    for model, guided, count in product(models_of(rows), (False, True), values_of(rows, "devices")):
        found = where(rows, model=model, guided=guided, devices=count, steps=steps)
        ways = [
            _both(*(where(found, link=link, overlapped=beside)[0]["fastest"][EXACT] for beside in (False, True)))
            for link in links
        ]
        cells.append([model, cfg(guided), count, *ways])
    return [
        "### The fastest exact way, by link",
        "With any number of steps. First figure: the exchange after the computation. Second: beside it, "
        "where it costs nothing as long as it is shorter. One figure where both are equal.",
        "",
        *table(["model", "CFG", "devices", *(f"{link} GB/s" for link in links)], cells),
    ]


def _both(after: Sequence[object], beside: Sequence[object]) -> str:
    """The two ends of a range of ways, each with its name where they differ."""
    names, figures = (after[0], beside[0]), (f"{after[1]:.2f}", f"{beside[1]:.2f}")
    if names[0] != names[1]:
        return f"{names[0]} {figures[0]} / {names[1]} {figures[1]}"
    return f"{names[0]} {figures[0]}" if figures[0] == figures[1] else f"{names[0]} {figures[0]} / {figures[1]}"


def _groups_of(rows: Rows) -> list[tuple[list[object], list[Row]]]:
    """The rows by CFG, steps and devices, with the first cells of a table."""
    keys = product((False, True), values_of(rows, "steps"), values_of(rows, "devices"))
    return [
        ([cfg(guided), steps, count], where(rows, guided=guided, steps=steps, devices=count))
        for guided, steps, count in keys
    ]


def _fastest(rows: Rows) -> list[str]:
    cells: dict[tuple[object, ...], list[object]] = {}  # the steps by the rest of the row
    for (name, steps, count), found in _groups_of(rows):
        kinds = Counter(kind_of(row["fastest"][AUTO][0]) for row in found)
        line: list[object] = [
            spread([row["fastest"][EXACT][1] for row in found]),
            ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()),
            spread([row["fastest"][AUTO][1] for row in found]),
        ]
        cells.setdefault((name, count, *line), []).append(steps)
    lines = [[name, " or ".join(map(str, steps)), *rest] for (name, *rest), steps in cells.items()]
    cases = len(_groups_of(rows)[0][1])
    return [
        "### Which way is fastest, by steps and devices",
        f"In how many of the {cases} cases (models, links, the exchange after or beside the computation). Times as "
        "fast as one device: the median, the least and the most.",
        "",
        *table(
            ["CFG", "steps", "devices", "exact", "fastest at auto", "times as fast"],
            lines,
        ),
    ]


def _choices(rows: Rows) -> list[str]:
    cells = []
    for names, found in _groups_of(rows):
        line = [*names, spread([row["picks"][AUTO][FIRST_RUN][1] for row in found])]
        for fidelity, state in product(FIDELITIES, (LATER_RUNS, BENCHMARK)):
            times = [behind(row, fidelity, state) for row in found]
            line.append(f"{median(times):.2f}, {max(times):.2f}, {sum(each > CLOSE for each in times)}")
        cells.append(line)
    return [
        "### What the pack chooses",
        "Its own placement, by `fidelity`. *First run*: at auto, nothing is known, and the first calls try the "
        "ways to share a call; times as fast as one device. The other columns: how many times as long as the fastest "
        f"way its choice takes: the median, the worst, and the number of cases above {CLOSE:g}. *Later*: what earlier "
        "runs have tried is known. *Benchmark*: the times of all numbers of cores are known, and of all ways to share "
        "a call that the pack tries.",
        "",
        *table(
            ["CFG", "steps", "devices", "first run", "later, exact", "benchmark, exact"]
            + ["later, auto", "benchmark, auto"],
            cells,
        ),
    ]


def _worst(rows: Rows, state: str, words: str) -> list[str]:
    """The worst choices, the worst link of each model, CFG, steps and devices."""
    worst: dict[tuple[object, ...], Row] = {}
    for row in sorted(rows, key=lambda row: -behind(row, AUTO, state)):
        worst.setdefault((row["model"], row["guided"], row["steps"], row["devices"]), row)
    cells = [
        [row["model"], cfg(row["guided"]), row["steps"], row["devices"]]
        + [f"{row['link']} GB/s, {'beside' if row['overlapped'] else 'after'}"]
        + [f"{name} {value:.2f}" for name, value in (row["fastest"][AUTO], row["fastest"][EXACT])]
        + ["{} {:.2f}".format(*row["picks"][AUTO][state]), f"{behind(row, AUTO, state):.2f}"]
        for row in list(worst.values())[:_WORST]
    ]
    return [
        f"### The worst choices {words}",
        f"At `auto`, at the worst link of each model, CFG, steps and devices: the {len(cells)} worst of {len(worst)}.",
        "",
        *table(
            [
                "model",
                "CFG",
                "steps",
                "devices",
                "link",
                "fastest",
                "fastest exact",
                "the pack's choice",
                "times as long",
            ],
            cells,
        ),
    ]


# --- the picture


def plot_exact(axes: Axes, rows: Rows) -> None:
    """The fastest exact way with CFG 1 by devices; bands from the exchange after to beside the computation."""
    link = min(values_of(rows, "link"), key=lambda each: abs(each - 25))
    found = where(rows, guided=False, link=link, steps=values_of(rows, "steps")[0])
    for colour, model in zip(_COLOURS, models_of(rows), strict=False):
        own = where(found, model=model)
        after, beside = (
            [1.0, *(row["fastest"][EXACT][1] for row in where(own, overlapped=each))] for each in (False, True)
        )
        counts = [1, *values_of(own, "devices")]
        axes.fill_between(counts, after, beside, color=colour, alpha=0.12, lw=0)
        axes.plot(counts, beside, "o-", ms=4, color=colour, label=model)
        axes.plot(counts, after, "--", lw=1, color=colour)
    axes.axhline(1, color=INK, lw=0.8)
    axes.set(title=f"Calls shared by tokens: KSampler's picture, CFG 1, {link} GB/s", xlabel="devices")
    axes.set(ylabel="speed-up; dashed: exchange not overlapped")
    axes.set_xticks([1, *values_of(rows, "devices")])
    axes.legend(fontsize=8.5)


def plot_choices(axes: Axes, rows: Rows) -> None:
    """The median and the worst of the pack's choices, by steps and devices, with CFG 1."""
    found = where(rows, guided=False)
    groups = list(product(values_of(rows, "steps"), values_of(rows, "devices")))
    for shift, colour, state in ((-0.2, _COLOURS[1], LATER_RUNS), (0.2, _COLOURS[0], BENCHMARK)):
        times = [
            [behind(row, AUTO, state) for row in where(found, steps=steps, devices=count)] for steps, count in groups
        ]
        places = [place + shift for place in range(len(groups))]
        label = "without a benchmark" if state == LATER_RUNS else "after a benchmark"
        axes.bar(places, [max(each) - 1 for each in times], 0.38, bottom=1, color=colour, alpha=0.35)
        axes.bar(places, [median(each) - 1 for each in times], 0.38, bottom=1, color=colour, label=label)
    axes.bar(0, 0, bottom=1, color=INK, alpha=0.3, label="pale: the worst; full: the median")
    axes.axhline(1, color=INK, lw=0.8)
    axes.set_ylim(bottom=0.9)
    axes.set(title="What the pack chooses at auto, CFG 1", ylabel="times as long as the fastest way")
    axes.set(xlabel="steps, devices")
    axes.set_xticks(range(len(groups)), [f"{steps}\n{count}" for steps, count in groups])
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", fontsize=8.5)
