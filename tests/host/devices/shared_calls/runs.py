"""A run of ours and the stock run beside it, in this process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pack_modules import module
from torch import Tensor

ROUNDING = 1e-4  # relative, after some steps; see token_split/split_cases.py
Latent = dict[str, Tensor]


def is_same(found: Tensor, wanted: Tensor) -> bool:
    """Whether latents are the same apart from rounding: on many processors they have the same bits."""
    return found.shape == wanted.shape and float((found - wanted).norm() / wanted.norm()) < ROUNDING


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def empty(batch: int = 1, size: int = 128) -> Latent:
    """A latent of the demo model."""
    return {"samples": torch.zeros(batch, 16, size // 8, size // 8)}


@dataclass
class Given:
    """The inputs of a KSampler."""

    model: Any
    positive: Any
    negative: Any
    latent: Latent = field(default_factory=empty)
    sampler: str = "euler"
    steps: int = 4
    cfg: float = 1.0
    denoise: float = 1.0


class Runs:
    """Samples with the pack's KSampler and with the host's."""

    def __init__(self) -> None:
        import comfy.sample
        import comfy.sd
        import comfy.utils

        self.comfy, self.sd, self.utils = comfy.sample, comfy.sd, comfy.utils
        self.ksampler = module("nodes.host.sampling.ksampler")
        self.options = module("nodes.host.sampling.options").SamplerOptions
        self.request = module("nodes.host.devices.request").DeviceRequest
        self.lanes = module("nodes.host.devices.lanes")
        demo = module("nodes.host.demo")
        self._model = demo.load_demo_model()[0]

    def demo(self, **changes: Any) -> Given:
        """The demo model with its prompts."""
        prompts = module("nodes.demo").ChordsDemoPrompt
        texts = [prompts.execute(text=text).result[0] for text in ("a big red circle on the left", "")]
        return Given(self._model, *texts, **changes)

    def wan(self, file: Path, **changes: Any) -> Given:
        """A tiny Wan model with random prompts, of three frames."""
        model = self.sd.load_diffusion_model(str(file))
        prompts = [[[noise(1, 12, 1024) * scale, {}]] for scale in (1.0, 0.5)]
        return Given(model, *prompts, latent={"samples": torch.zeros(1, 16, 3, 8, 8)}, **changes)

    def stock(self, given: Given) -> Tensor:
        """The latent of the host's KSampler."""
        samples = given.latent["samples"]
        with torch.inference_mode():
            return self.comfy.sample(
                given.model,
                self.comfy.prepare_noise(samples, 7),
                given.steps,
                given.cfg,
                given.sampler,
                "simple",
                given.positive,
                given.negative,
                samples,
                denoise=given.denoise,
                noise_mask=given.latent.get("noise_mask"),
                disable_pbar=True,
                seed=7,
            )

    def ours(self, given: Given, lanes: int = 2, split: str = "tokens", **options: Any) -> tuple[Tensor, Any]:
        """The latent of the pack's KSampler on so many lanes, and the record of the run."""
        inputs = self.ksampler.KSamplerInputs(
            given.model,
            7,
            given.steps,
            given.cfg,
            given.sampler,
            "simple",
            given.positive,
            given.negative,
            given.latent,
            given.denoise,
        )
        request = self.request(cpu_lanes=lanes, split=split)
        with torch.inference_mode():
            latent, run = self.ksampler.ksample(inputs, self.options(**options), request)
        return latent["samples"], run


def members_at_work() -> list[str]:
    """The threads of members that have not ended."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("chords-member")]
