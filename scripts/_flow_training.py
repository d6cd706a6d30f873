"""How a flow model of the demo's class is trained: shared by train_demo.py and train_emoji.py."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from demo.flow import Flow

RATES = (2e-3, 1.5e-3)  # of Muon and of AdamW
SAVE_EVERY, TELL_EVERY = 500, 100  # steps

Batch = tuple[Tensor, Tensor]
"""Latents [n, 16, h, w], and their prompts encoded, [n, words, 1024]."""


@dataclass(frozen=True)
class FlowRun:
    """How long a training lasts, and where its file is written.

    Attributes:
        steps: the run ends after so many
        path: of the file; it is also written every 500 steps, so that a run cut short leaves a usable model
        seconds: the run ends by then, with as many steps as there were; the rates fall accordingly
        tensors: what else the file has
        metadata: of the file
    """

    steps: int
    path: Path
    seconds: float = math.inf
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    metadata: dict[str, str] | None = None

    def share_done(self, step: int, began: float) -> float:
        """How much of the run is over with ``step``, 0..1."""
        return min(1.0, max(step / self.steps, (time.perf_counter() - began) / self.seconds))

    def save(self, model: Flow) -> None:
        """Write the file, with the network in float16."""
        network = {name: value.half().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file({**network, **self.tensors}, self.path, self.metadata)


def train_flow(model: Flow, run: FlowRun, draw: Callable[[], Batch], held: Batch, device: torch.device) -> Flow:
    """The model trained (an average over training): its velocity at times that favour the noisy half.

    Muon on the blocks' matrices needs about a fifth fewer steps than AdamW on everything.

    Args:
        model: untrained
        draw: gives the next batch, on the device
        held: a batch that ``draw`` never gives, for the loss that is printed
    """
    model = model.to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizers = _optimizers(model)
    began, step, done = time.perf_counter(), 0, 0.0
    while done < 1:
        step += 1
        done = run.share_done(step, began)
        tail = max(0.0, (done - 0.4) / 0.6)
        rate = min(1.0, step / 100) * 0.5 * (1 + math.cos(math.pi * tail)) + 1e-3
        for optimizer, base in zip(optimizers, RATES, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * base
        loss = _flow_loss(model, *draw(), device)
        update(loss, model, optimizers)
        decay = min(0.999, 1 - 1 / (step / 10 + 2))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if step % TELL_EVERY == 0 or done == 1:
            with torch.no_grad():
                held_loss = _flow_loss(average, *held, device, torch.Generator().manual_seed(1)).item()
            told = f"flow {step}, {done:.0%}  loss {loss.item():.4f}  held-out {held_loss:.4f}  {since(began)}"
            print(told, flush=True)
        if step % SAVE_EVERY == 0 or done == 1:
            run.save(average)
    return average.eval()


def _optimizers(model: Flow) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    blocks = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and "_blocks." in name and "mod" not in name
    }
    others = [parameter for name, parameter in model.named_parameters() if name not in blocks]
    return [
        torch.optim.Muon(blocks.values(), momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _flow_loss(
    model: Flow, latents: Tensor, context: Tensor, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    t = torch.sigmoid(torch.randn(len(latents), generator=generator) + 0.5).to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    weight = t[:, None, None, None]
    with autocast(device):
        velocity = model((1 - weight) * latents + weight * noise, t, context)
    return F.mse_loss(velocity.float(), noise - latents)


def update(loss: Tensor, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
    """One step of each optimizer, with the gradients' norm limited."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for what can have it."""
    return torch.autocast(device.type, torch.bfloat16)


def since(began: float) -> str:
    """The time since then, in words."""
    return f"{time.perf_counter() - began:.0f} s"
