"""CHORDS as a SAMPLER of the host: it can stand wherever the host's own samplers stand, under any guider.

A run gathers facts, places the cores, opens the lanes, drives the method and makes the record.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import comfy.samplers
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ....chords_core import (
    SOLVERS,
    AdaptivePlan,
    BatchPool,
    Event,
    InvalidInput,
    LaneTimeouts,
    OnDemand,
    Plan,
    Recorder,
    Result,
    RowsFailed,
    SampleOptions,
    SequentialPlan,
    WindowPlan,
    WorkersUnavailable,
    check_sigmas,
    sample,
    solve_seconds,
)
from ....chords_core.execution.pools import clear_frames
from ..compatibility.compiled import reason_for_one_device
from ..compatibility.lane_parts import reason_against_sides
from ..compatibility.reasons import reason_against_tokens, reason_for_every_step, reason_for_one_core, step_cache
from ..devices.available import lane_devices
from ..devices.cfg_split import is_guided
from ..devices.groups import SHARE, WHOLE, Split, names_of
from ..devices.lanes import hung_devices
from ..devices.request import DeviceRequest
from ..devices.sharing import Sharing, measured_splits
from ..devices.timings import Timings, TimingsKey
from ..devices.timings_file import keep_rows, keep_splits, recall_timings, timings_key
from ..interrupts import check_interrupt, passed_on
from ..known_sentences import phrase_of
from ..monitoring.fallbacks import Fallback, Fallbacks
from ..monitoring.reporter import REPORTER
from ..node_text import failure_shown
from ..phrases import Phrase, in_turn, message_of
from ..streaming.previews import Previews, Shapes, previewing, shapes_of_parts, shapes_on_model
from ..streaming.stream import RUNS, RunStream
from .announcer import Announcer
from .call import SamplerCall
from .event_relay import EventRelay, failure_sent, send_plan, send_success
from .messages import Outcome, describe, describe_sharing, ends_by_measurement, reasons_of
from .names import PARALLEL
from .opened_lanes import KeptTimings, LaneOpener, OpenedLanes, OpenedStock, RunContext
from .options import SamplerOptions
from .placement import Facts, Placement, place, place_stock
from .precision import as_in_the_host
from .run_record import ChordsRun, RunHit, SharedCalls
from .status_card import card_of

LANE_TIMEOUTS = LaneTimeouts()

_LATENTS_A_NODE = 6  # that a window keeps, about
_MAX_BYTES_ON_DEVICE = 2**30  # the trajectory of a larger window is kept in the machine's memory

_WRAPPED = Phrase("another node wraps the sampler and expects its steps in order")

OnRecord = Callable[[ChordsRun], None]


def chords_sampler(
    sampler_name: str,
    options: SamplerOptions,
    request: DeviceRequest | None,
    preview_vae: Any = None,
    *,
    on_record: OnRecord | None = None,
    shown: bool = True,
    step_previews: bool = False,
    shapes: Shapes | None = None,
) -> comfy.samplers.KSAMPLER:
    """A SAMPLER that runs ``sampler_name`` on several cores if that is possible and gains anything. Otherwise it does
    exactly what the host's sampler of that name does, and says so.

    Args:
        sampler_name: one of `names.sampler_names`.
        options: what to run.
        request: the devices to use; None: all.
        preview_vae: decodes the hits during the run; None: the host's quick preview does.
        on_record: gets the record of each run that ends well.
        shown: show messages and pictures on the running node.
        step_previews: show pictures of steps, because the host's callback does not.
        shapes: of the parts of a latent with several parts, if the caller knows them.
    """
    stock = comfy.samplers.sampler_object(sampler_name)
    function = _SamplerFunction(
        sampler_name, options, request or DeviceRequest(), preview_vae, on_record, shown, step_previews, shapes
    )
    return comfy.samplers.KSAMPLER(function, stock.extra_options, stock.inpaint_options)


@dataclass(frozen=True, eq=False)
class _SamplerFunction:
    """What the host calls with the model, the noise and the sigmas, as it calls the functions of k-diffusion."""

    sampler_name: str
    options: SamplerOptions
    request: DeviceRequest
    preview_vae: Any
    on_record: OnRecord | None
    shown: bool
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
        **stock_options: Any,
    ) -> Tensor:
        call = SamplerCall(model, x, sigmas, extra_args or {}, callback, disable, stock_options)
        stream = RUNS.begin()
        with REPORTER.reported(stream) as report:
            with failure_sent(stream), failure_shown(self.shown):
                samples, run = self._sampled(call, stream)
            run = replace(run, seconds=stream.seconds)
            send_success(stream, run)
            report(run)
        if self.on_record is not None:
            self.on_record(run)
        return samples

    def _sampled(self, call: SamplerCall, stream: RunStream) -> tuple[Tensor, ChordsRun]:
        announcer = Announcer(self.shown)
        reason = self._reason_for_stock(call, announcer.fallbacks)
        if not call.plain:
            return self._sample_stock(call, stream, announcer, reason or _WRAPPED)
        shapes = self.shapes or shapes_of_parts(call.guider.conds) or shapes_on_model(call.base_model, call.x)
        with previewing(stream, call.base_model, call.x.device, call.to_latent, self.preview_vae, shapes) as previews:
            if self.step_previews:
                call = replace(call, callback=_with_pictures(call.callback, previews))
            if reason is None:
                return self._sample_parallel(call, stream, previews, announcer)
            samples, run = self._sample_stock(call, stream, announcer, reason)
            stream.send("hit", index=1, core=1, depth=run.depth, seconds=stream.seconds, change=None)
            if stream.viewed and self.shown:
                previews.offer_hit(1, samples)
            stream.send("accepted", index=1, core=1, depth=run.depth, by="plan")
            return samples, replace(run, hits=(RunHit(1, run.depth, call.to_latent(samples)),))

    def _reason_for_stock(self, call: SamplerCall, fallbacks: Fallbacks) -> Phrase | None:
        """Why only the host's own sampler can do this; None if ours can."""
        name, known = self.sampler_name, fallbacks.known
        if name not in PARALLEL:
            samplers = ", ".join(PARALLEL)
            reason = Phrase(
                "{name} is not one of the samplers that run in parallel ({samplers})", name=name, samplers=samplers
            )
            return known(Fallback.SAMPLER, reason)
        if not call.plain:
            return known(Fallback.WRAPPED, _WRAPPED)
        try:
            check_sigmas(call.sigmas)
        except InvalidInput as error:
            none = Phrase("the schedule is none that can be run in parallel ({error})", error=message_of(error))
            return known(Fallback.SCHEDULE, none)
        last = SOLVERS[PARALLEL[name]].last_sigma
        if last and (call.steps < 2 or call.sigmas[-2] <= last):
            few = Phrase("{name} needs at least two steps, the last from above sigma {sigma}", name=name, sigma=last)
            return known(Fallback.SCHEDULE, few)
        return None

    def _sample_stock(
        self, call: SamplerCall, stream: RunStream, announcer: Announcer, reason: Phrase
    ) -> tuple[Tensor, ChordsRun]:
        """The result of the host's own sampler. Several devices may share its calls."""
        with ExitStack() as stack:
            opened = self._opened_stock(call, stack, announcer, reason)
            chosen = opened.placement.plan
            names = names_of(opened.placement.groups)
            message = Phrase("one core, exactly as in KSampler: {reasons}", reasons=reasons_of(chosen))
            announcer.say(message, card_of(chosen, names))
            run = ChordsRun(announcer.message, "stock", self.sampler_name, chosen, names, call.steps, estimate=0.0)
            send_plan(stream, run.plan, run.method, run.solver, run.devices, run.message)
            stock = comfy.samplers.sampler_object(self.sampler_name).sampler_function
            arguments = {"extra_args": call.extra_args, "callback": call.callback, "disable": call.disable}
            samples = stock(opened.model, call.x, call.sigmas, **arguments, **call.stock_options)
            self._say_sharing(announcer, opened.sharings)
            shared, lost = _shared_calls(opened.sharings), _lost_members(opened.sharings)
            run = replace(run, message=announcer.message, card=announcer.card, shared=shared, lost_lanes=lost)
            return samples, replace(run, fallbacks=_fallbacks(announcer, chosen, opened.sharings))

    def _opened_stock(self, call: SamplerCall, stack: ExitStack, announcer: Announcer, reason: Phrase) -> OpenedStock:
        if not call.plain:
            placement = Placement(SequentialPlan(call.steps, (reason,)), ((call.x.device,),))
            return OpenedStock(placement, call.model)
        request = replace(self.request, ray_address="")
        facts, timings = self._facts(call, announcer.fallbacks), self._timings(call, request)
        return self._opener(call, stack, announcer, facts, timings).stock(place_stock(request, facts, reason, timings))

    def _opener(
        self, call: SamplerCall, stack: ExitStack, announcer: Announcer, facts: Facts, timings: Timings | None
    ) -> LaneOpener:
        def keep(seconds: Mapping[Split, float]) -> None:
            keep_splits(key(), seconds)

        def keep_times_of_rows(seconds: Mapping[int, float]) -> None:
            keep_rows(key(), seconds)

        def key() -> TimingsKey:
            return self._timings_key(call, replace(self.request, ray_address=""))

        context = RunContext(call, self.options, self.request, facts, announcer)
        return LaneOpener(stack, context, KeptTimings(timings, keep, keep_times_of_rows), LANE_TIMEOUTS)

    def _sample_parallel(
        self, call: SamplerCall, stream: RunStream, previews: Previews, announcer: Announcer
    ) -> tuple[Tensor, ChordsRun]:
        last = SOLVERS[PARALLEL[self.sampler_name]].last_sigma
        if last and call.sigmas[-1] == 0:
            call.sigmas[-1] = last  # in place, as the stock sampler does: the host scales the result by it
        facts = self._facts(call, announcer.fallbacks)
        with ExitStack() as stack:
            timings = self._timings(call, replace(self.request, ray_address=""))
            opener = self._opener(call, stack, announcer, facts, timings)
            lanes = None
            if self.request.ray_address and self.options.cores != 1:
                lanes = opener.on_cluster(self._timings(call, self.request))
            if lanes is None:
                placement = place(self.options, self.request, facts, timings)
                return self._driven_here(call, opener, placement, stream, previews, announcer)
            try:
                return self._driven(call, lanes, stream, previews, announcer)
            except WorkersUnavailable as error:  # the last one is lost: the same plan gives the same picture here
                why = phrase_of(message_of(error))
                note = Phrase("all Ray workers were lost, so it was done here ({error})", error=why)
                announcer.note([note], Fallback.WORKERS_LOST)
                devices = lane_devices(self.request, call.primary)[: lanes.plan.cores]
                placement = Placement(lanes.plan, tuple((device,) for device in devices))
                return self._driven(call, opener.local(placement, keep_cores=True), stream, previews, announcer)

    def _driven_here(
        self,
        call: SamplerCall,
        opener: LaneOpener,
        placement: Placement,
        stream: RunStream,
        previews: Previews,
        announcer: Announcer,
    ) -> tuple[Tensor, ChordsRun]:
        """The result of a placement on this machine. If a call of several rows fails, the run begins again without: as
        many calls of one row as a window has would take longer than every step in turn."""
        lanes = opener.local(placement)
        in_rows = lanes.in_rows
        if in_rows is None:
            return self._driven(call, lanes, stream, previews, announcer)
        try:
            return self._driven(call, lanes, stream, previews, announcer)
        except RowsFailed as error:
            clear_frames(error)
            lanes = opener.after_failed_rows(in_rows, placement, error)
        return self._driven(call, lanes, stream, previews, announcer)

    def _facts(self, call: SamplerCall, fallbacks: Fallbacks) -> Facts:
        """What the placement depends on, from the host."""
        primary, patcher = call.primary, call.guider.model_patcher
        guided = is_guided(call.guider, call.model_options)
        hung = hung_devices() - {primary}  # the primary has no substitute
        devices = tuple(device for device in lane_devices(self.request, primary) if device not in hung)
        return Facts(
            steps=call.steps,
            solver=PARALLEL.get(self.sampler_name, ""),  # empty: the host's own sampler, which is not planned
            solving_seconds=solve_seconds(max(1, call.steps), call.x.numel()),
            primary=primary,
            devices=devices or (primary,),
            processors=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            guided=guided,
            split_seconds=lambda group: measured_splits(patcher, call.x.shape, group, guided),
            reasons=_Reasons(call, fallbacks),
        )

    def _timings(self, call: SamplerCall, request: DeviceRequest) -> Timings | None:
        """What CHORDS Benchmark measured for this model and shape on the devices of the request."""
        return recall_timings(self._timings_key(call, request))

    @staticmethod
    def _timings_key(call: SamplerCall, request: DeviceRequest) -> TimingsKey:
        return timings_key(call.guider.model_patcher, call.x.shape, request, getattr(call.guider, "cfg", 1.0))

    def _driven(
        self, call: SamplerCall, lanes: OpenedLanes, stream: RunStream, previews: Previews, announcer: Announcer
    ) -> tuple[Tensor, ChordsRun]:
        """The result of the plan on these lanes, and its record."""
        chosen, solver, recorder = lanes.plan, PARALLEL[self.sampler_name], Recorder()
        send_plan(stream, chosen, chosen.method, solver, lanes.devices, announcer.message)
        # By size alone: where the trajectory is kept makes a difference in rounding.
        many = isinstance(chosen, WindowPlan | AdaptivePlan)
        kept = _LATENTS_A_NODE * chosen.called_steps * call.x.nbytes if many else 0
        shown = previews if self.shown else None
        with tqdm(total=chosen.steps, disable=call.disable) as bar:
            relay = EventRelay(chosen, lanes.names, recorder, stream, shown, call.sigmas, call.callback, bar)

            def passed(event: Event) -> None:
                with passed_on():  # the host's progress bar raises a cancel, too
                    relay(event)

            result = sample(
                None,
                call.x.cpu() if kept > _MAX_BYTES_ON_DEVICE else call.x,
                call.sigmas,
                solver=as_in_the_host(solver, call.x, call.sigmas),
                pool=lanes.pool,
                prediction=call.prediction,
                on_event=passed,
                cancel=check_interrupt,
                timeouts=LANE_TIMEOUTS,
                **_until_accepted(chosen, stream),
            )
        self._say_end(announcer, lanes, relay, result)
        run = ChordsRun(
            announcer.message,
            chosen.method,
            solver,
            chosen,
            lanes.devices,
            result.depth,
            _model_calls(lanes, result),
            lost_lanes=(*relay.lost_lanes, *_lost_members(lanes.sharings)),
            hits=tuple(RunHit(hit.core, hit.depth, call.to_latent(hit.x)) for hit in result.hits),
            timeline=recorder.timeline(),
            by_request=relay.by_request,
            estimate=_estimate(result),
            shared=_shared_calls(lanes.sharings),
            rows=lanes.rows,
            fallbacks=_fallbacks(announcer, chosen, lanes.sharings),
            card=announcer.card,
        )
        return result.x.to(call.x.device), run

    @staticmethod
    def _say_end(announcer: Announcer, lanes: OpenedLanes, relay: EventRelay, result: Result) -> None:
        """What is known at the end only: how many calls it took, where the picture decides that, and lost devices."""
        if ends_by_measurement(lanes.plan) or relay.by_request:
            outcome = Outcome(result.depth, result.estimate, relay.by_request)
            message = describe(lanes.plan, lanes.names, outcome, lanes.rows)
            announcer.say(message, card_of(lanes.plan, lanes.names, outcome, lanes.rows))
        if relay.lost_lanes:
            lost = in_turn(relay.lost_lanes)
            announcer.add([Phrase("it took longer, because of lost devices: {lost}", lost=lost)])
        _SamplerFunction._say_sharing(announcer, lanes.sharings)

    @staticmethod
    def _say_sharing(announcer: Announcer, sharings: Sequence[Sharing]) -> None:
        """What is known about shared calls at the end: what each way took, why one was not taken, and lost devices."""
        if not sharings:
            return
        first = sharings[0]
        lost = _lost_members(sharings)
        said = [Phrase("lost a device, and went on without it: {lost}", lost=each) for each in lost]
        if not said and first.reason is not None:
            said.append(Phrase("calls were not shared by tokens: {problem}", problem=first.reason))
        elif not said and first.chosen is not None and (WHOLE in first.seconds or first.dropped):
            said.append(describe_sharing(first.chosen, first.seconds, first.dropped))
        if said:
            announcer.add(said)


@dataclass(frozen=True, eq=False)
class _Reasons:
    """Asks each time, for a trial during the run may have found a reason. ``fallbacks`` gets the class of each."""

    call: SamplerCall
    fallbacks: Fallbacks

    @property
    def for_one_core(self) -> Phrase | None:
        reason = reason_for_one_core(self.call.guider, self.call.model_options)
        return self.fallbacks.known(Fallback.PATCHES, reason)

    @property
    def for_every_step(self) -> Phrase | None:
        return self.fallbacks.known(Fallback.EVERY_STEP, reason_for_every_step(self.call.guider, self.call.sigmas))

    @property
    def step_cache(self) -> str | None:
        return step_cache(self.call.guider, self.call.model_options)

    @property
    def for_one_device(self) -> Phrase | None:
        reason = reason_for_one_device(self.call.guider.model_patcher, self.call.model_options)
        return self.fallbacks.known(Fallback.ONE_DEVICE, reason)

    @property
    def against_sides(self) -> Phrase | None:
        return reason_against_sides(self.call.guider, self.call.model_options)

    @property
    def against_tokens(self) -> Phrase | None:
        reason = reason_against_tokens(self.call.guider, self.call.model_options)
        return self.fallbacks.known(Fallback.SHARING, reason)


def _fallbacks(announcer: Announcer, chosen: Plan, sharings: Sequence[Sharing]) -> tuple[str, ...]:
    """The classes of the reasons for which the run did less in parallel than the pack can."""
    reason = announcer.fallbacks.known(Fallback.SHARING, sharings[0].reason if sharings else None)
    notes = announcer.notes if reason is None else (*announcer.notes, reason)
    return announcer.fallbacks.of(chosen, notes, shared=bool(sharings))


def _until_accepted(chosen: Plan, stream: RunStream) -> SampleOptions:
    """The plan's arguments for `sample`, with which a user may end the run with a result that is there."""
    options = chosen.sample_options(accept_now=stream.accept.is_set)
    assert isinstance(options["accept"], OnDemand)
    options["accept"] = replace(options["accept"], index=lambda: stream.accept_index)
    return options


def _estimate(result: Result) -> float | None:
    """Of the distance from KSampler's latent: core 1 has every step, so that its result is KSampler's."""
    return 0.0 if result.hits[-1].core == 1 else result.estimate


def _model_calls(lanes: OpenedLanes, result: Result) -> int:
    """All calls of the run; one of several rows counts once."""
    return sum(lanes.pool.calls.values()) if isinstance(lanes.pool, BatchPool) else result.evaluations


def _shared_calls(sharings: Sequence[Sharing]) -> SharedCalls | None:
    """The record of how devices shared calls."""
    if not sharings:
        return None
    first = sharings[0]
    return SharedCalls(first.split.name, {split.name: seconds for split, seconds in first.seconds.items()})


def _lost_members(sharings: Sequence[Sharing]) -> tuple[Phrase, ...]:
    """The lanes that lost a device, each with its error."""
    return tuple(
        Phrase("{device} ({error})", device=SHARE.join(map(str, each.group)), error=each.lost)
        for each in sharings
        if each.lost is not None
    )


def _with_pictures(callback: Any, previews: Previews) -> Callable[[dict[str, Any]], None]:
    """The host's callback, with the step's estimate as a preview."""

    def shown(state: dict[str, Any]) -> None:
        previews.offer_step(state["denoised"])
        if callback is not None:
            callback(state)

    return shown
