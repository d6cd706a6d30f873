"""A local model of the denoiser at one node of a trajectory, made of the evaluations there.

    D_j(x) = D_j + c_j (x - E_j) + sum_m <x - E_j, v_m> w_m

D_j is the last evaluation, made at E_j. What earlier evaluations tell of the slope is in the rest: c_j, a number per
sample, is the secant <dx, dD> / <dx, dx> of the last two; v_m are up to `RANK` orthonormal directions in which the node
has moved, the newest first, and w_m is what the model did there beyond c_j v_m.

All tensors are [B, d]; numbers per sample are [B, 1]. Samples do not influence each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANK = 4
"""Directions a node remembers."""

LARGEST_IMAGE = 20.0
"""The length of w_m at most, v_m having length 1. Without a bound the difference of two evaluations close together,
which is mostly noise, would tell what happens far away."""

LOWEST_SLOPE = -30.0
"""Without guidance slopes are positive; strong guidance makes them negative, and large."""

_INDEPENDENT = 0.04
"""The squared length of a direction, less what is along newer ones, from which on it counts as one of its own."""


class SecantModel:
    """The model at one node. ``at``: E, where it was evaluated last; ``value``: D, what that gave; ``slope``: c, or
    None before the second evaluation."""

    def __init__(self, at: Tensor, value: Tensor) -> None:
        self.at = at
        self.value = value
        self.slope: Tensor | None = None
        self._directions: list[tuple[Tensor, Tensor]] = []  # (v, w), newest first

    def __call__(self, moved: Tensor, slope: Tensor | None) -> Tensor:
        """D(E + ``moved``); ``slope`` is for a node that has none itself, None for 0."""
        slope = slope if self.slope is None else self.slope
        if slope is None:
            return self.value
        predicted = self.value + slope * moved
        for direction, rest in self._directions:
            predicted += dot(moved, direction) * rest
        return predicted

    def learn(self, at: Tensor, value: Tensor, highest: float) -> None:
        """Take one more evaluation: ``value`` at the state ``at``. Slopes are at most ``highest``."""
        dx, dvalue = at - self.at, value - self.value
        known = dx.new_zeros(len(dx), 1) if self.slope is None else self.slope
        square = dot(dx, dx)
        # A difference between states that are equal to rounding says nothing.
        moved = square > (16 * torch.finfo(at.dtype).eps) ** 2 * dot(at, at)
        inverse = torch.where(moved, square, torch.ones_like(square)).reciprocal()
        estimate = (dot(dx, dvalue) * inverse).clamp(LOWEST_SLOPE, highest)
        new_slope = torch.where(moved, estimate, known)
        length = torch.where(moved, inverse.sqrt(), torch.zeros_like(inverse))
        found = [(dx * length, dvalue * length)]
        for direction, rest in self._directions:  # the older ones, as far as they are not along newer ones
            image = rest + known * direction
            for newer, newer_image in found:
                along = dot(direction, newer)
                direction, image = direction - along * newer, image - along * newer_image
            square = dot(direction, direction)
            independent = square > _INDEPENDENT
            length = torch.where(independent, square.clamp_min(_INDEPENDENT).rsqrt(), torch.zeros_like(square))
            found.append((direction * length, image * length))
        self.at, self.value, self.slope = at, value, new_slope
        self._directions = []
        for direction, image in found[:RANK]:
            rest = image - new_slope * direction
            size = dot(rest, rest).sqrt().clamp_min(LARGEST_IMAGE)
            self._directions.append((direction, rest * (LARGEST_IMAGE / size)))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Per sample: [B, d], [B, d] -> [B, 1]."""
    return (a * b).sum(1, keepdim=True)
