"""CHORDS as a host SAMPLER: it stands wherever the host's own samplers stand, under any guider."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ....chords_core import (
    SOLVERS,
    Agreement,
    ChordsPlan,
    Event,
    InvalidInput,
    LaneTimeouts,
    Plan,
    Pool,
    Recorder,
    Result,
    SequentialPlan,
    WindowPlan,
    WorkersUnavailable,
    check_sigmas,
    plan,
    sample,
    solve_seconds,
)
from ....chords_core.execution.ray.errors import NoWorker
from ..compatibility.reasons import reason_for_every_step, reason_for_one_core
from ..compatibility.verified_lanes import open_tried_pool, try_workers
from ..devices.cfg_split import SIDES, is_guided
from ..devices.lanes import Group, hung_devices, names_of, sharing_pays
from ..devices.replicas import copies_on, short_of_memory
from ..devices.request import DeviceRequest, lane_devices
from ..devices.timings import Measured, key_of, recall
from ..interrupts import check_interrupt, passed_on
from ..ray.cluster import cluster_lanes, no_worker, open_cluster_pool
from ..streaming.previews import Previews, Shapes, previewing, shapes_of_parts
from ..streaming.stream import RunStream
from .options import CHORDS, EVERY_STEP, SamplerOptions, core_accept, core_calls, core_method
from .precision import as_in_the_host
from .run_record import ChordsRun, Progress, RunHit, announce, describe, plan_fields, streaming

# By name, not by function: other packs reload the module that holds the functions.
PARALLEL = {
    "euler": "euler",
    "ddim": "euler",
    "dpmpp_2m": "dpmpp_2m",
    "res_multistep": "res_multistep",
    "uni_pc": "uni_pc",
    "uni_pc_bh2": "uni_pc_bh2",
}
# One function a step, so that SDO can optimise through it.
STEP_SAMPLERS = {name: solver for name, solver in PARALLEL.items() if SOLVERS[solver].step is not None}

LANE_TIMEOUTS = LaneTimeouts()  # with a lane that does not answer

_LATENTS_A_NODE = 6  # that a window keeps, about
_MOST_ON_THE_DEVICE = 2**30  # bytes: the trajectory of a larger window is kept in the machine's memory


def sampler_names() -> list[str]:
    """The host's samplers, with those other packs have added."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    """The host's schedulers, likewise."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def chords_sampler(
    sampler_name: str,
    setting: SamplerOptions,
    request: DeviceRequest | None,
    preview_vae: Any = None,
    run: ChordsRun | None = None,
    step_previews: bool = False,
    shapes: Shapes | None = None,
) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that runs ``sampler_name`` on several cores where that is possible and gains anything.

    Otherwise it does what the host's sampler of that name does, and says so. ``preview_vae`` decodes the hits
    while it runs; ``run`` takes the record; ``step_previews``: show the steps, because the callback does not;
    ``shapes``: of the parts of a latent of several, where the caller knows them.
    """
    stock = comfy.samplers.sampler_object(sampler_name)
    request = request or DeviceRequest()
    function = _SamplerFunction(sampler_name, setting, request, preview_vae, run, step_previews, shapes)
    return comfy.samplers.KSAMPLER(function, stock.extra_options, stock.inpaint_options)


@dataclass(frozen=True, eq=False)
class _Call:
    """What the host hands a sampler function, and the record to keep. ``model``: its KSamplerX0Inpaint, or what
    another node made of it."""

    run: ChordsRun
    model: Any
    x: Tensor
    sigmas: Tensor
    extra_args: dict[str, Any]
    callback: Any
    disable: bool | None
    options: dict[str, Any]

    @property
    def steps(self) -> int:
        return max(0, len(self.sigmas) - 1)

    @property
    def plain(self) -> bool:
        """Whether it is as the host's own nodes make it."""
        return type(self.model) is comfy.samplers.KSamplerX0Inpaint and "model_options" in self.extra_args

    @property
    def base_model(self) -> Any:
        """The host's BaseModel, of a plain call."""
        return self.model.inner_model.inner_model

    def to_latent(self, x: Tensor) -> Tensor:
        """A state at the last sigma as a LATENT's samples: what the host does with a sampler's result."""
        model, sigma = self.base_model, self.sigmas[-1]
        x = model.model_sampling.inverse_noise_scaling(sigma, x.to(sigma.device))
        return model.process_latent_out(x.to(torch.float32)).cpu()


@dataclass(frozen=True, eq=False)
class _SamplerFunction:
    """What the host calls with the model, the noise and the sigmas, as it calls those of k-diffusion."""

    sampler_name: str
    setting: SamplerOptions
    request: DeviceRequest
    preview_vae: Any
    run: ChordsRun | None  # None: a record for each call, since a SAMPLER may be used several times
    step_previews: bool
    shapes: Shapes | None

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
        call = _Call(self.run or ChordsRun(), model, x, sigmas, extra_args or {}, callback, disable, options)
        reason = self._reason_for_stock(call)
        with streaming(call.run) as stream:
            if not call.plain:
                return self._sample_stock(call, stream, reason)
            shapes = self.shapes or shapes_of_parts(call.model.inner_model.conds)
            with previewing(stream, call.base_model, x.device, call.to_latent, self.preview_vae, shapes) as previews:
                if self.step_previews:
                    call = replace(call, callback=_shown(callback, previews))
                if reason is None:
                    return self._sample(call, stream, previews)
                samples = self._sample_stock(call, stream, reason)
                self._record_stock(call, stream, previews, samples)
                return samples

    def _reason_for_stock(self, call: _Call) -> str | None:
        if self.sampler_name not in PARALLEL:
            return f"{self.sampler_name} is not one of the samplers that run in parallel ({', '.join(PARALLEL)})"
        if not call.plain:
            return "another node wraps the sampler and expects its steps in order"
        try:
            check_sigmas(call.sigmas)
        except InvalidInput as error:
            return f"the schedule is none that can be run in parallel ({error})"
        last = SOLVERS[PARALLEL[self.sampler_name]].last_sigma
        if last and (call.steps < 2 or call.sigmas[-2] <= last):
            return f"{self.sampler_name} takes two steps at least, and its last from above sigma {last}"
        return None

    def _sample_stock(self, call: _Call, stream: RunStream, reason: str | None) -> Tensor:
        run = call.run
        run.method, run.solver, run.plan = "stock", self.sampler_name, SequentialPlan(call.steps, (str(reason),))
        run.devices = (str(call.x.device),)
        announce(run, f"one core, exactly as in KSampler: {reason}")
        stream.send("plan", **plan_fields(run))
        stock = comfy.samplers.sampler_object(self.sampler_name).sampler_function
        arguments = {"extra_args": call.extra_args, "callback": call.callback, "disable": call.disable}
        samples = stock(call.model, call.x, call.sigmas, **arguments, **call.options)
        run.depth = call.steps
        return samples

    def _record_stock(self, call: _Call, stream: RunStream, previews: Previews, samples: Tensor) -> None:
        run, depth = call.run, call.run.depth
        run.hits = (RunHit(1, depth, call.to_latent(samples)),)
        stream.send("hit", index=1, core=1, depth=depth, seconds=stream.seconds, change=None)
        if stream.viewed and run.shown:
            previews.offer_hit(1, samples)
        stream.send("accepted", index=1, core=1, depth=depth, by="plan")

    def _sample(self, call: _Call, stream: RunStream, previews: Previews) -> Tensor:
        run = call.run
        run.solver = PARALLEL[self.sampler_name]
        last = SOLVERS[run.solver].last_sigma
        if last and call.sigmas[-1] == 0:
            # As the stock sampler does, for the host scales the result by it.
            call.sigmas[-1] = last
        with ExitStack() as stack:
            on_cluster = self._cluster_pool(call, stack)
            if on_cluster is None:
                return self._drive(call, stream, previews, self._local_pool(call, stack), stack)
            try:
                return self._drive(call, stream, previews, on_cluster, stack)
            except WorkersUnavailable as error:  # the last one is gone: the same starts give the same picture here
                run.notes.append(f"all Ray workers were lost, so it was done here ({error})")
                return self._drive(call, stream, previews, self._local_pool(call, stack, run.plan), stack)

    def _drive(self, call: _Call, stream: RunStream, previews: Previews, pool: Pool, stack: ExitStack) -> Tensor:
        """The run of the plan in the record on ``pool``."""
        run, recorder = call.run, Recorder()
        chosen = run.plan
        run.method = chosen.method
        stream.send("plan", **plan_fields(run))
        bar = stack.enter_context(tqdm(total=chosen.steps, disable=call.disable))
        # By size alone: which of the two it is makes a difference to rounding.
        kept = _LATENTS_A_NODE * chosen.called_steps * call.x.nbytes if isinstance(chosen, WindowPlan) else 0
        progress = Progress(run, recorder, stream, previews, call.sigmas, call.callback, bar)

        def told(event: Event) -> None:
            with passed_on():  # the host's progress bar looks for a cancel, too
                progress(event)

        result = sample(
            None,
            call.x.cpu() if kept > _MOST_ON_THE_DEVICE else call.x,
            call.sigmas,
            solver=as_in_the_host(run.solver, call.x, call.sigmas),
            pool=pool,
            prediction=prediction_of(call.base_model),
            on_event=told,
            cancel=check_interrupt,
            timeouts=LANE_TIMEOUTS,
            **chosen.sample_options(stream.accept.is_set),
        )
        self._record(call, result, recorder)
        return result.x.to(call.x.device)

    def _local_pool(self, call: _Call, stack: ExitStack, given: Plan | None = None) -> Pool:
        """Lanes on this machine's devices; the plan for them (or that ``given``) goes into the record."""
        run, guider = call.run, call.model.inner_model
        if given is None:
            chosen, groups = self._choose(call)
        else:
            devices = lane_devices(self.request, guider.model_patcher.load_device)
            chosen, groups = given, [(device,) for device in devices[: given.cores]]
        announce(run, describe(chosen, names_of(groups)))
        copies, problem = copies_on(guider, [device for group in groups for device in group], call.x)
        if problem is not None:
            groups = [(guider.model_patcher.load_device,)]
            if given is None and (self.setting.cores == 0 or chosen.cores == 1):
                chosen = self._alone(call, problem)
            announce(run, describe(chosen, names_of(groups)))
        short = short_of_memory(guider.model_patcher, copies) if copies else []  # alone, KSampler is as slow there
        if short and chosen.cores == 1:  # the device that has room would wait for the other in every step
            groups, copies, short = [(guider.model_patcher.load_device,)], {}, []
            chosen = self._alone(call, "the second device has too little memory for the model")
            announce(run, describe(chosen, names_of(groups)))
        run.plan, run.devices = chosen, names_of(groups)
        if short:
            run.notes.append(f"slow for want of memory, with parts of the model outside: {', '.join(map(str, short))}")
            announce(run, run.message)
        pool, reason = open_tried_pool(
            stack,
            call.model,
            call.extra_args,
            groups,
            copies,
            in_this_thread=chosen.cores == 1,
            only_if_faster=self.request.cfg_split == "auto",
            x=call.x,
            sigmas=call.sigmas,
            cancelled=check_interrupt,
            timeouts=LANE_TIMEOUTS,
        )
        if reason is not None:
            run.plan, run.devices = (
                SequentialPlan(call.steps, (reason,)),
                names_of([(guider.model_patcher.load_device,)]),
            )
            announce(run, describe(run.plan, run.devices))
        return pool

    def _cluster_pool(self, call: _Call, stack: ExitStack) -> Pool | None:
        """Lanes on the Ray cluster that is asked for, with the plan for them in the record; None if there are none to
        be used, for one core, or for what cannot be sent there."""
        if not self.request.ray_address or self.setting.cores == 1:
            return None
        run = call.run
        announce(run, f"looking for Ray workers ({self.request.ray_address})")
        measured = self._measured(call, self.request)
        costs = measured.costs() if measured is not None else ()
        try:
            lanes = cluster_lanes(self.request)
        except NoWorker as problem:
            run.notes.append(no_worker(problem))
            return None
        chosen = self._planned(call, lanes, costs=costs)
        if chosen.cores == 1:
            return None
        announce(run, f"getting Ray workers ready ({self.request.ray_address})")
        pool, notes = open_cluster_pool(stack, self.request, call.model, call.extra_args, call.x, chosen.cores)
        run.notes += notes
        if pool is None:
            return None
        if self.setting.cores == 0 and pool.lanes < chosen.cores:
            chosen = self._planned(call, pool.lanes, costs=costs)
            if chosen.cores == 1:
                run.notes.append(f"of Ray's workers only {pool.lanes} could be had")
                return None
        run.plan, run.devices = chosen, pool.names
        announce(run, describe(chosen, pool.names))
        pool, reason = try_workers(
            pool, call.model, call.extra_args, call.x, call.sigmas, check_interrupt, LANE_TIMEOUTS
        )
        return pool if reason is None else None  # it is known now, so that one core does it here

    def _record(self, call: _Call, result: Result, recorder: Recorder) -> None:
        run = call.run
        run.depth, run.evaluations, run.timeline = result.depth, result.evaluations, recorder.timeline()
        run.hits = tuple(RunHit(hit.core, hit.depth, call.to_latent(hit.x)) for hit in result.hits)
        if run.plan.method == "secant" or (
            isinstance(run.plan, ChordsPlan) and isinstance(run.plan.accept, Agreement)
        ):  # what it takes is decided by the picture
            announce(run, describe(run.plan, run.devices, result.depth))
        if run.lost_lanes:
            announce(run, f"{run.message}; it took longer, because of lost devices: {'; '.join(run.lost_lanes)}")

    def _choose(self, call: _Call) -> tuple[Plan, list[Group]]:
        """The plan, and the devices of each lane it uses: the model's own for one core, at most one lane a core."""
        primary = call.model.inner_model.model_patcher.load_device
        hung = hung_devices() - {primary}  # there is no other place for what is not done in lanes
        devices = [device for device in lane_devices(self.request, primary) if device not in hung] or [primary]
        measured = self._measured(call, replace(self.request, ray_address=""))
        if measured is not None:
            devices = measured.fastest_first(devices)
        groups = self._groups(call, devices, measured is None or measured.sharing_gains)
        lanes = len(groups)
        if primary.type == "cpu":
            lanes = min(lanes, os.cpu_count() or 1)  # further lanes would only take turns
        costs = measured.costs() if measured is not None and len(groups[0]) == 1 else ()
        chosen = self._planned(call, lanes, costs=costs)
        if chosen.cores > 1:
            return chosen, groups[: chosen.cores]
        mine = next((group for group in groups if primary in group and len(group) > 1), None)
        if mine is None:
            return chosen, [(primary,)]
        mine = (primary, *(device for device in mine if device != primary))
        names = " and ".join(map(str, mine))
        same = "" if chosen.calls else ", the same picture"
        return replace(chosen, reasons=(f"{names} share each guided call{same} in as little as half the time",)), [mine]

    def _groups(self, call: _Call, devices: list[torch.device], sharing_gains: bool) -> list[Group]:
        """The devices by lane: pairs, where two sides of guidance are to be evaluated at once."""
        singles: list[Group] = [(device,) for device in devices]
        split = self.request.cfg_split
        auto = split == "auto"
        if split == "off" or (auto and (devices[0].type == "cpu" or self.setting.accept == "exact")):
            return singles
        if auto and not sharing_gains:
            return singles
        if len(devices) < SIDES * max(1, self.setting.cores):  # a core of its own does more than half of one
            return singles
        guider, options = call.model.inner_model, call.extra_args["model_options"]
        if not is_guided(guider, options) or reason_for_one_core(guider, options) is not None:
            return singles
        pairs: list[Group] = [tuple(devices[i : i + SIDES]) for i in range(0, len(devices) - SIDES + 1, SIDES)]
        if auto:  # as many lanes as before, so that the picture stays the same
            pairs = [pair if sharing_pays(guider.model_patcher, call.x.shape, pair) else pair[:1] for pair in pairs]
        return pairs

    def _alone(self, call: _Call, reason: str) -> Plan:
        """The plan for one core, which has as many calls as if the other devices were not there."""
        chosen = self._planned(call, 1, cores=1)
        return chosen.because(reason) if chosen.calls else replace(chosen, reasons=(reason,))

    def _measured(self, call: _Call, request: DeviceRequest) -> Measured | None:
        """What CHORDS Benchmark has measured for this model and shape on the devices of the request."""
        guider = call.model.inner_model
        return recall(key_of(guider.model_patcher, call.x.shape, request, getattr(guider, "cfg", 1.0)))

    def _planned(self, call: _Call, lanes: int, cores: int | None = None, costs: Sequence[float] = ()) -> Plan:
        """The plan for so many lanes, one core where this model must see its steps in order."""
        guider, options = call.model.inner_model, call.extra_args["model_options"]
        calls = self.setting.calls
        if calls != EVERY_STEP and (jump := reason_for_every_step(guider, options)) is not None:
            calls = EVERY_STEP
            if (note := f"every step is taken: {jump}") not in call.run.notes:
                call.run.notes.append(note)
        setting = self.setting
        if cores is None:
            cores = setting.cores
        chosen = plan(
            call.steps,
            lanes,
            cores,
            accept=core_accept(setting.accept),
            calls=core_calls(calls, call.steps),
            method=core_method(setting.method),
            costs=costs,
            solver=PARALLEL[self.sampler_name],
            solving=solve_seconds(call.steps, call.x.numel()),
        )
        if calls != EVERY_STEP and setting.method == CHORDS and chosen.cores > 1:
            if (note := "CHORDS takes every step, whatever calls says") not in call.run.notes:
                call.run.notes.append(note)
        if chosen.cores > 1 or chosen.calls is not None:
            reason = reason_for_one_core(guider, options)
            if reason is not None:
                chosen = SequentialPlan(call.steps, (reason,))
        return chosen


def prediction_of(base_model: Any) -> str:
    """What the states of the host's model are: those of a flow, (1 - sigma) x0 + sigma eps, or x0 + sigma eps."""
    return "flow" if isinstance(base_model.model_sampling, comfy.model_sampling.CONST) else "eps"


def _shown(callback: Any, previews: Previews) -> Any:
    """The host's callback, and the step's estimate as a preview."""

    def shown(state: dict[str, Any]) -> None:
        previews.offer_step(state["denoised"])
        if callback is not None:
            callback(state)

    return shown
