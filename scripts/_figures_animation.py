"""The animation of docs/how-it-works.md: the cores of CHORDS round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from _figures_runs import (
    CORES,
    STAR,
    STAR_SEED,
    Chain,
    ChordsRun,
    Scale,
    decoded,
    demo_subject,
    difference,
    run_chain,
    run_chords,
    start_indices,
)
from _figures_style import CORE_COLOURS, WIDTH, show, write
from PIL import Image

from benchmarks._report import DIM, PAPER, figure
from chords_core import Hit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Frame:
    """``after``: the number of rounds done. ``before_correction``: the corrections of this round are not made yet."""

    after: int
    before_correction: bool
    milliseconds: int


def frames_of(run: ChordsRun, steps: int) -> list[Frame]:
    """One frame per round, and two where cores are corrected."""
    moments = {run.moment(core, index) for core, index in run.corrected}
    hits = {hit.depth for hit in run.result.hits}
    frames = []
    for after in range(steps + 1):
        if after in moments:
            frames.append(Frame(after, True, 450))
        longer = after in moments or after in hits
        frames.append(Frame(after, False, 3500 if after == steps else 900 if longer else 450))
    return frames


def draw_animation(scale: Scale, path: Path) -> None:
    """The cores, their distance from the chain, and the newest result."""
    subject = demo_subject(STAR, STAR_SEED, scale.steps)
    chain, run = run_chain(subject), run_chords(subject, start_indices(scale.steps))
    frames = frames_of(run, subject.steps)
    images = [_draw_frame(frame, chain, run, scale.dpi // 2) for frame in frames]
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


def _draw_frame(frame: Frame, chain: Chain, run: ChordsRun, dpi: int) -> Image.Image:
    hits = [hit for hit in run.result.hits if hit.depth <= frame.after]
    corrected = [core for core, index in run.corrected if run.moment(core, index) == frame.after]
    with figure(WIDTH, 4.6, dpi) as drawn:
        _draw_distances(drawn.add_axes((0.075, 0.115, 0.575, 0.535)), frame, chain, run)
        write(drawn, 0.2, 4.28, f"{frame.after:2d} model calls in a row", fontsize=14, weight="bold")
        event = _event(frame, corrected, [hit for hit in hits if hit.depth == frame.after], len(chain.answers))
        write(drawn, 3.0, 4.3, event, fontsize=10, color=DIM)
        _draw_expected(drawn, frame, run)
        write(drawn, 5.52, 3.27, "the newest result", weight="bold", fontsize=10.5)
        if hits:
            _draw_newest(drawn, hits, run)
        stream = BytesIO()
        drawn.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def _draw_distances(axes: Axes, frame: Frame, chain: Chain, run: ChordsRun) -> None:
    """Each core at its step, and its distance from the chain so far."""
    steps = len(chain.answers)
    limit = max(
        *(difference(state, chain.states[index]) for (_, index), pair in run.corrected.items() for state in pair),
        *(difference(run.path(core)[0], chain.states[run.starts[core - 1]]) for core in range(1, CORES + 1)),
    )
    for core in range(1, CORES + 1):
        start, colour = run.starts[core - 1], CORE_COLOURS[core - 1]
        index = min(frame.after - (core - 1) + start, steps)
        if index < start:
            continue
        states = run.path(core)[: index - start + 1]
        distances = [difference(state, chain.states[start + place]) for place, state in enumerate(states)]
        if (core, index) in run.corrected and run.moment(core, index) == frame.after:
            before, after = (difference(state, chain.states[index]) for state in run.corrected[core, index])
            axes.plot([index] * 2, [before, after], color=colour, lw=1.4, ls=(0, (1, 1)))
            if frame.before_correction:
                distances[-1] = before
        axes.plot(range(start, index + 1), distances, color=colour, lw=1.6, alpha=0.55)
        axes.scatter([index], distances[-1:], s=95, color=colour, zorder=5, edgecolor=PAPER, linewidth=1)
        axes.text(index, distances[-1], str(core), ha="center", va="center", color=PAPER, fontsize=7.5, zorder=6)
    axes.set(xlim=(-0.7, steps + 0.7), ylim=(-0.06 * limit, 1.12 * limit))
    axes.set_xticks(range(0, steps + 1, 5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
    axes.set_xlabel("step")
    axes.set_title("distance from the one-core chain", fontsize=9.5, weight="normal", color=DIM)
    axes.grid()


def _draw_expected(drawn: Figure, frame: Frame, run: ChordsRun) -> None:
    """The picture that each core expects after its last call."""
    for core in range(1, CORES + 1):
        x, colour = 0.62 + (core - 1) * 1.2, CORE_COLOURS[core - 1]
        calls = [call for (number, _), call in run.calls.items() if number == core and call.depth <= frame.after]
        if calls:
            last = max(calls, key=lambda call: call.depth)
            show(drawn, (x, 3.36, 0.78, 0.78), decoded(last.denoised, 128), colour)
        write(drawn, x - 0.06, 3.75, f"{core}", ha="right", va="center", color=colour, weight="bold")
    write(drawn, 5.52, 3.75, "what each core expects", va="center", fontsize=10, color=DIM)


def _draw_newest(drawn: Figure, hits: Sequence[Hit], run: ChordsRun) -> None:
    hit = hits[-1]
    colour = CORE_COLOURS[hit.core - 1] if hit.core else DIM
    show(drawn, (5.52, 0.92, 2.25, 2.25), decoded(hit.x), colour)
    name = "draft" if hit.core == 0 else "exact" if hit.core == 1 else f"result {len(hits) - 1} of {CORES}"
    note = "KSampler's picture" if hit.core == 1 else f"{difference(hit.x, run.result.x):.1f} % off"
    write(drawn, 5.52, 0.62, f"{name}, after {hit.depth} calls", color=colour, weight="bold")
    write(drawn, 5.52, 0.4, note, color=DIM)


def _event(frame: Frame, corrected: Sequence[int], hits: Sequence[Hit], steps: int) -> str:
    """What happens in this frame, in words."""
    if corrected and frame.before_correction:
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
