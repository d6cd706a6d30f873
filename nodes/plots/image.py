"""Pictures drawn by the pack as the host's IMAGE."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor


def as_image(picture: Image.Image) -> Tensor:
    """An RGB picture as the host's IMAGE: [1, height, width, 3], 0 to 1."""
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return pixels.reshape(1, picture.height, picture.width, 3).float() / 255
