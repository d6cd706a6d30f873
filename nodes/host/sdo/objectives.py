"""The objectives as they travel through a graph: what the objective nodes make, and the optimiser binds.

What shows without a model is checked where a wish is made, which is when its node runs. Every refusal names the
node's input.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ....chords_core import (
    Aesthetic,
    Contrast,
    InvalidInput,
    Objective,
    Reference,
    RegionBrightness,
    RegionColour,
    Sharpness,
    Similarity,
    Style,
    aesthetic_layers,
    in_the_style_of,
    like_picture,
)
from ....chords_core.sdo.gradients import evaluate
from ....chords_core.sdo.objectives.base import resized
from .clip_text import PAIRS, text_embedding
from .context import Look, Scene, Studio, Wish

DISTANCES = {"L2": 2, "L1": 1}
SPACES = ("pixels", "latent")
_HEADS = "classifiers"  # the host's folder for small models that judge pictures
_WHOLE = 64  # pixels: a multiple of how far any VAE shrinks


@dataclass(frozen=True, eq=False)
class ReferenceWish:
    """As near as possible to ``image`` [1 or B, H, W, 3]: in pixels, or as its latent by the VAE."""

    image: Tensor
    distance: str = "L2"
    space: str = "pixels"

    def __post_init__(self) -> None:
        _pictures(self.image)
        if self.distance not in DISTANCES:
            raise InvalidInput("distance", f"must be one of {', '.join(DISTANCES)}, not {self.distance!r}")
        if self.space not in SPACES:
            raise InvalidInput("space", f"must be one of {', '.join(SPACES)}, not {self.space!r}")

    def bind(self, studio: Studio) -> Look:
        """The mean distance over an item's values."""
        image, p = _pictures(self.image), DISTANCES[self.distance]
        if self.space == "pixels":
            return _of_pictures(Reference(image, p), reference="image")
        return _of_latent(Reference(_latent_of(studio, image), p), reference="image")


@dataclass(frozen=True, eq=False)
class SimilarityWish:
    """Alike to ``image`` [1 or B, H, W, 3] in the eyes of CLIP-Vision."""

    clip_vision: Any
    image: Tensor

    def __post_init__(self) -> None:
        _check_vision(self.clip_vision)
        _pictures(self.image)

    def bind(self, studio: Studio) -> Look:
        """1 - the cosine of the angle between the embeddings."""
        names = {"picture": "image", "target": "image", "extract": "clip_vision"}
        with _named(**names):
            objective = like_picture(studio.embedder(self.clip_vision), _pictures(self.image))
        return _of_pictures(objective, **names)


@dataclass(frozen=True, eq=False)
class TextWish:
    """As a text says, in the eyes of CLIP-Vision. ``target`` [1, D] is the text's embedding (`text_wish`)."""

    clip_vision: Any
    target: Tensor

    def bind(self, studio: Studio) -> Look:
        """1 - the cosine of the angle between the embeddings of picture and text."""
        names = {"target": "clip", "extract": "clip_vision"}
        with _named(**names):
            objective = Similarity(studio.embedder(self.clip_vision), self.target)
        return _of_pictures(objective, **names)


@dataclass(frozen=True, eq=False)
class StyleWish:
    """In the style of ``image`` [1 or B, H, W, 3]: by CLIP-Vision's features, or without one by the VAE's."""

    image: Tensor
    clip_vision: Any = None

    def __post_init__(self) -> None:
        _pictures(self.image)

    def bind(self, studio: Studio) -> Look:
        """The relative squared distance of the features' Gram matrices."""
        image = _pictures(self.image)
        names = {"picture": "image", "target": "image", "extract": "clip_vision"}
        with _named(**names):
            if self.clip_vision is not None:
                return _of_pictures(in_the_style_of(studio.features(self.clip_vision), image), **names)
            objective = Style(_itself, _encoded(studio, image), channels_first=True)
        return _of_latent(objective, **names)


@dataclass(frozen=True, eq=False)
class ColourWish:
    """A colour (0..1 each) within ``mask``: [H, W], [1 or B, H, W] or [1 or B, 1, H, W] in 0..1, or everywhere."""

    red: float
    green: float
    blue: float
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        self._objective()

    def bind(self, studio: Studio) -> Look:
        """The mean squared distance from the colour."""
        return _of_pictures(self._objective())

    def _objective(self) -> RegionColour:
        return RegionColour((self.red, self.green, self.blue), _mask(self.mask))


@dataclass(frozen=True, eq=False)
class BrightnessWish:
    """A mean brightness, 0 black .. 1 white, within ``mask`` (as for `ColourWish`)."""

    brightness: float
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        self._objective()

    def bind(self, studio: Studio) -> Look:
        """The squared distance from the brightness."""
        return _of_pictures(self._objective())

    def _objective(self) -> RegionBrightness:
        return RegionBrightness(self.brightness, _mask(self.mask))


@dataclass(frozen=True, eq=False)
class _MeasureWish:
    """A measure of the picture: as much of it as possible (``sign`` 1), as little (-1), or just ``target``."""

    target: float | None = None
    sign: int = 1

    _measure: ClassVar[Callable[[float | None], Objective]]
    """The objective: minus the measure, or its squared distance from a target."""

    def __post_init__(self) -> None:
        self._objective()

    def bind(self, studio: Studio) -> Look:
        """Minus the measure, the measure, or the squared distance from the target."""
        look = _of_pictures(self._objective())
        return look if self.target is not None or self.sign > 0 else lambda scene: -look(scene)

    def _objective(self) -> Objective:
        with _named(target="value"):
            return self._measure(self.target)


class ContrastWish(_MeasureWish):
    """Contrast: the standard deviation of luminance, 0..0.5."""

    _measure = Contrast


class SharpnessWish(_MeasureWish):
    """Sharpness: the RMS of the luminance's Laplacian, at least 0."""

    _measure = Sharpness


@dataclass(frozen=True, eq=False)
class AestheticWish:
    """A high score by a head on CLIP-Vision's embeddings, of ``layers`` (`aesthetic_wish` reads them from a file)."""

    clip_vision: Any
    layers: tuple[tuple[Tensor, Tensor | None], ...]
    activation: str = "none"

    def __post_init__(self) -> None:
        _check_vision(self.clip_vision)
        self._objective(_itself)
        width, takes = _embedding_width(self.clip_vision), self.layers[0][0].shape[1]
        if width not in (None, takes):
            raise InvalidInput(
                "clip_vision",
                f"gives embeddings of {width} values, the file's head takes {takes}; connect the CLIP-Vision the head "
                "was made for (CLIP ViT-L/14 gives 768)",
            )

    def bind(self, studio: Studio) -> Look:
        """Minus the score."""
        return _of_pictures(self._objective(studio.embedder(self.clip_vision)), extract="clip_vision")

    def _objective(self, extract: Callable[[Tensor], Tensor]) -> Aesthetic:
        with _named(layers="file"):
            return Aesthetic(extract, self.layers, self.activation)


@dataclass(frozen=True, eq=False)
class CombineWish:
    """The weighted sum of several; a negative weight turns one round. None is an input that is not connected."""

    terms: tuple[tuple[Wish | None, float], ...]

    def __post_init__(self) -> None:
        for number, (_, weight) in enumerate(self.terms, 1):
            if not math.isfinite(weight):
                raise InvalidInput(f"weight_{number}", f"must be a finite number, not {weight}")
        if not any(weight for wish, weight in self.terms if wish is not None):
            raise InvalidInput("weight_1", "no objective has a weight other than 0, so there is nothing to improve")

    def bind(self, studio: Studio) -> Look:
        """The sum, [B]. What weighs 0 is not looked at."""
        looks = [(wish.bind(studio), weight) for wish, weight in self.terms if wish is not None and weight]

        def look(scene: Scene) -> Tensor:
            total = scene.latent.new_zeros(len(scene.latent), dtype=torch.float32)
            for part, weight in looks:
                total = total + weight * part(scene).to(total)
            return total

        return look


def text_wish(clip: Any, clip_vision: Any, text: str) -> TextWish:
    """The wish for a text, which is embedded here: it takes no gradient, and the text model is not needed again.

    Raises:
        InvalidInput: for an empty text, or where text and picture have no common space.
    """
    if not text.strip():
        raise InvalidInput("text", "is empty; say what the picture shall show")
    if clip is None:
        raise InvalidInput("clip", "is empty: the checkpoint has no text encoder. Load one with Load CLIP")
    _check_vision(clip_vision)
    width = _embedding_width(clip_vision)
    if width is None:
        raise InvalidInput(
            "clip_vision",
            f"has no embedding in a space it shares with texts; of SigLIP and DINO none is known here. {PAIRS}",
        )
    return TextWish(clip_vision, text_embedding(clip, text, width))


def aesthetic_files() -> list[str]:
    """The files in the host's classifiers folders that may be aesthetic heads, as relative paths."""
    # The host's own list of this folder leaves out every file with an extension.
    found = set()
    for folder in folder_paths.get_folder_paths(_HEADS):
        files, _ = folder_paths.recursive_search(folder, excluded_dir_names=[".git"])
        found.update(
            name for name in files if os.path.splitext(name)[1].lower() in folder_paths.supported_pt_extensions
        )
    return sorted(found)


def aesthetic_wish(clip_vision: Any, file: str, activation: str) -> AestheticWish:
    """The wish for a high score by the head in a file of `aesthetic_files`.

    Raises:
        InvalidInput: if it is not there, cannot be read, is no stack of linear layers, or is made for another model.
    """
    path = folder_paths.get_full_path(_HEADS, file)
    if path is None:
        raise InvalidInput("file", f"there is no {file!r} in the folder models/{_HEADS}")
    try:
        state = comfy.utils.load_torch_file(path, safe_load=True)
    except Exception as error:  # each format has exceptions of its own
        raise InvalidInput("file", f"{file} cannot be read: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InvalidInput("file", f"{file} is no file of weights alone")
    with _named(state="file"):
        layers = aesthetic_layers(state)
    return AestheticWish(clip_vision, layers, activation)


def _latent_of(studio: Studio, image: Tensor) -> Tensor:
    """An image's latent in the size of the samples.

    Raises:
        InvalidInput: if it has another shape than theirs.
    """
    wanted = studio.latent_shape
    # A first time at a size every VAE takes whole: it tells the ratio, and is often the samples' own size.
    height, width = (max(1, round(size / _WHOLE)) * _WHOLE for size in image.shape[1:3])
    encoded = _encoded(studio, _stretched(image, height, width))
    if encoded.shape[-2:] != wanted[-2:]:
        ratio = height // encoded.shape[-2]
        encoded = _encoded(studio, _stretched(image, ratio * wanted[-2], ratio * wanted[-1]))
    if len(wanted) == 5 and encoded.ndim == 4:
        encoded = encoded.unsqueeze(2)
    if encoded.shape[1:] != wanted[1:]:
        raise InvalidInput(
            "image",
            f"its latent has the shape {tuple(encoded.shape)}, the result's is {wanted}; choose "
            'the space "pixels"' + (", as for every video" if len(wanted) == 5 else ""),
        )
    return encoded


def _stretched(image: Tensor, height: int, width: int) -> Tensor:
    return resized(image.movedim(-1, 1), height, width).movedim(1, -1)


def _encoded(studio: Studio, image: Tensor) -> Tensor:
    """Each picture's latent: one by one, since a video's VAE takes several for the frames of one."""
    return torch.cat([studio.encode(picture[None]) for picture in image])


def _of_pictures(objective: Objective, **names: str) -> Look:
    """``objective`` of the pictures, a mean over the frames of an item; ``names`` as for `_named`."""

    def look(scene: Scene) -> Tensor:
        pictures = scene.pictures
        with _named(**names):
            return evaluate(objective, pictures).reshape(len(scene.latent), -1).mean(1)

    return look


def _of_latent(objective: Objective, **names: str) -> Look:
    def look(scene: Scene) -> Tensor:
        with _named(**names):
            return evaluate(objective, scene.latent)

    return look


@contextmanager
def _named(**names: str) -> Iterator[None]:
    """Refusals of the core's arguments as ones of the node's inputs: ``argument="input"``."""
    try:
        yield
    except InvalidInput as error:
        if error.name not in names:
            raise
        raise InvalidInput(names[error.name], str(error).removeprefix(f"{error.name}: ")) from error


def _itself(features: Tensor) -> Tensor:
    return features


def _pictures(image: Tensor) -> Tensor:
    """An IMAGE as [B, H, W, 3], without its alpha, fit for a graph: the host makes its tensors in inference mode.

    Raises:
        InvalidInput: for anything but pictures.
    """
    if not isinstance(image, Tensor) or image.ndim not in (3, 4) or image.shape[-1] not in (3, 4) or not image.numel():
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise InvalidInput("image", f"must be pictures [B, H, W, 3], not {shape}")
    if not bool(torch.isfinite(image).all()):
        raise InvalidInput("image", "has NaN or infinity: what made it has gone wrong")
    image = image if image.ndim == 4 else image[None]
    return image[..., :3].detach().float().clone()


def _mask(mask: Tensor | None) -> Tensor | None:
    """A MASK as [H, W] or [B, H, W], fit for a graph.

    Raises:
        InvalidInput: for an empty one, or values beyond 0..1.
    """
    if mask is None:
        return None
    if isinstance(mask, Tensor):
        if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[-1]):
            mask = mask.squeeze(1 if mask.shape[1] == 1 else -1)
        mask = mask.detach().float().clone()
        if mask.numel() and not bool(mask.any()):
            raise InvalidInput(
                "mask",
                "is empty: it covers no pixel. Leave it unconnected for the whole picture (Load Image gives an "
                "empty mask for a picture without transparency)",
            )
        if mask.numel() and not bool(((mask >= 0) & (mask <= 1)).all()):
            raise InvalidInput("mask", f"must lie in 0..1, not in {float(mask.amin()):g}..{float(mask.amax()):g}")
    return mask


def _check_vision(clip_vision: Any) -> None:
    if clip_vision is None:
        raise InvalidInput("clip_vision", "is empty. Load one with Load CLIP Vision")


def _embedding_width(clip_vision: Any) -> int | None:
    """How many values CLIP-Vision's embedding has; None for models that do not project into a space of texts."""
    projection = getattr(getattr(clip_vision, "model", None), "visual_projection", None)
    return getattr(projection, "out_features", None)
