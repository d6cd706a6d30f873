"""Pictures of a server: how far two are apart, and small copies for the page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_PICTURES = 8
"""How many pictures of one run are compared: all of a small batch, and of a video, frames spread over all of it."""
_SMALL = 512  # pixels of a side of a picture on the page


@dataclass(frozen=True)
class Difference:
    """How far pictures are from KSampler's of the same seed.

    Attributes:
        rms: root mean square of the difference, relative to that of KSampler's pictures; 0 if each value of the 8-bit
            pictures is the same, infinite if they have other sizes or another number. Of several, the largest.
        psnr: in dB, infinite if they are the same. Of several, the smallest.
    """

    rms: float
    psnr: float


def spread(images: Sequence[Any], count: int = MAX_PICTURES) -> list[Any]:
    """At most so many, spread evenly from the first to the last."""
    if len(images) <= count:
        return list(images)
    return [images[round(place * (len(images) - 1) / (count - 1))] for place in range(count)]


def values(data: bytes) -> Any:
    """The values of a picture as an array [H, W, 3], from 0 to 1."""
    import numpy
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return numpy.asarray(picture.convert("RGB"), dtype=numpy.float64) / 255


def difference(pictures: Sequence[bytes], of_ksampler: Sequence[bytes]) -> Difference:
    """The largest difference of pictures from KSampler's, picture by picture."""
    if len(pictures) != len(of_ksampler) or not pictures:
        return Difference(math.inf, -math.inf)
    found = [_difference(values(one), values(other)) for one, other in zip(pictures, of_ksampler, strict=True)]
    return Difference(max(each.rms for each in found), min(each.psnr for each in found))


def _difference(one: Any, other: Any) -> Difference:
    if one.shape != other.shape:
        return Difference(math.inf, -math.inf)
    error = float(((one - other) ** 2).mean())
    if error == 0:
        return Difference(0.0, math.inf)
    size = float((other**2).mean())
    return Difference(math.sqrt(error / size) if size else math.inf, -10 * math.log10(error))


def small_copy(data: bytes) -> str:
    """A picture as the address of an <img> in a page that needs no other file."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((_SMALL, _SMALL), Image.Resampling.LANCZOS)
        if max(small.size) < 256:  # the pictures of the demo have 128 pixels
            small = small.resize((2 * small.width, 2 * small.height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
