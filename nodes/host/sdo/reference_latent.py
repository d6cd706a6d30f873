"""Reference pictures as latents of the VAE."""

from __future__ import annotations

import torch
from torch import Tensor

from ....chords_core import InvalidInput
from ....chords_core.sdo.objectives.pictures import resized
from .context import ObjectiveContext

_VAE_MULTIPLE = 64  # pixels: a multiple of the downscale ratio of any VAE


def encoded(context: ObjectiveContext, image: Tensor) -> Tensor:
    """The latent of each picture [B, H, W, 3], one by one: a video's VAE takes several for the frames of one video."""
    return torch.cat([context.encode(picture[None]) for picture in image])


def latent_of(context: ObjectiveContext, image: Tensor) -> Tensor:
    """The latent of pictures [B, H, W, 3], in the size of the samples.

    Raises:
        InvalidInput: if the latent's shape differs from theirs.
    """
    shape = context.latent_shape
    # First at a size that every VAE takes. This gives the downscale ratio, and is often the samples' own size.
    height, width = (max(1, round(size / _VAE_MULTIPLE)) * _VAE_MULTIPLE for size in image.shape[1:3])
    latent = encoded(context, _stretched(image, height, width))
    if latent.shape[-2:] != shape[-2:]:
        ratio = height // latent.shape[-2]
        latent = encoded(context, _stretched(image, ratio * shape[-2], ratio * shape[-1]))
    if len(shape) == 5 and latent.ndim == 4:
        latent = latent.unsqueeze(2)
    if latent.shape[1:] != shape[1:]:
        raise InvalidInput(
            "image",
            f"its latent has the shape {tuple(latent.shape)}, the result's is {shape}; choose "
            'the space "pixels"' + (", as for every video" if len(shape) == 5 else ""),
        )
    return latent


def _stretched(image: Tensor, height: int, width: int) -> Tensor:
    return resized(image.movedim(-1, 1), height, width).movedim(1, -1)
