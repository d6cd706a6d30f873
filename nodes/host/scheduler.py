"""Sigmas of a model, spaced for accuracy."""

from __future__ import annotations

import math

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

_BEND = 2.0


def accurate_schedule(model: ModelPatcher, steps: int, denoise: float) -> Tensor:
    """steps + 1 sigmas, the last 0, of the lower part of the noise that ``denoise`` (0..1) leaves; empty for 0.

    A flow model's times are t = (1 - j/N)^2 under its own shift: where the standard schedules go to 0 from afar, in one
    step of first order that makes most of their error, these come near it first (benchmarks/results/frontier.md). Other
    models' are evenly spaced in log sigma.
    """
    if denoise <= 0.0:
        return torch.empty(0)
    total = int(steps / denoise)
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.CONST):
        levels = [float(sampling.percent_to_sigma(1.0 - (1.0 - j / total) ** _BEND)) for j in range(total)]
    else:
        top, bottom = math.log(float(sampling.sigma_max)), math.log(float(sampling.sigma_min))
        levels = [math.exp(top + (bottom - top) * j / max(total - 1, 1)) for j in range(total)]
    return torch.tensor([*levels, 0.0])[-(steps + 1) :]
