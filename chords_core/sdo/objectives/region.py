"""The colour or the brightness of a picture, or of a region of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...checks import shown
from ...errors import InvalidInput
from .base import check_items, check_unit, constant, item_mean
from .pictures import check_pictures, luminance, resized


@dataclass(frozen=True, eq=False)
class RegionColour:
    """Mean squared distance from ``colour`` (red, green, blue in 0..1) within ``mask``.

    ``mask``: [H, W] or [1 or B, H, W] in 0..1, resized to the pictures; None: the whole picture.
    """

    colour: tuple[float, float, float]
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.colour, Sequence) or len(self.colour) != 3:
            raise InvalidInput("colour", f"must be red, green and blue, not {shown(self.colour)}")
        for value in self.colour:
            check_unit("colour", value)
        _check_mask(self.mask)

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3]."""
        check_pictures(pictures)
        distance = (pictures - pictures.new_tensor(self.colour)).square().mean(-1)
        return _region_mean(distance, self.mask)


@dataclass(frozen=True, eq=False)
class RegionBrightness:
    """Squared distance of the mean luminance within ``mask`` from ``brightness`` (0 black .. 1 white).

    ``mask``: as for `RegionColour`.
    """

    brightness: float
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        check_unit("brightness", self.brightness)
        _check_mask(self.mask)

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3]."""
        return (_region_mean(luminance(pictures), self.mask) - self.brightness).square()


def _region_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of ``values`` [B, H, W] weighted by ``mask``: [B]."""
    if mask is None:
        return item_mean(values)
    weight = constant(mask, values)
    weight = weight[None] if weight.ndim == 2 else weight
    weight = resized(weight[:, None], values.shape[1], values.shape[2])[:, 0]
    check_items("mask", weight, values)
    total = weight.flatten(1).sum(1)
    if not bool((total > 0).all()):
        raise InvalidInput("mask", f"is empty at the pictures' size {values.shape[1]} x {values.shape[2]}")
    return (values * weight).flatten(1).sum(1) / total


def _check_mask(mask: Tensor | None) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3) or mask.numel() == 0:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidInput("mask", f"must be [H, W] or [B, H, W], not {shape}")
    values = mask.detach().float()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise InvalidInput("mask", "must lie in 0..1")
    if not bool((values.reshape(-1, values.shape[-2] * values.shape[-1]).sum(1) > 0).all()):
        raise InvalidInput("mask", "is empty: it covers no pixel")
