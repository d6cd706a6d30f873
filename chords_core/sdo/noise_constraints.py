"""What keeps an optimised noise plausible: constraints that each update is projected onto.

Pure functions. Each item of the batch is projected on its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InvalidInput
from .batch import per_item, precise, rms

NoiseConstraint = Callable[[Tensor, Tensor], Tensor]
"""``constraint(x, initial) -> x``, all [B, ...]: x with the statistics of ``initial``, item by item."""


def keep_norm(x: Tensor, initial: Tensor) -> Tensor:
    """Each item of ``x`` scaled to its norm in ``initial``: Gaussian noise of many dimensions lies near a sphere."""
    size, target = rms(x), rms(initial)
    scale = torch.where((size > 0) & (target > 0), target / size, 1)
    return (precise(x) * per_item(scale, x)).to(x.dtype)


def keep_moments(x: Tensor, initial: Tensor) -> Tensor:
    """Each item of ``x`` with the mean and the standard deviation that it has in ``initial``."""
    mean = precise(initial).reshape(len(x), -1).mean(1)
    centred = precise(x) - per_item(precise(x).reshape(len(x), -1).mean(1), x)
    scaled = keep_norm(centred, precise(initial) - per_item(mean, initial))
    return (scaled + per_item(mean, x)).to(x.dtype)


def keep_nothing(x: Tensor, initial: Tensor) -> Tensor:
    """``x`` as it is."""
    return x


NOISE_CONSTRAINTS: dict[str, NoiseConstraint] = {"norm": keep_norm, "moments": keep_moments, "none": keep_nothing}


def noise_constraint(name: object) -> NoiseConstraint:
    """The constraint that the argument ``regularise`` names.

    Raises:
        InvalidInput: if there is none of that name.
    """
    if not isinstance(name, str) or name not in NOISE_CONSTRAINTS:
        raise InvalidInput("regularise", f"unknown regulariser {name!r}; there are {', '.join(NOISE_CONSTRAINTS)}")
    return NOISE_CONSTRAINTS[name]
