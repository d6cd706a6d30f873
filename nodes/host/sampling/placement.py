"""What a run does and where: the plan, and the devices of each lane. Pure; needs torch only.

Everything that the choice depends on is an argument, so that it can be tested without a host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ....chords_core import AdaptivePlan, Cause, Plan, Reason, SequentialPlan, fastest_way, plan
from ..devices.groups import MIN_GAIN, SIDES, WHOLE, Group, Split, in_words, possible_splits
from ..devices.request import DeviceRequest
from ..devices.timings import Timings
from ..phrases import Advice, Phrase, counted_phrase
from .options import NEAR, SamplerOptions

_NEARLY = 1.1
"""The way whose picture is nearest to KSampler's is taken unless it takes more than so many times as long as the
fastest."""

_MIN_ADVISED = 0.15
"""A smaller saving of time is no reason to advise another fidelity."""

_SHARES = {
    1 / 5: Phrase("a fifth"),
    1 / 4: Phrase("a quarter"),
    1 / 3: Phrase("a third"),
    2 / 5: Phrase("40 %"),
    1 / 2: Phrase("half"),
    2 / 3: Phrase("two thirds"),
}


_ABOUT_LANES = frozenset((Cause.ONE_LANE, Cause.ONE_CORE_REQUESTED))


class Reasons(Protocol):
    """Why this model and prompt cannot be sampled in some way; None if they can. Finding out may take time, so the
    placement asks only if the answer matters."""

    @property
    def for_one_core(self) -> Phrase | None:
        """Why the model has to see its steps in order, on one device."""

    @property
    def for_every_step(self) -> Phrase | None:
        """Why a result near that of every step cannot be promised with fewer calls or in a window."""

    @property
    def step_cache(self) -> str | None:
        """The name of a step cache, if that alone is the reason for one core."""

    @property
    def for_one_device(self) -> Phrase | None:
        """Why no other device can make calls of this model. Its own device may make fewer."""

    @property
    def against_sides(self) -> Phrase | None:
        """Why two devices cannot evaluate the sides of a guided call."""

    @property
    def against_tokens(self) -> Phrase | None:
        """Why calls of the model cannot be shared by tokens."""


@dataclass(frozen=True, eq=False)
class Facts:
    """What a placement depends on, beyond what the user asks for.

    Attributes:
        steps: of the schedule.
        solver: the core's name of the solver.
        solving_seconds: what a window's own arithmetic takes in a round.
        primary: the device that holds the model.
        devices: those a lane can have, the primary first if it is among them; at least one.
        processors: the number of CPU cores.
        threads: that one model call on the CPU uses.
        guided: whether each call has two sides.
        split_seconds: seconds of a call by each split that a group of devices has tried with this model, as far as is
            known; infinite for a split that cannot be used.
        reasons: why something cannot be done.
    """

    steps: int
    solver: str
    solving_seconds: float
    primary: torch.device
    devices: tuple[torch.device, ...]
    processors: int
    threads: int
    guided: bool
    split_seconds: Callable[[Group], Mapping[Split, float]]
    reasons: Reasons


@dataclass(frozen=True)
class Placement:
    """What to run, and where.

    Attributes:
        plan: the method, the cores, and why.
        groups: the devices of each lane; none for lanes on a cluster, which has its own.
        notes: what the user asked for and does not get, each in a sentence.
        splits: how the devices of a lane may share its calls. Several: the fastest is found by trying them.
        rows: how many evaluations are one model call, where one device makes those of all cores; else 1.
    """

    plan: Plan
    groups: tuple[Group, ...] = ()
    notes: tuple[Phrase, ...] = ()
    splits: tuple[Split, ...] = (WHOLE,)
    rows: int = 1


def place(options: SamplerOptions, request: DeviceRequest, facts: Facts, timings: Timings | None) -> Placement:
    """The placement on this machine: at most one lane a core, and several devices a lane where they share its calls.

    ``timings``: of this model on these devices, if they were measured.
    """
    on_own = _on_own_device(facts)
    others = facts.devices != on_own.devices and (options.cores != 1 or request.split != "off")
    wants_more = options.cores > 1 or others
    bound = facts.reasons.for_one_device if wants_more else None  # it reads the whole network
    if bound is None:
        return _advised(_fastest_placement(options, request, facts, timings), options, facts)
    alone = replace(options, cores=min(options.cores, 1))
    placed = _advised(_fastest_placement(alone, request, on_own, timings), alone, on_own)
    return placed if options.cores == 1 else replace(placed, plan=_bound(placed, bound))


def _fastest_placement(
    options: SamplerOptions, request: DeviceRequest, facts: Facts, timings: Timings | None
) -> Placement:
    """Of all ways that keep the fidelity the fastest. What is nearest to KSampler's picture comes first."""
    choice = _Choice(options, request, facts, timings)
    if request.split == "tokens":
        problem = facts.reasons.against_tokens
        if problem is None:
            return choice.by_tokens()
        return _noted(choice.on_lanes(), not_by_tokens(problem))
    on_lanes = choice.on_lanes()
    if request.split != "auto":
        return on_lanes
    # Lanes of a CPU are for a trial of several cores, on which other work of the processor must have no influence.
    if on_lanes.plan.cores > 1 and (choice.on_cpu or options.cores > 1 or options.method is not None):
        return on_lanes
    exact, near = choice.alone()
    if near.splits == (WHOLE,):
        return on_lanes
    if len(near.splits) > 1 and on_lanes.plan.cores > 1:  # what shared calls take is not known yet; this run shows it
        tokens = any(split.shares > 1 for split in near.splits)  # guidance is tried in the lanes of several cores too
        return near if tokens else on_lanes
    if on_lanes.plan.cores == 1:
        reasons = dict.fromkeys((*_limits(on_lanes), *near.plan.reasons))
        return replace(near, plan=replace(near.plan, reasons=tuple(reasons)))
    ways = (exact, near, on_lanes)
    fastest = min(map(choice.seconds, ways))
    return next(way for way in ways if choice.seconds(way) <= _NEARLY * fastest)


def place_stock(request: DeviceRequest, facts: Facts, reason: Phrase, timings: Timings | None) -> Placement:
    """The placement of the host's own sampler: one core, whose calls several devices may share.

    ``reason``: why only that sampler can do this.
    """
    placed = Placement(SequentialPlan(facts.steps, (reason,)), ((facts.primary,),))
    if request.split == "off":
        return placed
    if len(facts.devices) > 1 and facts.reasons.for_one_device is not None:
        facts = _on_own_device(facts)
    choice = _Choice(SamplerOptions(cores=1), request, facts, timings)
    if request.split == "tokens" and (problem := facts.reasons.against_tokens) is not None:
        return _noted(placed, not_by_tokens(problem))
    placed = choice.on_one_core(placed)
    if request.split == "tokens" and placed.splits == (WHOLE,):
        placed = _noted(placed, not_by_tokens(choice.why_alone))
    return replace(placed, plan=SequentialPlan(facts.steps, (reason, *_sharing_reasons(placed))))


def place_on_cluster(options: SamplerOptions, facts: Facts, lanes: int, timings: Timings | None) -> Placement:
    """The placement on so many workers of a cluster. ``timings``: of this model there, if they were measured."""
    bound = facts.reasons.for_one_device
    if bound is not None:
        return Placement(SequentialPlan(facts.steps, (bound,)))
    costs = timings.costs() if timings is not None else ()
    return _planned(options, facts, lanes, options.cores, costs, several=lanes > 1)


def place_alone(placed: Placement, options: SamplerOptions, facts: Facts, problem: Phrase) -> Placement:
    """One core on the model's own device, because of a ``problem`` with the others. It makes as many model calls as if
    the others did not exist, and every call where ``placed`` has every call."""
    alone = ((facts.primary,),)
    if isinstance(placed.plan, SequentialPlan):
        return Placement(SequentialPlan(facts.steps, (problem,)), alone)
    chosen = _planned(options, facts, 1, 1, several=False).plan
    chosen = replace(chosen, reasons=(problem,)) if isinstance(chosen, SequentialPlan) else chosen.because(problem)
    return Placement(chosen, alone)


class _Choice:
    """What is possible for one run, and what it takes."""

    def __init__(self, options: SamplerOptions, request: DeviceRequest, facts: Facts, timings: Timings | None) -> None:
        self.options, self.request, self.facts, self.timings = options, request, facts, timings
        ordered = timings.fastest_first(facts.devices) if timings is not None else list(facts.devices)
        self.devices: Group = tuple(ordered)
        self.on_cpu = facts.primary.type == "cpu"

    @property
    def auto(self) -> bool:
        return self.request.split == "auto"

    def on_lanes(self) -> Placement:
        """A lane for each device, or for each pair of devices that share the sides of guidance, or for each team."""
        options, facts = self.options, self.facts
        groups, splits = self._lanes()
        # More lanes than the processor has cores would only take turns.
        lanes = min(len(groups), facts.processors) if self.on_cpu else len(groups)
        costs = self.timings.costs() if self.timings is not None and splits == (WHOLE,) else ()
        several = (lanes if self.on_cpu else len(self.devices)) > 1
        placed = _planned(options, facts, lanes, options.cores, costs, several)
        if lanes < len(groups) and _is_about_lanes(placed.plan):
            placed = _noted(placed, _few_processors(len(groups), lanes))
        if placed.plan.cores > 1:
            return replace(placed, groups=groups[: placed.plan.cores], splits=splits)
        pair = next((group for group in groups if facts.primary in group and len(group) > 1), None)
        if pair is None:
            return replace(placed, groups=((facts.primary,),))
        return _described(replace(placed, groups=(self._primary_first(pair),), splits=splits))

    def by_tokens(self) -> Placement:
        """Lanes of devices that share each call by tokens; one lane of all devices unless more cores are asked for."""
        cores, count = self.options.cores, len(self.devices)
        if cores > 1 and count // cores >= 2:
            shares = count // cores
            placed = _planned(self.options, self.facts, cores, cores)
            if placed.plan.cores > 1:
                return replace(placed, groups=self._teams(shares, cores), splits=(Split(shares=shares),))
        elif cores > 1:  # a core of its own is worth more than a part of a call
            devices = counted_phrase(count, "1 device", "{count} devices")
            few = Phrase("{cores} cores on {devices} leave no device to share a call", cores=cores, devices=devices)
            return _noted(self.on_lanes(), not_by_tokens(few))
        group = self._sharers
        placed = _planned(self.options, self.facts, 1, min(cores, 1), several=len(group) > 1)
        if len(group) < 2:
            return _noted(replace(placed, groups=(group,)), not_by_tokens(self.why_alone))
        return _described(replace(placed, groups=(group,), splits=(Split(shares=len(group)),)))

    def alone(self) -> tuple[Placement, Placement]:
        """One core with all devices that share its calls: with every step, and with as many calls as the fidelity
        needs."""
        cores = min(self.options.cores, 1)
        several = len(self._sharers) > 1
        near = self.on_one_core(_planned(self.options, self.facts, 1, cores, several=several))
        if not isinstance(near.plan, AdaptivePlan):
            return near, near
        return self.on_one_core(Placement(plan(self.facts.steps, 1, cores))), near

    def on_one_core(self, placed: Placement) -> Placement:
        """The placement of one core, with all devices that share its calls in the fastest way."""
        group = self._sharers
        splits = self._splits_of(group, tokens=self.auto)
        used = max(split.devices for split in splits)
        return _described(replace(placed, groups=(group[:used],), splits=splits))

    @property
    def why_alone(self) -> Phrase:
        """Why no other device can share the calls of one core."""
        if self.facts.primary not in self.devices:
            return Phrase(
                "the model is on {device}, which is none of the chosen devices", device=str(self.facts.primary)
            )
        return Phrase("there is one device only")

    def seconds(self, placed: Placement) -> float:
        """How long the placement takes, by the measured times of all splits."""
        known = self._known(self._sharers)
        plan, cost = placed.plan, known[WHOLE]
        if placed.splits != (WHOLE,):
            cost = min((known[split] for split in placed.splits if split in known), default=cost)
        elif self.timings is not None and plan.cores > 1:
            costs = self.timings.costs()
            cost = costs[min(plan.cores, len(costs)) - 1]
        solving = self.facts.solving_seconds if plan.cores > 1 else 0.0
        return plan.depth * (cost + solving)

    @property
    def _sharers(self) -> Group:
        """The devices that can share the calls of one core, the model's own first."""
        if self.facts.primary not in self.devices:
            return (self.facts.primary,)
        group = self._primary_first(self.devices)
        if self.auto and self.on_cpu:  # members beyond the idle cores of the processor would only take turns
            return group[: max(1, self.facts.processors // self.facts.threads)]
        return group

    def _lanes(self) -> tuple[tuple[Group, ...], tuple[Split, ...]]:
        """The devices of each lane, and how they share its calls."""
        facts, devices = self.facts, self.devices
        singles: tuple[Group, ...] = tuple((device,) for device in devices)
        each = len(devices) // max(1, self.options.cores)  # a core of its own is worth more than a part of a call
        if self.request.split not in ("auto", "guidance") or each < SIDES:
            return singles, (WHOLE,)
        if self.auto and self.on_cpu:
            return singles, (WHOLE,)
        if self.auto and self.options.cores > 1 and facts.reasons.for_one_core is None:
            teams = self._teams(each, self.options.cores)
            splits = self._splits_of(teams[0], tokens=True)
            used = max(split.devices for split in splits)
            return tuple(team[:used] for team in teams), splits
        if not self._guidance_possible:
            return singles, (WHOLE,)
        pairs = self._teams(SIDES, len(devices) // SIDES)
        if not self.auto:
            return pairs, (Split(SIDES),)
        if self.timings is not None and not self.timings.gains(Split(SIDES)):
            return singles, (WHOLE,)
        slow = [pair for pair in pairs if self._fastest(pair, (Split(SIDES), WHOLE)) == WHOLE]
        # The number of lanes stays, and with it the picture.
        return tuple(pair[:1] if pair in slow else pair for pair in pairs), (Split(SIDES), WHOLE)

    @property
    def _guidance_possible(self) -> bool:
        reasons = self.facts.reasons
        return self.facts.guided and reasons.for_one_core is None and reasons.against_sides is None

    def _splits_of(self, group: Group, tokens: bool) -> tuple[Split, ...]:
        """How the devices of a lane may share its calls; one way if it is named or known to be the fastest."""
        if len(group) < 2:
            return (WHOLE,)
        # On a CPU, tokens give the same bits; the sides of guidance do not, unless they are in one batch.
        guidance = self._guidance_possible and not (self.auto and self.on_cpu)
        if self.request.split == "guidance":
            return (Split(SIDES),) if guidance else (WHOLE,)
        if self.request.split == "tokens":
            return (Split(shares=len(group)),)
        splits = possible_splits(len(group), guidance, tokens and self.facts.reasons.against_tokens is None)
        best = self._fastest(group, splits)
        return splits if best is None else (best,)

    def _fastest(self, group: Group, splits: tuple[Split, ...]) -> Split | None:
        """The fastest split, if all were measured; `WHOLE` if no other one can be used."""
        known = self._known(group)
        if all(known.get(split) == math.inf for split in splits if split != WHOLE):
            return WHOLE
        if any(split not in known for split in splits):
            return None
        return fastest_way({split: known[split] for split in splits}, WHOLE, MIN_GAIN)

    def _known(self, group: Group) -> Mapping[Split, float]:
        kept = self.timings.splits if self.timings is not None else {}
        return {**kept, **self.facts.split_seconds(group)}

    def _teams(self, size: int, count: int) -> tuple[Group, ...]:
        return tuple(self.devices[lane * size : (lane + 1) * size] for lane in range(count))

    def _primary_first(self, group: Group) -> Group:
        """One core works where the model is."""
        primary = self.facts.primary
        return (primary, *(device for device in group if device != primary))


def _planned(
    options: SamplerOptions, facts: Facts, lanes: int, cores: int, costs: Sequence[float] = (), several: bool = True
) -> Placement:
    """The plan for so many lanes; one core at every step if this model must see its steps in order. ``several``:
    whether there are several devices."""
    alone = cores == 1 or (cores == 0 and not several)
    tolerance = None if options.fidelity == "auto" and alone else options.tolerance
    chosen = plan(
        facts.steps,
        lanes,
        cores,
        accept=options.accepted if tolerance is None else None,
        tolerance=tolerance,
        method=options.method,
        solver=facts.solver,
        costs=costs,
        solving=facts.solving_seconds,
    )
    if chosen.cores > 1 or isinstance(chosen, AdaptivePlan):
        reason = facts.reasons.for_one_core
        if reason is None and isinstance(chosen, AdaptivePlan):
            reason = facts.reasons.for_every_step
        if reason is not None:
            chosen = SequentialPlan(facts.steps, (reason,))
    return Placement(chosen)


def _advised(placed: Placement, options: SamplerOptions, facts: Facts) -> Placement:
    """The placement with advice, where one device makes every call and would gain by making fewer."""
    alone = any(isinstance(reason, Reason) and reason.cause is Cause.ONE_LANE for reason in placed.plan.reasons)
    by_default = alone and options.fidelity == "auto" and placed.splits == (WHOLE,)
    in_order = isinstance(placed.plan, SequentialPlan) and any(isinstance(given, str) for given in placed.plan.reasons)
    if options.tolerance is None or not (by_default or in_order):
        return placed
    near = plan(facts.steps, 1, 1, tolerance=NEAR, solver=facts.solver)
    saved = 1 - near.depth / facts.steps
    if saved < _MIN_ADVISED or facts.reasons.for_every_step is not None:
        return placed
    if facts.reasons.for_one_core is not None:
        cache = facts.reasons.step_cache
        return placed if cache is None else replace(placed, plan=placed.plan.because(_instead_of(cache, options)))
    if not by_default:
        return placed
    share = _SHARES[min(_SHARES, key=lambda known: abs(known - saved))]
    return replace(placed, plan=placed.plan.because(Advice("fidelity near: about {share} less time", share=share)))


def _instead_of(cache: str, options: SamplerOptions) -> Phrase:
    """The advice to leave out calls by the fidelity instead of a step cache. See benchmarks/results/peers.md: at equal
    or more calls, the caches are further off by the 90th percentile in nearly every cell."""
    closer = Phrase("that leaves out calls too, and usually stays closer to KSampler's picture")
    if options.fidelity != "auto":
        return Advice(
            "remove {cache}, and fidelity {fidelity} acts: {closer}",
            cache=cache,
            fidelity=options.fidelity,
            closer=closer,
        )
    return Advice("without {cache}, set fidelity to near: {closer}", cache=cache, closer=closer)


def _described(placed: Placement) -> Placement:
    """The placement of one core with the reason for its devices."""
    reasons = _sharing_reasons(placed)
    return replace(placed, plan=replace(placed.plan, reasons=(*_limits(placed), *reasons))) if reasons else placed


def _limits(placed: Placement) -> tuple[str | Reason, ...]:
    """Why the plan has no more cores, apart from the number of lanes and from what is shared."""
    shared = _sharing_reasons(placed)
    return tuple(
        reason
        for reason in placed.plan.reasons
        if reason not in shared and not (isinstance(reason, Reason) and reason.cause in _ABOUT_LANES)
    )


def _sharing_reasons(placed: Placement) -> tuple[Phrase, ...]:
    """What the devices of one core share, in a sentence; nothing for one device."""
    if placed.splits == (WHOLE,):
        return ()
    names, split = in_words(placed.groups[0]), placed.splits[0]
    if len(placed.splits) > 1:
        how = Phrase(
            "{devices} make each call together or one of them alone, whichever the first calls show to be faster",
            devices=names,
        )
    elif split.sides > 1 and split.shares > 1:
        how = Phrase("{devices} share each guided call, each side by tokens", devices=names)
    elif split.sides > 1:
        how = Phrase("{devices} share each guided call, one side each", devices=names)
    else:
        how = Phrase("{devices} share each call by tokens", devices=names)
    if isinstance(placed.plan, AdaptivePlan):
        return (how,)
    return (Phrase("{how}, the same picture apart from rounding", how=how),)


def _on_own_device(facts: Facts) -> Facts:
    """The facts, as if the model's own device were the only one."""
    return replace(facts, devices=(facts.primary,))


def _bound(placed: Placement, reason: Phrase) -> Plan:
    """The plan for the model's own device, with the ``reason`` for that in place of reasons about other lanes."""
    others = (other for other in placed.plan.reasons if not (isinstance(other, Reason) and other.cause in _ABOUT_LANES))
    return replace(placed.plan, reasons=(reason, *others))


def _noted(placed: Placement, note: Phrase) -> Placement:
    return replace(placed, notes=(*placed.notes, note))


def not_by_tokens(problem: str) -> Phrase:
    """That devices do not share calls by tokens, and why."""
    return Phrase("calls are not shared by tokens: {problem}", problem=problem)


def _is_about_lanes(chosen: Plan) -> bool:
    """Whether the plan's reasons say a number of lanes."""
    return any(isinstance(reason, Reason) and reason.lanes > 0 for reason in chosen.reasons)


def _few_processors(lanes: int, processors: int) -> Phrase:
    return Phrase(
        "only {processors} of {lanes} CPU lanes are used, because the processor has {cores}",
        processors=processors,
        lanes=lanes,
        cores=counted_phrase(processors, "1 core", "{count} cores"),
    )
