"""One lane a device: the guider's model call, bound to a copy of the model and to inputs on that device."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import Autotuner, Denoise, InlinePool, Pool, ThreadPool
from ..interrupts import passed_on
from ..tree import mapped
from .cfg_split import spread_over, stuck_devices
from .groups import SHARE, Group

Spread = Callable[[dict[str, Any]], None]
"""Changes a lane's model options so that its calls are shared by the devices of its group."""

_hung: list[tuple[ThreadPool, tuple[Group, ...]]] = []  # pools of earlier runs and the devices of their lanes


def open_pool(
    stack: ExitStack,
    model: Any,
    extra_args: dict[str, Any],
    groups: Sequence[Group],
    copies: Mapping[torch.device, ModelPatcher],
    in_this_thread: bool,
    only_if_faster: bool,
    in_use: list[dict[str, Any]] | None = None,
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
        only_if_faster: the devices of a group share calls only where that is faster, found out by trying.
        in_use: gets the model options of each lane.
    """
    for replica in copies.values():
        replica.pre_run()
        stack.callback(replica.cleanup)
    devices = [group[0] for group in groups]
    if devices[0].type == "cpu":
        # The number of threads that a lane sets becomes the default of the process: restore it afterwards.
        stack.callback(torch.set_num_threads, torch.get_num_threads())

    def spread(group: Group) -> Spread | None:
        patchers = {device: copies.get(device, model.inner_model.model_patcher) for device in group}
        return (lambda options: spread_over(stack, options, patchers)) if len(group) > 1 else None

    def denoiser(group: Group, spread: Spread | None) -> Denoise:
        if in_this_thread:
            return inline_denoiser(model, extra_args, spread, in_use)
        return lane_denoiser(model, extra_args, group[0], copies.get(group[0]), spread, in_use)

    def shared(group: Group) -> Denoise:
        together = denoiser(group, spread(group))
        if len(group) == 1 or not only_if_faster:
            return together
        patcher = model.inner_model.model_patcher
        return _autotuned(patcher, group, together, denoiser(group, None))

    denoisers = list(map(shared, groups))
    if in_this_thread:
        return InlinePool(denoisers[0])
    pool = ThreadPool(denoisers, lane_context(devices))
    stack.callback(_hung.append, (pool, tuple(groups)))
    return stack.enter_context(pool)


def sharing_pays(patcher: ModelPatcher, shape: Sequence[int], group: Group) -> bool:
    """Whether the devices of the group are faster together than one of them. True if it was not tried since the server
    started."""
    return _sharing_is_faster.get(patcher.model, {}).get((tuple(shape), frozenset(group)), True)


_sharing_is_faster: WeakKeyDictionary[Any, dict[Any, bool]] = WeakKeyDictionary()  # by model; by shape and devices


def _autotuned(patcher: ModelPatcher, group: Group, together: Denoise, alone: Denoise) -> Denoise:
    """Calls that the devices of a group share only if that is faster than one of them alone. With a small model one
    side of guidance takes as long as both. The choice is kept for later runs of this model."""
    known = _sharing_is_faster.setdefault(patcher.model, {})

    def settled() -> None:
        for device in {patcher.load_device, *group}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    autotuner = Autotuner(together, alone, settled)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        key = tuple(x.shape), frozenset(group)
        if key in known:
            return together(x, sigma) if known[key] else alone(x, sigma)
        denoised = autotuner(x, sigma)
        if autotuner.seconds is not None:
            known[key] = bool(autotuner.default_is_faster)
            figures = "%s share a guided call in %.4g s, one of them makes it in %.4g s"
            logging.getLogger("chords").info(f"CHORDS: {figures}", SHARE.join(map(str, group)), *autotuner.seconds)
        return denoised

    return denoise


def hung_devices() -> set[torch.device]:
    """Devices on which a lane of an earlier run still works, after that run has given it up. Neither the device nor the
    model copy there can be used before the lane comes back."""
    _hung[:] = [(pool, groups) for pool, groups in _hung if pool.hung]
    found = {device for pool, groups in _hung for lane in pool.hung for device in groups[lane]} | stuck_devices()
    if found:
        names = ", ".join(sorted(map(str, found)))
        logging.getLogger("chords").warning("CHORDS: not back from an earlier run, which gave up waiting: %s", names)
    return found


def inline_denoiser(
    model: Any, extra_args: dict[str, Any], spread: Spread | None = None, in_use: list[dict[str, Any]] | None = None
) -> Denoise:
    """The sampler's model call as the host makes it, in the calling thread.

    With ``spread``, several devices share each call. If one of them fails, the host's own call does the rest.
    """

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return model(x, _sigmas(model, x, sigma), **extra_args)

    if spread is None:
        return denoise
    options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
    spread(options)
    if in_use is not None:
        in_use.append(options)
    shared: dict[str, Any] | None = {**extra_args, "model_options": options}

    def denoise_together(x: Tensor, sigma: float) -> Tensor:
        nonlocal shared
        if shared is not None:
            try:
                return model(x, _sigmas(model, x, sigma), **shared)
            except Exception as error:
                logging.getLogger("chords").warning("CHORDS: lost a device of two, the other goes on: %s", error)
                shared = None
        return denoise(x, sigma)

    return denoise_together


def lane_denoiser(
    model: Any,
    extra_args: dict[str, Any],
    device: torch.device,
    replica: ModelPatcher | None,
    spread: Spread | None = None,
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
    if spread is not None:
        spread(options)
    options["transformer_options"]["sample_sigmas"] = options["transformer_options"]["sample_sigmas"].to(device)
    comfy.samplers.cast_transformer_options(options["transformer_options"], device=device)

    if in_use is not None:
        in_use.append(options)

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
        denoised = lane_model(x, _sigmas(model, x, sigma), **lane_args).to(home)
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        return denoised

    return denoise


def lane_context(devices: Sequence[torch.device]) -> Callable[[int], Any]:
    """What a lane's thread needs around a call: the current device, one intra-op thread on a CPU, and that the other
    lanes see a cancel that this one meets."""

    @contextmanager
    def context(lane: int) -> Iterator[None]:
        device = devices[lane]
        if device.type == "cpu":
            if torch.get_num_threads() != 1:
                torch.set_num_threads(1)
        else:
            comfy.model_management.set_torch_device(device)
        with passed_on():
            yield

    return context


def _sigmas(model: Any, x: Tensor, sigma: float) -> Tensor:
    """``sigma`` for each item, [B], in the dtype of the noise that the host's ``model`` began with. The dtype of x may
    have changed since."""
    return x.new_full((x.shape[0],), sigma, dtype=model.noise.dtype)


def _moved(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it on ``device``."""
    return mapped(value, lambda tensor: tensor.to(device))
