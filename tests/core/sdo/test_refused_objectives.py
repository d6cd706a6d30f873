"""Objectives that cannot work are refused, where they are made or at the first picture."""

from __future__ import annotations

import pytest
import torch

from chords_core import InvalidInput
from chords_core.sdo.objectives import RegionBrightness, Style


def test_a_reference_without_any_features_has_no_style() -> None:
    with pytest.raises(InvalidInput, match="^target: is all zero: it has no style"):
        Style(lambda pictures: pictures.flatten(1, 2), torch.zeros(1, 4, 8))


def test_a_mask_that_vanishes_at_the_pictures_size_is_refused() -> None:
    """So faint in one pixel of many that its mean is 0."""
    mask = torch.zeros(64, 64)
    mask[0, 0] = 1e-45
    objective = RegionBrightness(0.5, mask)
    with pytest.raises(InvalidInput, match="^mask: is empty at the pictures' size 2 x 2"):
        objective(torch.rand(1, 2, 2, 3))
