"""Pictures [B, H, W, 3], about 0..1 as ComfyUI's IMAGE: what several objectives compute of them.

A decoder may give values a little outside 0..1. Objectives do not clamp them, because a clamp has no gradient there.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ...errors import InvalidInput

_LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709


def is_pictures(x: Tensor) -> bool:
    """Whether ``x`` has the shape of pictures."""
    return x.ndim == 4 and x.shape[-1] == 3


def check_pictures(pictures: Tensor) -> None:
    """Raise `InvalidInput` for anything but pictures."""
    if not is_pictures(pictures):
        raise InvalidInput("pictures", f"must be [B, H, W, 3], not of shape {tuple(pictures.shape)}")


def luminance(pictures: Tensor) -> Tensor:
    """Rec. 709 luma: [B, H, W, 3] -> [B, H, W].

    Raises:
        InvalidInput: for anything but pictures.
    """
    check_pictures(pictures)
    return pictures @ pictures.new_tensor(_LUMA)


def resized(planes: Tensor, height: int, width: int) -> Tensor:
    """Planes [B, C, H, W] at another size: bilinear, with an antialiasing filter where they shrink."""
    if planes.shape[2:] == (height, width):
        return planes
    return F.interpolate(planes, (height, width), mode="bilinear", align_corners=False, antialias=True)
