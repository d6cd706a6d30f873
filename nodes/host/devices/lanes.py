"""One lane a device: the guider's model call, bound to a copy of the model and to inputs on that device."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import Denoise, InlinePool, Pool, ThreadPool
from ..tree import mapped
from .cfg_split import stuck_devices
from .context_windows import with_own_handler
from .controlnets import RunControls
from .gligen_copies import with_copies
from .groups import Group
from .sharing import SharedModel, Sharing
from .thread_context import thread_context
from .thread_state import thread_life
from .token_team import hung_members
from .waiting import wait_for_stream

_hung: list[tuple[ThreadPool, tuple[Group, ...]]] = []  # pools of earlier runs and the devices of their lanes


def open_pool(
    stack: ExitStack,
    model: Any,
    extra_args: dict[str, Any],
    groups: Sequence[Group],
    copies: Mapping[torch.device, ModelPatcher],
    in_this_thread: bool,
    sharings: Sequence[Sharing | None] = (),
    in_use: list[dict[str, Any]] | None = None,
    controls: RunControls | None = None,
) -> Pool:
    """A pool for one run of ``model``, the host's KSamplerX0Inpaint; ``stack`` closes it.

    Args:
        stack: what the pool needs until the run ends is put here.
        model: the host's model, as a sampler function gets it.
        extra_args: the further arguments of a model call.
        groups: the devices of each lane.
        copies: the model on each device but its own.
        in_this_thread: call the model as the host does, without lanes. Otherwise each group has a lane, even a single
            one: on a CPU a lane computes with one thread, and the number of threads decides the order of sums.
        sharings: how the devices of each group share calls; empty: each lane is its group's first device.
        in_use: gets the model options of each lane.
        controls: the ControlNets of the run, prepared for its lanes; None: there are none, or the host's call is made.
    """
    devices = [group[0] for group in groups]
    if devices[0].type == "cpu":
        # The number of threads that a lane sets becomes the default of the process: restore it afterwards.
        stack.callback(torch.set_num_threads, torch.get_num_threads())

    def denoiser(group: Group, sharing: Sharing | None) -> Denoise:
        own = model if controls is None else controls.in_model(model, group, copies)
        if in_this_thread:
            return inline_denoiser(own, extra_args, sharing)
        return lane_denoiser(own, extra_args, group[0], copies.get(group[0]), sharing, in_use)

    denoisers = list(map(denoiser, groups, sharings or [None] * len(groups)))
    if in_this_thread:
        return InlinePool(denoisers[0])
    pool = ThreadPool(denoisers, thread_context(devices), lambda lane: thread_life())
    stack.callback(_hung.append, (pool, tuple(groups)))
    return stack.enter_context(pool)


def hung_devices() -> set[torch.device]:
    """Devices on which a lane of an earlier run still works, after that run has given it up. Neither the device nor the
    model copy there can be used before the lane comes back."""
    _hung[:] = [(pool, groups) for pool, groups in _hung if pool.hung]
    found = {device for pool, groups in _hung for lane in pool.hung for device in groups[lane]}
    found |= stuck_devices() | hung_members()
    if found:
        names = ", ".join(sorted(map(str, found)))
        logging.getLogger("chords").warning("CHORDS: not back from an earlier run, which gave up waiting: %s", names)
    return found


def inline_denoiser(model: Any, extra_args: dict[str, Any], sharing: Sharing | None = None) -> Denoise:
    """The sampler's model call as the host makes it, in the calling thread. With ``sharing``, several devices share
    each call."""
    shared = model if sharing is None else SharedModel(model, sharing)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        home = x.device  # the trajectory of a large latent is kept in the machine's memory
        x = x.to(model.noise.device)
        denoised: Tensor = shared(x, _sigmas(model, x, sigma), **extra_args)
        return denoised.to(home)

    return denoise


def lane_denoiser(
    model: Any,
    extra_args: dict[str, Any],
    device: torch.device,
    replica: ModelPatcher | None,
    sharing: Sharing | None = None,
    in_use: list[dict[str, Any]] | None = None,
) -> Denoise:
    """The same call on ``device``; other lanes may make theirs at the same time.

    ``replica`` is the model there; None stands for the guider's own. The lane has its own copy of everything that
    the host changes during a call. Conditioning and masks are moved once, here.
    """
    options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
    # With these the host would spread each call over the devices that are our lanes.
    options.pop("multigpu_clones", None)
    options.pop("multigpu_thread_pool", None)
    options["transformer_options"]["sample_sigmas"] = options["transformer_options"]["sample_sigmas"].to(device)
    comfy.samplers.cast_transformer_options(options["transformer_options"], device=device)
    options = with_own_handler(options)

    if in_use is not None:
        in_use.append(options)

    guider = copy.copy(model.inner_model)
    guider.model_options = options
    guider.conds = _moved(guider.conds, device)
    if replica is not None:
        guider.model_patcher = replica
        guider.inner_model = replica.model
        guider.conds = with_copies(guider.conds, model.inner_model.conds, device)

    lane_model = copy.copy(model)
    lane_model.inner_model = guider
    for name in ("sigmas", "latent_image", "noise"):
        setattr(lane_model, name, _moved(getattr(model, name), device))
    if sharing is not None:
        lane_model = SharedModel(lane_model, sharing)
    lane_args = {**_moved({**extra_args, "model_options": None}, device), "model_options": options}

    def denoise(x: Tensor, sigma: float) -> Tensor:
        home = x.device
        x = x.to(device)
        denoised = lane_model(x, _sigmas(model, x, sigma), **lane_args).to(home)
        wait_for_stream(device)
        return denoised

    return denoise


def _sigmas(model: Any, x: Tensor, sigma: float) -> Tensor:
    """``sigma`` for each item, [B], in the dtype of the noise that the host's ``model`` began with. The dtype of x may
    have changed since."""
    return x.new_full((x.shape[0],), sigma, dtype=model.noise.dtype)


def _moved(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it on ``device``."""
    return mapped(value, lambda tensor: tensor.to(device))
