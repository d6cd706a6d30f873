"""The style of a picture, by the Gram matrix of features (Gatys et al., arXiv 1508.06576)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...checks import check_callable
from ...errors import InvalidInput
from .base import check_items, constant
from .features import Extract, check_direction, features_of, reference_features

_EPS = 1e-8


@dataclass(frozen=True, eq=False)
class Style:
    """Squared distance of the Gram matrix of a picture's features from that of ``target``, relative to the latter.

    The Gram matrix says which features occur together, wherever they are. Values: 0 (same), above 1 (very different).
    Features are [B, places, D] (tokens of a vision model) or, with ``channels_first``, [B, D, ...] (maps of an
    encoder). ``target``: features [1 or B, ...] of any number of places.
    """

    extract: Extract
    target: Tensor
    channels_first: bool = False

    def __post_init__(self) -> None:
        check_callable("extract", self.extract, "pictures")
        check_direction("target", self.target, lacks="style")
        if self.target.ndim < 3:
            raise InvalidInput("target", f"must be features [B, places, D], not of shape {tuple(self.target.shape)}")

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3]."""
        features = features_of(self.extract, pictures)
        if features.ndim < 3:
            raise InvalidInput("extract", f"must give features of places, not of shape {tuple(features.shape)}")
        own = gram(features, self.channels_first)
        target = gram(constant(self.target, features), self.channels_first)
        if own.shape[1:] != target.shape[1:]:
            raise InvalidInput("target", f"has {target.shape[1]} features, the pictures' have {own.shape[1]}")
        check_items("target", target, features)
        return (own - target).square().flatten(1).sum(1) / target.square().flatten(1).sum(1).clamp(min=_EPS)


def in_the_style_of(extract: Extract, picture: Tensor, channels_first: bool = False) -> Style:
    """`Style` of a reference picture [H, W, 3] or a batch [1 or B, H, W, 3] of any size."""
    return Style(extract, reference_features(extract, picture), channels_first)


def gram(features: Tensor, channels_first: bool = False) -> Tensor:
    """The Gram matrix [B, D, D] of features [B, places, D] (or [B, D, ...]), as a mean over the places."""
    if channels_first:
        features = features.flatten(2).transpose(1, 2)
    else:
        features = features.flatten(1, -2)
    return features.transpose(1, 2) @ features / features.shape[1]
