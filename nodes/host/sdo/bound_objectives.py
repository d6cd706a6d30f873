"""Objectives of the core, as objectives of a decoded sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....chords_core import Objective
from ....chords_core.sdo.gradients import evaluate
from .context import BoundObjective, DecodedSample
from .input_names import renamed_inputs


def of_pictures(objective: Objective, **names: str) -> BoundObjective:
    """``objective`` of the sample's pictures: of a video, the mean over an item's frames.

    ``names``: arguments of the core, as inputs of the node.
    """
    return of_pictures_of_prompts(lambda _: objective, **names)


def of_pictures_of_prompts(objective: Callable[[Tensor], Objective], **names: str) -> BoundObjective:
    """The same, of an objective that depends on the pictures' prompts.

    ``objective(numbers)`` makes it; ``numbers`` [B * T] int64: of the prompt of each of B * T pictures.
    """

    def bound(sample: DecodedSample) -> Tensor:
        pictures, items = sample.pictures, len(sample.latent)
        numbers = torch.tensor(sample.prompts).repeat_interleave(len(pictures) // items)
        with renamed_inputs(**names):
            return evaluate(objective(numbers), pictures).reshape(items, -1).mean(1)

    return bound


def of_latent(objective: Objective, **names: str) -> BoundObjective:
    """``objective`` of the sample's latent; ``names`` as for `of_pictures`."""

    def bound(sample: DecodedSample) -> Tensor:
        with renamed_inputs(**names):
            return evaluate(objective, sample.latent)

    return bound
