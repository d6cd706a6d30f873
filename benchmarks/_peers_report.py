"""The page and the figure of `peers.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks._peer_ways import CHORDS_CORES, HITS, MORE_CORES, PARADIGMS_CORES, Measured, flow_cells
from benchmarks._report import DIM, INK, PAPER, figure, table

ONE_DEVICE = ("fewer steps", "LazyCache", "EasyCache", "TeaCache")
"""Ways that are compared with ours at equal calls."""

FIGURES = ("median", "90th percentile", "worst")
OURS, OURS_FAR, OTHERS, OTHERS_FAR = "#2563eb", "#bfd3fb", "#8f99a9", "#d4d9e1"
LIVE_CELL, LIVE_MILLISECONDS = flow_cells("demo")[0], 300.0  # on a live ComfyUI
COLUMNS = ("calls in a row", "median / 90th / worst, %")

Results = Sequence[Measured]


def percent(measured: Measured) -> str:
    """Median, 90th percentile and worst."""
    return " / ".join(f"{100 * value:.2f}" for value in measured.figures)


def calls_of(measured: Measured) -> str:
    """Their mean, and the range if there is one."""
    low, high = min(measured.calls), max(measured.calls)
    return f"{low}" if low == high else f"{measured.mean_calls:.1f} ({low} to {high})"


def of(
    results: Results, cell: object, way: str, setting: str | None = None, cores: int | None = None
) -> list[Measured]:
    """What was measured, by the fewest calls first."""
    found = [
        each
        for each in results
        if (each.cell, each.way) == (str(cell), way) and setting in (None, each.setting) and cores in (None, each.cores)
    ]
    return sorted(found, key=lambda each: each.mean_calls)


def at_equal_calls(found: Sequence[Measured], calls: float) -> Measured | None:
    """The one with the fewest calls that are at least so many; if none has so many, the one with the most."""
    enough = [each for each in found if each.mean_calls >= calls]
    return enough[0] if enough else found[-1] if found else None


def cells_of(results: Results) -> list[str]:
    """The cells in which ours was measured, in the order of the page: the flow model's first."""
    named = {each.cell for each in results if each.way == "ours"}
    return sorted(named, key=lambda cell: ("eps " in cell, "50 steps" in cell, cell))


# --- ours against one way


def compared(results: Results, way: str) -> Iterator[tuple[Measured, Measured]]:
    """Ours on one device, near and fast, with the way at equal or more calls, in each cell."""
    for cell in cells_of(results):
        for ours in of(results, cell, "ours", cores=1):
            peer = at_equal_calls(of(results, cell, way), ours.mean_calls)
            if peer is not None:
                yield ours, peer


def verdict(results: Results, way: str) -> list[str]:
    """In how many cells ours is nearer, and in which it is not."""
    pairs = list(compared(results, way))
    if not pairs:
        return []
    counts, lost = [0] * len(FIGURES), []
    for ours, peer in pairs:
        wins = [mine < other for mine, other in zip(ours.figures, peer.figures, strict=True)]
        counts = [count + won for count, won in zip(counts, wins, strict=True)]
        if not all(wins):
            names = ", ".join(name for name, won in zip(FIGURES, wins, strict=True) if not won)
            lost.append(
                [ours.cell, f"`{ours.setting}`", names, f"{calls_of(ours)}: {percent(ours)}"]
                + [f"{calls_of(peer)}: {percent(peer)}"]
            )
    told = ", ".join(f"{count} by the {name}" for count, name in zip(counts, FIGURES, strict=True))
    lines = [f"**{way}**: in {len(pairs)} comparisons ours is nearer in {told}."]
    if lost:
        titles = ("cell", "ours", "not nearer by", "ours: median / 90th / worst, %", f"{way}, %")
        lines += ["", *table(titles, lost)]
    return [*lines, ""]


def equal_calls_table(results: Results, setting: str) -> list[str]:
    """All ways on one device beside ours, a row a cell."""
    rows = []
    for cell in cells_of(results):
        (ours,) = of(results, cell, "ours", setting, 1) or (None,)
        if ours is None:
            continue
        row = [cell, f"{ours.mean_calls:.1f}: **{percent(ours)}**"]
        for way in ONE_DEVICE:
            peer = at_equal_calls(of(results, cell, way), ours.mean_calls)
            row.append(f"{peer.mean_calls:.1f}: {percent(peer)}" if peer else "")
        rows.append(row)
    return table(("cell", f"ours, `{setting}`", *ONE_DEVICE), rows)


def several_devices_table(results: Results) -> list[str]:
    """Ours on several devices, CHORDS and ParaDiGMS, a row a cell."""
    columns: dict[str, tuple[str, str | None, int]] = {
        f"ours, `near`, {cores} devices": ("ours", "near", cores) for cores in sorted((CHORDS_CORES, *MORE_CORES))
    }
    columns |= {f"CHORDS, {CHORDS_CORES}, {hit} result": ("CHORDS", hit, CHORDS_CORES) for hit in HITS}
    columns[f"ParaDiGMS, {PARADIGMS_CORES}"] = ("ParaDiGMS", None, PARADIGMS_CORES)
    columns = {title: what for title, what in columns.items() if any(of(results, c, *what) for c in cells_of(results))}
    rows = []
    for cell in cells_of(results):
        found = [of(results, cell, *what) for what in columns.values()]
        rows.append([cell, *(f"{each[0].mean_calls:.1f}: {percent(each[0])}" if each else "" for each in found)])
    return table(("cell", *columns), rows)


# --- a live ComfyUI


def live_lines(live: Sequence[dict[str, Any]]) -> list[str]:
    """A row a node, over the pictures."""
    rows = []
    for way in dict.fromkeys(seen["way"] for seen in live):
        mine = [seen for seen in live if seen["way"] == way]
        times = sorted(seen["time"] for seen in mine)
        calls = sum(seen["calls"] for seen in mine) / len(mine)
        same = sum(seen["calls"] == seen["twin_calls"] for seen in mine)
        apart, worst = (max(seen[name] for seen in mine) for name in ("apart", "error"))
        cells = [way, f"{calls:.1f}", f"{same} of {len(mine)}", f"{apart:.1e}", f"{100 * worst:.2f}"]
        rows.append([*cells, f"{times[len(times) // 2]:.2f}"])
    count = len(live) // max(len(rows), 1)
    titles = ("node", "calls in a row", "same calls", "latents apart", "worst, %", "time")
    return [
        "## On a live ComfyUI",
        "",
        f"{count} pictures by the nodes themselves, {LIVE_CELL}. Same calls, latents apart: compared with the process "
        "that made the other tables (relative RMS difference; fewer steps are off because the host's `simple` rounds "
        f"its sigmas). Each call computes and takes {LIVE_MILLISECONDS:g} ms longer, like that of a large model on a "
        "device of its own. Time: wall time of the node as a share of KSampler's in the same run, median. The machine "
        "has 2 processor cores: lanes that compute at the same time share them, so times of several devices are too "
        "long.",
        "",
        *table(titles, rows),
        "",
    ]


# --- the page


def everything(results: Results) -> list[str]:
    """All that was measured, by cell."""
    lines = ["## All measurements", ""]
    for cell in cells_of(results):
        mine = [each for each in results if each.cell == cell]
        order = ["ours", *ONE_DEVICE, "CHORDS", "ParaDiGMS"]
        mine.sort(key=lambda each: (order.index(each.way), each.cores, each.setting == "fast", each.mean_calls))
        rows = [[each.way, each.setting, each.cores, calls_of(each), percent(each)] for each in mine]
        lines += [f"### {cell}", "", *table(("way", "setting", "devices", *COLUMNS), rows), ""]
    return lines


def summary(results: Results) -> str:
    """Ours and LazyCache over all cells."""
    pairs = list(compared(results, "LazyCache"))
    near = [pair for pair in pairs if pair[0].setting == "near"]
    told = []
    for side in (0, 1):
        ninetieth, worst = (sorted(100 * pair[side].figures[place] for pair in near) for place in (1, 2))
        told.append(f"{ninetieth[0]:.1f} to {ninetieth[-1]:.1f} %, and the worst picture is {worst[-1]:.0f} % off")
    nearer = sum(all(map(float.__lt__, ours.figures, lazy.figures)) for ours, lazy in pairs)
    return (
        f"On one device with `fidelity` near, the 90th percentile of the errors in the {len(near)} cells below is "
        f"{told[0]}. With LazyCache at equal or more calls it is {told[1]}. In {nearer} of {len(pairs)} comparisons "
        "with LazyCache (near and fast in each cell) ours is nearer by the median, the 90th percentile and the worst."
    )


NOTES = (
    "**Fewer steps**: the same sampler on its own schedule with so many steps.",
    "**LazyCache, EasyCache**: the host's nodes, with their default start and end. EasyCache writes into the input of "
    "the network. ComfyUI 0.30 copies this input if the network has half precision. If the network has float32 and "
    "predicts a flow, like the demo model, the sampler goes on with the changed values, and the picture is lost (see "
    "the live table). All other figures here are with a copy, as for a model in half precision.",
    "**TeaCache**: its rule with its constants for Flux. Its node for ComfyUI (July 2025) cannot be imported by "
    "ComfyUI 0.30. With the import repaired it still fails: the demo model has no pooled text, and the blocks of "
    "ComfyUI 0.30 write into the tensor that the node keeps. With these repaired too, its latent is that of the rule "
    "here to 1e-6, in the picture that was tried. At a skipped call it still computes the first and the last layer. "
    "They are a larger part of the demo model, which has 4 blocks, than of Flux, which has 57.",
    f"**CHORDS**: as published, on {CHORDS_CORES} devices, with the planner's start indices.",
    f"**ParaDiGMS**: Picard iteration in a window on {PARADIGMS_CORES} devices, with as many rounds as ours takes on "
    "the mean, rounded up.",
    "**Ours**: `fidelity` near and fast of the nodes, a tolerance of 0.01 and 0.03. The picture decides how many calls "
    "are made. More cells, samplers and pictures of ours: [tolerance](tolerance.md).",
)


def page(results: Results, live: Sequence[dict[str, Any]], head: str, figure_name: str) -> list[str]:
    """The page's lines."""
    return [
        "# Ours beside what people use",
        "",
        head,
        "",
        summary(results),
        "",
        f"![How far from KSampler's picture, with as many model calls]({figure_name})",
        "",
        "Bars are cut at 40 %.",
        "",
        "## One device, at equal calls",
        "",
        "Mean of calls in a row: median / 90th percentile / worst of the errors, in percent. Of the others it is the "
        "setting with the fewest calls that are at least as many as ours; if no setting has so many, the one with the "
        "most.",
        "",
        *equal_calls_table(results, "near"),
        "",
        *equal_calls_table(results, "fast"),
        "",
        "Who is nearer at equal calls, each cell once for near and once for fast:",
        "",
        *(line for way in ONE_DEVICE for line in verdict(results, way)),
        "## Several devices",
        "",
        *several_devices_table(results),
        "",
        *(live_lines(live) if live else ()),
        "## What is compared",
        "",
        *(f"- {note}" for note in NOTES),
        "",
        *everything(results),
    ]


# --- the figure


def picture(results: Results, model: str, path: Path) -> None:
    """Bars for 20 steps: the 90th percentile and the worst, on one device at equal calls, and on four."""
    rows = [("one device", _bars_of_one), (f"{CHORDS_CORES} devices", _bars_of_several)]
    flow = [cell for cell in flow_cells(model) if cell.steps == 20]
    cells = [cell for cell in sorted(flow, key=lambda cell: cell.cfg) if of(results, cell, "ours", "near", 1)]
    with figure(8.0, 5.4, 100) as sheet:
        heights = {"height_ratios": [len(ONE_DEVICE) + 1, len(_SEVERAL) + 1]}
        axes = sheet.subplots(len(rows), len(cells), squeeze=False, gridspec_kw=heights)
        for line, (title, bars_of) in zip(axes, rows, strict=True):
            for axis, cell in zip(line, cells, strict=True):
                _draw(axis, bars_of(results, cell), f"{title}, CFG {cell.cfg:g}")
        told = "How far is the picture from KSampler's with 20 steps?"
        sheet.suptitle(told, x=0.012, y=0.985, ha="left", fontsize=14, weight="bold")
        told = (
            "Dark bar, and its number: 9 of 10 pictures are nearer than this, in %. Light bar: the worst picture.\n"
            "In brackets: model calls in a row, in place of 20. On one device the others make at least as many as ours."
        )
        sheet.text(0.012, 0.9, told, fontsize=9, color=DIM, va="center")
        sheet.subplots_adjust(left=0.155, right=0.985, top=0.81, bottom=0.05, wspace=0.72, hspace=0.28)
        sheet.savefig(path)


Bars = list[tuple[str, Measured]]

_NEAR = "ours, near"
_SEVERAL = (
    (_NEAR, "ours", "near"),
    ("CHORDS, 1st", "CHORDS", "first"),
    ("CHORDS, 2nd", "CHORDS", "second"),
    ("ParaDiGMS", "ParaDiGMS", None),
)
_WIDTH = 40.0  # of an axis, in percent: longer bars are cut


def _bars_of_one(results: Results, cell: object) -> Bars:
    (ours,) = of(results, cell, "ours", "near", 1)
    peers = [(way, at_equal_calls(of(results, cell, way), ours.mean_calls)) for way in ONE_DEVICE]
    return [(_NEAR, ours), *((way, peer) for way, peer in peers if peer)]


def _bars_of_several(results: Results, cell: object) -> Bars:
    found = [(name, of(results, cell, way, setting, CHORDS_CORES)) for name, way, setting in _SEVERAL]
    return [(name, each[0]) for name, each in found if each]


def _draw(axis: Any, bars: Bars, title: str) -> None:
    places = range(len(bars), 0, -1)
    for place, (name, each) in zip(places, bars, strict=True):
        _, ninetieth, worst = (100 * value for value in each.figures)
        dark, light = (OURS, OURS_FAR) if name == _NEAR else (OTHERS, OTHERS_FAR)
        axis.barh(place, min(worst, _WIDTH), height=0.66, color=light)
        axis.barh(place, min(ninetieth, _WIDTH), height=0.66, color=dark)
        inside = ninetieth > 0.6 * _WIDTH
        at = min(ninetieth, _WIDTH) + (-1 if inside else 1)
        side, colour = ("right", PAPER) if inside else ("left", INK)
        axis.text(at, place, f"{ninetieth:.1f}", va="center", ha=side, fontsize=8.5, color=colour)
    axis.set_yticks(list(places), [f"{name} ({each.mean_calls:.0f})" for name, each in bars], fontsize=8.5)
    axis.get_yticklabels()[0].set_weight("bold")
    axis.tick_params(axis="y", length=0, labelcolor=INK)
    axis.tick_params(axis="x", labelsize=8.5)
    axis.set_xticks([0, 10, 20, 30, 40])
    axis.set_xlim(0, _WIDTH)
    axis.set_ylim(0.4, len(bars) + 0.6)
    axis.set_title(title, fontsize=9.5)
