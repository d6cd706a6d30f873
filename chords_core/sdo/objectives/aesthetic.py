"""The score of an aesthetic predictor: linear layers on the embedding of a picture (LAION's predictors)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ...checks import check_callable
from .features import Extract, features_of
from .heads import Layers, check_head, head_scores


@dataclass(frozen=True, eq=False)
class Aesthetic:
    """Minus the score of a small head on embeddings.

    ``extract``: pictures -> embeddings [B, D], which are normalised here, as the heads expect; ``layers``: the head,
    whose last layer has one output (`head_layers` reads it from a state dict); ``activation`` between the layers:
    "none", as in LAION's heads, or "relu".
    """

    extract: Extract
    layers: Layers
    activation: str = "none"

    def __post_init__(self) -> None:
        check_callable("extract", self.extract, "pictures")
        check_head(self.layers, self.activation)

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3]."""
        embeddings = F.normalize(features_of(self.extract, pictures), dim=1)
        return -head_scores(self.layers, self.activation, embeddings)
