"""Starts of sampling put in as a latent, with the sampler's own noise off."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor


class TakesStarts:
    """Mixed into a model sampling: at full noise, with no noise to add, the latent put in is the start.

    So it is with models of noise that is added. A flow model's start is a blend, (1 - sigma) of it the latent, which
    at sigma 1 is nothing: the host's samplers drop a latent that is put in with ``add_noise`` off.
    """

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        if bool((sigma >= 1).all()) and torch.count_nonzero(noise) == 0:
            return latent_image.clone()  # which a sampler may write into
        return super().noise_scaling(sigma, noise, latent_image, max_denoise)  # type: ignore[misc]


def taking_starts(model: ModelPatcher) -> ModelPatcher:
    """``model``, or where it is a flow model that would drop a start, a clone that takes it."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.CONST) or isinstance(sampling, TakesStarts):
        return model
    taking = copy.copy(sampling)
    taking.__class__ = type(f"{type(sampling).__name__}TakingStarts", (TakesStarts, type(sampling)), {})
    model = model.clone()
    model.add_object_patch("model_sampling", taking)
    return model


def to_start(model: ModelPatcher, x: Tensor, sigmas: Tensor) -> Tensor:
    """The LATENT's samples from which a sampler of ``model`` begins at ``x``, the state at sigmas[0], with its noise
    off: exactly but for the rounding of the latent's scale."""
    sampling = model.get_model_object("model_sampling")
    if not (isinstance(sampling, TakesStarts) and float(sigmas[0]) >= 1):
        x = sampling.inverse_noise_scaling(sigmas[0], x)
    return model.model.process_latent_out(x.float()).cpu()


def first_state(model: ModelPatcher, noise: Tensor, latent: Tensor, sigmas: Tensor) -> Tensor:
    """The state at sigmas[0] at which the host's samplers begin."""
    sampling = model.get_model_object("model_sampling")
    if torch.count_nonzero(latent) > 0:
        latent = model.model.process_latent_in(latent)
    wrapped = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))
    strongest = comfy.samplers.Sampler().max_denoise(wrapped, sigmas)
    return sampling.noise_scaling(sigmas[0], noise, latent, strongest)
