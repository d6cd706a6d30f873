"""Checks of what a model returned: its shape and dtype, and items of the batch with NaN or infinity.

The items of a batch are counted by dimension 0. A tensor with fewer than two dimensions is one item.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InvalidInput


def check_denoised(x: Tensor, denoised: object) -> Tensor:
    """``denoised``, if it is a floating point tensor of the shape and on the device of ``x``.

    Raises:
        InvalidInput: naming ``denoise`` and what is wrong with the value that it returned.
    """
    if not isinstance(denoised, Tensor):
        raise InvalidInput("denoise", f"must return a tensor, not {type(denoised).__name__}")
    if denoised.shape != x.shape:
        raise InvalidInput("denoise", f"returned shape {tuple(denoised.shape)} for x of shape {tuple(x.shape)}")
    if not torch.is_floating_point(denoised):
        raise InvalidInput("denoise", f"returned {denoised.dtype}; it must be floating point, as x is")
    if denoised.device != x.device:
        raise InvalidInput("denoise", f"returned a tensor on {denoised.device} for x on {x.device}")
    return denoised


def newly_nonfinite(x: Tensor, denoised: Tensor) -> Tensor | None:
    """The items that have NaN or infinity in ``denoised`` but not in ``x``.

    Returns:
        bool [B], or None if there is no such item.
    """
    if _surely_finite(denoised):
        return None
    broken = _finite_items(x) & ~_finite_items(denoised)
    return broken if bool(broken.any()) else None


def has_finite_item(denoised: Tensor) -> bool:
    """Whether at least one item has neither NaN nor infinity."""
    return _surely_finite(denoised) or bool(_finite_items(denoised).any())


@dataclass(frozen=True, eq=False)
class Merged:
    """Two answers to the same evaluation, put together item by item."""

    denoised: Tensor
    """[the shape of x] The second answer, with the first one's items where only the second is not finite."""
    first_alone: bool
    """Whether an item is not finite in the first answer only."""
    second_alone: bool
    """Whether an item is not finite in the second answer only."""


def merge(x: Tensor, first: Tensor, second: Tensor) -> Merged:
    """The finite items of two answers to the evaluation at ``x``; all of one shape."""
    sound = torch.zeros(len(_items(x)), dtype=torch.bool, device=x.device)
    in_first, in_second = (
        sound if (broken := newly_nonfinite(x, answer)) is None else broken for answer in (first, second)
    )
    first_only, second_only = in_first & ~in_second, in_second & ~in_first
    denoised = second
    if bool(second_only.any()):
        denoised = torch.where(second_only.reshape(-1, *(1,) * (second.ndim - 1)), first, second)
    return Merged(denoised, bool(first_only.any()), bool(second_only.any()))


def _surely_finite(x: Tensor) -> bool:
    """Whether the sum is finite. If it is, every element is; if it is not, the sum may have overflowed."""
    return bool(torch.isfinite(x.sum()))


def _finite_items(x: Tensor) -> Tensor:
    """bool [B]: the items that have neither NaN nor infinity."""
    return torch.isfinite(_items(x)).flatten(1).all(1)


def _items(x: Tensor) -> Tensor:
    """[B, ...]: ``x`` with the items of the batch along dimension 0."""
    return x if x.ndim > 1 else x.reshape(1, -1)
