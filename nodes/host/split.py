"""Guidance split: two devices evaluate the two sides of a guided step, by the host's own means for several GPUs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.multigpu import MultiGPUThreadPool
from comfy.patcher_extension import WrappersMP, get_all_wrappers
from comfy.samplers import CFGGuider

SIDES = 2


def is_guided(guider: Any, model_options: dict[str, Any]) -> bool:
    """Whether each step evaluates a positive and a negative side, that the host's own code puts together."""
    if not isinstance(guider, CFGGuider) or type(guider).predict_noise is not CFGGuider.predict_noise:
        return False
    if math.isclose(guider.cfg, 1.0) and not model_options.get("disable_cfg1_optimization", False):
        return False
    if "sampler_calc_cond_batch_function" in model_options:
        return False
    if get_all_wrappers(WrappersMP.CALC_COND_BATCH, model_options, is_model_options=True):
        return False
    return all(guider.conds.get(side) for side in ("positive", "negative"))


def spread_over(stack: ExitStack, options: dict[str, Any], patchers: Mapping[torch.device, ModelPatcher]) -> None:
    """Have a lane's calls with these model options share their sides among the devices, until ``stack`` closes.

    ``patchers``: the model on each device, the lane's own first; loaded and prepared for the run.
    """
    pool = MultiGPUThreadPool(list(patchers))
    stack.callback(pool.shutdown)
    for device in patchers:
        if device.type == "cpu":  # as in a lane
            pool.submit(device, torch.set_num_threads, 1)
            pool.get_result(device)
    options["multigpu_clones"] = dict(patchers)
    options["multigpu_thread_pool"] = pool
