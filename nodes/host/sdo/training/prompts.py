"""The prompts of a training, and the model's call with a prompt of its own for each item."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .....chords_core import InvalidInput
from ..model_call import DifferentiableModelCall

Conditioning = list[Any]

_PREFIX = "prompt "


@dataclass(frozen=True, eq=False)
class TrainingPrompts:
    """What the pictures show: ``positives``, one conditioning a prompt, which may have several parts; ``negative``;
    ``texts`` of the positives, where all of them are known."""

    positives: tuple[Conditioning, ...]
    negative: Conditioning
    texts: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.positives)

    def names(self) -> list[str]:
        """What the prompts are called in a report."""
        return list(self.texts) if self.texts is not None else [f"{_PREFIX}{n + 1}" for n in range(len(self))]


def prompt_lines(text: str) -> tuple[str, ...]:
    """The prompts of a text: one a line, without empty ones."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def collect_prompts(
    positive: Mapping[str, Conditioning], clip: Any, lines: Sequence[str], negative: Conditioning
) -> TrainingPrompts:
    """The prompts from conditionings, and from texts that ``clip`` encodes.

    Raises:
        InvalidInput: if there is no prompt, or no ``clip`` for the texts.
    """
    given = [conditioning for conditioning in positive.values() if conditioning]
    if not given and not lines:
        raise InvalidInput(
            "positive",
            "there is no prompt: connect at least one, or connect clip and write texts into prompts, one a line",
        )
    if lines and clip is None:
        raise InvalidInput("clip", "is needed to encode the texts of prompts: connect the model's CLIP")
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(line)) for line in lines]
    return TrainingPrompts((*given, *encoded), negative, None if given else tuple(lines))


class PromptsGuider(comfy.samplers.CFGGuider):
    """A guider of several prompts. While it samples, ``prompts`` has the conditionings of each, as the host processes
    them for a KSampler with that prompt; a sampler that knows no prompts samples the first."""

    def __init__(self, model: ModelPatcher, prompts: TrainingPrompts, cfg: float) -> None:
        super().__init__(model)
        self.prompts: list[dict[str, Any]] = []
        self.conds: dict[str, Any] = {}
        self.set_cfg(cfg)
        named = {f"{_PREFIX}{number}": positive for number, positive in enumerate(prompts.positives)}
        self.inner_set_conds({**named, "negative": prompts.negative})

    def inner_sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        device: torch.device,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None,
        callback: Any,
        disable_pbar: bool,
        seed: int | None,
        latent_shapes: Any = None,
    ) -> Tensor:
        """As the host's, for each prompt apart: a prompt with an area or a ControlNet does not change the others."""
        given = self.conds
        pairs = [
            {"positive": conds, "negative": given["negative"]}
            for name, conds in given.items()
            if name.startswith(_PREFIX)
        ]
        process = comfy.samplers.process_conds
        self.prompts = [
            process(
                self.inner_model,
                noise,
                dict(pair),
                device,
                latent_image,
                denoise_mask,
                seed,
                latent_shapes=latent_shapes,
            )
            for pair in pairs
        ]
        self.conds = pairs[0]
        try:
            return super().inner_sample(
                noise,
                latent_image,
                device,
                sampler,
                sigmas,
                denoise_mask,
                callback,
                disable_pbar,
                seed,
                latent_shapes=latent_shapes,
            )
        finally:
            self.conds = given  # from which the host finds what it has to clean up
            self.prompts = []

    def of_all_prompts(self) -> PromptsGuider:
        """A copy that has the conditionings of all prompts together, for checks. It cannot sample."""
        together = copy.copy(self)
        together.conds = {
            f"{side} of {_PREFIX}{number}": conds
            for number, sides in enumerate(self.prompts)
            for side, conds in sides.items()
        }
        return together


class PromptedModelCall:
    """The model's call with prompts: ``call(x [B, ...], sigma, prompts [B]) -> denoised [B, ...]``.

    Args:
        calls: one a prompt; ``prompts`` are their numbers.
    """

    def __init__(self, calls: Sequence[DifferentiableModelCall]) -> None:
        self._calls = calls

    def __call__(self, x: Tensor, sigma: float, prompts: Sequence[int]) -> Tensor:
        numbers = sorted(set(prompts))
        if len(numbers) == 1:
            return self._calls[numbers[0]](x, sigma)
        places = [[place for place, prompt in enumerate(prompts) if prompt == number] for number in numbers]
        answers = [self._calls[number](x[items], sigma) for number, items in zip(numbers, places, strict=True)]
        order = torch.tensor([place for items in places for place in items], device=x.device).argsort()
        return torch.cat(answers)[order]
