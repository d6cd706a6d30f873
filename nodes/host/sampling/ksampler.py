"""What KSampler and KSampler Advanced do around a sampler: schedule, noise, mask, callback, latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.nested_tensor import NestedTensor
from comfy.utils import unpack_latents
from torch import Tensor

from ..devices.request import DeviceRequest
from ..phrases import Card, Phrase
from .announcer import Announcer
from .options import SamplerOptions
from .run_record import ChordsRun, RunHit
from .sampler import chords_sampler

_NOTHING = Card(
    (Phrase("nothing to sample"),),
    (Phrase("denoise is 0 or the step range is empty, so the latent goes through as it is"),),
)

Latent = dict[str, Any]


@dataclass(frozen=True, eq=False)
class KSamplerInputs:
    """The inputs of the host's KSampler, by the same names, and those of KSampler Advanced.

    Attributes:
        add_noise: start from noise; otherwise the latent has its noise already.
        start_step, last_step: the range of steps; None: all.
        force_full_denoise: end at sigma 0 wherever the range ends.
    """

    model: Any
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    positive: Any
    negative: Any
    latent_image: Latent
    denoise: float = 1.0
    add_noise: bool = True
    start_step: int | None = None
    last_step: int | None = None
    force_full_denoise: bool = False

    def samples(self) -> Tensor:
        """The samples of the latent, with the model's number of channels if it is empty."""
        return comfy.sample.fix_empty_latent_channels(
            self.model,
            self.latent_image["samples"],
            self.latent_image.get("downscale_ratio_spacial"),
            self.latent_image.get("downscale_ratio_temporal"),
        )

    def noise(self, samples: Tensor) -> Tensor:
        """The noise of the seed, or zeros, in the shape of ``samples``."""
        if self.add_noise:
            return comfy.sample.prepare_noise(samples, self.seed, self.latent_image.get("batch_index"))
        return torch.zeros(samples.size(), dtype=samples.dtype, layout=samples.layout, device="cpu")

    def sigmas(self) -> Tensor:
        """The schedule; empty if there is nothing to sample."""
        return schedule(
            self.model,
            self.steps,
            self.sampler_name,
            self.scheduler,
            self.denoise,
            self.start_step,
            self.last_step,
            self.force_full_denoise,
        )

    def sample_with(
        self, sampler: comfy.samplers.KSAMPLER, samples: Tensor, sigmas: Tensor, callback: Any, disable_pbar: bool
    ) -> Tensor:
        """The samples that the ``sampler`` makes of ``samples`` and the noise, as in the host's KSampler."""
        return comfy.sample.sample_custom(
            self.model,
            self.noise(samples),
            self.cfg,
            sampler,
            sigmas,
            self.positive,
            self.negative,
            samples,
            noise_mask=self.latent_image.get("noise_mask"),
            callback=callback,
            disable_pbar=disable_pbar,
            seed=self.seed,
        )


def ksample(
    inputs: KSamplerInputs, options: SamplerOptions, devices: DeviceRequest | None, preview_vae: Any = None
) -> tuple[Latent, ChordsRun]:
    """The host's ``common_ksampler`` with CHORDS as its sampler. Returns the LATENT and the record of the run."""
    samples, sigmas = inputs.samples(), inputs.sigmas()
    shapes = [part.shape for part in samples.unbind()] if samples.is_nested else None
    records: list[ChordsRun] = []
    sampler = chords_sampler(
        inputs.sampler_name,
        options,
        devices,
        preview_vae,
        on_record=records.append,
        step_previews=True,
        shapes=shapes,
    )
    if len(sigmas) == 0:
        records.append(_nothing_sampled())
    # Without sigmas the host only converts the latent, as it does for KSampler.
    samples = inputs.sample_with(
        sampler, samples, sigmas, _progress(inputs.steps), not comfy.utils.PROGRESS_BAR_ENABLED
    )
    run = records[-1] if records else ChordsRun()  # a node may have replaced the sampler
    hits = _unpacked(run.hits, shapes) or (RunHit(1, run.depth, samples.cpu()),)
    latent = {key: value for key, value in inputs.latent_image.items() if not key.startswith("downscale_ratio_")}
    latent["samples"] = samples
    return latent, replace(run, hits=hits, latent_format=inputs.model.model.latent_format)


def _nothing_sampled() -> ChordsRun:
    announcer = Announcer()
    told = Phrase("{title}: {detail}", title=_NOTHING.title[0], detail=_NOTHING.detail[0])
    announcer.say(told, _NOTHING)
    return ChordsRun(announcer.message, card=_NOTHING)


def _unpacked(hits: tuple[RunHit, ...], shapes: Sequence[torch.Size] | None) -> tuple[RunHit, ...]:
    """The hits in the shape of the latent. One with several parts (video and sound) is sampled as one flat tensor."""
    if shapes is None:
        return hits
    return tuple(replace(hit, samples=NestedTensor(unpack_latents(hit.samples, shapes))) for hit in hits)


def _progress(steps: int) -> Callable[..., None]:
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
    """The sigmas that KSampler (``start_step`` None) or KSampler Advanced uses for these inputs. Empty if they leave
    nothing to sample."""
    sigmas: Tensor = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
    ).sigmas
    if last_step is not None and last_step < len(sigmas) - 1:
        sigmas = sigmas[: last_step + 1].clone()
        if force_full_denoise:
            sigmas[-1] = 0
    if start_step is None:
        return sigmas
    return sigmas[start_step:] if start_step < len(sigmas) - 1 else sigmas[:0]
