"""The pictures of docs/how-it-works.md, each drawn from a run of chords_core: on the demo model, or on a flow of points
in the plane whose model is known exactly.

    .venv/bin/python scripts/figures.py            all, into docs/images (about two minutes)
    .venv/bin/python scripts/figures.py window     that one
    .venv/bin/python scripts/figures.py --check    the same runs, smaller, and small pictures that are thrown away

Needs `python scripts/test.py --setup-only` once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks.sdo import decoder, guided, load, on_the_right, sigmas
from chords_core import (
    SOLVERS,
    Denoise,
    Evaluated,
    Event,
    Hit,
    InlinePool,
    Iterated,
    OptimizationEvent,
    Optimized,
    Rectified,
    Result,
    Through,
    Window,
    interpolation_nodes,
    optimize_latent,
    plan,
    sample,
    solver_window,
)
from chords_core.execution.driver import drive
from chords_core.solvers.euler import euler
from chords_core.solvers.interpolated import default_calls

IMAGES = REPO / "docs" / "images"
CFG = 3.5
CORES = 4
STARS = "a big purple star on the left and a small green star on the right, orange background"
CROSS = "a big blue cross at the top and a big black ring at the bottom, yellow background"
STAR, STAR_SEED = "a big yellow star, blue background", 4  # where it lies is left to the noise
SEEDS = range(1, 11)
LUCKY, UNLUCKY = 9, 1  # of these, with the stars: the nearest first hit and the furthest
WISHED = "a big red circle"  # says nothing of where, nor of the background

PAPER, INK, DIM, GRID = "#ffffff", "#1f2430", "#6b7280", "#d9dde4"
CORE_COLOURS = ("#2f5fb3", "#13938b", "#d98a00", "#d1365b")  # from the slowest to the fastest
ACCENT = "#7a3ea8"
WIDTH, DPI = 8.0, 200


@dataclass(frozen=True)
class Scale:
    """How much is computed and how large it is drawn: the small one is for `--check`."""

    steps: int = 20
    many_steps: int = 50
    iterations: int = 30
    points: int = 160
    seeds: int = 10
    dpi: int = DPI


SMALL = Scale(steps=12, many_steps=14, iterations=2, points=12, seeds=2, dpi=40)


# --- runs


@dataclass(frozen=True, eq=False)
class Subject:
    """What is sampled: a model, a start and a schedule."""

    denoise: Denoise
    start: Tensor
    levels: Tensor

    @property
    def steps(self) -> int:
        return len(self.levels) - 1


@dataclass(frozen=True, eq=False)
class Chain:
    """One core: N+1 states, and what the model said at the first N."""

    states: list[Tensor]
    said: list[Tensor]


@dataclass(frozen=True, eq=False)
class Team:
    """A CHORDS run to the end: what was evaluated, by (core, index); where cores were corrected, each with the state
    it would have had and the one it got; and the result."""

    starts: tuple[int, ...]
    calls: dict[tuple[int, int], Evaluated]
    corrected: dict[tuple[int, int], tuple[Tensor, Tensor]]
    result: Result

    def path(self, core: int) -> list[Tensor]:
        """The core's states from its start to the end."""
        end = next(hit.x for hit in self.result.hits if hit.core == core)
        return [*(call.x for (number, _), call in sorted(self.calls.items()) if number == core), end]


@dataclass(frozen=True, eq=False)
class Rounds:
    """A window's run: after each round the states of all nodes and the end; the nodes that were evaluated
    in it; and the result."""

    lines: list[list[Tensor]]
    windows: list[tuple[int, ...]]
    result: Result


@cache
def networks() -> tuple[Any, Callable[[Tensor], Tensor]]:
    flow, autoencoder = load()
    return flow, decoder(autoencoder)


def demo_subject(prompt: str, seed: int, steps: int, cfg: float = CFG) -> Subject:
    start = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Subject(torch.no_grad()(guided(networks()[0], [prompt], cfg)), start, sigmas(steps))


CENTRES = ((-2.2, 1.3), (2.1, 1.7), (0.5, -2.2))
SPREAD = 0.22


def plane_denoise(x: Tensor, sigma: float) -> Tensor:
    """The exact mean of what a point of the plane was before noise, if it was near one of the `CENTRES`: [B, 2]."""
    alpha, centres = 1 - sigma, x.new_tensor(CENTRES)
    variance = (alpha * SPREAD) ** 2 + sigma**2
    off = x[:, None] - alpha * centres
    odds = torch.softmax(-off.square().sum(-1) / (2 * variance), -1)
    return (odds[..., None] * (centres + alpha * SPREAD**2 / variance * off)).sum(1)


def plane_subject(start: Tensor, steps: int) -> Subject:
    return Subject(plane_denoise, start.double(), torch.linspace(1, 0, steps + 1, dtype=torch.float64))


def run_chain(subject: Subject, calls: int | None = None) -> Chain:
    """With ``calls`` the states are those where the model was called, and the end."""
    asked: list[Evaluated] = []
    result = sample(subject.denoise, subject.start, subject.levels, calls=calls, on_event=_keep(Evaluated, asked))
    return Chain([*(call.x for call in asked), result.x], [call.denoised for call in asked])


def team_starts(steps: int) -> tuple[int, ...]:
    """Where the nodes start `CORES` cores of CHORDS."""
    return plan(steps, CORES, CORES, method="chords").starts


def run_team(subject: Subject, starts: Sequence[int]) -> Team:
    events: list[Event] = []
    result = sample(
        subject.denoise, subject.start, subject.levels, starts=starts, accept="exact", on_event=events.append
    )
    calls = {(event.core, event.index): event for event in events if isinstance(event, Evaluated)}
    ends = {hit.core: hit.x for hit in result.hits}
    corrected = {}
    for event in events:
        if isinstance(event, Rectified):
            before, index = calls[event.core, event.index - 1], event.index
            alone = euler(before.x, before.denoised, subject.levels[index - 1], subject.levels[index])
            got = calls[event.core, index].x if index < subject.steps else ends[event.core]
            corrected[event.core, index] = (alone, got)
    return Team(tuple(starts), calls, corrected, result)


class _Watched(Window):
    """A window that shows all its states after each round."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lines: list[list[Tensor]] = []

    def _solve(self, first: int) -> None:
        super()._solve(first)
        self.lines.append([self._state_at(step).reshape(self._shape) for step in range(self._path.steps + 1)])


def run_window(subject: Subject, cores: int) -> Rounds:
    planned = solver_window(subject.levels, cores, SOLVERS["euler"])
    window = _Watched(subject.start, planned)
    asked: list[Evaluated] = []
    evaluations = drive(window, InlinePool(subject.denoise), subject.steps, on_event=_keep(Evaluated, asked))
    assert window.accepted is not None
    windows = [
        tuple(sorted(call.index for call in asked if call.depth == depth)) for depth in range(1, len(window.lines) + 1)
    ]
    result = Result(window.accepted.x, tuple(window.hits), window.accepted.depth, evaluations)
    return Rounds(window.lines, windows, result)


def run_search(iterations: int, steps: int) -> tuple[list[Iterated], Optimized]:
    """SDO: the circle on the right; the prompt leaves open where it is."""
    flow, decode = networks()
    start = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    events: list[OptimizationEvent] = []
    found = optimize_latent(
        guided(flow, [WISHED]),
        start,
        sigmas(steps),
        Through(decode, on_the_right([WISHED])),
        iterations=iterations,
        refresh="adaptive",
        on_event=events.append,
    )
    return [event for event in events if isinstance(event, Iterated)], found


def apart(x: Tensor, exact: Tensor) -> float:
    """Relative RMS difference, in percent."""
    return 100 * float((x - exact).norm() / exact.norm())


def stretches(nodes: Sequence[int]) -> list[tuple[int, int]]:
    """Increasing numbers as ranges without a gap, from the first of each to after its last."""
    breaks = [place for place in range(1, len(nodes)) if nodes[place] != nodes[place - 1] + 1]
    return [(nodes[a], nodes[b - 1] + 1) for a, b in pairwise([0, *breaks, len(nodes)])]


def spread(counts: Sequence[int]) -> str:
    """From the lowest to the highest, in words."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _keep(kind: type, kept: list[Any]) -> Callable[[Event], None]:
    return lambda event: kept.append(event) if isinstance(event, kind) else None


def picture(latent: Tensor, size: int = 256) -> Image.Image:
    """A latent [1, 16, 16, 16] as the demo's decoder shows it."""
    with torch.no_grad():
        pixels = networks()[1](latent.float())[0].clamp(0, 1)
    image = Image.frombytes(
        "RGB", pixels.shape[1::-1], bytes((pixels * 255).round().to(torch.uint8).flatten().tolist())
    )
    return image.resize((size, size), Image.Resampling.LANCZOS)


# --- drawing


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit("the pictures need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


@contextmanager
def _figure(height: float, dpi: int) -> Iterator[Any]:
    """An empty figure in the house's style: `WIDTH` inches wide, to be read at half its pixels."""
    pyplot = _pyplot()
    style = {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.edgecolor": DIM,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "xtick.color": DIM,
        "ytick.color": DIM,
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "legend.frameon": False,
    }
    with pyplot.rc_context(style):
        figure = pyplot.figure(figsize=(WIDTH, height), dpi=dpi)
        yield figure
        pyplot.close(figure)


def _show(figure: Any, box: tuple[float, float, float, float], image: Image.Image, colour: str = GRID) -> Any:
    """A picture in ``box`` (left, bottom, width, height in inches), framed."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(colour)
        spine.set_linewidth(2.5 if colour != GRID else 1)
    return axes


def _write(figure: Any, x: float, y: float, text: str, **style: Any) -> None:
    """``text`` at inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **style)


def _arrow(figure: Any, start: tuple[float, float], end: tuple[float, float], colour: str = DIM) -> None:
    width, height = figure.get_size_inches()
    figure.add_artist(
        _patches().FancyArrowPatch(
            (start[0] / width, start[1] / height),
            (end[0] / width, end[1] / height),
            arrowstyle="-|>",
            mutation_scale=11,
            color=colour,
            lw=1.3,
            shrinkA=0,
            shrinkB=0,
        )
    )


def _patches() -> Any:
    from matplotlib import patches

    return patches


def _plane(states: Sequence[Tensor], point: int = 0) -> tuple[list[float], list[float]]:
    """x and y of one point along a path."""
    return [float(state[point, 0]) for state in states], [float(state[point, 1]) for state in states]


# --- the pictures


def draw_chain(scale: Scale, path: Path) -> None:
    """A chain of model calls: the state it is at, and what the model says the picture will be."""
    subject = demo_subject(STARS, LUCKY, scale.steps)
    chain = run_chain(subject)
    shown = sorted({0, *(round(subject.steps * share) for share in (0.2, 0.4, 0.6, 0.8)), subject.steps})
    tile, gap, left = 0.96, 0.24, 0.98
    with _figure(2.95, scale.dpi) as figure:
        for place, index in enumerate(shown):
            x = left + place * (tile + gap)
            _show(figure, (x, 1.56, tile, tile), picture(chain.states[index]))
            last = index == subject.steps
            caption = "result" if last else "noise" if index == 0 else f"after {index}"
            _write(figure, x + tile / 2, 2.62, caption, ha="center", fontsize=9.5, weight="bold" if last else "normal")
            if not last:
                _arrow(figure, (x + tile + 0.03, 1.56 + tile / 2), (x + tile + gap - 0.03, 1.56 + tile / 2), INK)
                _show(figure, (x, 0.3, tile, tile), picture(chain.said[index]), ACCENT)
                _arrow(figure, (x + tile / 2, 1.53), (x + tile / 2, 1.29), ACCENT)
                _write(figure, x + tile / 2, 0.1, f"call {index + 1}", ha="center", fontsize=9, color=ACCENT)
        _write(figure, 0.08, 2.04, "where\nit is", va="center", fontsize=10, weight="bold")
        _write(figure, 0.08, 0.78, "what the\nmodel\nexpects", va="center", fontsize=10, weight="bold", color=ACCENT)
        figure.savefig(path)


def paper_start(steps: int) -> Tensor:
    """Of many points of noise, the one whose way is furthest from straight, if its first hit is good: [1, 2]."""
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    points = points[points.norm(dim=-1) < 2.6]
    subject = plane_subject(points, steps)
    team = run_team(subject, team_starts(steps))
    way = torch.stack(team.path(1))
    along = way[-1] - way[0]
    across = torch.stack([-along[:, 1], along[:, 0]], -1) / along.norm(dim=-1, keepdim=True)
    bend = ((way - way[0]) * across).sum(-1).abs().amax(0)
    off = (team.result.hits[1].x - team.result.x).norm(dim=-1)
    best = int((bend - 10 * off).argmax())
    return points[best : best + 1]


def draw_paper(scale: Scale, path: Path) -> None:
    """Sampling in the plane: many chains, and CHORDS' cores on one of them."""
    cloud = torch.randn(scale.points, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    crowd = run_chain(plane_subject(cloud, scale.steps))
    subject = plane_subject(paper_start(scale.steps), scale.steps)
    team = run_team(subject, team_starts(scale.steps))
    with _figure(4.1, scale.dpi) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        for point in range(scale.points):
            left.plot(*_plane(crowd.states, point), color=DIM, lw=0.5, alpha=0.45)
        left.scatter(*crowd.states[0].T.tolist(), s=9, color="#a7afbc", zorder=3, label="noise")
        left.scatter(*crowd.states[-1].T.tolist(), s=11, color=ACCENT, zorder=4, label="results")
        exact = team.path(1)
        left.plot(*_plane(exact), color=CORE_COLOURS[0], lw=2.2, zorder=5)
        left.set_title("Every start has its own way")
        left.legend(loc="lower left", fontsize=9, handletextpad=0.1, borderaxespad=0)
        for core in range(1, CORES + 1):
            states, colour = team.path(core), CORE_COLOURS[core - 1]
            pieces = [states[0]]
            for index, state in enumerate(states[1:], start=team.starts[core - 1] + 1):
                if (core, index) in team.corrected:
                    alone, got = team.corrected[core, index]
                    right.plot(*_plane([*pieces, alone]), color=colour, lw=1.6, marker="o", ms=3.6, zorder=5 + core)
                    right.plot(*_plane([alone, got]), color=colour, lw=1.2, ls=(0, (1, 1)), zorder=4)
                    right.scatter(*_plane([alone]), s=26, facecolor=PAPER, edgecolor=colour, zorder=6 + core)
                    pieces = [got]
                else:
                    pieces.append(state)
            speed = {1: "slowest", CORES: "fastest"}.get(core, "")
            label = f"core {core}" + (f" ({speed})" if speed else "")
            right.plot(*_plane(pieces), color=colour, lw=1.6, marker="o", ms=3.6, zorder=5 + core, label=label)
            if core > 1:
                origin = team.calls[core - 1, team.starts[core - 2]].x
                right.plot(*_plane([origin, states[0]]), color=colour, lw=1.3, ls=(0, (4, 2)), zorder=3)
        right.scatter(*_plane(exact[:1]), s=60, color="#a7afbc", zorder=12)
        right.scatter(*_plane(exact[-1:]), s=60, color=ACCENT, zorder=13)
        right.set_title("The blue one, by four cores")
        right.plot([], [], color=DIM, lw=1.3, ls=(0, (4, 2)), label="jump")
        right.plot([], [], color=DIM, lw=1.2, ls=(0, (1, 1)), marker="o", mfc=PAPER, label="correction")
        right.legend(loc="best", fontsize=9)
        for axes in (left, right):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_aspect("equal", adjustable="datalim")
            for spine in axes.spines.values():
                spine.set_visible(False)
        figure.subplots_adjust(0.01, 0.02, 0.99, 0.93, 0.03)
        figure.savefig(path)


def draw_rounds(scale: Scale, path: Path) -> None:
    """Which step each core is at in which round."""
    subject = demo_subject(STARS, LUCKY, scale.steps)
    team = run_team(subject, team_starts(scale.steps))
    with _figure(3.5, scale.dpi) as figure:
        axes = figure.add_axes((0.075, 0.14, 0.905, 0.77))
        first = team.result.hits[1]
        axes.plot([first.depth] * 2, [-0.8, subject.steps], color=INK, lw=1, ls=(0, (3, 3)), zorder=1)
        for core in range(CORES, 0, -1):
            mine = sorted((call.depth, index) for (number, index), call in team.calls.items() if number == core)
            end = next(hit for hit in team.result.hits if hit.core == core)
            depths, indices = [depth - 1 for depth, _ in mine], [index for _, index in mine]
            colour = CORE_COLOURS[core - 1]
            axes.plot([*depths, end.depth], [*indices, subject.steps], color=colour, lw=1.8, marker="o", ms=3.4)
            axes.scatter([end.depth], [subject.steps], s=85, marker="D", color=colour, zorder=6)
            which = {1: "exact", CORES: "first hit"}.get(core, f"hit {CORES - core + 1}")
            axes.annotate(
                f"{which}\nafter {end.depth}",
                (end.depth, subject.steps),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=colour,
            )
            if core > 1:
                start = team.starts[core - 1]
                axes.annotate(
                    "",
                    (core - 1, start),
                    (core - 1, team.starts[core - 2] + 1),
                    arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.3, "ls": (0, (3, 2))},
                )
        for (core, index), _ in team.corrected.items():
            gap = team.starts[core - 1] - team.starts[core - 2]
            moment = index - team.starts[core - 1] + core - 1
            axes.annotate(
                "",
                (moment, index - 0.25),
                (moment, index - gap + 1),
                arrowprops={"arrowstyle": "-|>", "color": CORE_COLOURS[core - 2], "lw": 1.1, "alpha": 0.75},
            )
        for core, start in enumerate(team.starts, start=1):
            axes.text(-0.35, start, f"core {core}", ha="right", va="center", color=CORE_COLOURS[core - 1], fontsize=9.5)
        axes.set(xlim=(-2.6, subject.steps + 1), ylim=(-0.8, subject.steps + 3.4))
        axes.set_xticks(range(0, subject.steps + 1, 5))
        axes.set_yticks(range(0, subject.steps + 1, 5))
        axes.set_xlabel("time, in model calls one after the other")
        axes.set_ylabel("step")
        axes.grid(color=GRID, lw=0.6)
        axes.set_axisbelow(True)
        figure.savefig(path)


def draw_hits(scale: Scale, path: Path) -> None:
    """The results that arrive on the way, from a lucky start and from an unlucky one."""
    tile, gap, left = 1.2, 0.17, 1.1
    starts = team_starts(scale.steps)
    with _figure(3.65, scale.dpi) as figure:
        for row, (seed, name) in enumerate(((LUCKY, "luckiest\nstart of ten"), (UNLUCKY, "unluckiest\nof ten"))):
            bottom = 1.88 - row * 1.6
            team = run_team(demo_subject(STARS, seed, scale.steps), starts)
            _write(figure, 0.08, bottom + tile / 2, name, va="center", weight="bold")
            for place, hit in enumerate(team.result.hits):
                x = left + place * (tile + gap)
                colour = CORE_COLOURS[hit.core - 1] if hit.core else GRID
                _show(figure, (x, bottom, tile, tile), picture(hit.x), colour)
                off = apart(hit.x, team.result.x)
                note = "KSampler's picture" if hit.core == 1 else f"{off:.1f} % off"
                _write(figure, x + tile / 2, bottom - 0.2, note, ha="center", fontsize=9, color=DIM)
                if row == 0:
                    title = "draft" if hit.core == 0 else "exact" if hit.core == 1 else f"hit {place}"
                    _write(figure, x + tile / 2, bottom + tile + 0.27, title, ha="center", weight="bold")
                    after = f"after {hit.depth} calls"
                    _write(figure, x + tile / 2, bottom + tile + 0.08, after, ha="center", fontsize=9, color=DIM)
        figure.savefig(path)


def draw_window(scale: Scale, path: Path) -> None:
    """The secant window: the whole line is solved again each round."""
    subject = plane_subject(paper_start(scale.steps), scale.steps)
    exact = run_chain(subject).states
    rounds = run_window(subject, CORES)
    on_demo = demo_subject(STARS, LUCKY, scale.steps)
    told = run_chain(on_demo).states
    demo = run_window(on_demo, CORES)
    with _figure(4.0, scale.dpi) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        last = len(rounds.lines)
        shown = sorted({1, round(0.35 * last), round(0.6 * last), round(0.8 * last), last} - {0})
        for shade, number in enumerate(shown):
            colour = _mixed(CORE_COLOURS[3], CORE_COLOURS[1], shade / max(1, len(shown) - 1))
            left.plot(
                *_plane(rounds.lines[number - 1]), color=colour, lw=1.5, marker="o", ms=3, label=f"round {number}"
            )
        left.plot(*_plane(exact), color=INK, lw=4.5, alpha=0.16, label=f"{subject.steps} steps in turn", zorder=1)
        left.scatter(*_plane(exact[:1]), s=60, color="#a7afbc", zorder=12)
        left.scatter(*_plane(exact[-1:]), s=60, color=ACCENT, zorder=13)
        left.legend(loc="lower left", fontsize=9, ncols=2, bbox_to_anchor=(-0.03, -0.08))
        left.set_aspect("equal", adjustable="datalim")
        left.set_xticks([])
        left.set_yticks([])
        left.set_title("In the plane: the whole line moves")
        for spine in left.spines.values():
            spine.set_visible(False)
        off = [[apart(state, exact) for state, exact in zip(line, told, strict=True)] for line in demo.lines]
        image = right.imshow(
            [[max(value, 1e-3) for value in row] for row in off],
            norm=_log_norm(0.1, 100),
            cmap="BuPu",
            aspect="auto",
            extent=(-0.5, on_demo.steps + 0.5, len(off) + 0.5, 0.5),
        )
        for number, nodes in enumerate(demo.windows, start=1):
            for begin, end in stretches(nodes):
                frame = {"fill": False, "edgecolor": CORE_COLOURS[2], "lw": 1.8}
                right.add_patch(_patches().Rectangle((begin - 0.5, number - 0.5), end - begin, 1, **frame))
        right.set_title("On the demo model: distance from the chain")
        right.set_xlabel("step (framed: those the model is asked at)")
        right.set_ylabel("round")
        right.set_xticks(range(0, on_demo.steps + 1, 5))
        right.set_yticks([1, *range(5, len(off) + 1, 5)])
        bar = figure.colorbar(image, ax=right, pad=0.02, ticks=(0.1, 1, 10, 100))
        bar.ax.set_yticklabels(["0.1 %", "1 %", "10 %", "100 %"])
        bar.outline.set_visible(False)
        figure.subplots_adjust(0.02, 0.12, 0.94, 0.92, 0.12)
        figure.savefig(path)


def draw_ten(scale: Scale, path: Path) -> None:
    """CHORDS' first hit and the window's result from ten starts of each of three prompts."""
    rows = ((STAR, "a star, its place\nleft open"), (STARS, "two stars"), (CROSS, "a cross and a ring"))
    kinds = (("CHORDS, first hit", CORE_COLOURS[3], 0.16), ("secant window", CORE_COLOURS[1], -0.16))
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name, _, _ in kinds}  # how far off, row, depth
    for row, (prompt, _) in enumerate(rows):
        for seed in SEEDS[: scale.seeds]:
            subject = demo_subject(prompt, seed, scale.steps)
            exact = run_chain(subject).states[-1]
            hits = (
                run_team(subject, team_starts(scale.steps)).result.hits[1],
                run_window(subject, CORES).result.hits[-1],
            )
            for (name, _, lift), hit in zip(kinds, hits, strict=True):
                found[name].append((apart(hit.x, exact), row + lift, hit.depth))
    with _figure(2.5, scale.dpi) as figure:
        axes = figure.add_axes((0.2, 0.2, 0.77, 0.62))
        for name, colour, _ in kinds:
            offs, places, depths = zip(*found[name], strict=True)
            label = f"{name}, after {spread(depths)} calls in a row"
            axes.scatter(offs, places, s=34, color=colour, alpha=0.7, linewidth=0, label=label)
        axes.set_yticks(range(len(rows)), [name for _, name in rows], color=INK)
        axes.set(ylim=(-0.5, len(rows) - 0.5), xscale="log", xlabel="how far off KSampler's picture")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.grid(color=GRID, lw=0.6, axis="x")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="upper center", ncols=2, fontsize=9.5, handletextpad=0.2)
        figure.savefig(path)


def draw_calls(scale: Scale, path: Path) -> None:
    """Fewer calls than steps: what the model expects can be interpolated."""
    subject = demo_subject(STARS, LUCKY, scale.many_steps)
    calls = default_calls(subject.steps)
    chain, fewer = run_chain(subject), run_chain(subject, calls)
    nodes = interpolation_nodes(subject.steps, calls)
    short = run_chain(replace(subject, levels=sigmas(calls)))
    numbers = [subject.start.numel() * place // 6 + 5 for place in range(6)]
    with _figure(2.7, scale.dpi) as figure:
        axes = figure.add_axes((0.03, 0.17, 0.45, 0.7))
        for number in numbers:
            axes.plot([float(said.flatten()[number]) for said in chain.said], color=ACCENT, lw=1.3, alpha=0.6)
            axes.plot(nodes, [float(said.flatten()[number]) for said in fewer.said], "o", color=ACCENT, ms=3.8)
        axes.set_title(f"{len(numbers)} numbers of what the model expects")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"step (lines: {subject.steps} calls, dots: {calls})", labelpad=2)
        tile = 1.2
        shown = (
            (chain, f"{subject.steps} steps,\n{subject.steps} calls", INK),
            (fewer, f"{subject.steps} steps,\n{calls} calls", ACCENT),
            (short, f"{calls} steps,\n{calls} calls", INK),
        )
        for place, (run, title, colour) in enumerate(shown):
            x = 4.02 + place * (tile + 0.13)
            _show(figure, (x, 0.56, tile, tile), picture(run.states[-1]), colour if colour == ACCENT else GRID)
            _write(figure, x + tile / 2, 1.88, title, ha="center", weight="bold", fontsize=9.5, color=colour)
            off = apart(run.states[-1], chain.states[-1])
            note = "KSampler's picture" if run is chain else f"{off:.1f} % off"
            _write(figure, x + tile / 2, 0.36, note, ha="center", fontsize=9, color=DIM)
        figure.savefig(path)


def draw_guidance(scale: Scale, path: Path) -> None:
    """The two sides of a guided call."""
    subject = demo_subject(STARS, LUCKY, scale.steps)
    index = round(0.5 * subject.steps)
    state, level = run_chain(subject).states[index], float(subject.levels[index])
    sides = {cfg: demo_subject(STARS, LUCKY, scale.steps, cfg).denoise(state, level) for cfg in (1.0, 0.0, CFG)}
    tile = 1.3
    with _figure(2.05, scale.dpi) as figure:
        captions = (
            ("where it is", "sent to both", state, GRID),
            ("with the prompt", "one GPU's call", sides[1.0], CORE_COLOURS[1]),
            ("without it", "the other GPU's call", sides[0.0], CORE_COLOURS[2]),
            (f"guided, CFG {CFG:g}", "put together", sides[CFG], ACCENT),
        )
        for place, (title, note, latent, colour) in enumerate(captions):
            x = 0.35 + place * (tile + 0.67)
            _show(figure, (x, 0.3, tile, tile), picture(latent), colour)
            _write(figure, x + tile / 2, 0.3 + tile + 0.09, title, ha="center", weight="bold")
            _write(figure, x + tile / 2, 0.09, note, ha="center", fontsize=9, color=DIM)
        for place, sign in enumerate(("", "and", "")):
            x = 0.35 + (place + 1) * (tile + 0.67) - 0.335
            if sign:
                _write(figure, x, 0.3 + tile / 2, sign, ha="center", va="center", color=DIM)
            else:
                _arrow(figure, (x - 0.22, 0.3 + tile / 2), (x + 0.22, 0.3 + tile / 2), INK)
        figure.savefig(path)


def draw_search(scale: Scale, path: Path) -> None:
    """SDO: the initial noise is moved until the objective is met."""
    done, found = run_search(scale.iterations, scale.steps)
    sampled = [event for event in done if event.sampled]
    shown = [sampled[round(place * (len(sampled) - 1) / 3)] for place in range(4)]
    tile = 1.2
    with _figure(3.9, scale.dpi) as figure:
        for place, (sample_, title) in enumerate(
            [(event.sample, f"iteration {event.iteration + 1}") for event in shown] + [(found.sample, "best found")]
        ):
            x = 0.75 + place * (tile + 0.21)
            _show(figure, (x, 2.3, tile, tile), picture(sample_), ACCENT if place == 4 else GRID)
            _write(figure, x + tile / 2, 2.3 + tile + 0.09, title, ha="center", weight="bold", fontsize=9.5)
        axes = figure.add_axes((0.095, 0.13, 0.88, 0.4))
        iterations, values = [event.iteration + 1 for event in done], [float(event.objective) for event in done]
        axes.plot(iterations, values, color=DIM, lw=1.2, zorder=1)
        carried = [event for event in done if not event.sampled]
        for events, face, label in (
            (sampled, ACCENT, "sampled anew: all steps"),
            (carried, PAPER, "carried along: no sampling"),
        ):
            axes.scatter(
                [event.iteration + 1 for event in events],
                [float(event.objective) for event in events],
                s=30,
                color=face,
                edgecolor=ACCENT,
                zorder=2,
                label=label,
            )
        axes.axhline(float(found.objective), color=ACCENT, lw=1, ls=(0, (3, 3)), label="best found")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("iteration")
        axes.set_ylabel("distance from\nthe objective")
        axes.legend(fontsize=9, loc="upper right")
        figure.savefig(path)


def _mixed(first: str, second: str, share: float) -> tuple[float, ...]:
    ends = [[int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)] for colour in (first, second)]
    return tuple((1 - share) * a + share * b for a, b in zip(*ends, strict=True))


def _log_norm(low: float, high: float) -> Any:
    from matplotlib.colors import LogNorm

    return LogNorm(low, high)


# --- the animation


@dataclass(frozen=True, eq=False)
class Frame:
    """``after``: rounds done; ``alone``: corrections are about to be made, and are not yet."""

    after: int
    alone: bool
    milliseconds: int


def frames_of(team: Team, steps: int) -> list[Frame]:
    """One a round, and two where cores are corrected."""
    moments = {_moment(team.starts, core, index) for core, index in team.corrected}
    hits = {hit.depth for hit in team.result.hits}
    frames = []
    for after in range(steps + 1):
        if after in moments:
            frames.append(Frame(after, True, 450))
        longer = after in moments or after in hits
        frames.append(Frame(after, False, 3500 if after == steps else 900 if longer else 450))
    return frames


def _moment(starts: Sequence[int], core: int, index: int) -> int:
    """How many rounds are done when the core arrives there."""
    return index - starts[core - 1] + core - 1


def draw_animation(scale: Scale, path: Path) -> None:
    """Cores on their way, how far each is from the chain, and the picture as it arrives."""
    subject = demo_subject(STAR, STAR_SEED, scale.steps)
    chain, team = run_chain(subject), run_team(subject, team_starts(scale.steps))
    frames = frames_of(team, subject.steps)
    images = [_frame(frame, subject, chain, team, scale.dpi // 2) for frame in frames]
    sheet = Image.new("RGB", (images[0].width, images[0].height * 4))
    for place in range(4):  # one palette for all frames: early, middle and late colours
        sheet.paste(images[(len(images) - 1) * place // 3], (0, images[0].height * place))
    palette = sheet.quantize(255, Image.Quantize.MEDIANCUT)
    still = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    still[0].save(
        path,
        save_all=True,
        append_images=still[1:],
        duration=[frame.milliseconds for frame in frames],
        loop=0,
        optimize=False,
        disposal=1,
    )


def _frame(frame: Frame, subject: Subject, chain: Chain, team: Team, dpi: int) -> Image.Image:
    steps, after = subject.steps, frame.after
    hits = [hit for hit in team.result.hits if hit.depth <= after]
    with _figure(4.6, dpi) as figure:
        axes = figure.add_axes((0.075, 0.115, 0.575, 0.535))
        most = max(
            apart(state, chain.states[index])
            for (core, index), (alone, got) in team.corrected.items()
            for state in (alone, got)
        )
        most = max(most, *(apart(team.path(core)[0], chain.states[team.starts[core - 1]]) for core in range(1, 5)))
        for core in range(1, CORES + 1):
            start = team.starts[core - 1]
            index = min(after - (core - 1) + start, steps)
            if index < start:
                continue
            path, colour = team.path(core), CORE_COLOURS[core - 1]
            off = [apart(state, chain.states[start + place]) for place, state in enumerate(path)][: index - start + 1]
            due = (core, index) in team.corrected and _moment(team.starts, core, index) == after
            if due:
                alone, got = (apart(state, chain.states[index]) for state in team.corrected[core, index])
                axes.plot([index] * 2, [alone, got], color=colour, lw=1.4, ls=(0, (1, 1)))
                if frame.alone:
                    off[-1] = alone
            axes.plot(range(start, index + 1), off, color=colour, lw=1.6, alpha=0.55)
            axes.scatter([index], off[-1:], s=95, color=colour, zorder=5, edgecolor=PAPER, linewidth=1)
            axes.text(index, off[-1], str(core), ha="center", va="center", color=PAPER, fontsize=7.5, zorder=6)
        axes.set(xlim=(-0.7, steps + 0.7), ylim=(-0.06 * most, 1.12 * most))
        axes.set_xticks(range(0, steps + 1, 5))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
        axes.set_xlabel("step")
        axes.set_title("distance from the one-core chain", fontsize=9.5, weight="normal", color=DIM)
        axes.grid(color=GRID, lw=0.6)
        axes.set_axisbelow(True)
        _write(figure, 0.2, 4.28, f"{after:2d} model calls in a row", fontsize=14, weight="bold")
        now = [core for core, index in team.corrected if _moment(team.starts, core, index) == after]
        told = _told(frame, now, [hit for hit in hits if hit.depth == after], steps)
        _write(figure, 3.0, 4.3, told, fontsize=10, color=DIM)
        for core in range(1, CORES + 1):  # what each expects, from its last call
            x, colour = 0.62 + (core - 1) * 1.2, CORE_COLOURS[core - 1]
            mine = [call for (number, _), call in team.calls.items() if number == core and call.depth <= after]
            if mine:
                last = max(mine, key=lambda call: call.depth)
                _show(figure, (x, 3.36, 0.78, 0.78), picture(last.denoised, 128), colour)
            _write(figure, x - 0.06, 3.75, f"{core}", ha="right", va="center", color=colour, weight="bold")
        _write(figure, 5.52, 3.75, "what each core expects", va="center", fontsize=10, color=DIM)
        _write(figure, 5.52, 3.27, "the newest result", weight="bold", fontsize=10.5)
        if hits:
            hit = hits[-1]
            colour = CORE_COLOURS[hit.core - 1] if hit.core else DIM
            _show(figure, (5.52, 0.92, 2.25, 2.25), picture(hit.x), colour)
            name = "draft" if hit.core == 0 else "exact" if hit.core == 1 else f"hit {hits.index(hit)} of {CORES}"
            off = "KSampler's picture" if hit.core == 1 else f"{apart(hit.x, team.result.x):.1f} % off"
            _write(figure, 5.52, 0.62, f"{name}, after {hit.depth} calls", color=colour, weight="bold")
            _write(figure, 5.52, 0.4, off, color=DIM)
        stream = BytesIO()
        figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def _told(frame: Frame, corrected: Sequence[int], hits: Sequence[Hit], steps: int) -> str:
    if corrected and frame.alone:
        names = ", ".join(map(str, sorted(corrected)))
        return f"core{'s' * (len(corrected) > 1)} {names}: the slower core knows better"
    if frame.after == steps:
        return f"core 1 has made all {steps} steps"
    if hits and hits[-1].core == 0:
        return "a draft, one jump to the end"
    if hits:
        return f"core {hits[-1].core} is at the end"
    if corrected:
        return "corrected"
    if 0 < frame.after < CORES:
        return f"core {frame.after + 1} starts by a jump"
    return ""


DRAWN: dict[str, tuple[str, Callable[[Scale, Path], None]]] = {
    "chain": ("how-chain.png", draw_chain),
    "paper": ("how-paper.png", draw_paper),
    "rounds": ("how-rounds.png", draw_rounds),
    "hits": ("how-hits.png", draw_hits),
    "window": ("how-window.png", draw_window),
    "ten": ("how-ten.png", draw_ten),
    "calls": ("how-calls.png", draw_calls),
    "guidance": ("how-guidance.png", draw_guidance),
    "sdo": ("how-sdo.png", draw_search),
    "chords": ("how-chords.gif", draw_animation),
}


def draw(names: Sequence[str], scale: Scale, folder: Path) -> list[Path]:
    """Draw these pictures; returns the files."""
    _pyplot()  # before any model call
    files = []
    for name in names:
        file, drawing = DRAWN[name]
        drawing(scale, folder / file)
        files.append(folder / file)
        if file.endswith(".png"):  # flat colours: a palette makes the file several times smaller
            with Image.open(files[-1]) as image:
                small = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            small.save(files[-1], optimize=True)
        print(f"{files[-1].name}: {files[-1].stat().st_size / 1e3:.0f} kB", flush=True)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(DRAWN)}; all, if none is given")
    parser.add_argument("--check", action="store_true", help="small, into a folder that is thrown away")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(DRAWN):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(DRAWN)}")
    torch.set_num_threads(1)
    names = arguments.names or list(DRAWN)
    if arguments.check:
        with tempfile.TemporaryDirectory() as folder:
            draw(names, SMALL, Path(folder))
    else:
        IMAGES.mkdir(parents=True, exist_ok=True)
        draw(names, Scale(), IMAGES)


if __name__ == "__main__":
    main()
