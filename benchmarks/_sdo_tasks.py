"""The objectives of benchmarks/sdo.py, as functions of the prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from chords_core.sdo.gradients import Objective
from chords_core.sdo.objectives import Contrast, Reference, RegionColour
from demo.scenes import COLOURS, PICTURE_SIZE, Scene, Thing, coverage, draw


@dataclass(frozen=True)
class Content:
    """1 - soft intersection over union of the pixels of the colour and the wanted place.

    A pixel's share of a colour is a softmax over its squared distances to the palette, so the matcher knows every
    colour of the demo's scenes and has a gradient everywhere.
    """

    colours: tuple[str, ...]  # one an item
    wanted: Tensor  # [B, H, W] coverage in 0..1
    sharpness: float = 20.0

    def __call__(self, pictures: Tensor) -> Tensor:
        palette = pictures.new_tensor(list(COLOURS.values()))
        distance = (pictures[..., None, :] - palette).square().sum(-1)
        shares = torch.softmax(-self.sharpness * distance, -1)
        index = torch.tensor([list(COLOURS).index(colour) for colour in self.colours])
        seen = shares[torch.arange(len(pictures)), :, :, index]
        wanted = self.wanted.to(seen)
        both = (seen * wanted).sum((1, 2))
        return 1 - both / (seen + wanted - seen * wanted).sum((1, 2))


def corners() -> Tensor:
    """A mask of the four corners."""
    mask = torch.zeros(PICTURE_SIZE, PICTURE_SIZE)
    quarter = PICTURE_SIZE // 4
    for rows in (slice(quarter), slice(-quarter, None)):
        for columns in (slice(quarter), slice(-quarter, None)):
            mask[rows, columns] = 1
    return mask


def _thing(prompt: str) -> Thing:
    _, size, colour, shape = prompt.split()
    return Thing(shape, colour, size, "right")


def blue_corners(prompts: list[str]) -> Objective:
    """The region objective: corners blue."""
    return RegionColour(COLOURS["blue"], corners())


def look_like(prompts: list[str]) -> Objective:
    """The reference objective: the thing on the right before purple."""
    return Reference(torch.stack([draw(Scene((_thing(p),), "purple")).movedim(0, -1) for p in prompts]))


def more_contrast(prompts: list[str]) -> Objective:
    """The brightness objective: as much contrast as possible."""
    return Contrast()


def on_the_right(prompts: list[str]) -> Objective:
    """The content objective: the prompt's own thing, found by colour and shape, on the right."""
    things = [_thing(prompt) for prompt in prompts]
    radius = {"small": 0.165, "big": 0.265}
    where = [coverage(str(t.shape), (0.69, 0.5), radius[str(t.size)]) for t in things]
    return Content(tuple(str(t.colour) for t in things), torch.stack(where))


TASKS: dict[str, Callable[[list[str]], Objective]] = {
    "corners blue": blue_corners,
    "reference picture": look_like,
    "contrast": more_contrast,
    "content on the right": on_the_right,
}
