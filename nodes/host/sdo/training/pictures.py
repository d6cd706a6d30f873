"""Pictures of fixed seeds, sampled by the host's own sampler with the model without the LoRA and with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ...streaming.previews import rough_previewer
from ..context import BoundObjective, ObjectiveContext, ObjectiveSpec, StateObjective
from .options import TrainerOptions
from .prompts import TrainingPrompts

_GAP = 4  # pixels between two pictures


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples of the fixed seeds: LATENT samples [pictures, ...], and their objective [pictures]."""

    samples: Tensor
    objective: Tensor


@dataclass(frozen=True, eq=False)
class FixedPictures:
    """What is sampled, the same way before and after: picture i has seed + i and prompt i, in turn.

    ``empty``: LATENT samples of one picture; ``sigmas``: the schedule.
    """

    prompts: TrainingPrompts
    empty: Tensor
    sigmas: Tensor
    spec: ObjectiveSpec
    context: ObjectiveContext
    options: TrainerOptions

    def numbers(self) -> list[int]:
        """The number of each picture's prompt."""
        return [picture % len(self.prompts) for picture in range(self.options.pictures)]

    def of(self, model: ModelPatcher) -> Samples:
        """The samples of ``model``, as its KSampler makes them one by one."""
        options = self.options
        samples = [
            comfy.sample.sample_custom(
                model,
                comfy.sample.prepare_noise(self.empty, seed),
                options.cfg,
                comfy.samplers.sampler_object(options.sampler_name),
                self.sigmas,
                self.prompts.positives[prompt],
                self.prompts.negative,
                self.empty,
                disable_pbar=True,
                seed=seed,
            )
            for seed, prompt in zip(options.picture_seeds, self.numbers(), strict=True)
        ]
        memory = self.context.memory(self.empty)
        comfy.model_management.load_models_gpu(self.context.patchers, memory_required=memory)
        bound = self.spec.bind(self.context)
        values = [self._value(bound, sample, prompt) for sample, prompt in zip(samples, self.numbers(), strict=True)]
        return Samples(torch.cat(samples), torch.cat(values))

    def _value(self, bound: BoundObjective, sample: Tensor, prompt: int) -> Tensor:
        objective = StateObjective(bound, self.context, lambda x: x)
        return objective(sample, (prompt,)).float().cpu().clone()


def decoded(model: ModelPatcher, vae: Any, samples: Tensor) -> Tensor | None:
    """The pictures [B, H, W, 3] of LATENT samples, the first frame of videos.

    As the host's VAE Decode gives them; without a VAE the approximate colours of the latents, or None for models
    without a table of colours.
    """
    if vae is not None:
        images = torch.cat([vae.decode(sample[None]).cpu() for sample in samples])
        if images.ndim == 5:
            images = images[:, 0]
        return images[..., :3].clone()
    previewer = rough_previewer(model.get_model_object("latent_format"))
    if previewer is None:
        return None
    format_ = model.model
    shown = [previewer.decode_latent_to_preview(format_.process_latent_in(sample[None])) for sample in samples]
    return torch.stack([_image(picture) for picture in shown])


def side_by_side(before: Tensor, after: Tensor) -> Tensor:
    """Pairs of pictures [B, H, W, 3] as one picture each [B, H, 2 W + gap, 3]."""
    gap = torch.ones(*before.shape[:2], _GAP, 3)
    return torch.cat((before, gap, after), 2)


def _image(picture: Image.Image) -> Tensor:
    width, height = (8 * side for side in picture.size)
    large = picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
    return torch.frombuffer(bytearray(large.tobytes()), dtype=torch.uint8).view(height, width, 3) / 255
