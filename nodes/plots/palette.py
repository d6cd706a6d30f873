"""The colours of a picture: on a dark ground, or on a light one for pages whose ground is light.

Each colour means the same in both. All that is written has a contrast of 4.5 to its ground, as WCAG 2.1 asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Palette:
    """The colours of one picture.

    Attributes:
        background: of the picture, and of numbers on the colours of lanes.
        card: the ground of plots and of most texts.
        grid: lines that help to read a plot.
        dim: what is said beside the main thing.
        text: the main thing.
        gold: the result.
        gain: what the result has saved, in large letters.
        red: what failed.
        lightness: of the colours of lanes in OKLCH: of one lane, and of its neighbour where there are many.
    """

    background: Colour
    card: Colour
    grid: Colour
    dim: Colour
    text: Colour
    gold: Colour
    gain: Colour
    red: Colour
    lightness: tuple[float, float]


DARK = Palette(
    background=(15, 18, 24),
    card=(24, 28, 37),
    grid=(46, 53, 67),
    dim=(148, 157, 175),
    text=(232, 235, 242),
    gold=(255, 201, 77),
    gain=(197, 158, 67),
    red=(255, 107, 107),
    lightness=(0.78, 0.68),
)
LIGHT = Palette(
    background=(239, 241, 245),
    card=(255, 255, 255),
    grid=(202, 208, 219),
    dim=(91, 100, 118),
    text=(27, 32, 42),
    gold=(150, 98, 0),
    gain=(150, 98, 0),
    red=(196, 43, 43),
    lightness=(0.5, 0.4),
)

_current: ContextVar[Palette] = ContextVar("palette", default=DARK)


def palette() -> Palette:
    """The colours that pictures are drawn in here."""
    return _current.get()


@contextmanager
def drawn_on(*, light: bool) -> Iterator[None]:
    """Pictures that are drawn in the block have a light ground, or a dark one."""
    token = _current.set(LIGHT if light else DARK)
    try:
        yield
    finally:
        _current.reset(token)


def faded(colour: Colour, share: float) -> Colour:
    """``colour`` over the ground of a card, ``share`` of it (0 to 1)."""
    red, green, blue = (round(share * c + (1 - share) * g) for c, g in zip(colour, palette().card, strict=True))
    return red, green, blue


def distinct_colours(lanes: int) -> list[Colour]:
    """One colour per lane, from green over blue to pink: none is close to gold or red. With more than four lanes,
    neighbours differ in lightness too."""
    hues = [235.0] if lanes == 1 else [150 + 190 * lane / (lanes - 1) for lane in range(lanes)]
    lightness = palette().lightness
    return [_oklch(lightness[lane % 2 if lanes > 4 else 0], 0.125, hue) for lane, hue in enumerate(hues)]


def _oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """The nearest sRGB colour to a colour in OKLCH (Ottosson 2020); ``hue`` in degrees."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (
        round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055))
        for c in (min(1.0, max(0.0, c)) for c in linear)
    )
    return red, green, blue
