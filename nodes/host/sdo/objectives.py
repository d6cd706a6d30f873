"""The objectives as they travel through a graph: the objective nodes make them, and the optimizer binds them.

What can be checked without a model is checked where an objective is made, which is when its node runs. Every error
names the node's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....chords_core import (
    Contrast,
    InvalidInput,
    Objective,
    Reference,
    RegionBrightness,
    RegionColour,
    Sharpness,
    Similarity,
    Style,
    in_the_style_of,
    like_picture,
)
from .bound_objectives import of_latent, of_pictures, of_pictures_of_prompts
from .context import BoundObjective, DecodedSample, ObjectiveContext, ObjectiveSpec
from .input_names import renamed_inputs
from .objective_inputs import check_vision, checked_mask, checked_pictures
from .prompt_text import PromptText, prompt_text
from .reference_latent import encoded, latent_of

DISTANCES = {"L2": 2, "L1": 1}
SPACES = ("pixels", "latent")
_OF_PICTURE = {"picture": "image", "target": "image", "extract": "clip_vision"}  # arguments of the core, as inputs


@dataclass(frozen=True, eq=False)
class ReferenceSpec:
    """Near to ``image`` [1 or B, H, W, 3], compared as pixels or as latents of the VAE."""

    image: Tensor
    distance: str = "L2"
    space: str = "pixels"

    def __post_init__(self) -> None:
        checked_pictures(self.image)
        if self.distance not in DISTANCES:
            raise InvalidInput("distance", f"must be one of {', '.join(DISTANCES)}, not {self.distance!r}")
        if self.space not in SPACES:
            raise InvalidInput("space", f"must be one of {', '.join(SPACES)}, not {self.space!r}")

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """The mean distance over an item's values."""
        image, p = checked_pictures(self.image), DISTANCES[self.distance]
        if self.space == "pixels":
            return of_pictures(Reference(image, p), reference="image")
        return of_latent(Reference(latent_of(context, image), p), reference="image")


@dataclass(frozen=True, eq=False)
class SimilaritySpec:
    """Similar to ``image`` [1 or B, H, W, 3] by CLIP-Vision's embedding."""

    clip_vision: Any
    image: Tensor

    def __post_init__(self) -> None:
        check_vision(self.clip_vision)
        checked_pictures(self.image)

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """1 - the cosine of the angle between the embeddings."""
        with renamed_inputs(**_OF_PICTURE):
            objective = like_picture(context.embedder(self.clip_vision), checked_pictures(self.image))
        return of_pictures(objective, **_OF_PICTURE)


@dataclass(frozen=True, eq=False)
class TextSpec:
    """Similar to a text, or each picture to its prompt, by CLIP's embeddings."""

    clip_vision: Any
    text: PromptText

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """1 - the cosine of the angle between the embeddings of picture and text."""
        extract, embed = context.embedder(self.clip_vision), context.text_embedder(self.text)

        def objective(numbers: Tensor) -> Objective:
            return Similarity(extract, embed(numbers))

        return of_pictures_of_prompts(objective, target="clip", extract="clip_vision")


@dataclass(frozen=True, eq=False)
class StyleSpec:
    """In the style of ``image`` [1 or B, H, W, 3], by CLIP-Vision's features, or without that by the VAE's."""

    image: Tensor
    clip_vision: Any = None

    def __post_init__(self) -> None:
        checked_pictures(self.image)

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """The relative squared distance of the features' Gram matrices."""
        image = checked_pictures(self.image)
        with renamed_inputs(**_OF_PICTURE):
            if self.clip_vision is not None:
                objective = in_the_style_of(context.features(self.clip_vision), image)
                return of_pictures(objective, **_OF_PICTURE)
            objective = Style(_identity, encoded(context, image), channels_first=True)
        return of_latent(objective, **_OF_PICTURE)


class PictureSpec:
    """The base of objectives of the pictures that need no model: `objective` makes what the core computes.

    ``names``: arguments of the core, as inputs of the node.
    """

    names: ClassVar[dict[str, str]] = {}

    def objective(self) -> Objective:
        """The objective of pictures [B, H, W, 3].

        Raises:
            InvalidInput: for values that cannot work.
        """
        raise NotImplementedError

    def __post_init__(self) -> None:
        with renamed_inputs(**self.names):
            self.objective()

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """The objective of the pictures; it needs no model of ``context`` beside the VAE."""
        return of_pictures(self.objective(), **self.names)


@dataclass(frozen=True, eq=False)
class ColourSpec(PictureSpec):
    """A colour (0..1 each) within ``mask``, [H, W], [1 or B, H, W] or [1 or B, 1, H, W] in 0..1, or everywhere."""

    red: float
    green: float
    blue: float
    mask: Tensor | None = None

    def objective(self) -> Objective:
        """The mean squared distance from the colour."""
        return RegionColour((self.red, self.green, self.blue), checked_mask(self.mask))


@dataclass(frozen=True, eq=False)
class BrightnessSpec(PictureSpec):
    """A mean brightness, 0 (black) .. 1 (white), within ``mask`` (as for `ColourSpec`)."""

    brightness: float
    mask: Tensor | None = None

    def objective(self) -> Objective:
        """The squared distance from the brightness."""
        return RegionBrightness(self.brightness, checked_mask(self.mask))


@dataclass(frozen=True, eq=False)
class MeasureSpec(PictureSpec):
    """A measure of the picture: as high as possible (``sign`` 1), as low as possible (-1), or equal to ``target``."""

    target: float | None = None
    sign: int = 1

    names: ClassVar[dict[str, str]] = {"target": "value"}
    measure: ClassVar[Callable[[float | None], Objective]]
    """The core's objective: minus the measure, or its squared distance from a target."""

    def objective(self) -> Objective:
        """Minus the measure, the measure, or its squared distance from the target."""
        objective = type(self).measure(self.target)
        return objective if self.target is not None or self.sign > 0 else lambda pictures: -objective(pictures)


class ContrastSpec(MeasureSpec):
    """Contrast: the standard deviation of luminance, 0..0.5."""

    measure = Contrast


class SharpnessSpec(MeasureSpec):
    """Sharpness: the RMS of the luminance's Laplacian, at least 0."""

    measure = Sharpness


@dataclass(frozen=True, eq=False)
class CombineSpec:
    """The weighted sum of several objectives. A negative weight asks for the opposite of its objective.

    ``terms``: pairs (objective, weight); an objective that is None is an input that is not connected.
    """

    terms: tuple[tuple[ObjectiveSpec | None, float], ...]

    def __post_init__(self) -> None:
        for number, (_, weight) in enumerate(self.terms, 1):
            if not math.isfinite(weight):
                raise InvalidInput(f"weight_{number}", f"must be a finite number, not {weight}")
        if not any(weight for spec, weight in self.terms if spec is not None):
            raise InvalidInput("weight_1", "no objective has a weight other than 0, so there is nothing to improve")

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """The sum [B]. An objective with weight 0 is not evaluated."""
        terms = [(spec.bind(context), weight) for spec, weight in self.terms if spec is not None and weight]

        def bound(sample: DecodedSample) -> Tensor:
            total = sample.latent.new_zeros(len(sample.latent), dtype=torch.float32)
            for term, weight in terms:
                total = total + weight * term(sample).to(total)
            return total

        return bound


def text_spec(clip: Any, clip_vision: Any, text: str) -> TextSpec:
    """The objective for a text, in which ``{prompt}`` stands for each picture's prompt.

    Raises:
        InvalidInput: for an empty text, or where text and picture have no common space.
    """
    return TextSpec(clip_vision, prompt_text(clip, clip_vision, text))


def _identity(features: Tensor) -> Tensor:
    return features
