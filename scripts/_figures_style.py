"""How the figures of docs/how-it-works.md are drawn: sizes, colours, framed pictures, texts and arrows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from benchmarks._report import DIM, GRID

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CORE_COLOURS = ("#2f5fb3", "#13938b", "#d98a00", "#d1365b")  # from the slowest core to the fastest
ACCENT = "#7a3ea8"
NOISE = "#a7afbc"
WIDTH = 8.0  # inches, to be read at half its pixels


def show(figure: Figure, box: tuple[float, float, float, float], image: Image.Image, colour: str = GRID) -> None:
    """A picture with a frame of this colour in ``box``: left, bottom, width and height in inches."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    axes.imshow(np.asarray(image))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(colour)
        spine.set_linewidth(2.5 if colour != GRID else 1)


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """``text`` at ``x`` and ``y`` inches from the lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, **style)


def arrow(figure: Figure, start: tuple[float, float], end: tuple[float, float], colour: str = DIM) -> None:
    """An arrow between two points in inches."""
    from matplotlib.patches import FancyArrowPatch

    width, height = figure.get_size_inches()
    figure.add_artist(
        FancyArrowPatch(
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


def hide_frame(axes: Axes) -> None:
    """Leave out ticks and frame; both axes have the same scale."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    for spine in axes.spines.values():
        spine.set_visible(False)


def coordinates(states: Sequence[Tensor], point: int = 0) -> tuple[list[float], list[float]]:
    """x and y of one point along a path."""
    return [float(state[point, 0]) for state in states], [float(state[point, 1]) for state in states]


def mixed(first: str, second: str, share: float) -> tuple[float, ...]:
    """Between two colours: ``share`` 0 is the first, 1 the second."""
    ends = [[int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)] for colour in (first, second)]
    return tuple((1 - share) * a + share * b for a, b in zip(*ends, strict=True))


def shrink(file: Path) -> None:
    """Write a PNG with 256 colours: a picture with flat colours becomes several times smaller."""
    with Image.open(file) as image:
        small = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(file, optimize=True)
