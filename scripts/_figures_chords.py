"""Figures of docs/how-it-works.md: one chain of model calls, and how the cores of CHORDS work on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from _figures_runs import (
    CORES,
    LUCKY,
    STARS,
    UNLUCKY,
    ChordsRun,
    Scale,
    decoded,
    demo_subject,
    difference,
    paper_start,
    plane_subject,
    run_chain,
    run_chords,
    start_indices,
)
from _figures_style import ACCENT, CORE_COLOURS, NOISE, WIDTH, arrow, coordinates, hide_frame, show, write

from benchmarks._report import DIM, GRID, INK, PAPER, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHED, DOTTED = (0, (4, 2)), (0, (1, 1))


def draw_chain(scale: Scale, path: Path) -> None:
    """A chain of model calls: the state before each call, and the picture that the model expects."""
    subject = demo_subject(STARS, LUCKY, scale.steps)
    chain = run_chain(subject)
    shown = sorted({0, *(round(subject.steps * share) for share in (0.2, 0.4, 0.6, 0.8)), subject.steps})
    tile, gap, left = 0.96, 0.24, 0.98
    with figure(WIDTH, 2.95, scale.dpi) as drawn:
        for place, index in enumerate(shown):
            x = left + place * (tile + gap)
            show(drawn, (x, 1.56, tile, tile), decoded(chain.states[index]))
            last = index == subject.steps
            caption = "result" if last else "noise" if index == 0 else f"after {index}"
            write(drawn, x + tile / 2, 2.62, caption, ha="center", fontsize=9.5, weight="bold" if last else "normal")
            if not last:
                arrow(drawn, (x + tile + 0.03, 1.56 + tile / 2), (x + tile + gap - 0.03, 1.56 + tile / 2), INK)
                show(drawn, (x, 0.3, tile, tile), decoded(chain.answers[index]), ACCENT)
                arrow(drawn, (x + tile / 2, 1.53), (x + tile / 2, 1.29), ACCENT)
                write(drawn, x + tile / 2, 0.1, f"call {index + 1}", ha="center", fontsize=9, color=ACCENT)
        write(drawn, 0.08, 2.04, "state", va="center", fontsize=10, weight="bold")
        write(drawn, 0.08, 0.78, "what the\nmodel\nexpects", va="center", fontsize=10, weight="bold", color=ACCENT)
        drawn.savefig(path)


def draw_paper(scale: Scale, path: Path) -> None:
    """Sampling in the plane: many chains, and the cores of CHORDS on one of them."""
    cloud = torch.randn(scale.points, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    chains = run_chain(plane_subject(cloud, scale.steps))
    subject = plane_subject(paper_start(scale.steps), scale.steps)
    run = run_chords(subject, start_indices(scale.steps))
    exact = run.path(1)
    with figure(WIDTH, 4.1, scale.dpi) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(1, 1.25))
        for point in range(scale.points):
            left.plot(*coordinates(chains.states, point), color=DIM, lw=0.5, alpha=0.45)
        left.scatter(*chains.states[0].T.tolist(), s=9, color=NOISE, zorder=3, label="noise")
        left.scatter(*chains.states[-1].T.tolist(), s=11, color=ACCENT, zorder=4, label="results")
        left.plot(*coordinates(exact), color=CORE_COLOURS[0], lw=2.2, zorder=5)
        left.set_title("Every start has its own path")
        left.legend(loc="lower left", fontsize=9, handletextpad=0.1, borderaxespad=0)
        for core in range(1, CORES + 1):
            _draw_core(right, run, core)
        right.scatter(*coordinates(exact[:1]), s=60, color=NOISE, zorder=12)
        right.scatter(*coordinates(exact[-1:]), s=60, color=ACCENT, zorder=13)
        right.set_title("The blue path, by four cores")
        right.plot([], [], color=DIM, lw=1.3, ls=DASHED, label="jump")
        right.plot([], [], color=DIM, lw=1.2, ls=DOTTED, marker="o", mfc=PAPER, label="correction")
        right.legend(loc="best", fontsize=9)
        hide_frame(left)
        hide_frame(right)
        drawn.subplots_adjust(0.01, 0.02, 0.99, 0.93, 0.03)
        drawn.savefig(path)


def _draw_core(axes: Axes, run: ChordsRun, core: int) -> None:
    """The path of a core in the plane: its jump, its steps, and its corrections."""
    states, colour = run.path(core), CORE_COLOURS[core - 1]
    steps: dict[str, Any] = {"color": colour, "lw": 1.6, "marker": "o", "ms": 3.6, "zorder": 5 + core}
    piece = [states[0]]
    for index, state in enumerate(states[1:], start=run.starts[core - 1] + 1):
        if (core, index) in run.corrected:
            before, after = run.corrected[core, index]
            axes.plot(*coordinates([*piece, before]), **steps)
            axes.plot(*coordinates([before, after]), color=colour, lw=1.2, ls=DOTTED, zorder=4)
            axes.scatter(*coordinates([before]), s=26, facecolor=PAPER, edgecolor=colour, zorder=6 + core)
            piece = [after]
        else:
            piece.append(state)
    speed = {1: "slowest", CORES: "fastest"}.get(core, "")
    axes.plot(*coordinates(piece), **steps, label=f"core {core}" + (f" ({speed})" if speed else ""))
    if core > 1:
        origin = run.calls[core - 1, run.starts[core - 2]].x
        axes.plot(*coordinates([origin, states[0]]), color=colour, lw=1.3, ls=DASHED, zorder=3)


def draw_rounds(scale: Scale, path: Path) -> None:
    """The step of each core in each round."""
    subject = demo_subject(STARS, LUCKY, scale.steps)
    run = run_chords(subject, start_indices(scale.steps))
    with figure(WIDTH, 3.5, scale.dpi) as drawn:
        axes = drawn.add_axes((0.075, 0.14, 0.905, 0.77))
        first = run.result.hits[1]
        axes.plot([first.depth] * 2, [-0.8, subject.steps], color=INK, lw=1, ls=(0, (3, 3)), zorder=1)
        for core in range(CORES, 0, -1):
            _draw_steps(axes, run, core, subject.steps)
        for core, index in run.corrected:
            gap, moment = run.starts[core - 1] - run.starts[core - 2], run.moment(core, index)
            style = {"color": CORE_COLOURS[core - 2], "lw": 1.1, "alpha": 0.75}
            _point(axes, (moment, index - gap + 1), (moment, index - 0.25), style)
        for core, start in enumerate(run.starts, start=1):
            axes.text(-0.35, start, f"core {core}", ha="right", va="center", color=CORE_COLOURS[core - 1], fontsize=9.5)
        axes.set(xlim=(-2.6, subject.steps + 1), ylim=(-0.8, subject.steps + 3.4))
        axes.set_xticks(range(0, subject.steps + 1, 5))
        axes.set_yticks(range(0, subject.steps + 1, 5))
        axes.set_xlabel("time, in model calls one after the other")
        axes.set_ylabel("step")
        axes.grid()
        drawn.savefig(path)


def _draw_steps(axes: Axes, run: ChordsRun, core: int, steps: int) -> None:
    """The calls of a core, its hit, and the jump that starts it."""
    calls = sorted((call.depth, index) for (number, index), call in run.calls.items() if number == core)
    end = next(hit for hit in run.result.hits if hit.core == core)
    depths, indices = [depth - 1 for depth, _ in calls], [index for _, index in calls]
    colour = CORE_COLOURS[core - 1]
    axes.plot([*depths, end.depth], [*indices, steps], color=colour, lw=1.8, marker="o", ms=3.4)
    axes.scatter([end.depth], [steps], s=85, marker="D", color=colour, zorder=6)
    which = {1: "exact", CORES: "first result"}.get(core, f"result {CORES - core + 1}")
    axes.annotate(
        f"{which}\nafter {end.depth}",
        (end.depth, steps),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=colour,
    )
    if core > 1:
        begin, start = run.starts[core - 2] + 1, run.starts[core - 1]
        _point(axes, (core - 1, begin), (core - 1, start), {"color": colour, "lw": 1.3, "ls": (0, (3, 2))})


def _point(axes: Axes, begin: tuple[float, float], end: tuple[float, float], style: dict[str, Any]) -> None:
    """An arrow."""
    axes.annotate("", end, begin, arrowprops={"arrowstyle": "-|>", **style})


def draw_hits(scale: Scale, path: Path) -> None:
    """The results of a run, from a lucky start and from an unlucky one."""
    tile, gap, left = 1.2, 0.17, 1.1
    starts = start_indices(scale.steps)
    with figure(WIDTH, 3.65, scale.dpi) as drawn:
        for row, (seed, name) in enumerate(((LUCKY, "luckiest\nstart of ten"), (UNLUCKY, "unluckiest\nof ten"))):
            bottom = 1.88 - row * 1.6
            run = run_chords(demo_subject(STARS, seed, scale.steps), starts)
            write(drawn, 0.08, bottom + tile / 2, name, va="center", weight="bold")
            for place, hit in enumerate(run.result.hits):
                x = left + place * (tile + gap)
                colour = CORE_COLOURS[hit.core - 1] if hit.core else GRID
                show(drawn, (x, bottom, tile, tile), decoded(hit.x), colour)
                note = "KSampler's picture" if hit.core == 1 else f"{difference(hit.x, run.result.x):.1f} % off"
                write(drawn, x + tile / 2, bottom - 0.2, note, ha="center", fontsize=9, color=DIM)
                if row == 0:
                    title = "draft" if hit.core == 0 else "exact" if hit.core == 1 else f"result {place}"
                    write(drawn, x + tile / 2, bottom + tile + 0.27, title, ha="center", weight="bold")
                    after = f"after {hit.depth} calls"
                    write(drawn, x + tile / 2, bottom + tile + 0.08, after, ha="center", fontsize=9, color=DIM)
        drawn.savefig(path)
