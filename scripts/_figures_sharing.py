"""Figure of docs/how-it-works.md: one model call shared by two GPUs, by the tokens of the picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from _figures_runs import CROSS, Scale, attention_weights, decoded, demo_subject, run_chain
from _figures_style import ACCENT, CORE_COLOURS, WIDTH, arrow, show, write
from torch import Tensor

from benchmarks._report import DIM, GRID, INK, PAPER, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SEED = 1
GPUS = (CORE_COLOURS[0], CORE_COLOURS[2])
SIDE = 8  # tokens in a row and in a column of the demo model's picture
TOKENS = (27, 35)  # whose attention is shown: one on the cross, one on the ring
STEPS = 4
EXCHANGE = 0.05  # of a call: how much longer than a half a shared call is drawn

TILE, GAP = 1.62, 0.14  # inches: a picture, and the gap between its two halves
TOP = 3.45  # the upper edge of the pictures
MAP = 0.76  # an attention map


def draw_sharing(scale: Scale, path: Path) -> None:
    """One call by two GPUs: shares of the tokens, the exchange in each block, and the time that it saves."""
    subject = demo_subject(CROSS, SEED, scale.steps, cfg=1.0)
    index = round(0.5 * subject.steps)
    chain = run_chain(subject)
    maps = attention_weights(subject, chain.states[index], index)
    with figure(WIDTH, 3.88, scale.dpi) as drawn:
        _draw_halves(drawn, 0.95, chain.states[index], f"{SIDE * SIDE} tokens", grid=True)
        _draw_block(drawn, maps)
        _draw_halves(drawn, 6.28, chain.answers[index], "put together", grid=False)
        _draw_times(drawn.add_axes((0.12, 0.058, 0.855, 0.242)))
        drawn.savefig(path)


def _heights() -> tuple[float, float]:
    """The middle of each GPU's half, in inches."""
    return TOP - TILE / 4, TOP - GAP - 3 * TILE / 4


def _draw_halves(drawn: Figure, left: float, latent: Tensor, title: str, grid: bool) -> None:
    """A picture: with ``grid``, its two shares with their tokens, apart; else both together."""
    write(drawn, left + TILE / 2, TOP + 0.13, title, ha="center", weight="bold", fontsize=10.5)
    picture = decoded(latent, 512)
    if not grid:
        show(drawn, (left, TOP - TILE - GAP / 2, TILE, TILE), picture, ACCENT)
        return
    for number, middle in enumerate(_heights()):
        half = picture.crop((0, 256 * number, 512, 256 * (number + 1)))
        show(drawn, (left, middle - TILE / 4, TILE, TILE / 2), half, GPUS[number])
        axes = drawn.axes[-1]
        for line in range(1, SIDE):
            axes.axvline(512 / SIDE * line, color=PAPER, lw=0.7, alpha=0.9)
        for line in range(1, SIDE // 2):
            axes.axhline(512 / SIDE * line, color=PAPER, lw=0.7, alpha=0.9)
        label = f"GPU {number + 1}:\nall weights,\n{SIDE * SIDE // 2} tokens"
        write(drawn, left - 0.1, middle, label, ha="right", va="center", fontsize=9, color=GPUS[number])


def _draw_block(drawn: Figure, maps: Tensor) -> None:
    """What both GPUs do in each block: they exchange keys and values, and attend to all tokens."""
    left, right, middle = 2.98, 5.9, sum(_heights()) / 2
    _draw_panel(drawn, (left, TOP - TILE - GAP - 0.34, right - left, TILE + GAP + 0.73))
    write(drawn, (left + right) / 2, TOP + 0.13, "in each block", ha="center", weight="bold", fontsize=10.5)
    own, seen = left + 0.53, right - 0.2 - MAP
    for number, height in enumerate(_heights()):
        colour = GPUS[number]
        other = _heights()[1 - number]
        write(drawn, own, height, "keys,\nvalues", ha="center", va="center", fontsize=9.5, color=colour, weight="bold")
        arrow(drawn, (left - 0.33, height), (left + 0.12, height), colour)
        arrow(drawn, (own + 0.36, height), (seen - 0.07, height), colour)
        arrow(drawn, (own + 0.36, height), (seen - 0.07, other + 0.17 * (1 if number else -1) * -1), colour)
        _draw_map(drawn, (seen, height - MAP / 2, MAP, MAP), maps[TOKENS[number]], TOKENS[number], colour)
        arrow(drawn, (right + 0.04, height), (right + 0.32, height), colour)
    write(drawn, own + 0.02, middle, "exchanged", ha="center", va="center", fontsize=9, color=DIM)
    note = "one token\nattends to all 64"
    write(drawn, seen + MAP / 2, TOP - TILE - GAP - 0.27, note, ha="center", fontsize=8.5, color=DIM)


def _draw_panel(drawn: Figure, box: tuple[float, float, float, float]) -> None:
    """A pale panel with round corners behind what is drawn in it."""
    from matplotlib.patches import FancyBboxPatch

    width, height = drawn.get_size_inches()
    shape: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.012", "mutation_aspect": width / height}
    corner = (box[0] / width, box[1] / height)
    patch = FancyBboxPatch(corner, box[2] / width, box[3] / height, **shape)
    patch.set(facecolor="#f4f5f8", edgecolor=GRID, transform=drawn.transFigure, zorder=-1)
    drawn.add_artist(patch)


def _draw_map(drawn: Figure, box: tuple[float, float, float, float], weights: Tensor, token: int, colour: str) -> None:
    """To which tokens of the whole picture one token attends; the token itself is framed."""
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    width, height = drawn.get_size_inches()
    axes = drawn.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    axes.imshow(weights.reshape(SIDE, SIDE).tolist(), cmap="BuPu", norm=PowerNorm(0.5, vmin=0))
    axes.axhline(SIDE / 2 - 0.5, color=DIM, lw=1, ls=(0, (3, 2)))
    row, column = divmod(token, SIDE)
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=1.8))
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=1.5)


def _draw_times(axes: Axes) -> None:
    """Four calls of one GPU, and of two GPUs that share each."""
    shared = 0.5 + EXCHANGE
    bars = (("one GPU", 2.2, 1.0, INK), ("GPU 1", 1.0, shared, GPUS[0]), ("GPU 2", 0.0, shared, GPUS[1]))
    for _, bottom, length, colour in bars:
        axes.broken_barh([(call * length, length - 0.02) for call in range(STEPS)], (bottom, 0.9), facecolor=colour)
        for call in range(STEPS):
            style: dict[str, Any] = {"color": PAPER, "ha": "center", "va": "center", "fontsize": 9, "weight": "bold"}
            axes.text((call + 0.5) * length - 0.01, bottom + 0.42, f"call {call + 1}", **style)
    axes.text(STEPS * shared + 0.06, 0.95, "the same picture, earlier", va="center", fontsize=10, color=ACCENT)
    axes.set_yticks([bottom + 0.45 for _, bottom, _, _ in bars], [name for name, _, _, _ in bars], fontsize=9.5)
    for label, (_, _, _, colour) in zip(axes.get_yticklabels(), bars, strict=True):
        label.set_color(colour)
    axes.set(xticks=[], xlim=(0, STEPS), ylim=(0, 3.1))
    axes.set_xlabel("time \N{RIGHTWARDS ARROW}", fontsize=9, labelpad=3)
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
