"""Similar to a picture or to a text, by the cosine of embeddings (CLIP, arXiv 2103.00020)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ...checks import check_callable
from ...errors import InvalidInput
from .base import check_items, constant
from .features import Extract, check_direction, features_of, reference_features

_EPS = 1e-8


@dataclass(frozen=True, eq=False)
class Similarity:
    """1 - the cosine of the angle between the features of a picture and ``target``: 0 (same) .. 2 (opposite).

    ``extract``: pictures -> features [B, ...]; ``target``: features [...] or [1 or B, ...], of a reference picture
    (`like_picture`), or the embedding of a text in the same space.
    """

    extract: Extract
    target: Tensor

    def __post_init__(self) -> None:
        check_callable("extract", self.extract, "pictures")
        check_direction("target", self.target, lacks="direction to be similar to")

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3]."""
        features = features_of(self.extract, pictures)
        target = self._target_like(features)
        return 1 - F.cosine_similarity(features.flatten(1), target.flatten(1), dim=1, eps=_EPS)

    def _target_like(self, features: Tensor) -> Tensor:
        """The target on the features' device and in their dtype, [1 or B, ...]."""
        target = constant(self.target, features)
        if target.ndim == features.ndim - 1:
            target = target[None]
        if target.shape[1:] != features.shape[1:]:
            raise InvalidInput(
                "target",
                f"has shape {tuple(target.shape)}, the pictures' features have {tuple(features.shape)}; "
                "are both of the same model?",
            )
        check_items("target", target, features)
        return target


def like_picture(extract: Extract, picture: Tensor) -> Similarity:
    """`Similarity` to the features of a reference picture [H, W, 3] or a batch [1 or B, H, W, 3] of any size."""
    return Similarity(extract, reference_features(extract, picture))
