"""What a run does and where: the plan, and the devices of each lane. Pure; needs torch only.

Everything that the choice depends on is an argument, so that it can be tested without a host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ....chords_core import Plan, Reason, SequentialPlan, plan
from ..devices.groups import Group
from ..devices.request import DeviceRequest
from ..devices.timings import Timings
from .options import SamplerOptions

SIDES = 2
"""Of a guided call: the positive and the negative one."""


class Reasons(Protocol):
    """Why this model and prompt cannot be sampled in some way; None if they can. Finding out may take time, so the
    placement asks only if the answer matters."""

    @property
    def for_one_core(self) -> str | None:
        """Why the model has to see its steps in order, on one device."""

    @property
    def for_every_step(self) -> str | None:
        """Why the model's answers cannot be interpolated between steps."""


@dataclass(frozen=True)
class Facts:
    """What a placement depends on, beyond what the user asks for.

    Attributes:
        steps: of the schedule.
        solver: the core's name of the solver.
        solving_seconds: what a window's own arithmetic takes in a round.
        primary: the device that holds the model.
        devices: those a lane can have, the primary first if it is among them; at least one.
        processors: the number of CPU cores.
        guided: whether each call has two sides.
        faster_together: whether two devices share a guided call faster than one makes it, as far as is known.
        reasons: why something cannot be done.
    """

    steps: int
    solver: str
    solving_seconds: float
    primary: torch.device
    devices: tuple[torch.device, ...]
    processors: int
    guided: bool
    faster_together: Callable[[Group], bool]
    reasons: Reasons


@dataclass(frozen=True)
class Placement:
    """What to run, and where.

    Attributes:
        plan: the method, the cores, and why.
        groups: the devices of each lane; none for lanes on a cluster, which has its own.
        notes: what the user asked for and does not get, each in a sentence.
    """

    plan: Plan
    groups: tuple[Group, ...] = ()
    notes: tuple[str, ...] = ()


def place(options: SamplerOptions, request: DeviceRequest, facts: Facts, timings: Timings | None) -> Placement:
    """The placement on this machine: at most one lane a core; one core runs on the model's own device, or shares its
    calls with a second one.

    ``timings``: of this model on these devices, if they were measured.
    """
    devices = timings.fastest_first(facts.devices) if timings is not None else list(facts.devices)
    groups = _groups(options, request, facts, devices, timings is None or timings.sharing_gains)
    # More lanes than the processor has cores would only take turns.
    lanes = min(len(groups), facts.processors) if facts.primary.type == "cpu" else len(groups)
    costs = timings.costs() if timings is not None and len(groups[0]) == 1 else ()
    placed = _planned(options, facts, lanes, options.cores, costs)
    if lanes < len(groups) and _is_about_lanes(placed.plan):
        placed = replace(placed, notes=(*placed.notes, _few_processors(len(groups), lanes)))
    if placed.plan.cores > 1:
        return replace(placed, groups=groups[: placed.plan.cores])
    pair = next((group for group in groups if facts.primary in group and len(group) > 1), None)
    if pair is None:
        return replace(placed, groups=((facts.primary,),))
    pair = (facts.primary, *(device for device in pair if device != facts.primary))
    return replace(placed, plan=_shared(placed.plan, pair), groups=(pair,))


def place_on_cluster(options: SamplerOptions, facts: Facts, lanes: int, timings: Timings | None) -> Placement:
    """The placement on so many workers of a cluster. ``timings``: of this model there, if they were measured."""
    return _planned(options, facts, lanes, options.cores, timings.costs() if timings is not None else ())


def place_alone(options: SamplerOptions, facts: Facts, problem: str) -> Placement:
    """One core on the model's own device, because of a ``problem`` with the others. It makes as many model calls as if
    the others did not exist."""
    placed = _planned(options, facts, 1, 1)
    chosen = placed.plan
    chosen = replace(chosen, reasons=(problem,)) if chosen.calls is None else chosen.because(problem)
    return replace(placed, plan=chosen, groups=((facts.primary,),))


def _groups(
    options: SamplerOptions,
    request: DeviceRequest,
    facts: Facts,
    devices: Sequence[torch.device],
    sharing_gains: bool,
) -> tuple[Group, ...]:
    """The devices of each lane: two, where the two sides of guidance are to be evaluated at once."""
    singles: tuple[Group, ...] = tuple((device,) for device in devices)
    auto = request.cfg_split == "auto"
    if request.cfg_split == "off" or (auto and (devices[0].type == "cpu" or options.accept == "exact")):
        return singles
    if auto and not sharing_gains:
        return singles
    if len(devices) < SIDES * max(1, options.cores):  # a core of its own is worth more than half of a call
        return singles
    if not facts.guided or facts.reasons.for_one_core is not None:
        return singles
    pairs = tuple(tuple(devices[i : i + SIDES]) for i in range(0, len(devices) - SIDES + 1, SIDES))
    if auto:  # the number of lanes stays, and with it the picture
        return tuple(pair if facts.faster_together(pair) else pair[:1] for pair in pairs)
    return pairs


def _planned(options: SamplerOptions, facts: Facts, lanes: int, cores: int, costs: Sequence[float] = ()) -> Placement:
    """The plan for so many lanes; one core if this model must see its steps in order."""
    notes: tuple[str, ...] = ()
    calls = options.calls(facts.steps)
    if options.one_call_in is not None and (jump := facts.reasons.for_every_step) is not None:
        calls, notes = None, (f"every step is taken: {jump}",)
    chosen = plan(
        facts.steps,
        lanes,
        cores,
        accept=options.accept,
        calls=calls,
        method=options.method,
        solver=facts.solver,
        costs=costs,
        solving=facts.solving_seconds,
    )
    if options.one_call_in is not None and not notes and options.method == "chords" and chosen.cores > 1:
        notes = ("CHORDS takes every step, whatever calls says",)
    if chosen.cores > 1 or chosen.calls is not None:
        reason = facts.reasons.for_one_core
        if reason is not None:
            chosen = SequentialPlan(facts.steps, (reason,))
    return Placement(chosen, notes=notes)


def _shared(chosen: Plan, pair: Group) -> Plan:
    """The plan of one core with the reason for two devices."""
    same = "" if chosen.calls else ", the same picture"
    names = " and ".join(map(str, pair))
    return replace(chosen, reasons=(f"{names} share each guided call{same} in as little as half the time",))


def _is_about_lanes(chosen: Plan) -> bool:
    """Whether the plan's reasons say a number of lanes."""
    return any(isinstance(reason, Reason) and reason.lanes > 0 for reason in chosen.reasons)


def _few_processors(lanes: int, processors: int) -> str:
    cores = "1 core" if processors == 1 else f"{processors} cores"
    return f"only {processors} of {lanes} CPU lanes are used, because the processor has {cores}"
