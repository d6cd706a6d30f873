"""What objectives see of a sample, and the models they look with, differentiable for one optimisation."""

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

_RESIZED_ONLY = "siglip2_vision_model"  # whose pictures are cut into patches by a size of their own


class Scene:
    """A sample as objectives see it: ``latent`` [B, C, (T,) h, w], as a VAE takes it, and its ``pictures``."""

    def __init__(self, latent: Tensor, decode: Callable[[Tensor], Tensor]) -> None:
        self.latent = latent
        self._decode = decode
        self._pictures: Tensor | None = None

    @property
    def pictures(self) -> Tensor:
        """[B * T, H, W, 3], about 0..1 (not clamped), with their graph; decoded once. Of a video, T frames an item."""
        if self._pictures is None:
            self._pictures = self._decode(self.latent)
        return self._pictures

    @property
    def decoded(self) -> Tensor | None:
        """The pictures, if any objective has looked at them."""
        return None if self._pictures is None else self._pictures.detach()


Look = Callable[[Scene], Tensor]
"""An objective of a scene: values [B], lower is better."""


class Wish(Protocol):
    """An objective as it travels through a graph (SDO_OBJECTIVE): a recipe, with the host's models as they are."""

    def bind(self, studio: Studio) -> Look:
        """The objective, for one optimisation. Called in the host's inference mode, with the studio's models loaded.

        Raises:
            InvalidInput: naming the node's input.
        """


class Studio:
    """The models that the objectives of one optimisation look with.

    Made before any model call; its ``patchers`` are then loaded with the model, and made differentiable, by whoever
    runs the optimisation; only then it is used.

    Args:
        wish: the objective, whose fields called ``clip_vision`` (its terms' too) are the models it needs.
        vae: decodes samples; None where no objective looks at pictures.
        latent_shape: of the samples.

    Raises:
        InvalidInput: naming ``vae`` or ``clip_vision``, for a model through which no gradient can be taken.
    """

    def __init__(self, wish: Wish, vae: Any, latent_shape: Sequence[int]) -> None:
        self.latent_shape = tuple(latent_shape)
        self._vae = vae
        self._vae_patcher = None if vae is None else _differentiable_patcher("vae", vae.patcher)
        self._vision = {
            id(model): _differentiable_patcher("clip_vision", model.patcher) for model in _vision_models(wish)
        }

    @property
    def patchers(self) -> list[ModelPatcher]:
        """What is to be loaded and made differentiable."""
        return [*([] if self._vae_patcher is None else [self._vae_patcher]), *self._vision.values()]

    def memory(self, latent: Tensor) -> float:
        """Bytes that decoding ``latent`` takes without a graph, by the host's estimate."""
        return 0.0 if self._vae is None else self._vae.memory_used_decode(latent.shape, self._vae.vae_dtype)

    def decode(self, latent: Tensor) -> Tensor:
        """Pictures [B * T, H, W, 3] of a latent [B, C, (T,) h, w], with their graph, about 0..1, not clamped.

        Raises:
            InvalidInput: without a VAE, or for one that makes no pictures.
        """
        vae, patcher = self._vae, self._vae_patcher
        if vae is None or patcher is None:
            raise InvalidInput("vae", "is needed: the objective looks at pictures; connect the model's VAE")
        if vae.latent_dim == 2 and latent.ndim == 5:
            latent = latent[:, :, 0]
        raw = patcher.model.decode(latent.to(device=vae.device, dtype=vae.vae_dtype)).float()
        if raw.ndim not in (4, 5) or raw.shape[1] != 3:
            raise InvalidInput("vae", f"makes no pictures but {tuple(raw.shape)}")
        scale, offset = _output_range(vae)
        frames = raw.movedim(1, -1)
        return (scale * frames + offset).reshape(-1, *frames.shape[-3:]).to(latent.device)

    def encode(self, image: Tensor) -> Tensor:
        """The latent [B, C, h, w] of pictures [B, H, W, 3] by the VAE, without graph.

        Raises:
            InvalidInput: without a VAE.
        """
        if self._vae is None:
            raise InvalidInput("vae", "is needed: the objective compares latents; connect the model's VAE")
        with torch.no_grad():
            return self._vae.encode(image)

    def embedder(self, clip_vision: Any) -> Callable[[Tensor], Tensor]:
        """``embed(pictures [B, H, W, 3]) -> [B, D]``: CLIP-Vision's embedding, in the space of CLIP's texts."""

        def embed(pictures: Tensor) -> Tensor:
            embeds = self._look(clip_vision, pictures)[2]
            if embeds is None:
                raise InvalidInput("clip_vision", "gives no embedding of a whole picture; use a CLIP Vision model")
            return embeds.float()

        return embed

    def features(self, clip_vision: Any) -> Callable[[Tensor], Tensor]:
        """``features(pictures [B, H, W, 3]) -> [B, places, D]``: CLIP-Vision's last but one layer."""

        def features(pictures: Tensor) -> Tensor:
            hidden = self._look(clip_vision, pictures)[1]
            return (hidden[:, -2] if clip_vision.return_all_hidden_states else hidden).float()

        return features

    def _look(self, clip_vision: Any, pictures: Tensor) -> Any:
        """As the host's ``ClipVisionModel.encode_image``, but without its rounding to 8 bits, which has no gradient."""
        if clip_vision.model_type == _RESIZED_ONLY:
            raise InvalidInput(
                "clip_vision", "SigLIP 2 models of variable size are not supported; use a CLIP Vision one"
            )
        planes = _cropped(pictures.to(clip_vision.load_device).movedim(-1, 1), clip_vision.image_size)
        mean, std = (
            planes.new_tensor(values).view(3, 1, 1) for values in (clip_vision.image_mean, clip_vision.image_std)
        )
        network = self._vision[id(clip_vision)].model
        layers = "all" if clip_vision.return_all_hidden_states else -2
        found = network(pixel_values=(planes - mean) / std, intermediate_output=layers)
        return [part.to(pictures.device) if isinstance(part, Tensor) else part for part in found]


def _cropped(planes: Tensor, size: int) -> Tensor:
    """[B, 3, H, W] as a square of ``size``: the shorter side scaled to it, the middle of the longer one."""
    height, width = planes.shape[2:]
    if (height, width) == (size, size):
        return planes
    scale = size / min(height, width)
    planes = F.interpolate(planes, (round(scale * height), round(scale * width)), mode="bicubic", antialias=True)
    top, left = (planes.shape[2] - size) // 2, (planes.shape[3] - size) // 2
    return planes[:, :, top : top + size, left : left + size]


def _output_range(vae: Any) -> tuple[float, float]:
    """Scale and offset that take what the network gives to 0..1: the host's ``process_output`` without its clamp."""
    low, middle = vae.process_output(torch.tensor([0.0, 0.5])).tolist()
    return (middle - low) / 0.5, low


def _differentiable_patcher(name: str, patcher: ModelPatcher) -> ModelPatcher:
    patcher = plain(patcher)
    reason = reason_against(patcher)
    if reason is not None:
        raise InvalidInput(name, f"no gradient can be taken through it: {reason}")
    return patcher


def _vision_models(wish: Any) -> Iterator[Any]:
    if isinstance(wish, tuple | list):
        for part in wish:
            yield from _vision_models(part)
    elif dataclasses.is_dataclass(wish):
        for field in dataclasses.fields(wish):
            value = getattr(wish, field.name)
            if field.name == "clip_vision" and value is not None:
                yield value
            else:
                yield from _vision_models(value)
