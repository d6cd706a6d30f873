"""Preferred by people, as a head on embeddings has learned from pairs of pictures.

Such a head gives each picture a score r, and is trained with the model of Bradley and Terry ("Rank Analysis of
Incomplete Block Designs", Biometrika 39, 1952): P(A preferred over B) = sigmoid(r(A) - r(B)). So do rewards for
text-to-image models, as ImageReward (arXiv 2304.05977) and PickScore (arXiv 2305.01569).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...checks import check_callable
from ...errors import InvalidInput
from .base import check_items, constant
from .features import Extract, check_direction, features_of, reference_features
from .heads import Layers, check_head, head_scores, head_width


@dataclass(frozen=True, eq=False)
class Preference:
    """Minus the score r of a head; or, with ``over``, -log P(the picture is preferred over another one), >= 0.

    ``extract``: pictures -> embeddings [B, D]; ``layers``, ``activation``: the head, as for `Aesthetic`; ``text``: an
    embedding [E] or [1 or B, E] of what the picture should show, for a head that takes both, as [picture, text] of
    D + E values; ``over``: the embeddings [D] or [1 or B, D] of the other pictures (`preferred_over`), which are
    scored with the same text. Each embedding is normalised here.
    """

    extract: Extract
    layers: Layers
    activation: str = "none"
    text: Tensor | None = None
    over: Tensor | None = None

    def __post_init__(self) -> None:
        check_callable("extract", self.extract, "pictures")
        check_head(self.layers, self.activation)
        for name, embeddings in (("text", self.text), ("over", self.over)):
            if embeddings is not None:
                check_direction(name, embeddings, lacks="direction")
                if embeddings.ndim not in (1, 2):
                    raise InvalidInput(name, f"must be [D] or [B, D], not of shape {tuple(embeddings.shape)}")

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3]."""
        embeddings = features_of(self.extract, pictures)
        text = None if self.text is None else _each("text", self.text, embeddings)
        self._check_width(embeddings)
        scores = self._scores(embeddings, text)
        if self.over is None:
            return -scores
        over = _each("over", self.over, embeddings)
        if over.shape != embeddings.shape:
            raise InvalidInput(
                "over", f"has {over.shape[1]} values, the pictures' embeddings {embeddings.shape[1]}; same model?"
            )
        return -F.logsigmoid(scores - self._scores(over, text))

    def _scores(self, embeddings: Tensor, text: Tensor | None) -> Tensor:
        """The scores [B] of pictures' embeddings [B, D], with those of the texts [B, E]."""
        parts = [embeddings] if text is None else [embeddings, text]
        return head_scores(self.layers, self.activation, torch.cat([F.normalize(part, dim=1) for part in parts], dim=1))

    def _check_width(self, embeddings: Tensor) -> None:
        """Raise `InvalidInput` unless the head takes these embeddings, with that of the text."""
        width, of_text = head_width(self.layers), 0 if self.text is None else self.text.shape[-1]
        if embeddings.ndim != 2 or embeddings.shape[1] + of_text != width:
            beside = f", beside {of_text} values of the text" if of_text else ""
            raise InvalidInput(
                "extract",
                f"gives embeddings of shape {tuple(embeddings.shape)}{beside}; the head takes {width} values",
            )


def preferred_over(
    extract: Extract, layers: Layers, picture: Tensor, activation: str = "none", text: Tensor | None = None
) -> Preference:
    """`Preference` over a picture [H, W, 3] or a batch [1 or B, H, W, 3] of any size."""
    return Preference(extract, layers, activation, text, reference_features(extract, picture))


def _each(name: str, given: Tensor, embeddings: Tensor) -> Tensor:
    """``given`` as one embedding [B, ...] for each of ``embeddings``."""
    given = constant(given, embeddings)
    given = given[None] if given.ndim == 1 else given
    check_items(name, given, embeddings)
    return given.expand(len(embeddings), -1)
