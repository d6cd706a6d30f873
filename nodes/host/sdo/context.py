"""What an objective sees of a sample, and the models it needs, differentiable for one optimisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import functional as F

from ....chords_core import InvalidInput
from .autograd import plain, reason_against
from .prompt_text import PromptText

_VARIABLE_SIZE = "siglip2_vision_model"  # cuts pictures into patches by a size of its own


class DecodedSample:
    """A sample as objectives see it: ``latent`` [B, C, (T,) h, w], as a VAE takes it, and its ``pictures``.

    ``prompts`` [B]: the number of each item's prompt in the `ObjectiveContext`; if it is empty, all have number 0.

    Raises:
        ValueError: if the number of prompts is not that of the items.
    """

    def __init__(self, latent: Tensor, decode: Callable[[Tensor], Tensor], prompts: Sequence[int] = ()) -> None:
        if len(prompts) not in (0, len(latent)):
            raise ValueError(f"{len(prompts)} prompts for a sample of {len(latent)} items")
        self.latent = latent
        self.prompts = tuple(prompts) or (0,) * len(latent)
        self._decode = decode
        self._pictures: Tensor | None = None

    @property
    def pictures(self) -> Tensor:
        """[B * T, H, W, 3], about 0..1 (not clamped), with their graph. Decoded once. A video has T frames an item."""
        if self._pictures is None:
            self._pictures = self._decode(self.latent)
        return self._pictures

    @property
    def decoded(self) -> Tensor | None:
        """The pictures without their graph, or None if no objective has needed them."""
        return None if self._pictures is None else self._pictures.detach()


BoundObjective = Callable[[DecodedSample], Tensor]
"""An objective with its models: ``bound(sample) -> values [B]``, lower is better."""


class ObjectiveSpec(Protocol):
    """An objective as it travels through a graph (SDO_OBJECTIVE): its settings, and the host's models as they are."""

    def bind(self, context: ObjectiveContext) -> BoundObjective:
        """The objective for one optimisation.

        Called in the host's inference mode, when the models of ``context`` are loaded.

        Raises:
            InvalidInput: naming the input of the objective's node.
        """


class ObjectiveContext:
    """The models that the objectives of one optimisation need.

    It is made before any model call. Whoever runs the optimisation then loads its ``patchers`` together with the model
    and makes them differentiable. The other methods work only after that.

    Args:
        spec: the objective. Its fields called ``clip_vision``, and those of its terms, are the models it needs. Fields
            called ``text`` are its texts (`PromptText`).
        vae: decodes samples; None where no objective needs pictures.
        latent_shape: of the samples, [B, C, (T,) h, w].
        prompts: the texts of the prompts, for objectives that compare pictures with their own prompt; None where they
            are not known. They are embedded here, so no text encoder is needed afterwards.

    Raises:
        InvalidInput: naming ``vae`` or ``clip_vision``, for a model that has no gradient; naming ``text``, for an
            objective that needs prompts where there are none.
    """

    def __init__(
        self, spec: ObjectiveSpec, vae: Any, latent_shape: Sequence[int], *, prompts: Sequence[str] | None = None
    ) -> None:
        self.latent_shape = tuple(latent_shape)
        self._vae = vae
        self._vae_patcher = None if vae is None else _differentiable_patcher("vae", vae.patcher)
        self._vision = {
            id(model): _differentiable_patcher("clip_vision", model.patcher)
            for model in fields_called(spec, "clip_vision")
        }
        self._texts = {id(text): text.embeddings(prompts) for text in fields_called(spec, "text")}

    @property
    def patchers(self) -> list[ModelPatcher]:
        """The models to load and to make differentiable."""
        return [*([] if self._vae_patcher is None else [self._vae_patcher]), *self._vision.values()]

    def memory(self, latent: Tensor) -> float:
        """Bytes to decode ``latent`` without a graph, by the host's estimate."""
        return 0.0 if self._vae is None else self._vae.memory_used_decode(latent.shape, self._vae.vae_dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures [B * T, H, W, 3] of a latent [B, C, (T,) h, w], with their graph, about 0..1, not clamped.

        Raises:
            InvalidInput: without a VAE, or for one that gives no pictures.
        """
        vae, patcher = self._vae, self._vae_patcher
        if vae is None or patcher is None:
            raise InvalidInput("vae", "is needed, because the objective compares pictures: connect the model's VAE")
        if vae.latent_dim == 2 and latent.ndim == 5:
            latent = latent[:, :, 0]
        raw = patcher.model.decode(latent.to(device=vae.device, dtype=vae.vae_dtype)).float()
        if raw.ndim not in (4, 5) or raw.shape[1] != 3:
            raise InvalidInput("vae", f"gives no pictures, but a tensor of shape {tuple(raw.shape)}")
        scale, offset = _output_range(vae)
        frames = raw.movedim(1, -1)
        return (scale * frames + offset).reshape(-1, *frames.shape[-3:]).to(latent.device)

    def encode(self, image: Tensor) -> Tensor:
        """The latent [B, C, h, w] of pictures [B, H, W, 3] by the VAE, without a graph.

        Raises:
            InvalidInput: without a VAE.
        """
        if self._vae is None:
            raise InvalidInput("vae", "is needed, because the objective compares latents: connect the model's VAE")
        with torch.no_grad():
            return self._vae.encode(image)

    def embedder(self, clip_vision: Any) -> Callable[[Tensor], Tensor]:
        """``embed(pictures [B, H, W, 3]) -> [B, D]``: CLIP-Vision's embedding, in the space of CLIP's texts."""

        def embed(pictures: Tensor) -> Tensor:
            embeds = self._vision_outputs(clip_vision, pictures)[2]
            if embeds is None:
                raise InvalidInput("clip_vision", "gives no embedding of a whole picture; use a CLIP Vision model")
            return embeds.float()

        return embed

    def text_embedder(self, text: PromptText) -> Callable[[Tensor], Tensor]:
        """``embed(numbers [B]) -> [B, D]``: the embeddings of a text of the objective, by the numbers of prompts."""
        embeddings = self._texts[id(text)]

        def embed(numbers: Tensor) -> Tensor:
            return embeddings.expand(len(numbers), -1) if len(embeddings) == 1 else embeddings[numbers]

        return embed

    def features(self, clip_vision: Any) -> Callable[[Tensor], Tensor]:
        """``features(pictures [B, H, W, 3]) -> [B, places, D]``: CLIP-Vision's last but one layer."""

        def features(pictures: Tensor) -> Tensor:
            hidden = self._vision_outputs(clip_vision, pictures)[1]
            return (hidden[:, -2] if clip_vision.return_all_hidden_states else hidden).float()

        return features

    def _vision_outputs(self, clip_vision: Any, pictures: Tensor) -> list[Any]:
        """What the vision network gives for ``pictures``.

        As the host's ``ClipVisionModel.encode_image``, but without its rounding to 8 bits, which has no gradient.
        """
        if clip_vision.model_type == _VARIABLE_SIZE:
            raise InvalidInput(
                "clip_vision", "SigLIP 2 models of variable size are not supported; use a CLIP Vision one"
            )
        planes = _cropped(pictures.to(clip_vision.load_device).movedim(-1, 1), clip_vision.image_size)
        mean, std = (
            planes.new_tensor(values).view(3, 1, 1) for values in (clip_vision.image_mean, clip_vision.image_std)
        )
        network = self._vision[id(clip_vision)].model
        layers = "all" if clip_vision.return_all_hidden_states else -2
        outputs = network(pixel_values=(planes - mean) / std, intermediate_output=layers)
        return [part.to(pictures.device) if isinstance(part, Tensor) else part for part in outputs]


class StateObjective:
    """The objective of a state at the end of the schedule: ``objective(state [B, ...], prompts=()) -> [B]``.

    ``prompts`` [B]: the number of each item's prompt, see `DecodedSample`.
    ``seen``: the pictures of the last call, or None where the objective needs none.

    Args:
        bound: the objective, with its models.
        context: decodes the sample.
        to_latent: the state as a latent that a VAE takes.
    """

    def __init__(self, bound: BoundObjective, context: ObjectiveContext, to_latent: Callable[[Tensor], Tensor]) -> None:
        self._bound, self._context, self._to_latent = bound, context, to_latent
        self.seen: Tensor | None = None

    def __call__(self, state: Tensor, prompts: Sequence[int] = ()) -> Tensor:
        sample = DecodedSample(self._to_latent(state), self._context.decode, prompts)
        values = self._bound(sample)
        self.seen = sample.decoded
        return values


def _cropped(planes: Tensor, size: int) -> Tensor:
    """[B, 3, H, W] as a square of ``size``: the shorter side scaled to it, the middle of the longer side."""
    height, width = planes.shape[2:]
    if (height, width) == (size, size):
        return planes
    scale = size / min(height, width)
    planes = F.interpolate(planes, (round(scale * height), round(scale * width)), mode="bicubic", antialias=True)
    top, left = (planes.shape[2] - size) // 2, (planes.shape[3] - size) // 2
    return planes[:, :, top : top + size, left : left + size]


def _output_range(vae: Any) -> tuple[float, float]:
    """Scale and offset from the network's output to 0..1: the host's ``process_output`` without its clamp."""
    low, middle = vae.process_output(torch.tensor([0.0, 0.5])).tolist()
    return (middle - low) / 0.5, low


def _differentiable_patcher(name: str, patcher: ModelPatcher) -> ModelPatcher:
    patcher = plain(patcher)
    reason = reason_against(patcher)
    if reason is not None:
        raise InvalidInput(name, f"no gradient can be taken through it: {reason}")
    return patcher


def fields_called(spec: Any, name: str) -> Iterator[Any]:
    """What is in the fields called ``name``, of the objective and of its terms, apart from None."""
    if isinstance(spec, tuple | list):
        for part in spec:
            yield from fields_called(part, name)
    elif dataclasses.is_dataclass(spec):
        for field in dataclasses.fields(spec):
            value = getattr(spec, field.name)
            if field.name != name:
                yield from fields_called(value, name)
            elif value is not None:
                yield value
