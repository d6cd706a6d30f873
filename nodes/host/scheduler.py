"""Sigmas of a model, spaced for accuracy."""

from __future__ import annotations

import math

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

_SCHEDULE_POWER = 2.0


def accurate_schedule(model: ModelPatcher, steps: int, denoise: float) -> Tensor:
    """steps + 1 sigmas that descend to 0; empty for ``denoise`` 0.

    ``denoise`` (0..1) below 1 gives the last part of a longer schedule, as the host's own schedulers do.

    The times of a flow model are t = (1 - j/N)^2, before its own shift. The standard schedules make one large last step
    to 0, of first order, which causes most of their error; this schedule first comes near 0
    (benchmarks/results/frontier.md). For other models the sigmas are evenly spaced in log sigma.
    """
    if denoise <= 0.0:
        return torch.empty(0)
    total = int(steps / denoise)
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.CONST):
        sigmas = [float(sampling.percent_to_sigma(1.0 - (1.0 - j / total) ** _SCHEDULE_POWER)) for j in range(total)]
    else:
        top, bottom = math.log(float(sampling.sigma_max)), math.log(float(sampling.sigma_min))
        sigmas = [math.exp(top + (bottom - top) * j / max(total - 1, 1)) for j in range(total)]
    return torch.tensor([*sigmas, 0.0])[-(steps + 1) :]
