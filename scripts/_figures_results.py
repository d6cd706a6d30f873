"""Figures of docs/how-it-works.md: the secant window, adaptive steps, guidance, and SDO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from _figures_runs import (
    CFG,
    CORES,
    CROSS,
    FEW_STEPS_SEED,
    LUCKY,
    SEEDS,
    STAR,
    STARS,
    TOLERANCE,
    Rounds,
    Scale,
    decoded,
    demo_subject,
    difference,
    in_words,
    paper_start,
    plane_subject,
    ranges,
    run_chain,
    run_chords,
    run_search,
    run_window,
    start_indices,
)
from _figures_style import ACCENT, CORE_COLOURS, NOISE, WIDTH, arrow, coordinates, hide_frame, mixed, show, write
from torch import Tensor

from benchmarks._demo import simple_sigmas
from benchmarks._report import DIM, GRID, INK, PAPER, figure
from chords_core import Iterated

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_window(scale: Scale, path: Path) -> None:
    """The secant window: in each round, the states at all steps are solved again."""
    in_plane = plane_subject(paper_start(scale.steps), scale.steps)
    on_demo = demo_subject(STARS, LUCKY, scale.steps)
    with figure(WIDTH, 4.0, scale.dpi) as drawn:
        left, right = drawn.subplots(1, 2, width_ratios=(1, 1.25))
        _draw_lines(left, run_window(in_plane, CORES), run_chain(in_plane).states)
        _draw_distances(right, run_window(on_demo, CORES), run_chain(on_demo).states)
        drawn.subplots_adjust(0.02, 0.12, 0.94, 0.92, 0.12)
        drawn.savefig(path)


def _draw_lines(axes: Axes, rounds: Rounds, exact: Sequence[Tensor]) -> None:
    """The path of one point after some of the rounds."""
    last = len(rounds.lines)
    shown = sorted({1, round(0.35 * last), round(0.6 * last), round(0.8 * last), last} - {0})
    for shade, number in enumerate(shown):
        colour = mixed(CORE_COLOURS[3], CORE_COLOURS[1], shade / max(1, len(shown) - 1))
        line = coordinates(rounds.lines[number - 1])
        axes.plot(*line, color=colour, lw=1.5, marker="o", ms=3, label=f"round {number}")
    axes.plot(*coordinates(exact), color=INK, lw=4.5, alpha=0.16, label=f"{len(exact) - 1} steps in turn", zorder=1)
    axes.scatter(*coordinates(exact[:1]), s=60, color=NOISE, zorder=12)
    axes.scatter(*coordinates(exact[-1:]), s=60, color=ACCENT, zorder=13)
    axes.legend(loc="lower left", fontsize=9, ncols=2, bbox_to_anchor=(-0.03, -0.08))
    axes.set_title("In the plane: the whole line moves")
    hide_frame(axes)


def _draw_distances(axes: Axes, rounds: Rounds, exact: Sequence[Tensor]) -> None:
    """How far the state at each step is from one core's, round by round, and the steps that are called."""
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    steps = len(exact) - 1
    distances = [[difference(*pair) for pair in zip(line, exact, strict=True)] for line in rounds.lines]
    image = axes.imshow(
        [[max(value, 1e-3) for value in row] for row in distances],
        norm=LogNorm(0.1, 100),
        cmap="BuPu",
        aspect="auto",
        extent=(-0.5, steps + 0.5, len(distances) + 0.5, 0.5),
    )
    for number, called in enumerate(rounds.windows, start=1):
        for begin, end in ranges(called):
            frame = Rectangle((begin - 0.5, number - 0.5), end - begin, 1, fill=False)
            frame.set(edgecolor=CORE_COLOURS[2], linewidth=1.8)
            axes.add_patch(frame)
    axes.set_title("On the demo model: distance from the chain")
    axes.set_xlabel("step (framed: the model is called here)")
    axes.set_ylabel("round")
    axes.set_xticks(range(0, steps + 1, 5))
    axes.set_yticks([1, *range(5, len(distances) + 1, 5)])
    drawn = axes.figure
    assert isinstance(drawn, Figure)
    bar = drawn.colorbar(image, ax=axes, pad=0.02, ticks=(0.1, 1, 10, 100))
    bar.ax.set_yticklabels(["0.1 %", "1 %", "10 %", "100 %"])
    bar.outline.set_visible(False)


def draw_ten(scale: Scale, path: Path) -> None:
    """CHORDS' first result and the window's result from ten starts of each of three prompts."""
    rows = ((STAR, "a star, without\na place"), (STARS, "two stars"), (CROSS, "a cross and a ring"))
    kinds = (("CHORDS, first result", CORE_COLOURS[3], 0.16), ("secant window", CORE_COLOURS[1], -0.16))
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name, _, _ in kinds}  # difference, row, depth
    for row, (prompt, _) in enumerate(rows):
        for seed in SEEDS[: scale.seeds]:
            subject = demo_subject(prompt, seed, scale.steps)
            exact = run_chain(subject).states[-1]
            hits = (
                run_chords(subject, start_indices(scale.steps)).result.hits[1],
                run_window(subject, CORES).result.hits[-1],
            )
            for (name, _, lift), hit in zip(kinds, hits, strict=True):
                found[name].append((difference(hit.x, exact), row + lift, hit.depth))
    with figure(WIDTH, 2.5, scale.dpi) as drawn:
        axes = drawn.add_axes((0.2, 0.2, 0.77, 0.62))
        for name, colour, _ in kinds:
            differences, places, depths = zip(*found[name], strict=True)
            label = f"{name}, after {in_words(depths)} calls in a row"
            axes.scatter(differences, places, s=34, color=colour, alpha=0.7, linewidth=0, label=label)
        axes.set_yticks(range(len(rows)), [name for _, name in rows], color=INK)
        axes.set(ylim=(-0.5, len(rows) - 0.5), xscale="log", xlabel="difference from KSampler's picture")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        drawn.legend(loc="upper center", ncols=2, fontsize=9.5, handletextpad=0.2)
        drawn.savefig(path)


def draw_calls(scale: Scale, path: Path) -> None:
    """Adaptive steps: where what the model expects hardly changes, it can be interpolated."""
    subject = demo_subject(STAR, FEW_STEPS_SEED, scale.many_steps)
    chain, fewer = run_chain(subject), run_chain(subject, TOLERANCE)
    calls = len(fewer.nodes)
    short = run_chain(replace(subject, sigmas=simple_sigmas(calls)))
    numbers = [subject.start.numel() * place // 6 + 5 for place in range(6)]
    with figure(WIDTH, 2.7, scale.dpi) as drawn:
        axes = drawn.add_axes((0.03, 0.17, 0.45, 0.7))
        for number in numbers:
            axes.plot([float(answer.flatten()[number]) for answer in chain.answers], color=ACCENT, lw=1.3, alpha=0.6)
            axes.plot(
                fewer.nodes, [float(answer.flatten()[number]) for answer in fewer.answers], "o", color=ACCENT, ms=3.8
            )
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
            show(drawn, (x, 0.56, tile, tile), decoded(run.states[-1]), colour if colour == ACCENT else GRID)
            write(drawn, x + tile / 2, 1.88, title, ha="center", weight="bold", fontsize=9.5, color=colour)
            change = difference(run.states[-1], chain.states[-1])
            note = "KSampler's picture" if run is chain else f"{change:.1f} % off"
            write(drawn, x + tile / 2, 0.36, note, ha="center", fontsize=9, color=DIM)
        drawn.savefig(path)


def draw_guidance(scale: Scale, path: Path) -> None:
    """The two sides of a guided call."""
    subject = demo_subject(STARS, LUCKY, scale.steps)
    index = round(0.5 * subject.steps)
    state, sigma = run_chain(subject).states[index], float(subject.sigmas[index])
    sides = {cfg: demo_subject(STARS, LUCKY, scale.steps, cfg).denoise(state, sigma) for cfg in (1.0, 0.0, CFG)}
    tile = 1.3
    with figure(WIDTH, 2.05, scale.dpi) as drawn:
        captions = (
            ("the state", "sent to both", state, GRID),
            ("with the prompt", "one GPU's call", sides[1.0], CORE_COLOURS[1]),
            ("without it", "the other GPU's call", sides[0.0], CORE_COLOURS[2]),
            (f"guided, CFG {CFG:g}", "combined", sides[CFG], ACCENT),
        )
        for place, (title, note, latent, colour) in enumerate(captions):
            x = 0.35 + place * (tile + 0.67)
            show(drawn, (x, 0.3, tile, tile), decoded(latent), colour)
            write(drawn, x + tile / 2, 0.3 + tile + 0.09, title, ha="center", weight="bold")
            write(drawn, x + tile / 2, 0.09, note, ha="center", fontsize=9, color=DIM)
        for place, sign in enumerate(("", "and", "")):
            x = 0.35 + (place + 1) * (tile + 0.67) - 0.335
            if sign:
                write(drawn, x, 0.3 + tile / 2, sign, ha="center", va="center", color=DIM)
            else:
                arrow(drawn, (x - 0.22, 0.3 + tile / 2), (x + 0.22, 0.3 + tile / 2), INK)
        drawn.savefig(path)


def draw_search(scale: Scale, path: Path) -> None:
    """SDO: the initial noise is changed until the objective is met."""
    done, found = run_search(scale.iterations, scale.steps)
    sampled = [event for event in done if event.sampled]
    shown = [sampled[round(place * (len(sampled) - 1) / 3)] for place in range(4)]
    pictures = [(event.sample, f"iteration {event.iteration + 1}") for event in shown] + [(found.sample, "best found")]
    tile = 1.2
    with figure(WIDTH, 3.9, scale.dpi) as drawn:
        for place, (latent, title) in enumerate(pictures):
            x = 0.75 + place * (tile + 0.21)
            show(drawn, (x, 2.3, tile, tile), decoded(latent), ACCENT if place == 4 else GRID)
            write(drawn, x + tile / 2, 2.3 + tile + 0.09, title, ha="center", weight="bold", fontsize=9.5)
        _draw_objective(drawn.add_axes((0.095, 0.13, 0.88, 0.4)), done, float(found.objective))
        drawn.savefig(path)


def _draw_objective(axes: Axes, done: Sequence[Iterated], best: float) -> None:
    """The objective at each iteration."""
    axes.plot([event.iteration + 1 for event in done], [float(event.objective) for event in done], color=DIM, lw=1.2)
    for sampled, face, label in (
        (True, ACCENT, "sampled: all steps"),
        (False, PAPER, "carried along: no sampling"),
    ):
        events = [event for event in done if event.sampled == sampled]
        iterations, values = [event.iteration + 1 for event in events], [float(event.objective) for event in events]
        axes.scatter(iterations, values, s=30, color=face, edgecolor=ACCENT, zorder=2, label=label)
    axes.axhline(best, color=ACCENT, lw=1, ls=(0, (3, 3)), label="best found")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("iteration")
    axes.set_ylabel("objective")
    axes.legend(fontsize=9, loc="upper right")
