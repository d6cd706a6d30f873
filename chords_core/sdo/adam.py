"""Descent on a batch of independent items: the normalised gradient, Adam, and what keeps a noise plausible.

Pure functions and immutable records; every item (first dimension) has its own scale, step size and step count, so
that an item's path depends on no other item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidInput

_BETAS = (0.9, 0.999)
_EPS = 1e-8  # beside a gradient of RMS 1


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """``values`` [B] in the shape [B, 1, ...] that broadcasts against ``like`` [B, ...]."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def rms(x: Tensor) -> Tensor:
    """Root mean square of each item: [B, ...] -> [B], in at least float32."""
    return precise(x).reshape(len(x), -1).square().mean(1).sqrt()


def precise(x: Tensor) -> Tensor:
    """``x`` in at least float32, where squares of small numbers survive."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def normalised(gradient: Tensor) -> Tensor:
    """Each item's gradient with RMS 1 (a zero gradient stays zero), in at least float32.

    The size of an objective then means nothing, and items of one batch move alike.
    """
    # By the largest element first, since squares of tiny gradients would vanish.
    gradient = precise(gradient)
    largest = gradient.reshape(len(gradient), -1).abs().amax(1)
    gradient = gradient / per_item(torch.where(largest > 0, largest, 1), gradient)
    size = rms(gradient)
    return gradient / per_item(torch.where(size > 0, size, 1), gradient)


@dataclass(frozen=True, eq=False)
class Adam:
    """Adam's moments (arXiv 1412.6980): ``mean``, ``square`` [B, ...] and the steps taken, ``count`` [B]."""

    mean: Tensor
    square: Tensor
    count: Tensor

    @staticmethod
    def start(like: Tensor) -> Adam:
        """Moments of a batch that has not moved yet."""
        zeros = torch.zeros_like(precise(like))
        return Adam(zeros, zeros, zeros.new_zeros(len(like)))

    def step(self, gradient: Tensor) -> tuple[Adam, Tensor]:
        """The moments after ``gradient``, and the direction to go: elements of about 1, against the gradient."""
        first, second = _BETAS
        count = self.count + 1
        mean = first * self.mean + (1 - first) * gradient
        square = second * self.square + (1 - second) * gradient.square()
        unbiased = mean / per_item(1 - first**count, mean)
        spread = (square / per_item(1 - second**count, mean)).sqrt()
        return Adam(mean, square, count), -unbiased / (spread + _EPS)

    def forget(self, items: Tensor) -> Adam:
        """The moments with those of ``items`` (bool [B]) at their start."""
        keep = per_item(~items, self.mean)
        return Adam(self.mean * keep, self.square * keep, self.count * ~items)


Regularise = Callable[[Tensor, Tensor], Tensor]
"""``regularise(x, start) -> x``, both [B, ...]: x with what ``start``'s items have as plausible noise."""


def keep_norm(x: Tensor, start: Tensor) -> Tensor:
    """Each item of ``x`` scaled to its norm in ``start``: Gaussian noise lives near a sphere."""
    size, wanted = rms(x), rms(start)
    scale = torch.where((size > 0) & (wanted > 0), wanted / size, 1)
    return (precise(x) * per_item(scale, x)).to(x.dtype)


def keep_moments(x: Tensor, start: Tensor) -> Tensor:
    """Each item of ``x`` with its mean and its standard deviation in ``start``."""
    wanted = precise(start).reshape(len(x), -1)
    mean = wanted.mean(1)
    centred = precise(x) - per_item(precise(x).reshape(len(x), -1).mean(1), x)
    scaled = keep_norm(centred, precise(start) - per_item(mean, start))
    return (scaled + per_item(mean, x)).to(x.dtype)


def keep_nothing(x: Tensor, start: Tensor) -> Tensor:
    """``x`` as it is."""
    return x


REGULARISERS: dict[str, Regularise] = {"norm": keep_norm, "moments": keep_moments, "none": keep_nothing}


def check_regularise(name: object) -> Regularise:
    """The regulariser called ``name``.

    Raises:
        InvalidInput: if there is none.
    """
    if not isinstance(name, str) or name not in REGULARISERS:
        raise InvalidInput("regularise", f"unknown regulariser {name!r}; there are {', '.join(REGULARISERS)}")
    return REGULARISERS[name]
