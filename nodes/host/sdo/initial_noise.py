"""An initial noise that goes into a sampler as a latent, while the sampler's own noise is off."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor


class TakesInitialNoise:
    """A mixin for a model sampling: at full noise, when no noise is added, sampling begins at the given latent.

    Models whose noise is added to the latent work this way already. A flow model begins at a blend in which the latent
    has the share 1 - sigma, which is 0 at sigma 1: the host's samplers drop a latent given with ``add_noise`` off.
    """

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, max_denoise: bool = False) -> Tensor:
        if bool((sigma >= 1).all()) and torch.count_nonzero(noise) == 0:
            return latent_image.clone()  # a sampler may write into it
        return super().noise_scaling(sigma, noise, latent_image, max_denoise)  # type: ignore[misc]


def taking_initial_noise(model: ModelPatcher) -> ModelPatcher:
    """``model``, or for a flow model that would drop an initial noise, a clone that keeps it."""
    sampling = model.get_model_object("model_sampling")
    if not isinstance(sampling, comfy.model_sampling.CONST) or isinstance(sampling, TakesInitialNoise):
        return model
    taking = copy.copy(sampling)
    taking.__class__ = type(f"{type(sampling).__name__}TakingInitialNoise", (TakesInitialNoise, type(sampling)), {})
    model = model.clone()
    model.add_object_patch("model_sampling", taking)
    return model


def to_latent_samples(model: ModelPatcher, x: Tensor, sigmas: Tensor) -> Tensor:
    """The samples of a LATENT from which a sampler of ``model``, with its noise off, begins at ``x``.

    ``x`` [B, ...] is the state at sigmas[0]. The sampler's first state equals it, apart from rounding in the latent's
    scale.
    """
    sampling = model.get_model_object("model_sampling")
    if not (isinstance(sampling, TakesInitialNoise) and float(sigmas[0]) >= 1):
        x = sampling.inverse_noise_scaling(sigmas[0], x)
    return model.model.process_latent_out(x.float()).cpu()


def first_state(model: ModelPatcher, noise: Tensor, latent: Tensor, sigmas: Tensor) -> Tensor:
    """The state [B, ...] at sigmas[0] where the host's samplers begin, for this ``noise`` and ``latent``."""
    sampling = model.get_model_object("model_sampling")
    if torch.count_nonzero(latent) > 0:
        latent = model.model.process_latent_in(latent)
    wrapped = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))
    max_denoise = comfy.samplers.Sampler().max_denoise(wrapped, sigmas)
    return sampling.noise_scaling(sigmas[0], noise, latent, max_denoise)
