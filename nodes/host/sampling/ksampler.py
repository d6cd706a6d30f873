"""What KSampler and KSampler Advanced do around a sampler: schedule, noise, mask, callback, latent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.nested_tensor import NestedTensor
from comfy.utils import unpack_latents
from torch import Tensor

from ..devices.request import DeviceRequest
from .options import SamplerOptions
from .run_record import ChordsRun, RunHit, announce
from .sampler import chords_sampler


def ksample(
    model: Any,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Any,
    negative: Any,
    latent: dict[str, Any],
    *,
    denoise: float = 1.0,
    add_noise: bool = True,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    setting: SamplerOptions,
    devices: DeviceRequest | None = None,
    preview_vae: Any = None,
) -> tuple[dict[str, Any], ChordsRun]:
    """The host's ``common_ksampler`` with CHORDS as its sampler. Returns the LATENT and the run's record."""
    run = ChordsRun()
    samples = comfy.sample.fix_empty_latent_channels(
        model,
        latent["samples"],
        latent.get("downscale_ratio_spacial"),
        latent.get("downscale_ratio_temporal"),
    )
    sigmas = schedule(model, steps, sampler_name, scheduler, denoise, start_step, last_step, force_full_denoise)
    if len(sigmas) == 0:
        announce(run, "nothing to sample: denoise is 0 or the step range is empty, so the latent goes through as it is")
    shapes = [part.shape for part in samples.unbind()] if samples.is_nested else None
    samples = comfy.sample.sample_custom(  # without sigmas it only converts the latent, as it does for KSampler
        model,
        comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")) if add_noise else _no_noise(samples),
        cfg,
        chords_sampler(sampler_name, setting, devices, preview_vae, run=run, step_previews=True, shapes=shapes),
        sigmas,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=_progress(steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    run.hits = _unpacked(run.hits, shapes) or (RunHit(1, run.depth, samples.cpu()),)
    run.latent_format = model.model.latent_format
    out = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio_")}
    out["samples"] = samples
    return out, run


def _unpacked(hits: tuple[RunHit, ...], shapes: Sequence[torch.Size] | None) -> tuple[RunHit, ...]:
    """The hits in the shape of the latent: one of several parts (video and sound) is sampled packed flat."""
    if shapes is None:
        return hits
    return tuple(replace(hit, samples=NestedTensor(unpack_latents(hit.samples, shapes))) for hit in hits)


def _progress(steps: int) -> Any:
    """The host's progress bar without its preview, which would keep the lanes waiting."""
    bar = comfy.utils.ProgressBar(steps)

    def callback(step: int, denoised: Tensor, x: Tensor, total_steps: int) -> None:
        bar.update_absolute(step + 1, total_steps)

    return callback


def schedule(
    model: Any,
    steps: int,
    sampler_name: str,
    scheduler: str,
    denoise: float,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
) -> Tensor:
    """The sigmas that KSampler (``start_step`` None) or KSampler Advanced uses for these inputs; empty where that
    changes nothing."""
    sigmas = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
    ).sigmas
    if last_step is not None and last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step is None:
        return sigmas
    return sigmas[start_step:] if start_step < len(sigmas) - 1 else sigmas[:0]


def _no_noise(samples: Tensor) -> Tensor:
    return torch.zeros(samples.size(), dtype=samples.dtype, layout=samples.layout, device="cpu")
