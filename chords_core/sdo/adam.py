"""Adam for a batch of independent items, and the normalised gradient that it takes.

Pure functions and immutable records. Each item has its own scale, step size and step count, so an item's path does not
depend on the other items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import per_item, precise, rms

_BETAS = (0.9, 0.999)
_EPS = 1e-8  # small beside a gradient of RMS 1


def normalised(gradient: Tensor) -> Tensor:
    """Each item's gradient with RMS 1: [B, ...] -> [B, ...], in at least float32. A zero gradient stays zero.

    After this the scale of an objective has no effect, and the items of a batch move at the same speed.
    """
    # First by the largest element, because squares of tiny gradients would become 0.
    gradient = precise(gradient)
    largest = gradient.reshape(len(gradient), -1).abs().amax(1)
    gradient = gradient / per_item(torch.where(largest > 0, largest, 1), gradient)
    size = rms(gradient)
    return gradient / per_item(torch.where(size > 0, size, 1), gradient)


@dataclass(frozen=True, eq=False)
class Adam:
    """Adam's moments (arXiv 1412.6980, algorithm 1).

    ``mean``, ``square``: first and second moment [B, ...]; ``count``: steps taken [B].
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    @staticmethod
    def initial(like: Tensor) -> Adam:
        """The moments before the first step, in the shape of ``like`` [B, ...]."""
        zeros = torch.zeros_like(precise(like))
        return Adam(zeros, zeros, zeros.new_zeros(len(like)))

    def step(self, gradient: Tensor) -> tuple[Adam, Tensor]:
        """The moments after ``gradient`` [B, ...], and the direction to move: elements of about 1, downhill."""
        first, second = _BETAS
        count = self.count + 1
        mean = first * self.mean + (1 - first) * gradient
        square = second * self.square + (1 - second) * gradient.square()
        unbiased = mean / per_item(1 - first**count, mean)
        spread = (square / per_item(1 - second**count, mean)).sqrt()
        return Adam(mean, square, count), -unbiased / (spread + _EPS)

    def reset(self, items: Tensor) -> Adam:
        """The moments where those of ``items`` (bool [B]) are as before the first step."""
        keep = per_item(~items, self.mean)
        return Adam(self.mean * keep, self.square * keep, self.count * ~items)
