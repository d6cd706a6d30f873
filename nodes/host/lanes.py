"""One lane a device: the guider's model call, bound to a replica and to inputs on that device."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...chords_core import Denoise, InlinePool, Pool, ThreadPool
from .tensors import mapped

_hung: list[tuple[ThreadPool, tuple[torch.device, ...]]] = []  # pools of earlier runs and the devices of their lanes


def open_pool(
    stack: ExitStack,
    model: Any,
    extra_args: dict[str, Any],
    devices: Sequence[torch.device],
    copies: Mapping[torch.device, ModelPatcher],
    in_this_thread: bool,
) -> Pool:
    """A pool for one run of ``model``, the host's KSamplerX0Inpaint, closed by ``stack``.

    ``in_this_thread``: call the model as the host does, without lanes. Otherwise one lane a device, also if
    that is only one: a lane on a CPU computes with one thread, and sums depend on how many there are.
    """
    if in_this_thread:
        return InlinePool(inline_denoiser(model, extra_args))
    for replica in copies.values():
        replica.pre_run()
        stack.callback(replica.cleanup)
    if devices[0].type == "cpu":
        # A lane's choice of one thread becomes the process's default, so put back what it was.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
    denoisers = [lane_denoiser(model, extra_args, device, copies.get(device)) for device in devices]
    pool = ThreadPool(denoisers, lane_context(devices))
    stack.callback(_hung.append, (pool, tuple(devices)))
    return stack.enter_context(pool)


def hung_devices() -> set[torch.device]:
    """Devices on which a lane of an earlier run is still at work, given up: neither they nor the copies of models
    there can be used before it comes back."""
    _hung[:] = [(pool, devices) for pool, devices in _hung if pool.hung]
    found = {devices[lane] for pool, devices in _hung for lane in pool.hung}
    if found:
        names = ", ".join(sorted(map(str, found)))
        logging.getLogger("chords").warning("CHORDS: not back from an earlier run, which gave up waiting: %s", names)
    return found


def inline_denoiser(model: Any, extra_args: dict[str, Any]) -> Denoise:
    """The sampler's model call as the host makes it, in its own thread."""

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return model(x, x.new_full((x.shape[0],), sigma), **extra_args)

    return denoise


def lane_denoiser(
    model: Any, extra_args: dict[str, Any], device: torch.device, replica: ModelPatcher | None
) -> Denoise:
    """The same call on ``device``, safe to make while other lanes make theirs.

    ``replica`` is the model there; None stands for the guider's own. The lane has its own copies of what
    the host changes during a call; conditioning and masks are moved once, here.
    """
    options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
    # With these the host would spread each call over the very devices that are our lanes.
    options.pop("multigpu_clones", None)
    options.pop("multigpu_thread_pool", None)
    options["transformer_options"]["sample_sigmas"] = options["transformer_options"]["sample_sigmas"].to(device)
    comfy.samplers.cast_transformer_options(options["transformer_options"], device=device)

    guider = copy.copy(model.inner_model)
    if replica is not None:
        guider.model_patcher = replica
        guider.inner_model = replica.model
    guider.model_options = options
    guider.conds = _moved(guider.conds, device)

    lane_model = copy.copy(model)
    lane_model.inner_model = guider
    for name in ("sigmas", "latent_image", "noise"):
        setattr(lane_model, name, _moved(getattr(model, name), device))
    lane_args = {**_moved({**extra_args, "model_options": None}, device), "model_options": options}

    def denoise(x: Tensor, sigma: float) -> Tensor:
        home = x.device
        x = x.to(device)
        denoised = lane_model(x, x.new_full((x.shape[0],), sigma), **lane_args).to(home)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        return denoised

    return denoise


def lane_context(devices: Sequence[torch.device]) -> Callable[[int], Any]:
    """What a lane's thread needs around a call: the current device, and one intra-op thread on a CPU."""

    @contextmanager
    def context(lane: int) -> Iterator[None]:
        device = devices[lane]
        if device.type == "cpu":
            if torch.get_num_threads() != 1:
                torch.set_num_threads(1)
        else:
            comfy.model_management.set_torch_device(device)
        yield

    return context


def _moved(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it on ``device``."""
    return mapped(value, lambda tensor: tensor.to(device))
