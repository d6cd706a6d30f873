"""A local model of the denoiser at one node of a trajectory, from the evaluations there.

    D_j(x) = D_j + c_j (x - E_j) + sum_m <x - E_j, v_m> w_m

D_j is the last evaluation, made at E_j. The rest is the slope that earlier evaluations show. c_j, one number a sample,
is the secant <dx, dD> / <dx, dx> of the last two evaluations. v_m are up to `RANK` orthonormal directions in which the
node has moved, the newest first, and w_m is the change of D along v_m beyond c_j v_m.

All tensors are [B, d]; numbers a sample are [B, 1]. Samples do not influence each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

RANK = 4
"""How many directions a node keeps."""

MAX_IMAGE = 20.0
"""The largest length of w_m, where v_m has length 1. The difference of two evaluations close together is mostly noise;
without this bound it would decide what the model says far away."""

MIN_SLOPE = -30.0
"""Without guidance slopes are positive. Strong guidance makes them negative and large."""

_MIN_INDEPENDENT = 0.04
"""A direction is kept if the squared length of its part across newer directions is at least this."""


class SecantModel:
    """The model at one node.

    Attributes:
        at: E, where it was evaluated last, [B, d].
        value: D, the result of that, [B, d].
        slope: c, [B, 1]; None before the second evaluation.
    """

    def __init__(self, at: Tensor, value: Tensor) -> None:
        self.at = at
        self.value = value
        self.slope: Tensor | None = None
        self._directions: list[tuple[Tensor, Tensor]] = []  # (v, w), newest first

    def __call__(self, moved: Tensor, slope: Tensor | None) -> Tensor:
        """D(E + ``moved``). ``slope`` is used by a node that has no slope itself; None stands for 0."""
        slope = slope if self.slope is None else self.slope
        if slope is None:
            return self.value
        predicted = self.value + slope * moved
        for direction, rest in self._directions:
            predicted += dot(moved, direction) * rest
        return predicted

    def learn(self, at: Tensor, value: Tensor, highest: float) -> None:
        """Add an evaluation: ``value`` at the state ``at``. Slopes are limited to ``highest``."""
        dx, dvalue = at - self.at, value - self.value
        known = dx.new_zeros(len(dx), 1) if self.slope is None else self.slope
        square = dot(dx, dx)
        # A difference between states that are equal apart from rounding says nothing.
        moved = square > (16 * torch.finfo(at.dtype).eps) ** 2 * dot(at, at)
        inverse = torch.where(moved, square, torch.ones_like(square)).reciprocal()
        estimate = (dot(dx, dvalue) * inverse).clamp(MIN_SLOPE, highest)
        new_slope = torch.where(moved, estimate, known)
        length = torch.where(moved, inverse.sqrt(), torch.zeros_like(inverse))
        found = [(dx * length, dvalue * length)]
        for direction, rest in self._directions:  # of the older ones the part across newer ones
            image = rest + known * direction
            for newer, newer_image in found:
                along = dot(direction, newer)
                direction, image = direction - along * newer, image - along * newer_image
            square = dot(direction, direction)
            independent = square > _MIN_INDEPENDENT
            length = torch.where(independent, square.clamp_min(_MIN_INDEPENDENT).rsqrt(), torch.zeros_like(square))
            found.append((direction * length, image * length))
        self.at, self.value, self.slope = at, value, new_slope
        self._directions = []
        for direction, image in found[:RANK]:
            rest = image - new_slope * direction
            size = dot(rest, rest).sqrt().clamp_min(MAX_IMAGE)
            self._directions.append((direction, rest * (MAX_IMAGE / size)))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, [B, d], [B, d] -> [B, 1]."""
    return (a * b).sum(1, keepdim=True)
