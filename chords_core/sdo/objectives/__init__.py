"""Objectives: differentiable functions of a batch, lower is better, one value an item. One idea a file.

Here belong: the mathematics of an objective, with its checks. A new one is a file here and a name below.
Not here: the models and decoders that an objective needs; they are passed in.
"""

from .aesthetic import Aesthetic
from .base import Combine, Through
from .clip import Similarity, like_picture
from .heads import head_layers
from .preference import Preference, preferred_over
from .reference import Reference
from .region import RegionBrightness, RegionColour
from .style import Style, in_the_style_of
from .tone import Contrast, Sharpness

__all__ = [
    "Aesthetic",
    "Combine",
    "Contrast",
    "Preference",
    "Reference",
    "RegionBrightness",
    "RegionColour",
    "Sharpness",
    "Similarity",
    "Style",
    "Through",
    "head_layers",
    "in_the_style_of",
    "like_picture",
    "preferred_over",
]
