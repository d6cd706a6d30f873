"""The demo's flow model: a small Flux transformer without pooled text, computing what the host's own class does.

Its state dict carries the host's keys, from which the stock loader reads all dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .autoencoder import LATENT_CHANNELS
from .prompts import WIDTH as CONTEXT_WIDTH

PATCH = 2
ROTARY_AXES = (16, 56, 56)  # of a head: nothing, row, column; the host takes them as given
HEAD = sum(ROTARY_AXES)
RMS_EPS = torch.finfo(torch.float32).eps  # the default of the host's fp32 norm, also in bf16 training

Rotation = tuple[Tensor, Tensor]


class Flow(nn.Module):
    """Velocity of the flow from pictures' latents to noise: dx/dt at x = (1 - t) z + t noise."""

    def __init__(self, width: int = 2 * HEAD, double: int = 2, single: int = 2) -> None:
        super().__init__()
        values = LATENT_CHANNELS * PATCH**2
        self.img_in = nn.Linear(values, width)
        self.time_in = TimeEmbedding(width)
        self.txt_in = nn.Linear(CONTEXT_WIDTH, width)
        self.double_blocks = nn.ModuleList(DoubleBlock(width) for _ in range(double))
        self.single_blocks = nn.ModuleList(SingleBlock(width) for _ in range(single))
        self.final_layer = FinalLayer(width, values)
        # Every block starts as the identity and the velocity as zero, or deep stacks do not train.
        for module in (*(m for m in self.modules() if isinstance(m, Modulation)), self.final_layer):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Velocity [n, 16, h, w] at x [n, 16, h, w] (h, w even), t [n] in 0..1, context [n, words, 1024]."""
        rows, columns = x.shape[2] // PATCH, x.shape[3] // PATCH
        img = x.unflatten(3, (columns, PATCH)).unflatten(2, (rows, PATCH)).permute(0, 2, 4, 1, 3, 5)
        img = self.img_in(img.flatten(3).flatten(1, 2))
        txt = self.txt_in(context)
        vec = self.time_in(t)
        rotation = _rotation(rows, columns, txt.shape[1], x.device)
        for block in self.double_blocks:
            img, txt = block(img, txt, vec, rotation)
        both = torch.cat((txt, img), 1)
        for block in self.single_blocks:
            both = block(both, vec, rotation)
        out = self.final_layer(both[:, txt.shape[1] :], vec)
        out = out.unflatten(1, (rows, columns)).unflatten(3, (LATENT_CHANNELS, PATCH, PATCH))
        return out.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


class TimeEmbedding(nn.Module):
    """Sines and cosines of the time, then two layers: [n] -> [n, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_layer = nn.Linear(256, width)
        self.out_layer = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        frequencies = torch.exp(-math.log(10000.0) * torch.arange(128, device=t.device) / 128)
        angles = 1000.0 * t[:, None].float() * frequencies
        return self.out_layer(F.silu(self.in_layer(torch.cat((angles.cos(), angles.sin()), -1))))


class Modulation(nn.Module):
    """``count`` vectors from the time embedding, each [n, 1, width]: shift, scale, gate, ..."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.lin = nn.Linear(width, count * width)

    def forward(self, vec: Tensor) -> tuple[Tensor, ...]:
        return self.lin(F.silu(vec))[:, None].chunk(self.count, -1)


class QueryKeyNorm(nn.Module):
    """Splits qkv [n, tokens, 3 * width] into heads and normalises queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.query_norm = nn.RMSNorm(HEAD)
        self.key_norm = nn.RMSNorm(HEAD)

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = qkv.unflatten(-1, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        return _rms(q, self.query_norm.weight), _rms(k, self.key_norm.weight), v


class SelfAttention(nn.Module):
    """The weights of one stream's attention; the streams attend together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = QueryKeyNorm()
        self.proj = nn.Linear(width, width)


class DoubleBlock(nn.Module):
    """Picture and words with weights of their own, attending to each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.img_mod, self.txt_mod = Modulation(width, 6), Modulation(width, 6)
        self.img_attn, self.txt_attn = SelfAttention(width), SelfAttention(width)
        self.img_mlp, self.txt_mlp = _mlp(width), _mlp(width)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        img_mod, txt_mod = self.img_mod(vec), self.txt_mod(vec)
        txt_qkv = self.txt_attn.norm(self.txt_attn.qkv(_modulated(txt, *txt_mod[:2])))
        img_qkv = self.img_attn.norm(self.img_attn.qkv(_modulated(img, *img_mod[:2])))
        joined = (torch.cat(pair, 2) for pair in zip(txt_qkv, img_qkv, strict=True))
        attended = _attention(*joined, rotation)
        words = txt.shape[1]
        img = img + img_mod[2] * self.img_attn.proj(attended[:, words:])
        img = img + img_mod[5] * self.img_mlp(_modulated(img, *img_mod[3:5]))
        txt = txt + txt_mod[2] * self.txt_attn.proj(attended[:, :words])
        txt = txt + txt_mod[5] * self.txt_mlp(_modulated(txt, *txt_mod[3:5]))
        return img, txt


class SingleBlock(nn.Module):
    """Picture and words as one sequence; attention and MLP side by side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = (3 * width, 4 * width)
        self.linear1 = nn.Linear(width, sum(self.widths))
        self.linear2 = nn.Linear(5 * width, width)
        self.norm = QueryKeyNorm()
        self.modulation = Modulation(width, 3)

    def forward(self, x: Tensor, vec: Tensor, rotation: Rotation) -> Tensor:
        shift, scale, gate = self.modulation(vec)
        qkv, hidden = self.linear1(_modulated(x, shift, scale)).split(self.widths, -1)
        attended = _attention(*self.norm(qkv), rotation)
        return x + gate * self.linear2(torch.cat((attended, F.gelu(hidden, approximate="tanh")), -1))


class FinalLayer(nn.Module):
    """Tokens [n, tokens, width] to the values of their patches."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, values)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, vec: Tensor) -> Tensor:
        return self.linear(_modulated(x, *self.adaLN_modulation(vec)[:, None].chunk(2, -1)))


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (HEAD,), weight.to(x.dtype), RMS_EPS)


def _attention(q: Tensor, k: Tensor, v: Tensor, rotation: Rotation) -> Tensor:
    """Heads [n, heads, tokens, HEAD] to [n, tokens, width]."""
    attended = F.scaled_dot_product_attention(_rotated(q, rotation), _rotated(k, rotation), v)
    return attended.transpose(1, 2).flatten(2)


def _rotated(x: Tensor, rotation: Rotation) -> Tensor:
    cos, sin = rotation
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).type_as(x)


def _rotation(rows: int, columns: int, words: int, device: torch.device) -> Rotation:
    """Rotary position embedding: cos and sin, each [words + rows * columns, HEAD / 2]; words stand at the origin."""
    count = rows * columns
    row, column = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
    angles = []
    for axis, position in zip(ROTARY_AXES, (torch.zeros(count), row, column), strict=True):
        frequencies = 10000.0 ** -(torch.arange(0, axis, 2, dtype=torch.float64) / axis)
        angles.append(position.double()[:, None] * frequencies)
    picture = torch.cat(angles, 1)
    everything = torch.cat((torch.zeros(words, picture.shape[1], dtype=torch.float64), picture))
    return everything.cos().float().to(device), everything.sin().float().to(device)
