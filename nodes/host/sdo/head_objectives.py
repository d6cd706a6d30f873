"""The objectives that are heads on CLIP-Vision's embeddings, from files: an aesthetic score, and a preference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ....chords_core import Aesthetic, InvalidInput, Objective, Preference, preferred_over
from ....chords_core.sdo.objectives.heads import Layers, head_width
from .bound_objectives import of_pictures, of_pictures_of_prompts
from .context import BoundObjective, ObjectiveContext
from .head_files import read_layers
from .input_names import renamed_inputs
from .objective_inputs import check_vision, checked_pictures, embedding_width
from .prompt_text import PromptText, prompt_text


@dataclass(frozen=True, eq=False)
class AestheticSpec:
    """A high score by a head on CLIP-Vision's embeddings; ``layers``: the head (`aesthetic_spec` reads a file)."""

    clip_vision: Any
    layers: Layers
    activation: str = "none"

    def __post_init__(self) -> None:
        check_vision(self.clip_vision)
        self._objective(_identity)
        width, takes = embedding_width(self.clip_vision), head_width(self.layers)
        if width not in (None, takes):
            raise InvalidInput(
                "clip_vision",
                f"gives embeddings of {width} values, the file's head takes {takes}; connect the CLIP-Vision the head "
                "was made for (CLIP ViT-L/14 gives 768)",
            )

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """Minus the score."""
        return of_pictures(self._objective(context.embedder(self.clip_vision)), extract="clip_vision")

    def _objective(self, extract: Callable[[Tensor], Tensor]) -> Aesthetic:
        with renamed_inputs(layers="file"):
            return Aesthetic(extract, self.layers, self.activation)


@dataclass(frozen=True, eq=False)
class PreferenceSpec:
    """Preferred by a head that was trained on pairs; ``layers``: the head (`preference_spec` reads a file).

    ``text``: for a head that takes the embeddings of picture and text, else None; ``preferred_over``
    [1 or B, H, W, 3]: the pictures that the result should be preferred over, or None for a high score.
    """

    clip_vision: Any
    layers: Layers
    activation: str = "none"
    text: PromptText | None = None
    preferred_over: Tensor | None = None

    def __post_init__(self) -> None:
        with renamed_inputs(layers="file"):
            Preference(_identity, self.layers, self.activation)
        if self.preferred_over is not None:
            with renamed_inputs(image="preferred_over"):
                checked_pictures(self.preferred_over)

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """Minus the score, or -log P(preferred over the other picture)."""
        names = {"picture": "preferred_over", "over": "preferred_over", "text": "clip", "extract": "clip_vision"}
        extract = context.embedder(self.clip_vision)
        with renamed_inputs(**names, image="preferred_over"):
            if self.preferred_over is None:
                base = Preference(extract, self.layers, self.activation)
            else:
                base = preferred_over(extract, self.layers, checked_pictures(self.preferred_over), self.activation)
        if self.text is None:
            return of_pictures(base, **names)
        embed = context.text_embedder(self.text)

        def objective(numbers: Tensor) -> Objective:
            return replace(base, text=embed(numbers))

        return of_pictures_of_prompts(objective, **names)


def aesthetic_spec(clip_vision: Any, file: str, activation: str) -> AestheticSpec:
    """The objective for a high score by the head in a file of `head_files.head_files`.

    Raises:
        InvalidInput: if the file cannot be used, or is made for another model.
    """
    return AestheticSpec(clip_vision, read_layers(file), activation)


def preference_spec(
    clip_vision: Any, file: str, activation: str, clip: Any, text: str, image: Tensor | None
) -> PreferenceSpec:
    """The objective for the head in a file of `head_files.head_files`; ``image``: to be preferred over, or None.

    A head that takes as many values as ``clip_vision`` gives is one of pictures, and ``clip`` and ``text`` are not
    used. One that takes twice as many is one of pictures with texts.

    Raises:
        InvalidInput: if the file cannot be used, is made for another model, or needs a text encoder.
    """
    check_vision(clip_vision)
    layers = read_layers(file)
    of_picture = PreferenceSpec(clip_vision, layers, activation, None, image)  # checks the head and the image
    width, takes = embedding_width(clip_vision), head_width(layers)
    if width in (None, takes):
        return of_picture
    if takes != 2 * width:
        raise InvalidInput(
            "clip_vision",
            f"gives embeddings of {width} values, the file's head takes {takes}; connect the CLIP-Vision the head was "
            f"made for: one that gives {takes}, or {takes / 2:g} if the head also takes a text",
        )
    if clip is None:
        raise InvalidInput(
            "clip",
            f"is needed: the file's head takes {takes} values, those of a picture and of a text. Connect the text "
            "encoder that belongs to clip_vision",
        )
    return PreferenceSpec(clip_vision, layers, activation, prompt_text(clip, clip_vision, text), image)


def _identity(features: Tensor) -> Tensor:
    return features
