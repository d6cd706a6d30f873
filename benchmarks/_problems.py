"""Sampling problems with a known answer: the demo model, and mixtures of normals with their exact score."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import demo.flow
from benchmarks._demo import LATENT, decoder, describe_scenes, differences, load_autoencoder, load_flow
from demo import SHIFT
from demo.flow import Flow
from demo.prompts import encode_prompt

FLOW_GRIDS = {"standard": 1.0, "p=1.5": 1.5, "p=2": 2.0, "p=2.5": 2.5}
"""Powers p of t = (1 - j/N)^p, then shifted; 1 is ComfyUI's `simple`."""
EPS_GRIDS = ("normal", "karras", "exponential")
TIMES = 1000  # of Stable Diffusion's training schedule
SEED = 4711  # of prompts and noise: nothing was tuned on them
SIZE, COMPONENTS, CLASSES = 64, 10, 5

Model = Callable[[Tensor, Tensor], Tensor]
"""``model(x, sigma) -> denoised``, sigma one value a sample."""


@dataclass(frozen=True, eq=False)
class Problem:
    """A start, a model and its schedules. ``start``: x at the first sigma; ``decode``: to pictures, if it has any."""

    name: str
    title: str
    flow: bool
    start: Tensor
    model: Model
    decode: Callable[[Tensor], Tensor] | None = None

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        return self.model(x, torch.full((len(x),), sigma, device=x.device))

    @property
    def grids(self) -> tuple[str, ...]:
        return tuple(FLOW_GRIDS) if self.flow else EPS_GRIDS

    def grid(self, name: str, steps: int, discard: bool = False) -> Tensor:
        """``steps`` + 1 sigmas. ``discard``: of one step more, without the last sigma but one, as in KSampler with
        uni_pc."""
        if discard:
            longer = self.grid(name, steps + 1)
            return torch.cat([longer[:-2], longer[-1:]])
        sigmas = flow_grid(steps, FLOW_GRIDS[name]) if self.flow else eps_grid(name, steps)
        return torch.tensor(sigmas, dtype=torch.float32, device=self.start.device)


# --- schedules


def flow_grid(steps: int, power: float) -> list[float]:
    """From 1 to 0: t = (1 - j/N)^power, shifted."""
    times = [(1 - j / steps) ** power for j in range(steps + 1)]
    return [SHIFT * t / (1 + (SHIFT - 1) * t) for t in times]


@functools.cache
def _training_log_sigmas() -> tuple[float, ...]:
    """Those of Stable Diffusion, in ascending order."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMES, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    return tuple((((1 - kept) / kept).log() / 2).tolist())


def eps_grid(name: str, steps: int) -> list[float]:
    """ComfyUI's schedule of that name for Stable Diffusion: ``steps`` values and 0."""
    logs = _training_log_sigmas()
    shares = [j / max(steps - 1, 1) for j in range(steps)]
    low, high = logs[0], logs[-1]
    if name == "normal":
        chosen = [_between(logs, (TIMES - 1) * (1 - share)) for share in shares]
    elif name == "exponential":
        chosen = [high + share * (low - high) for share in shares]
    elif name == "karras":
        a, b = math.exp(high / 7), math.exp(low / 7)
        chosen = [7 * math.log(a + share * (b - a)) for share in shares]
    else:
        raise ValueError(f"unknown grid {name!r}")
    return [*map(math.exp, chosen), 0.0]


def _between(values: Sequence[float], place: float) -> float:
    i = min(int(place), len(values) - 2)
    return values[i] + (place - i) * (values[i + 1] - values[i])


# --- the solution


def truth(problem: Problem, steps: int) -> tuple[Tensor, float]:
    """The solution of the ODE by Heun's method, and its median difference from that with half as many steps.

    An eps model is solved to the last sigma of its training and denoised from there, as in every sampler.
    """
    name = "p=2" if problem.flow else "karras"
    fine, coarse = (heun(problem.model, problem.start, problem.grid(name, count)) for count in (steps, steps // 2))
    return fine, float(differences(coarse, fine).median())


def heun(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's method: a step predicts with the drift at its start and corrects with the mean of both ends."""
    ones, values = x.new_ones(len(x)), sigmas.tolist()
    for sigma, following in zip(values, values[1:], strict=False):
        denoised = model(x, sigma * ones)
        if following == 0:
            return denoised
        drift = (x - denoised) / sigma
        ahead = x + drift * (following - sigma)
        x = x + (drift + (ahead - model(ahead, following * ones)) / following) / 2 * (following - sigma)
    return x


# --- problems


def make_problem(name: str, seeds: int, device: torch.device) -> Problem:
    """ "demo cfg4", "mixture-flow cfg1", "mixture-eps cfg4", ..."""
    kind, guidance = name.split()
    cfg = float(guidance.removeprefix("cfg"))
    title = f"CFG {cfg:g}"
    if kind == "demo":
        return demo_problem(describe_scenes(seeds, SEED), cfg, device)
    flow = kind == "mixture-flow"
    start, model = _mixture(seeds, cfg, flow, device)
    what = "flow, shift 3" if flow else "eps"
    return Problem(name, f"Gaussian mixtures, {what}, {title}", flow, start, torch.no_grad()(model))


def demo_problem(prompts: Sequence[str], cfg: float, device: torch.device) -> Problem:
    """The demo model with these prompts, one sample for each."""
    start, model = _demo(prompts, cfg, device)
    decode = decoder(load_autoencoder().to(device))
    name, title = f"demo cfg{cfg:g}", f"Demo model, CFG {cfg:g}"
    return Problem(name, title, True, start, torch.no_grad()(model), lambda latents: decode(latents).clamp(0, 1))


def _demo(prompts: Sequence[str], cfg: float, device: torch.device) -> tuple[Tensor, Model]:
    seeds = len(prompts)
    guided = guided_demo(prompts, cfg, device)
    everyone = torch.arange(seeds, device=device)
    start = torch.randn(seeds, *LATENT, generator=torch.Generator().manual_seed(SEED)).to(device)
    return start, lambda x, sigma: guided(x, sigma, everyone)


def guided_demo(
    prompts: Sequence[str], cfg: float, device: torch.device | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``denoise(x, sigma, which)`` of `guided_flow` with the demo model."""
    return guided_flow(load_flow(), prompts, cfg, device)


def guided_flow(
    flow: Flow, prompts: Sequence[str], cfg: float, device: torch.device | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """``denoise(x, sigma, which)``: the guided prediction of a flow model, [m, 16, h, w].

    ``x`` [m, 16, h, w]: states; ``sigma`` [m]; ``which`` [m]: the index of each state's prompt.
    """
    device = device or torch.device("cpu")
    # The values do not change: they are computed and copied to the device once, not at every call.
    if not hasattr(demo.flow._rotation, "cache_info"):
        demo.flow._rotation = functools.cache(demo.flow._rotation)
    flow = flow.to(device)
    context = torch.cat([encode_prompt(prompt) for prompt in prompts]).to(device)
    nothing = encode_prompt("").to(device)

    def model(x: Tensor, sigma: Tensor, which: Tensor) -> Tensor:
        if cfg == 1:
            velocity = flow(x, sigma, context[which])
        else:
            both = torch.cat([context[which], nothing.expand(len(which), -1, -1)])
            guided, unguided = flow(torch.cat([x, x]), torch.cat([sigma, sigma]), both).chunk(2)
            velocity = unguided + cfg * (guided - unguided)
        return x - sigma.view(-1, 1, 1, 1) * velocity

    return model


def _mixture(seeds: int, cfg: float, flow: bool, device: torch.device) -> tuple[Tensor, Model]:
    """Ten components with full covariances, two of each class.

    Guidance goes from the score of all components to that of the sample's class, and beyond.
    """
    generator = torch.Generator().manual_seed(SEED)
    means = 0.7 * torch.randn(COMPONENTS, SIZE, generator=generator)
    axes = torch.linalg.qr(torch.randn(COMPONENTS, SIZE, SIZE, generator=generator))[0]
    low, high = math.log(0.005), math.log(1.5)
    spread = (low + (high - low) * torch.rand(COMPONENTS, SIZE, generator=generator)).exp()
    classes = torch.arange(COMPONENTS) % CLASSES
    others = torch.where(classes[None] == (torch.arange(seeds) % CLASSES)[:, None], 0.0, -torch.inf)
    start = torch.randn(seeds, SIZE, generator=generator)
    means, axes, spread, others, start = (value.to(device) for value in (means, axes, spread, others, start))
    start = start if flow else start * math.exp(_training_log_sigmas()[-1])

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        noise = sigma.view(-1, 1, 1)
        alpha = 1 - noise if flow else torch.ones_like(noise)
        along = torch.einsum("bkd,kde->bke", x[:, None] - alpha * means, axes)
        variance = alpha.square() * spread + noise.square()
        odds = -(along.square() / variance + variance.log()).sum(-1) / 2
        centres = means + alpha * torch.einsum("bke,kde->bkd", spread * along / variance, axes)
        unguided, guided = (
            torch.einsum("bk,bkd->bd", torch.softmax(logits, -1), centres) for logits in (odds, odds + others)
        )
        return guided if cfg == 1 else unguided + cfg * (guided - unguided)

    return start, model
