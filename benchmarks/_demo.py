"""The demo model for benchmarks and figures: its networks, its schedule and its guided estimate."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks._report import REPO
from chords_core import Denoise
from demo import SHIFT
from demo.autoencoder import Autoencoder
from demo.flow import Flow
from demo.prompts import encode_prompt
from demo.scenes import describe, random_scene

LATENT = (16, 16, 16)
"""Channels, height, width."""


def load_flow() -> Flow:
    """The flow network in float32, frozen: for parameters that need gradients, activations would be saved."""
    flow = Flow().eval().requires_grad_(False)
    weights = load_file(REPO / "models" / "chords_demo_flow.safetensors")
    flow.load_state_dict({name: value.float() for name, value in weights.items()})
    return flow


def load_autoencoder() -> Autoencoder:
    """The autoencoder in float32, frozen.

    Its file has zeros up to the layout of the stock autoencoder. Without them the pictures are the same, and several
    times cheaper.
    """
    autoencoder = Autoencoder().eval().requires_grad_(False)
    stock = load_file(REPO / "models" / "chords_demo_vae.safetensors")
    autoencoder.load_state_dict(
        {
            name: stock[f"taesd_{name}"][tuple(slice(length) for length in value.shape)].float()
            for name, value in autoencoder.state_dict().items()
        }
    )
    return autoencoder


def simple_sigmas(steps: int, shift: float = SHIFT) -> Tensor:
    """The `simple` schedule of a flow model: ``steps`` + 1 sigmas from 1 to 0."""
    times = torch.linspace(1, 0, steps + 1)
    return shift * times / (1 + (shift - 1) * times)


def guided(flow: Flow, prompts: Sequence[str], cfg: float) -> Denoise:
    """The differentiable denoised estimate under classifier-free guidance, one prompt an item of the batch."""
    device = next(flow.parameters()).device
    context = torch.cat([encode_prompt(prompt) for prompt in (*prompts, *[""] * len(prompts))]).to(device)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        if cfg == 1:
            return x - sigma * flow(x, torch.full((len(x),), sigma, device=device), context[: len(x)])
        time = torch.full((2 * len(x),), sigma, device=device)
        velocity, unguided = flow(x.repeat(2, 1, 1, 1), time, context).chunk(2)
        return x - sigma * (unguided + cfg * (velocity - unguided))

    return denoise


def decoder(autoencoder: Autoencoder) -> Callable[[Tensor], Tensor]:
    """Latents [B, 16, h, w] to pictures [B, H, W, 3]."""
    return lambda latents: autoencoder.decode(latents).movedim(1, -1)


def describe_scenes(count: int, seed: int | random.Random) -> list[str]:
    """Prompts that name the size and the place of each thing."""
    rng = seed if isinstance(seed, random.Random) else random.Random(seed)
    return [describe(random_scene(rng)) for _ in range(count)]


def differences(x: Tensor, exact: Tensor) -> Tensor:
    """The relative RMS difference of each item: [B]."""
    return (x - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
