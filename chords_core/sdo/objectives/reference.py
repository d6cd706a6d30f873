"""Near to a reference, value by value."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...checks import is_number, shown
from ...errors import InvalidInput
from .base import check_finite, check_items, constant, item_mean
from .pictures import is_pictures, resized


@dataclass(frozen=True, eq=False)
class Reference:
    """Mean of |sample - reference|^p over an item, >= 0.

    ``reference``: a picture [H, W, 3] or a batch [1 or B, H, W, 3], which is resized to the sample's size; or any
    tensor of the sample's item shape, [...] or [1 or B, ...] (a latent). ``p``: 1 or 2.
    """

    reference: Tensor
    p: int = 2

    def __post_init__(self) -> None:
        check_finite("reference", self.reference)
        if not is_number(self.p) or self.p not in (1, 2):
            raise InvalidInput("p", f"must be 1 (absolute) or 2 (squared), not {shown(self.p)}")

    def __call__(self, sample: Tensor) -> Tensor:
        """The mean distance [B] of a sample [B, ...]."""
        reference = constant(self.reference, sample)
        if reference.ndim == sample.ndim - 1:
            reference = reference[None]
        if reference.shape[1:] != sample.shape[1:]:
            if not (is_pictures(sample) and is_pictures(reference)):
                raise InvalidInput(
                    "reference",
                    f"has shape {tuple(self.reference.shape)} for a sample of {tuple(sample.shape)}; only pictures "
                    "[..., H, W, 3] are resized",
                )
            reference = resized(reference.movedim(-1, 1), sample.shape[1], sample.shape[2]).movedim(1, -1)
        check_items("reference", reference, sample)
        return item_mean((sample - reference).abs().pow(self.p))
