"""Is what the prompt names in the picture? Measured from the pixels, without a network.

A thing's colour is there if enough pixels are nearest to it in the palette. Its shape is the one whose drawn
template overlaps best with the largest connected patch of that colour, both fitted to the same box.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from .scenes import COLOURS, PICTURE_SIZE, SHAPES, Thing, coverage, parse

_LEAST_AREA = 0.008  # of the picture: half of the smallest shape there is
_FARTHEST = 0.42  # from a palette colour, in RGB, that a pixel may be and still count as that colour
_BOX = 40
_TURNS = (-0.16, -0.08, 0.0, 0.08, 0.16)


@dataclass(frozen=True)
class Finding:
    """What was seen of one named thing: its area (0..1 of the picture) and the shape it looks like, if any."""

    thing: Thing
    area: float
    shape: str | None

    @property
    def right(self) -> bool:
        """The named colour is there in the named shape (an unnamed shape is any)."""
        return self.shape is not None and self.thing.shape in (None, self.shape)


def find(picture: Tensor, prompt: str) -> list[Finding]:
    """One finding for each thing with a colour that the prompt names; ``picture`` is [3, 128, 128] in 0..1."""
    things = [thing for thing in parse(prompt).things if thing.colour is not None]
    others = {thing.colour for thing in things}
    return [_find_one(picture, thing, others - {thing.colour}) for thing in things]


def matches(picture: Tensor, prompt: str) -> bool:
    """Whether every thing the prompt names is there, in its colour and shape."""
    findings = find(picture, prompt)
    return bool(findings) and all(finding.right for finding in findings)


def _find_one(picture: Tensor, thing: Thing, others: set[str | None]) -> Finding:
    names = list(COLOURS)
    distances = torch.cdist(picture.flatten(1).T, _palette())
    nearest = distances.argmin(1)
    wanted = names.index(str(thing.colour))
    sure = ((nearest == wanted) & (distances[:, wanted] < _FARTHEST)).reshape(picture.shape[1:])
    patch = largest_patch(sure)
    area = float(patch.float().mean())
    if area < _LEAST_AREA or _is_background(patch):
        return Finding(thing, area, None)
    # Edges are mixtures of two colours: a pixel belongs to the nearest of those that are really there.
    own = picture[:, patch].median(1).values
    rivals = [_border(picture), *(_palette()[names.index(str(name))] for name in others)]
    pixels = picture.flatten(1).T
    gap = torch.cdist(pixels, torch.stack([own, *rivals]))
    mask = largest_patch((gap.argmin(1) == 0).reshape(picture.shape[1:]))
    return Finding(thing, area, _shape_of(mask))


def _is_background(patch: Tensor) -> bool:
    """Whether a patch runs along the picture's edge; things stand clear of it."""
    edge = torch.cat([patch[0], patch[-1], patch[:, 0], patch[:, -1]])
    return float(edge.float().mean()) > 0.2


def _border(picture: Tensor) -> Tensor:
    edge = torch.cat([picture[:, :4].flatten(1), picture[:, -4:].flatten(1), picture[:, :, :4].flatten(1)], 1)
    return edge.median(1).values


@lru_cache(maxsize=1)
def _palette() -> Tensor:
    return torch.tensor(list(COLOURS.values()))


def largest_patch(mask: Tensor) -> Tensor:
    """The largest 8-connected region of a boolean mask [h, w], as a mask; empty if the mask is."""
    labels = torch.arange(1, mask.numel() + 1, dtype=torch.float32).reshape(mask.shape) * mask
    while True:
        spread = F.max_pool2d(labels[None, None], 3, 1, 1)[0, 0] * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    values, counts = labels[mask].unique(return_counts=True)
    return labels == values[counts.argmax()] if len(values) else mask


def _shape_of(mask: Tensor) -> str:
    """The shape whose template overlaps most (intersection over union) with a non-empty mask."""
    seen = _fitted(mask.float())
    best: dict[str, float] = {}
    for shape, template in _templates():
        overlap = float(torch.minimum(seen, template).sum() / torch.maximum(seen, template).sum())
        best[shape] = max(best.get(shape, 0.0), overlap)
    return max(best, key=best.__getitem__)


def _fitted(mask: Tensor) -> Tensor:
    """A mask's bounding box, scaled to a square of a fixed size."""
    rows, columns = mask.amax(1).nonzero()[:, 0], mask.amax(0).nonzero()[:, 0]
    box = mask[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    return F.interpolate(box[None, None], (_BOX, _BOX), mode="bilinear", antialias=True)[0, 0]


@lru_cache(maxsize=1)
def _templates() -> list[tuple[str, Tensor]]:
    return [
        (shape, _fitted((coverage(shape, (0.5, 0.5), 0.3, turn, PICTURE_SIZE) > 0.5).float()))
        for shape in SHAPES
        for turn in _TURNS
    ]
