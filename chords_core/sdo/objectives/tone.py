"""Contrast and sharpness: measures of the luminance, as high as possible or at a given value."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ...checks import is_number, shown
from ...errors import InvalidInput
from .pictures import luminance

_EPS = 1e-8  # keeps the gradient of a square root finite for a flat picture


@dataclass(frozen=True)
class Contrast:
    """Contrast: the standard deviation of luminance, 0 (flat) .. 0.5 (half black, half white).

    The objective is minus the contrast, or with ``target`` its squared distance from ``target``.
    """

    target: float | None = None

    def __post_init__(self) -> None:
        if self.target is not None and not (is_number(self.target) and 0 <= self.target <= 0.5):
            raise InvalidInput("target", f"a contrast lies in 0..0.5, not {shown(self.target)}")

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3]."""
        light = luminance(pictures).flatten(1)
        variance = (light - light.mean(1, keepdim=True)).square().mean(1)
        return _maximised_or_at((variance + _EPS).sqrt(), self.target)


@dataclass(frozen=True)
class Sharpness:
    """Sharpness: the RMS of the luminance's Laplacian (the differences of a pixel from its four neighbours), >= 0.

    The objective is minus the sharpness, or with ``target`` its squared distance from ``target``.
    """

    target: float | None = None

    def __post_init__(self) -> None:
        if self.target is not None and not (is_number(self.target) and 0 <= self.target < math.inf):
            raise InvalidInput("target", f"a sharpness is a number of at least 0, not {shown(self.target)}")

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3], at least 3 x 3 pixels."""
        light = luminance(pictures)
        if min(light.shape[1:]) < 3:
            raise InvalidInput("pictures", f"need at least 3 x 3 pixels, not {light.shape[1]} x {light.shape[2]}")
        inner = light[:, 1:-1, 1:-1]
        around = light[:, :-2, 1:-1] + light[:, 2:, 1:-1] + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
        return _maximised_or_at(((4 * inner - around).square().flatten(1).mean(1) + _EPS).sqrt(), self.target)


def _maximised_or_at(measure: Tensor, target: float | None) -> Tensor:
    """The objective [B] that maximises ``measure`` [B], or brings it to ``target``."""
    return -measure if target is None else (measure - target).square()
