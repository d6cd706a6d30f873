"""Train the demo model: draws its pictures itself, needs no download, runs on a CPU or a GPU.

    .venv/bin/python scripts/train_demo.py

Three stages: an autoencoder in TAESD's layout; the latents of all scenes, once; a flow model on them. It prints
losses, times and how many held-out prompts the pictures show, and writes models/chords_demo_*.safetensors.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts")]

from _flow_training import Batch, FlowRun, autocast, since, train_flow, update

from demo import SHIFT
from demo.autoencoder import Autoencoder, latent_rgb, taesd_state
from demo.content import matches
from demo.flow import Flow
from demo.prompts import encode_prompt
from demo.scenes import PICTURE_SIZE, Scene, describe, draw, random_scene

CROP = 64
HELD_OUT = 256
UNCONDITIONAL = 0.12  # share of training prompts left empty, for guidance
CFG = 3.5
SAMPLING_STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPO / "models", help="folder for the two files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; no more than are really free")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--autoencoder-steps", type=int, default=1500)
    parser.add_argument("--scenes", type=int, default=14000, help="scenes the flow model learns from")
    parser.add_argument("--flow-steps", type=int, default=5000)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)

    autoencoder = train_autoencoder(arguments.autoencoder_steps, rng, device)
    pictures = _pictures([random_scene(rng) for _ in range(64)], rng).to(device)
    metadata = {"latent_rgb": json.dumps(latent_rgb(autoencoder, pictures).tolist())}
    save_file(taesd_state(autoencoder), arguments.out / "chords_demo_vae.safetensors", metadata)
    scenes = [random_scene(rng) for _ in range(arguments.scenes)]
    latents = encode(autoencoder, scenes, rng, device)
    flow = train_on_scenes(
        latents, scenes, arguments.flow_steps, rng, device, arguments.out / "chords_demo_flow.safetensors"
    )
    prompts = [describe(random_scene(rng)) for _ in range(20)]
    shown = sum(
        matches(picture, prompt) for picture, prompt in zip(paint(flow, autoencoder, prompts), prompts, strict=True)
    )
    print(f"{shown} of {len(prompts)} held-out prompts are shown, at CFG {CFG} and {SAMPLING_STEPS} steps")


def train_autoencoder(steps: int, rng: random.Random, device: torch.device) -> Autoencoder:
    """An autoencoder whose latents have mean 0 and variance 1 in every channel.

    Trained on crops, the last 15 % on whole pictures. A non-affine batch norm standardises the latents while it
    trains and is folded into the encoder's last convolution at the end.
    """
    model = Autoencoder().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    standard = nn.BatchNorm2d(16, affine=False, momentum=0.02).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01)
    held = _pictures([random_scene(rng) for _ in range(16)], rng).to(device)
    began = time.perf_counter()
    for step in range(1, steps + 1):
        whole = step > 0.85 * steps
        scenes = [random_scene(rng) for _ in range(8 if whole else 24)]
        pictures = _pictures(scenes, rng, PICTURE_SIZE if whole else CROP).to(device)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, step / 30) * 0.5 * (1 + math.cos(math.pi * step / steps)) + 1e-5
        with autocast(device):
            latents = standard(model.encode(pictures).float())
            latents = latents + 0.1 * torch.rand(len(scenes), 1, 1, 1, device=device) * torch.randn_like(latents)
            loss = _picture_loss(model.decode(latents).float(), pictures)
        update(loss, model, [optimizer])
        if step % 50 == 0 or step == steps:
            psnr = _psnr(model, standard, held)
            print(
                f"autoencoder {step}/{steps}  loss {loss.item():.4f}  held-out {psnr:.1f} dB  {since(began)}",
                flush=True,
            )
    assert standard.running_mean is not None and standard.running_var is not None
    last = model.encoder[-1]
    scale = (standard.running_var + standard.eps).rsqrt()
    last.weight.data *= scale[:, None, None, None]
    last.bias.data.sub_(standard.running_mean).mul_(scale)
    return model.eval()


def encode(model: Autoencoder, scenes: list[Scene], rng: random.Random, device: torch.device) -> Tensor:
    """The latents of all scenes, [n, 16, 16, 16]."""
    began = time.perf_counter()
    batches = []
    with torch.no_grad(), autocast(device):
        for first in range(0, len(scenes), 64):
            batches.append(model.encode(_pictures(scenes[first : first + 64], rng).to(device)).float().cpu())
    latents = torch.cat(batches)
    print(f"latents of {len(scenes)} scenes: std {latents.std():.3f}  {since(began)}", flush=True)
    return latents


def train_on_scenes(
    latents: Tensor, scenes: list[Scene], steps: int, rng: random.Random, device: torch.device, path: Path
) -> Flow:
    """The flow model of the scenes' latents."""

    def draw() -> Batch:
        chosen = [rng.randrange(HELD_OUT, len(scenes)) for _ in range(64)]
        texts = ["" if rng.random() < UNCONDITIONAL else describe(scenes[i], rng) for i in chosen]
        return latents[chosen].to(device), torch.cat([encode_prompt(text) for text in texts]).to(device)

    held = latents[:HELD_OUT].to(device), torch.cat([encode_prompt(describe(s)) for s in scenes[:HELD_OUT]]).to(device)
    return train_flow(Flow(), FlowRun(steps, path), draw, held, device)


@torch.no_grad()
def paint(flow: Flow, autoencoder: Autoencoder, prompts: list[str], seed: int = 0) -> list[Tensor]:
    """One picture [3, 128, 128] for each prompt: Euler steps of the guided flow, as KSampler makes them."""
    device = next(flow.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    context = torch.cat([encode_prompt(prompt) for prompt in prompts]).to(device)
    empty = encode_prompt("").to(device).expand(len(prompts), -1, -1)
    x = torch.randn(len(prompts), 16, 16, 16, generator=generator).to(device)
    t = torch.linspace(1, 0, SAMPLING_STEPS + 1)
    sigmas = SHIFT * t / (1 + (SHIFT - 1) * t)
    for sigma, sigma_next in zip(sigmas, sigmas[1:], strict=False):
        times = torch.full((len(prompts),), float(sigma), device=device)
        unguided = flow(x, times, empty)
        x = x + (sigma_next - sigma) * (unguided + CFG * (flow(x, times, context) - unguided))
    return list(autoencoder.decode(x).clamp(0, 1).cpu())


def _picture_loss(seen: Tensor, wanted: Tensor) -> Tensor:
    """L1, with its share on differences of neighbours for crisp edges, and a little L2."""
    across, down = (lambda p: p.diff(dim=3)), (lambda p: p.diff(dim=2))
    edges = F.l1_loss(across(seen), across(wanted)) + F.l1_loss(down(seen), down(wanted))
    return F.l1_loss(seen, wanted) + 0.5 * edges + 0.5 * F.mse_loss(seen, wanted)


@torch.no_grad()
def _psnr(model: Autoencoder, standard: nn.BatchNorm2d, pictures: Tensor) -> float:
    standard.eval()
    seen = model.decode(standard(model.encode(pictures))).clamp(0, 1)
    standard.train()
    return -10 * math.log10(F.mse_loss(seen, pictures).item())


def _pictures(scenes: list[Scene], rng: random.Random, size: int = PICTURE_SIZE) -> Tensor:
    """The scenes drawn, [n, 3, size, size], cut out anywhere where size is less than a picture's."""
    pictures = []
    for scene in scenes:
        top, left = rng.randint(0, PICTURE_SIZE - size), rng.randint(0, PICTURE_SIZE - size)
        pictures.append(draw(scene, rng)[:, top : top + size, left : left + size])
    return torch.stack(pictures).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
