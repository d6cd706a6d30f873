"""Features of pictures, for the objectives that compare features: the function that extracts them, and its checks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...checks import check_callable
from ...errors import InvalidInput
from .base import check_finite
from .pictures import is_pictures

Extract = Callable[[Tensor], Tensor]
"""``extract(pictures [B, H, W, 3]) -> features [B, ...]``, differentiable: for example a CLIP-Vision model."""


def features_of(extract: Extract, pictures: Tensor) -> Tensor:
    """The features [B, ...] of ``pictures`` [B, H, W, 3].

    Raises:
        InvalidInput: naming ``extract``, if it gives something else.
    """
    features = extract(pictures)
    if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(pictures):
        what = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InvalidInput("extract", f"must give features [B, ...] of {len(pictures)} pictures, not {what}")
    return features


def reference_features(extract: Extract, picture: Tensor) -> Tensor:
    """The features, as constants, of a reference picture [H, W, 3] or a batch [1 or B, H, W, 3] of any size.

    Raises:
        InvalidInput: naming ``extract`` or ``picture``.
    """
    check_callable("extract", extract, "pictures")
    check_finite("picture", picture)
    if picture.ndim == 3:
        picture = picture[None]
    if not is_pictures(picture):
        raise InvalidInput("picture", f"must be [H, W, 3] or [B, H, W, 3], not of shape {tuple(picture.shape)}")
    with torch.no_grad():
        return features_of(extract, picture).detach()


def check_direction(name: str, features: Tensor, lacks: str) -> None:
    """Raise `InvalidInput` for target features that are all zero; ``lacks``: what they do not have then."""
    check_finite(name, features)
    if float(features.abs().amax()) == 0:
        raise InvalidInput(name, f"is all zero: it has no {lacks}")
