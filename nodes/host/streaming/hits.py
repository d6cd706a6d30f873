"""The hits of a run as pictures and as latents."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from comfy.nested_tensor import NestedTensor
from PIL import Image
from torch import Tensor

from ..sampling.run_record import ChordsRun
from .previews import rough_previewer

_log = logging.getLogger("chords")


def hit_images(run: ChordsRun, vae: Any) -> Tensor:
    """All hits as pictures, [hits * batch (* frames), height, width, 3] in 0..1, the accepted one last.

    Without a VAE: the approximate colours of the latent, enlarged to the size of the picture.
    """
    if vae is None:
        return torch.cat([_approximate(run, hit.samples) for hit in run.hits])
    return torch.cat([_decoded(vae, hit.samples) for hit in run.hits])


def hit_latents(run: ChordsRun) -> dict[str, Any]:
    """All hits as one LATENT, the accepted one last."""
    hits = [hit.samples for hit in run.hits]
    if hits[0].is_nested:
        parts = zip(*(hit.unbind() for hit in hits), strict=True)
        return {"samples": NestedTensor([torch.cat(part) for part in parts])}
    return {"samples": torch.cat(hits)}


def _decoded(vae: Any, samples: Tensor) -> Tensor:
    """The pictures that the host's VAE Decode gives."""
    images: Tensor = vae.decode(_first_part(samples))
    return images.reshape(-1, *images.shape[-3:]) if images.ndim == 5 else images


def _approximate(run: ChordsRun, samples: Tensor) -> Tensor:
    samples = _first_part(samples)
    scale = run.latent_format.spacial_downscale_ratio
    previewer = rough_previewer(run.latent_format)
    if previewer is None:
        _log.warning("CHORDS: this model's latents have no quick preview; connect a VAE to see the pictures")
        return torch.zeros(samples.shape[0], scale * samples.shape[-2], scale * samples.shape[-1], 3)
    latents = run.latent_format.process_in(samples)
    pictures = [previewer.decode_latent_to_preview(latents[i : i + 1]) for i in range(len(latents))]
    enlarged = [picture.resize((scale * picture.width, scale * picture.height)) for picture in pictures]
    return torch.stack([_as_image(picture) for picture in enlarged])


def _first_part(samples: Tensor) -> Tensor:
    return samples.unbind()[0] if samples.is_nested else samples


def _as_image(picture: Image.Image) -> Tensor:
    """[height, width, 3] in 0..1."""
    return torch.from_numpy(np.array(picture.convert("RGB"), np.float32) / 255)
