"""Arithmetic on a batch whose items (first dimension) are independent of each other."""

from __future__ import annotations

import torch
from torch import Tensor


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """``values`` [B] in the shape [B, 1, ...], which broadcasts against ``like`` [B, ...]."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def precise(x: Tensor) -> Tensor:
    """``x`` in float32 or its own higher precision, so that squares of small numbers do not become 0."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms(x: Tensor) -> Tensor:
    """Root mean square of each item: [B, ...] -> [B], in at least float32."""
    return precise(x).reshape(len(x), -1).square().mean(1).sqrt()


def finite_items(x: Tensor) -> Tensor:
    """Which items of ``x`` [B, ...] have neither NaN nor infinity: bool [B]."""
    return torch.isfinite(x).reshape(len(x), -1).all(1)
