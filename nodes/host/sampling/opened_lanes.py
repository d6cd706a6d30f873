"""Opens the lanes of a run, here or on a Ray cluster, and deals with what stands in the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ....chords_core import AdaptivePlan, LaneTimeouts, Plan, Pool, RowsFailed, SequentialPlan
from ....chords_core.execution.ray.errors import NoWorker
from ..compatibility.network_structure import reason_against_copies
from ..compatibility.new_setting import has_changed
from ..compatibility.reasons import reason_against_repeats, subject_of_trial
from ..compatibility.verified_lanes import open_tried_pool, try_workers
from ..devices.controlnets import RunControls, controls_in
from ..devices.groups import WHOLE, Split, names_of
from ..devices.replicas import Copies, copies_on, forget_copies, prepare_copies, short_of_memory
from ..devices.request import DeviceRequest
from ..devices.sharing import SharedModel, Sharing
from ..devices.timings import Timings
from ..interrupts import check_interrupt
from ..known_sentences import phrase_of
from ..monitoring.fallbacks import Fallback
from ..phrases import Card, Phrase
from ..ray.cluster import NotAllowed, cluster_lanes, no_worker, open_cluster_pool
from .announcer import Announcer
from .call import SamplerCall
from .messages import describe
from .opened_rows import OpenedRows, placed_in_rows
from .options import SamplerOptions
from .placement import Facts, Placement, not_by_tokens, place_alone, place_on_cluster
from .row_placement import may_use_rows
from .status_card import card_of


@dataclass(frozen=True, eq=False)
class OpenedLanes:
    """Lanes that are ready for a run.

    Attributes:
        plan: what to run on them.
        names: one name a lane, for the user.
        pool: makes the model calls.
        sharings: how the devices of each lane share its calls; empty: each lane has one device.
        in_rows: the model calls whose rows the lanes are; None: each evaluation is a call.
    """

    plan: Plan
    names: tuple[str, ...]
    pool: Pool
    sharings: tuple[Sharing, ...] = ()
    in_rows: OpenedRows | None = None

    @property
    def rows(self) -> int:
        """How many evaluations are one model call."""
        return 1 if self.in_rows is None else len(self.names)

    @property
    def devices(self) -> tuple[str, ...]:
        """One name a lane; one in all where the lanes are the rows of a call."""
        return self.names if self.in_rows is None else self.names[:1]


@dataclass(frozen=True, eq=False)
class OpenedStock:
    """What the host's own sampler runs with.

    Attributes:
        placement: one core, and its devices.
        model: as the host hands it to a sampler function; with devices that share each of its calls.
        sharings: how they do that; empty: there is one device.
    """

    placement: Placement
    model: Any
    sharings: tuple[Sharing, ...] = ()


@dataclass(frozen=True, eq=False)
class RunContext:
    """The run that lanes are opened for.

    Attributes:
        call: the host's.
        options, request: what the user asks for.
        facts: what placements depend on.
        announcer: tells the user what is done.
    """

    call: SamplerCall
    options: SamplerOptions
    request: DeviceRequest
    facts: Facts
    announcer: Announcer


@dataclass(frozen=True, eq=False)
class KeptTimings:
    """What is known of the model's speed, and where to put what a run measures.

    Attributes:
        timings: of this model on the devices of the request, if they were measured.
        keep_splits: gets the times of all ways to share a call, when one core has measured them.
        keep_rows: gets the times of calls of several rows, when they were measured.
    """

    timings: Timings | None
    keep_splits: Callable[[Mapping[Split, float]], object]
    keep_rows: Callable[[Mapping[int, float]], object]


class LaneOpener:
    """Opens lanes for one run and says so.

    Args:
        stack: closes the lanes when the run ends.
        context: the run.
        kept: what is known of the model's speed.
        timeouts: how long a lane may take to answer.
    """

    def __init__(self, stack: ExitStack, context: RunContext, kept: KeptTimings, timeouts: LaneTimeouts) -> None:
        self._stack, self._call = stack, context.call
        self._options, self._request, self._facts = context.options, context.request, context.facts
        self._announcer, self._timeouts = context.announcer, timeouts
        self._timings, self._keep_splits, self._keep_rows = kept.timings, kept.keep_splits, kept.keep_rows

    def local(self, placement: Placement, keep_cores: bool = False) -> OpenedLanes:
        """Lanes on this machine. ``keep_cores``: whatever happens to the devices, the number of cores stays, because it
        decides the picture; they then take turns."""
        if may_use_rows(placement, self._options, self._facts):
            placement, in_rows = placed_in_rows(
                placement, self._call, self._facts, self._timings, self._announcer, self._keep_rows
            )
            if in_rows is not None:
                self._say(placement)
                names = names_of(placement.groups) * placement.rows
                return OpenedLanes(placement.plan, names, in_rows.calls.pool(placement.rows), in_rows=in_rows)
        return self._on_devices(placement, keep_cores)

    def after_failed_rows(self, failed: OpenedRows, placement: Placement, error: RowsFailed) -> OpenedLanes:
        """Lanes of the placement without rows, for a run that begins again."""
        failed.failed(error)
        note = Phrase(
            "it took longer, because {error}; it began again with one row in each call", error=phrase_of(str(error))
        )
        self._announcer.note([note], Fallback.ROWS)
        return self._on_devices(placement, keep_cores=False)

    def _on_devices(self, placement: Placement, keep_cores: bool) -> OpenedLanes:
        """Lanes of devices, each of which makes its own calls."""
        call = self._call
        self._say(placement)
        controls, problem = self._controls(placement)
        if problem is not None:
            placement = Placement(SequentialPlan(call.steps, (problem,)), ((call.primary,),))
            self._say(placement)
        placement, copies = self._copied(placement, keep_cores, controls)
        sharings = self._sharings(placement, copies)
        pool, reason = open_tried_pool(
            self._stack,
            call.model,
            call.extra_args,
            placement.groups,
            copies,
            in_this_thread=placement.plan.cores == 1,
            sharings=sharings,
            x=call.x,
            sigmas=call.sigmas,
            cancelled=check_interrupt,
            timeouts=self._timeouts,
            every_step=not isinstance(placement.plan, AdaptivePlan),
            controls=controls,
        )
        if reason is not None:
            self._announcer.fallbacks.known(Fallback.CHECK, reason)
            placement, sharings = Placement(SequentialPlan(call.steps, (reason,)), ((call.primary,),)), ()
            self._say(placement)
        return OpenedLanes(placement.plan, names_of(placement.groups), pool, sharings)

    def stock(self, placement: Placement) -> OpenedStock:
        """The model for the host's own sampler, on the devices of this placement."""
        call = self._call
        self._announcer.note(placement.notes)
        if placement.splits == (WHOLE,):
            return OpenedStock(placement, call.model)
        controls, problem = self._controls(placement)
        if problem is not None:
            placement = place_alone(placement, self._options, self._facts, problem)
        placement, copies = self._copied(placement, keep_cores=False, controls=controls)
        problem = reason_against_copies(call.guider.model_patcher, copies)
        if problem is not None:
            forget_copies(call.guider.model_patcher)
            self._announcer.fallbacks.known(Fallback.CHECK, problem)
            placement = place_alone(placement, self._options, self._facts, problem)
        sharings = self._sharings(placement, copies)
        if not sharings:
            return OpenedStock(placement, call.model)
        model = call.model if controls is None else controls.in_model(call.model, placement.groups[0], copies)
        return OpenedStock(placement, SharedModel(model, sharings[0]), sharings)

    def _controls(self, placement: Placement) -> tuple[RunControls | None, Phrase | None]:
        """The ControlNets of the run for these lanes, and why lanes cannot have them; nothing where there are none, or
        where all calls are made as the host makes them."""
        call, sides = self._call, [split for split in placement.splits if split.sides > 1]
        if (placement.plan.cores == 1 and not sides) or next(controls_in(call.guider.conds), None) is None:
            return None, None
        leaders = {group[0] for group in placement.groups}
        leaders |= {team[0] for group in placement.groups for split in sides for team in split.teams(group) if team}
        controls = RunControls(call.guider, call.x, call.sigmas[0], {*leaders, call.primary})
        if controls.problem is None:
            return controls, None
        return None, self._announcer.fallbacks.known(Fallback.CONTROLNET, controls.problem)

    def _ways(self, placement: Placement) -> tuple[tuple[Split, ...], Mapping[Split, float], bool]:
        """The ways to share a call that are tried, the known seconds of each, and whether a call may be made twice."""
        call = self._call
        splits, known = placement.splits, self._timings.splits if self._timings is not None else {}
        by_tokens = any(split.shares > 1 for split in splits)
        changed = by_tokens and has_changed(call.guider.model_patcher.model)
        repeatable = (
            (len(splits) > 1 or changed)
            and reason_against_repeats(call.guider, call.model_options) is None
            and subject_of_trial(call.guider, call.model_options) is None  # reading does not find all state
        )
        if changed and repeatable:
            # Nobody has looked at how the network of this host computes. Shared calls are compared with whole ones.
            return (*(split for split in splits if split != WHOLE), WHOLE), {}, True
        if changed:
            self._announcer.note(
                [not_by_tokens(Phrase("this version of ComfyUI has other code for the model"))],
                Fallback.SHARING,
            )
            splits = tuple(split for split in splits if split.shares == 1) or (WHOLE,)
        return splits, known, repeatable

    def _sharings(self, placement: Placement, copies: Copies) -> tuple[Sharing, ...]:
        """How the devices of each lane share its calls; closed when the run ends."""
        if placement.splits == (WHOLE,):
            return ()
        call = self._call
        patchers = {call.primary: call.guider.model_patcher, **copies}
        splits, known, repeatable = self._ways(placement)
        # A patch that keeps results, such as a step cache, answers some calls without the network.
        lasting = reason_against_repeats(call.guider, call.model_options) is None
        opened = []
        for group in placement.groups:
            sharing = Sharing(
                {device: patchers[device] for device in group},
                [split for split in splits if split.devices <= len(group)] or [WHOLE],
                self._facts.guided,
                {**known, **self._facts.split_seconds(group)},
                compare=repeatable,
                lasting=lasting,
                on_tuned=self._keep_splits if lasting and len(placement.groups) == 1 else None,
            )
            self._stack.callback(sharing.close)
            opened.append(sharing)
        return tuple(opened)

    def on_cluster(self, timings: Timings | None) -> OpenedLanes | None:
        """Lanes on the Ray cluster of the request; None if there are none, if one core is better, or if the model
        cannot be sent there. ``timings``: of this model on that cluster."""
        announcer, options, request, call = self._announcer, self._options, self._request, self._call
        looking = Phrase("looking for Ray workers ({address})", address=request.ray_address)
        announcer.say(looking, Card((looking,)))
        try:
            lanes = cluster_lanes(request)
        except NoWorker as problem:
            kind = Fallback.NOT_ALLOWED if isinstance(problem, NotAllowed) else Fallback.CLUSTER
            announcer.note([no_worker(problem)], kind)
            return None
        placement = self._placed_on_cluster(lanes, timings)
        if placement.plan.cores == 1:
            return None
        readying = Phrase("getting Ray workers ready ({address})", address=request.ray_address)
        announcer.say(readying, Card((readying,)))
        cluster, notes = open_cluster_pool(
            self._stack, request, call.model, call.extra_args, call.x, placement.plan.cores
        )
        announcer.note(notes, Fallback.CLUSTER if cluster is None else Fallback.WORKERS_MISSING)
        if cluster is None:
            return None
        if options.cores == 0 and cluster.lanes < placement.plan.cores:
            placement = self._placed_on_cluster(cluster.lanes, timings)
            if placement.plan.cores == 1:
                note = Phrase("only {count} of the Ray workers could be used", count=cluster.lanes)
                announcer.note([note], Fallback.WORKERS_MISSING)
                return None
        announcer.say(describe(placement.plan, cluster.names), card_of(placement.plan, cluster.names))
        pool, reason = try_workers(
            cluster, call.model, call.extra_args, call.x, call.sigmas, check_interrupt, self._timeouts
        )
        if reason is not None:
            return None  # from now on the reason is known, so that the local placement is one core
        return OpenedLanes(placement.plan, cluster.names, pool)

    def _placed_on_cluster(self, lanes: int, timings: Timings | None) -> Placement:
        placement = place_on_cluster(self._options, self._facts, lanes, timings)
        self._announcer.note(placement.notes)
        return placement

    def _copied(self, placement: Placement, keep_cores: bool, controls: RunControls | None) -> tuple[Placement, Copies]:
        """The placement with the model on all its devices; on the model's own device only, if that is impossible."""
        call = self._call
        devices = [device for group in placement.groups for device in group]
        copies, problem = copies_on(call.guider, devices, call.x, controls)
        short = short_of_memory(call.guider.model_patcher, copies) if copies else []
        if short and placement.plan.cores == 1:  # the device with room would wait for the other one in every step
            problem = Phrase("a further device has too little memory for the model")
            self._announcer.fallbacks.known(Fallback.MEMORY, problem)
            placement = place_alone(placement, self._options, self._facts, problem)
            self._say(placement)
            return placement, {}
        problem = problem or prepare_copies(self._stack, call.guider.model_patcher, copies)
        if problem is not None:
            self._announcer.fallbacks.known(Fallback.COPIES, problem)
            if not keep_cores and (self._options.cores == 0 or placement.plan.cores == 1):
                placement = place_alone(placement, self._options, self._facts, problem)
            else:
                placement = Placement(placement.plan, ((call.primary,),), notes=(problem,))
            self._say(placement)
            return placement, {}
        if short:
            names = ", ".join(map(str, short))
            note = Phrase("slow because of too little memory, with parts of the model outside: {names}", names=names)
            self._announcer.note([note], Fallback.MEMORY)
            self._say(placement)
        return placement, copies

    def _say(self, placement: Placement) -> None:
        self._announcer.note(placement.notes)
        plan, names, rows = placement.plan, names_of(placement.groups), placement.rows
        self._announcer.say(describe(plan, names, rows=rows), card_of(plan, names, rows=rows))
