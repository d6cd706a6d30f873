"""Simple scenes: one or two coloured shapes before a coloured background, with a prompt that says so.

A scene is a few words (:class:`Scene`); :func:`draw` turns it into a picture, :func:`describe` into a prompt, and
:func:`parse` reads a prompt back. Pictures are drawn from signed distances, so edges are antialiased without
supersampling. All chance comes from a ``random.Random``; without one, drawing and describing are exact.
"""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

import torch
from torch import Tensor

PICTURE_SIZE = 128

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
SIZES = ("small", "big")
COLOURS = {
    "red": (0.86, 0.12, 0.13),
    "orange": (0.98, 0.55, 0.08),
    "yellow": (0.98, 0.90, 0.16),
    "green": (0.12, 0.62, 0.22),
    "blue": (0.12, 0.27, 0.86),
    "purple": (0.56, 0.16, 0.66),
    "white": (0.95, 0.95, 0.95),
    "black": (0.05, 0.05, 0.06),
}

# The centre (x, y) of each place, as a fraction of the picture; two shapes stand further apart than one alone does
# from the middle, and are drawn smaller, so that they never touch.
PLACES_ALONE = {
    "left": (0.31, 0.5),
    "right": (0.69, 0.5),
    "top": (0.5, 0.31),
    "bottom": (0.5, 0.69),
    "center": (0.5, 0.5),
}
PLACES_PAIRED = {"left": (0.26, 0.5), "right": (0.74, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.74)}
PLACES = tuple(PLACES_ALONE)
PLACE_PHRASES = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "center": "in the center",
}
RADIUS_ALONE = {"small": 0.165, "big": 0.265}
RADIUS_PAIRED = {"small": 0.135, "big": 0.205}


@dataclass(frozen=True)
class Thing:
    """One shape of a scene. In a parsed prompt, what the prompt leaves open is None."""

    shape: str | None
    colour: str | None
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Scene:
    """One or two things before a background colour (None where a parsed prompt does not name it)."""

    things: tuple[Thing, ...]
    background: str | None = None


def random_scene(rng: random.Random, pair_chance: float = 0.35) -> Scene:
    """A scene whose colours all differ; two things stand left and right, or top and bottom."""
    paired = rng.random() < pair_chance
    places = rng.choice((("left", "right"), ("top", "bottom"))) if paired else (rng.choice(PLACES),)
    background, *colours = rng.sample(list(COLOURS), 1 + len(places))
    things = tuple(
        Thing(rng.choice(SHAPES), colour, rng.choice(SIZES), place)
        for colour, place in zip(colours, places, strict=True)
    )
    return Scene(things, background)


def describe(scene: Scene, rng: random.Random | None = None, leave_out: float = 0.15) -> str:
    """The prompt of a scene. With a generator, a size, a place or the background is left out now and then."""

    def said(word: str | None) -> TypeGuard[str]:
        return word is not None and (rng is None or rng.random() >= leave_out)

    clauses = []
    for thing in scene.things:
        words = [thing.size] if said(thing.size) else []
        words += [word for word in (thing.colour, thing.shape) if word is not None]
        words += [PLACE_PHRASES[thing.place]] if said(thing.place) else []
        article = "an" if words[0] == "orange" else "a"
        clauses.append(f"{article} {' '.join(words)}")
    background = f", {scene.background} background" if said(scene.background) else ""
    return " and ".join(clauses) + background


def clauses(prompt: str) -> list[list[str]]:
    """The words of each clause in lower case; clauses end at punctuation and at the word "and"."""
    parts = re.split(r"[.,;:\n]|\band\b", prompt.lower())
    return [words for words in (re.findall(r"[^\W_]+", part) for part in parts) if words]


def parse(prompt: str) -> Scene:
    """What a prompt asks for, as far as the vocabulary goes; a clause without shape and colour asks for nothing."""
    things, background = [], None
    for words in clauses(prompt):
        colour = next((word for word in words if word in COLOURS), None)
        if "background" in words:
            background = colour
            continue
        shape = next((word for word in words if word in SHAPES), None)
        if shape or colour:
            size = next((word for word in words if word in SIZES), None)
            place = next((word for word in words if word in PLACES), None)
            things.append(Thing(shape, colour, size, place))
    return Scene(tuple(things), background)


def distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance (negative inside, exact near the outline) to a shape of radius about 1 around the origin."""
    if shape == "circle":
        return torch.hypot(x, y) - 0.97
    if shape == "ring":
        return (torch.hypot(x, y) - 0.76).abs() - 0.24
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.86
    if shape == "cross":
        x, y = x.abs(), y.abs()
        return torch.minimum(torch.maximum(x - 1.0, y - 0.33), torch.maximum(x - 0.33, y - 1.0))
    if shape == "triangle":
        y = y - 0.18  # the centroid lies below the middle of the outline
        return torch.maximum(y, 0.5 * (math.sqrt(3.0) * x.abs() - y)) - 0.6
    if shape == "star":
        return _star_distance(x, y, tip=1.15, notch=0.48)
    raise ValueError(f"unknown shape: {shape}")


def _star_distance(x: Tensor, y: Tensor, tip: float, notch: float) -> Tensor:
    """Five points, one upwards: every point is folded into half a sector, where the outline is one line."""
    half = math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y) + half, 2 * half) - half
    radius = torch.hypot(x, y)
    along, across = radius * torch.cos(angle), radius * torch.sin(angle).abs()
    edge = (notch * math.cos(half) - tip, notch * math.sin(half))
    length = math.hypot(*edge)
    return ((along - tip) * edge[1] - across * edge[0]) / length


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Pixel centres (x, y), each [size, size], as fractions of the picture."""
    ticks = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return x, y


def coverage(
    shape: str, centre: tuple[float, float], radius: float, turn: float = 0.0, size: int = PICTURE_SIZE
) -> Tensor:
    """How much of each pixel a shape covers: [size, size] in 0..1; centre and radius as fractions, turn in radians."""
    x, y = _grid(size)
    x, y = (x - centre[0]) / radius, (y - centre[1]) / radius
    if turn:
        cos, sin = math.cos(turn), math.sin(turn)
        x, y = cos * x + sin * y, cos * y - sin * x
    return (0.5 - distance(shape, x, y) * (radius * size)).clamp(0.0, 1.0)


def draw(scene: Scene, rng: random.Random | None = None, size: int = PICTURE_SIZE) -> Tensor:
    """A fully specified scene as a picture [3, size, size] in 0..1; a generator adds a little jitter."""

    def jitter(amount: float) -> float:
        return rng.uniform(-amount, amount) if rng else 0.0

    def paint(name: str) -> Tensor:
        return torch.tensor([channel + jitter(0.025) for channel in COLOURS[name]]).view(3, 1, 1)

    _, y = _grid(size)
    picture = paint(_given(scene.background)) * (1.04 - 0.08 * y)
    paired = len(scene.things) > 1
    places, radii = (PLACES_PAIRED, RADIUS_PAIRED) if paired else (PLACES_ALONE, RADIUS_ALONE)
    for thing in scene.things:
        x0, y0 = places[_given(thing.place)]
        centre = (x0 + jitter(0.02), y0 + jitter(0.02))
        radius = radii[_given(thing.size)] * (1.0 + jitter(0.06))
        cover = coverage(_given(thing.shape), centre, radius, jitter(0.08), size)
        picture = picture + cover * (paint(_given(thing.colour)) - picture)
    return picture.clamp(0.0, 1.0)


def _given(word: str | None) -> str:
    """A word of a fully specified scene."""
    if word is None:
        raise ValueError("only a fully specified scene can be drawn")
    return word
