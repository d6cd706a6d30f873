"""Checks of the inputs of objective nodes, and their tensors made fit for a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....chords_core import InvalidInput


def checked_pictures(image: Tensor) -> Tensor:
    """An IMAGE as [B, H, W, 3], without its alpha, fit for a graph: the host makes its tensors in inference mode.

    Raises:
        InvalidInput: for anything but pictures.
    """
    if not isinstance(image, Tensor) or image.ndim not in (3, 4) or image.shape[-1] not in (3, 4) or not image.numel():
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise InvalidInput("image", f"must be pictures [B, H, W, 3], not {shape}")
    if not bool(torch.isfinite(image).all()):
        raise InvalidInput("image", "has NaN or infinity: the node that made it has failed")
    image = image if image.ndim == 4 else image[None]
    return image[..., :3].detach().float().clone()


def checked_mask(mask: Tensor | None) -> Tensor | None:
    """A MASK as [H, W] or [B, H, W], fit for a graph; None stays None.

    Raises:
        InvalidInput: for an empty mask, or values outside 0..1.
    """
    if not isinstance(mask, Tensor):
        return mask
    if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[-1]):
        mask = mask.squeeze(1 if mask.shape[1] == 1 else -1)
    mask = mask.detach().float().clone()
    if mask.numel() and not bool(mask.any()):
        raise InvalidInput(
            "mask",
            "is empty: it covers no pixel. Leave it unconnected for the whole picture (Load Image gives an "
            "empty mask for a picture without transparency)",
        )
    if mask.numel() and not bool(((mask >= 0) & (mask <= 1)).all()):
        raise InvalidInput("mask", f"must lie in 0..1, not in {float(mask.amin()):g}..{float(mask.amax()):g}")
    return mask


def check_vision(clip_vision: Any) -> None:
    """Raise `InvalidInput` if there is no CLIP-Vision model."""
    if clip_vision is None:
        raise InvalidInput("clip_vision", "is empty. Load one with Load CLIP Vision")


def embedding_width(clip_vision: Any) -> int | None:
    """How many values CLIP-Vision's embedding has; None for models that do not project into a space of texts."""
    projection = getattr(getattr(clip_vision, "model", None), "visual_projection", None)
    return getattr(projection, "out_features", None)
