"""CHORDS as a host SAMPLER: it stands wherever the host's own samplers stand, under any guider."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...chords_core import InvalidInput, Plan, check_sigmas, one_core, plan, sample
from .devices import DeviceRequest, lane_devices
from .guard import reason_for_one_core
from .lanes import open_pool
from .replicas import copies_on
from .report import ChordsRun, Progress, announce, describe, record

# By name, not by function: other packs reload the module that holds the functions.
SOLVERS = {"euler": "euler", "ddim": "euler", "dpmpp_2m": "dpmpp_2m", "res_multistep": "res_multistep"}


def sampler_names() -> list[str]:
    """The host's samplers, with those other packs have added."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    """The host's schedulers, likewise."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def chords_sampler(
    sampler_name: str, cores: int, accept: str, request: DeviceRequest | None, run: ChordsRun | None = None
) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that runs ``sampler_name`` on several cores where that is possible and gains anything.

    Otherwise it does what the host's sampler of that name does, and says so. ``run`` takes the record.
    """
    stock = comfy.samplers.sampler_object(sampler_name)
    function = _SamplerFunction(sampler_name, cores, accept, request or DeviceRequest(), run)
    return comfy.samplers.KSAMPLER(function, stock.extra_options, stock.inpaint_options)


@dataclass(frozen=True)
class _SamplerFunction:
    """What the host calls with the model, the noise and the sigmas, as it calls those of k-diffusion."""

    sampler_name: str
    cores: int
    accept: str
    request: DeviceRequest
    run: ChordsRun | None

    @torch.no_grad()
    def __call__(
        self,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Any = None,
        disable: bool | None = None,
        **options: Any,
    ) -> Tensor:
        run = self.run or ChordsRun()
        extra_args = extra_args or {}
        began = time.perf_counter()
        reason = self._reason_for_stock(model, sigmas, extra_args)
        if reason is None:
            samples = self._sample(run, model, x, sigmas, extra_args, callback, disable)
        else:
            run.method, run.solver, run.depth = "stock", self.sampler_name, max(0, len(sigmas) - 1)
            announce(run, f"one core, exactly as in KSampler: {reason}")
            stock = comfy.samplers.sampler_object(self.sampler_name).sampler_function
            arguments = {"extra_args": extra_args, "callback": callback, "disable": disable}
            samples = stock(model, x, sigmas, **arguments, **options)
        run.seconds = time.perf_counter() - began
        return samples

    def _reason_for_stock(self, model: Any, sigmas: Tensor, extra_args: dict[str, Any]) -> str | None:
        if self.sampler_name not in SOLVERS:
            return f"{self.sampler_name} is not one of the samplers that run in parallel ({', '.join(SOLVERS)})"
        if type(model) is not comfy.samplers.KSamplerX0Inpaint or "model_options" not in extra_args:
            return "another node wraps the sampler and expects its steps in order"
        try:
            check_sigmas(sigmas)
        except InvalidInput as error:
            return f"the schedule is none that can be run in parallel ({error})"
        return None

    def _sample(
        self,
        run: ChordsRun,
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        disable: bool | None,
    ) -> Tensor:
        guider = model.inner_model
        chosen, devices = self._choose(guider, extra_args, len(sigmas) - 1)
        run.solver = SOLVERS[self.sampler_name]
        announce(run, describe(chosen, devices))
        copies, problem = copies_on(guider, devices, x)
        if problem is not None:
            devices = [guider.model_patcher.load_device]
            if self.cores == 0:
                chosen = one_core(chosen.steps, problem)
            announce(run, describe(chosen, devices))
        run.method = "chords" if chosen.cores > 1 else "sequential"
        run.plan, run.devices = chosen, tuple(map(str, devices))
        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=chosen.steps, disable=disable))
            result = sample(
                None,
                x,
                sigmas,
                starts=chosen.starts,
                solver=run.solver,
                accept=chosen.accept,
                pool=open_pool(stack, model, extra_args, devices, copies, in_this_thread=chosen.cores == 1),
                on_event=Progress(run, sigmas, callback, bar),
                cancel=_check_interrupt,
            )
        record(run, result, guider.inner_model, sigmas)
        return result.x

    def _choose(self, guider: Any, extra_args: dict[str, Any], steps: int) -> tuple[Plan, list[torch.device]]:
        """The plan, and the devices it uses: the model's own for one core, at most one a core else."""
        primary = guider.model_patcher.load_device
        devices = lane_devices(self.request, primary)
        lanes = len(devices)
        if primary.type == "cpu":
            lanes = min(lanes, os.cpu_count() or 1)  # further lanes would only take turns
        chosen = plan(steps, lanes, self.cores, self.accept)
        if chosen.cores > 1:
            reason = reason_for_one_core(guider, extra_args["model_options"])
            if reason is not None:
                chosen = one_core(steps, reason)
        return chosen, devices[: chosen.cores] if chosen.cores > 1 else [primary]


def _check_interrupt() -> bool:
    comfy.model_management.throw_exception_if_processing_interrupted()
    return False
