"""Checks of the LATENT that an SDO node is given."""

from __future__ import annotations

from typing import Any

import torch

from ....chords_core import InvalidInput


def check_latent(latent: dict[str, Any]) -> None:
    """Raise `InvalidInput` naming ``latent`` if it cannot be used."""
    samples = latent["samples"]
    if samples.is_nested:
        raise InvalidInput("latent", "of several parts (video with sound) cannot be optimised")
    if "noise_mask" in latent:
        raise InvalidInput("latent", "has a noise mask, so a part of it would not change; remove the mask")
    if not bool(torch.isfinite(samples).all()):
        raise InvalidInput("latent", "has NaN or infinity: the node that made it has failed")
