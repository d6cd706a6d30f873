"""Caches that people use on one device, on the demo model in this process.

LazyCache and EasyCache are the host's own code, which `benchmarks.frontier.start_comfy` has to make importable before.
TeaCache is its published rule, with its node's constants for Flux; the node itself does not run on the demo model,
which has no pooled text. Each picture is sampled by itself: the caches decide by the means over a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._cells import Cell, Pictures, network_of
from benchmarks._problems import Model
from demo import SHIFT
from demo import flow as network
from demo.prompts import encode_prompt

START, END = 0.15, 0.95  # the defaults of both nodes: where in the run they may skip
SUBSAMPLED, CHANNELS = 8, 16  # what both nodes choose for the demo model
TEACACHE_FLUX = (4.98651651e02, -2.83781631e02, 5.58554382e01, -3.82021401e00, 2.64230861e-01)
"""Coefficients of the polynomial, from the highest power on: TeaCache's for Flux."""

Sampled = tuple[int, Tensor]
"""Model calls made, and the latent [1, 16, 16, 16]."""


def stock_sampler(cell: Cell, start: Tensor, model: Callable[..., Tensor]) -> Tensor:
    """The host's own function for the cell's sampler, from ``start`` [1, ...]."""
    from comfy.k_diffusion import sampling

    return getattr(sampling, f"sample_{cell.solver}")(model, start.clone(), cell.sigmas(cell.steps), disable=True)


def _model_sampling(cell: Cell) -> Any:
    """What tells the host's nodes at which sigma a part of the run begins."""
    from comfy import model_sampling

    if cell.prediction == "eps":
        return model_sampling.ModelSamplingDiscrete()
    found = model_sampling.ModelSamplingDiscreteFlow()
    found.set_parameters(shift=SHIFT, multiplier=1.0)
    return found


def lazycache(pictures: Pictures, k: int, threshold: float) -> Sampled:
    """Picture ``k`` with the host's LazyCache."""
    from comfy_extras.nodes_easycache import LazyCacheHolder, lazycache_predict_noise_wrapper

    cell, calls = pictures.cell, 0
    holder = LazyCacheHolder(threshold, START, END, SUBSAMPLED, False, output_channels=CHANNELS)
    options = {"transformer_options": {"easycache": holder.prepare_timesteps(_model_sampling(cell))}}

    def evaluate(x: Tensor, sigma: Tensor, _options: object) -> Tensor:
        nonlocal calls
        calls += 1
        return pictures.denoise(x, sigma, torch.tensor([k]))

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return lazycache_predict_noise_wrapper(evaluate, x, sigma, options)

    latent = stock_sampler(cell, pictures.start(k), model)
    return calls, latent


class GuidedNetwork:
    """A model's network with guidance, for caches that act on the network: one picture at a time."""

    def __init__(self, texts: Sequence[str], cfg: float, model: str = "demo") -> None:
        self.cfg = cfg
        self.flow = network_of(model)
        nothing = encode_prompt("")
        # The host puts the negative side first.
        self.contexts = [
            encode_prompt(text) if cfg == 1 else torch.cat([nothing, encode_prompt(text)]) for text in texts
        ]

    def denoiser(self, velocity: Callable[[Tensor, Tensor], Tensor], shares_input: bool = False) -> Model:
        """The guided prediction. ``velocity(x, t)`` is of all sides together: [sides, 16, 16, 16], [sides].

        ``shares_input``: what ``velocity`` writes into its input counts as the state, as in the host if the network
        has the precision of the latent.
        """

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            sides = 1 if self.cfg == 1 else 2
            given = x.repeat(sides, 1, 1, 1)
            answers = velocity(given, sigma.repeat(sides))
            denoised = (given if shares_input else x) - sigma * answers
            return denoised if sides == 1 else denoised[:1] + self.cfg * (denoised[1:] - denoised[:1])

        return denoise


def easycache(
    pictures: Pictures, net: GuidedNetwork, k: int, threshold: float, *, shares_input: bool = False
) -> Sampled:
    """Picture ``k`` with the host's EasyCache, as with a network in half precision.

    EasyCache writes into the network's input. The host copies this input where the network has another precision than
    the latent. Where both are float32, as in the demo model (``shares_input``), the host goes on with the changed
    values, and the picture is lost; that says nothing about the method.
    """
    from comfy_extras.nodes_easycache import EasyCacheHolder, easycache_forward_wrapper

    cell, calls = pictures.cell, 0
    holder = EasyCacheHolder(threshold, START, END, SUBSAMPLED, False, output_channels=CHANNELS)
    holder.prepare_timesteps(_model_sampling(cell))
    options = {"easycache": holder, "uuids": ["positive"] if net.cfg == 1 else ["negative", "positive"]}

    def evaluate(x: Tensor, t: Tensor, _options: object) -> Tensor:
        nonlocal calls
        calls += 1
        return net.flow(x, t, net.contexts[k])

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        holder.skip_current_step = False  # as the node does at the beginning of a step
        return easycache_forward_wrapper(evaluate, x, t, {**options, "sigmas": t})

    latent = stock_sampler(cell, pictures.start(k), net.denoiser(velocity, shares_input))
    return calls, latent


def teacache(pictures: Pictures, net: GuidedNetwork, k: int, threshold: float) -> Sampled:
    """Picture ``k`` with TeaCache's rule: while the first block's modulated input has changed little since the last
    call, as a polynomial of its relative L1 change tells, the blocks are not computed, and what they have added to the
    tokens of the picture is added again."""
    cell, calls = pictures.cell, 0
    before: Tensor | None = None
    added = torch.zeros(())
    changed = 0.0

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls, before, added, changed
        tokens = _Tokens(net.flow, x, t, net.contexts[k])
        modulated = tokens.modulated()
        if before is not None:
            relative = float((modulated - before).abs().mean() / before.abs().mean())
            changed += abs(_polynomial(relative))
        skip = before is not None and changed < threshold
        before = modulated
        if not skip:
            calls, changed = calls + 1, 0.0
            added = tokens.blocks() - tokens.img
        return tokens.answer(tokens.img + added)

    latent = stock_sampler(cell, pictures.start(k), net.denoiser(velocity))
    return calls, latent


def _polynomial(value: float) -> float:
    total = 0.0
    for coefficient in TEACACHE_FLUX:
        total = total * value + coefficient
    return total


class _Tokens:
    """`demo.flow.Flow.forward` in its parts: into tokens, the blocks, and back to a latent."""

    def __init__(self, flow: network.Flow, x: Tensor, t: Tensor, context: Tensor) -> None:
        self.flow, self.shape = flow, x.shape
        self.grid = x.shape[2] // network.PATCH, x.shape[3] // network.PATCH
        patches = F.pixel_unshuffle(x, network.PATCH).flatten(2).transpose(1, 2)  # channel, row and column of a patch
        self.img = flow.img_in(patches)
        self.txt, self.vec = flow.txt_in(context), flow.time_in(t)

    def modulated(self) -> Tensor:
        """What the first block's attention takes in."""
        block = self.flow.double_blocks[0]
        assert isinstance(block, network.DoubleBlock)
        return network._modulated(self.img, *block.img_mod(self.vec)[:2])

    def blocks(self) -> Tensor:
        """The tokens of the picture behind all blocks."""
        img, txt, rotation = self.img, self.txt, network._rotation(*self.grid, self.txt.shape[1], self.img.device)
        for block in self.flow.double_blocks:
            img, txt = block(img, txt, self.vec, rotation)
        both = torch.cat((txt, img), 1)
        for block in self.flow.single_blocks:
            both = block(both, self.vec, rotation)
        return both[:, txt.shape[1] :]

    def answer(self, img: Tensor) -> Tensor:
        """The velocity of these tokens."""
        patches = self.flow.final_layer(img, self.vec).transpose(1, 2).unflatten(2, self.grid)
        return F.pixel_shuffle(patches, network.PATCH)
