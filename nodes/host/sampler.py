"""CHORDS as a host SAMPLER: it stands wherever the host's own samplers stand, under any guider."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from tqdm.auto import tqdm

from ...chords_core import (
    InlinePool,
    InvalidInput,
    Plan,
    Pool,
    Result,
    ThreadPool,
    check_sigmas,
    one_core,
    plan,
    sample,
)
from .devices import DeviceRequest, lane_devices
from .guard import reason_for_one_core
from .lanes import inline_denoiser, lane_context, lane_denoiser
from .replicas import load_replicas
from .report import ChordsRun, Progress, RunHit, announce

SAMPLER_NAMES: list[str] = comfy.samplers.SAMPLER_NAMES
SCHEDULER_NAMES: list[str] = comfy.samplers.SCHEDULER_NAMES

_SOLVERS: dict[Any, str] = {
    comfy.k_diffusion.sampling.sample_euler: "euler",
    comfy.k_diffusion.sampling.sample_dpmpp_2m: "dpmpp_2m",
    comfy.k_diffusion.sampling.sample_res_multistep: "res_multistep",
}


def chords_sampler(
    sampler_name: str, cores: int, accept: str, request: DeviceRequest | None, run: ChordsRun
) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that runs ``sampler_name`` on several cores where that is possible and gains anything.

    Otherwise it does what the host's sampler of that name does, and says so. ``run`` takes the record.
    """
    stock = comfy.samplers.sampler_object(sampler_name)
    solver = _SOLVERS.get(stock.sampler_function)
    if solver is None or stock.extra_options:
        function = _stock_function(stock, sampler_name, run)
    else:
        function = _chords_function(stock, solver, cores, accept, request or DeviceRequest(), run)
    return comfy.samplers.KSAMPLER(function, stock.extra_options, stock.inpaint_options)


def _stock_function(stock: Any, sampler_name: str, run: ChordsRun) -> Callable[..., Tensor]:
    def sample_stock(model: Any, x: Tensor, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        run.method, run.solver = "stock", sampler_name
        run.depth = len(sigmas) - 1
        announce(
            run,
            f"one core, because {sampler_name} is not a deterministic solver that can run in parallel "
            f"(those are {', '.join(_SOLVERS.values())}): it runs exactly as in KSampler",
        )
        began = time.perf_counter()
        samples = stock.sampler_function(model, x, sigmas, *args, **kwargs)
        run.seconds = time.perf_counter() - began
        return samples

    return sample_stock


def _chords_function(
    stock: Any, solver: str, cores: int, accept: str, request: DeviceRequest, run: ChordsRun
) -> Callable[..., Tensor]:
    def sample_chords(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Any = None,
        disable: bool | None = None,
    ) -> Tensor:
        extra_args = extra_args or {}
        try:
            check_sigmas(sigmas)
        except InvalidInput as error:
            # The stock samplers take such schedules, so a swapped-in node must as well.
            announce(run, f"one core, as in KSampler, because of the schedule: {error}")
            return stock.sampler_function(model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable)
        steps = len(sigmas) - 1
        guider = model.inner_model
        devices = lane_devices(request, guider.model_patcher.load_device)
        chosen, devices = _choose(guider, extra_args, steps, devices, cores, accept)
        replicas, devices, problem = _replicas(guider.model_patcher, devices, x)
        if problem is not None and cores == 0:
            chosen = one_core(steps, problem)
        run.method = "chords" if chosen.cores > 1 else "sequential"
        run.solver, run.plan, run.devices = solver, chosen, tuple(map(str, devices))
        announce(run, _line(chosen, devices))
        began = time.perf_counter()
        with ExitStack() as stack:
            pool = _pool(stack, model, extra_args, devices, replicas)
            bar = stack.enter_context(tqdm(total=steps, disable=disable))
            result = sample(
                None,
                x,
                sigmas,
                starts=chosen.starts,
                solver=solver,
                accept=chosen.accept,
                pool=pool,
                on_event=Progress(run, steps, callback, bar, run.devices),
                cancel=_check_interrupt,
            )
        run.seconds = time.perf_counter() - began
        _record(run, result, guider, sigmas)
        return result.x

    return sample_chords


def _choose(
    guider: Any, extra_args: dict[str, Any], steps: int, devices: list[torch.device], cores: int, accept: str
) -> tuple[Plan, list[torch.device]]:
    """The plan, and the devices it uses: the model's own for one core, at most one a core else."""
    lanes = len(devices)
    if devices[0].type == "cpu":
        lanes = min(lanes, os.cpu_count() or 1)  # further lanes would only take turns
    chosen = plan(steps, lanes, cores, accept)
    if chosen.cores > 1:
        reason = reason_for_one_core(guider, extra_args["model_options"])
        if reason is not None:
            chosen = one_core(steps, reason)
    if chosen.cores == 1:
        return chosen, [guider.model_patcher.load_device]
    return chosen, devices[: chosen.cores]


def _replicas(
    primary: ModelPatcher, devices: list[torch.device], x: Tensor
) -> tuple[list[ModelPatcher | None], list[torch.device], str | None]:
    """A model a device (None: the primary itself); or the primary alone, and why it could not be copied.

    A number of cores that was asked for stays either way, so that the picture does: with one lane the cores
    take turns.
    """
    others = [device for device in devices if device != primary.load_device]
    if not others:
        return [None], [primary.load_device], None
    try:
        copies = dict(zip(others, load_replicas(primary, others, x.shape), strict=True))
    except Exception as error:
        problem = f"the model could not be copied to other devices ({error})"
        logging.getLogger("chords").warning("CHORDS: %s", problem)
        comfy.model_management.load_models_gpu([primary])
        return [None], [primary.load_device], problem
    return [copies.get(device) for device in devices], devices, None


def _pool(
    stack: ExitStack,
    model: Any,
    extra_args: dict[str, Any],
    devices: Sequence[torch.device],
    replicas: Sequence[ModelPatcher | None],
) -> Pool:
    if len(devices) == 1 and replicas[0] is None:
        return InlinePool(inline_denoiser(model, extra_args))
    for replica in replicas:
        if replica is not None:
            replica.pre_run()
            stack.callback(replica.cleanup)
    if devices[0].type == "cpu":
        # A lane's choice of one thread becomes the process's default, so put back what it was.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
    denoisers = [
        lane_denoiser(model, extra_args, device, replica) for device, replica in zip(devices, replicas, strict=True)
    ]
    return stack.enter_context(ThreadPool(denoisers, lane_context(devices)))


def _check_interrupt() -> bool:
    comfy.model_management.throw_exception_if_processing_interrupted()
    return False


def _line(chosen: Plan, devices: Sequence[torch.device]) -> str:
    if chosen.cores == 1:
        return f"one core: {chosen.reason}"
    names = ", ".join(map(str, devices))
    if len(devices) < chosen.cores:
        pace = (
            f"on {len(devices)} device(s) ({names}) the cores take turns, which is slower than one core; "
            "set cores to 0 for the fastest choice"
        )
    else:
        pace = f"{chosen.speedup:.1f}x fewer calls in a row on {names}"
    which = "exact result" if chosen.accept == chosen.cores else f"hit {chosen.accept} of {chosen.cores}"
    return (
        f"{chosen.cores} cores from steps {', '.join(map(str, chosen.starts))}: {which} after {chosen.depth} "
        f"model calls instead of {chosen.steps}; {pace} ({chosen.reason})"
    )


def _record(run: ChordsRun, result: Result, guider: Any, sigmas: Tensor) -> None:
    model = guider.inner_model
    run.depth, run.evaluations = result.depth, result.evaluations
    run.hits = tuple(
        RunHit(
            hit.core,
            hit.depth,
            model.process_latent_out(
                model.model_sampling.inverse_noise_scaling(sigmas[-1], hit.x).to(torch.float32)
            ).cpu(),
        )
        for hit in result.hits
    )
