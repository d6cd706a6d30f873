"""The sentences that tell a user what a run does and why. Pure; needs no host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ....chords_core import AdaptivePlan, Agreement, Cause, ChordsPlan, Plan, Reason, WindowPlan, hit_depth
from ..devices.groups import WHOLE, Split
from ..phrases import Phrase, counted_phrase, in_turn, listed
from .percent import SMALLEST, one_digit


@dataclass(frozen=True)
class Outcome:
    """What is known of a run at its end.

    Attributes:
        depth: the number of model calls in a row that it took.
        estimate: of the relative RMS difference from KSampler's latent; None if there is none.
        by_request: a user ended it.
    """

    depth: int
    estimate: float | None = None
    by_request: bool = False


def describe(chosen: Plan, devices: Sequence[str], outcome: Outcome | None = None, rows: int = 1) -> Phrase:
    """The choice, what it brings and why, in one line. It begins with "one core" if there is only one.

    Args:
        chosen: the plan.
        devices: one name a lane.
        outcome: None before the end of the run.
        rows: how many evaluations are one model call.
    """
    if isinstance(chosen, AdaptivePlan) and rows > 1:
        return Phrase(
            "{rows} rows in one call on {device}: {calls} ({reasons})",
            rows=rows,
            device=devices[0],
            calls=_calls(chosen, outcome),
            reasons=reasons_of(chosen),
        )
    if isinstance(chosen, WindowPlan | AdaptivePlan) and chosen.cores > 1:
        return _describe_window(chosen, devices, outcome)
    if isinstance(chosen, ChordsPlan) and chosen.cores > 1:
        return _describe_chords(chosen, devices, outcome)
    if isinstance(chosen, AdaptivePlan):
        return Phrase("one core, {calls}: {reasons}", calls=_calls(chosen, outcome), reasons=reasons_of(chosen))
    return Phrase("one core: {reasons}", reasons=reasons_of(chosen))


def reasons_of(chosen: Plan) -> str:
    """Why this plan was chosen, the most important reason first."""
    return in_turn(tuple(dict.fromkeys(reason_in_words(reason, chosen) for reason in chosen.reasons)) or ("",))


def describe_sharing(chosen: Split, seconds: Mapping[Split, float], dropped: Mapping[Split, Phrase]) -> Phrase:
    """What ways to share a call were found to take, in a sentence.

    Args:
        chosen: the fastest way.
        seconds: of a call by each way that was measured; `WHOLE` is among them if another way was chosen.
        dropped: the ways that are not used, each with the reason.
    """
    alone = _duration(seconds[WHOLE]) if WHOLE in seconds else ""
    if chosen != WHOLE:
        values = {"devices": chosen.devices, "time": _duration(seconds[chosen]), "alone": alone}
        if chosen.sides > 1 and chosen.shares > 1:
            return Phrase("{devices} devices share each guided call by tokens: {time} instead of {alone}", **values)
        if chosen.sides > 1:
            return Phrase("{devices} devices share each guided call: {time} instead of {alone}", **values)
        return Phrase("{devices} devices share each call by tokens: {time} instead of {alone}", **values)
    slower = [split for split in seconds if split != WHOLE and split not in dropped]
    others = ", ".join(f"{split.name}: {_duration(seconds[split])}" for split in slower)
    together = [Phrase("they are not notably faster together ({others})", others=others)] if slower else []
    together += [
        Phrase("{split} cannot be used: {reason}", split=split.name, reason=reason) for split, reason in dropped.items()
    ]
    causes = together[0]
    for cause in together[1:]:
        causes = Phrase("{one}, and {other}", one=causes, other=cause)
    if alone:
        return Phrase("one device makes each call in {alone}, because {causes}", alone=alone, causes=causes)
    return Phrase("one device makes each call, because {causes}", causes=causes)


def _duration(seconds: float) -> str:
    """As in "31 ms" and "2.4 s"."""
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def ends_by_measurement(chosen: Plan) -> bool:
    """Whether the picture decides how many model calls the plan takes."""
    if isinstance(chosen, ChordsPlan):
        return isinstance(chosen.accept, Agreement)
    return isinstance(chosen, WindowPlan | AdaptivePlan)


def _calls(chosen: WindowPlan | AdaptivePlan, outcome: Outcome | None, in_a_row: bool = False) -> str:
    """As in "about 13 of 20 calls", and "13 of 20 calls, about 0.4 % from KSampler's picture"."""
    depth, steps = chosen.depth if outcome is None else outcome.depth, chosen.steps
    if in_a_row and outcome is None:
        calls = Phrase("about {calls} of {steps} calls in a row", calls=depth, steps=steps)
    elif in_a_row:
        calls = Phrase("{calls} of {steps} calls in a row", calls=depth, steps=steps)
    elif outcome is None:
        calls = Phrase("about {calls} of {steps} calls", calls=depth, steps=steps)
    else:
        calls = Phrase("{calls} of {steps} calls", calls=depth, steps=steps)
    distance = _distance(outcome)
    return calls if distance is None else listed([calls, distance])


def _distance(outcome: Outcome | None) -> Phrase | None:
    """As in "about 0.4 % from KSampler's picture"; None before the run, and if the distance is not known."""
    if outcome is None:
        return None
    if outcome.by_request:
        return Phrase("ended early by request")
    if outcome.estimate is None:
        return None
    if outcome.estimate < SMALLEST:
        return Phrase("less than 0.1 % from KSampler's picture")
    return Phrase("about {percent} % from KSampler's picture", percent=one_digit(outcome.estimate))


def _describe_window(chosen: WindowPlan | AdaptivePlan, devices: Sequence[str], outcome: Outcome | None) -> Phrase:
    depth = chosen.depth if outcome is None else outcome.depth
    names = ", ".join(devices)
    if len(devices) < chosen.cores:
        turns = depth * math.ceil(chosen.cores / len(devices))
        pace: str = Phrase("on {devices} the cores take turns, {turns} calls in a row", devices=names, turns=turns)
        if turns >= chosen.steps:
            pace = listed([pace, Phrase("slower than one core")])
    elif depth >= chosen.steps:
        pace = Phrase("no faster than one core, on {devices}", devices=names)
    else:
        pace = Phrase("{factor}x fewer on {devices}", factor=f"{chosen.steps / depth:.1f}", devices=names)
    return Phrase(
        "{cores} cores in a window: {calls}; {pace} ({reasons})",
        cores=chosen.cores,
        calls=_calls(chosen, outcome, in_a_row=True),
        pace=pace,
        reasons=reasons_of(chosen),
    )


def _describe_chords(chosen: ChordsPlan, devices: Sequence[str], outcome: Outcome | None) -> Phrase:
    return Phrase(
        "{cores} cores (CHORDS): {result}; {pace} ({reasons})",
        cores=chosen.cores,
        result=_which_result(chosen, outcome),
        pace=_pace_of_chords(chosen, devices, outcome),
        reasons=reasons_of(chosen),
    )


def _which_result(chosen: ChordsPlan, outcome: Outcome | None) -> Phrase:
    """The result that ends the run, and when."""
    if outcome is not None and outcome.by_request:
        calls = counted_phrase(outcome.depth, "1 model call", "{count} model calls")
        return Phrase("ended early by request, with a result after {calls}", calls=calls)
    if not isinstance(chosen.accept, Agreement):
        which = Phrase("result {index} of {count}", index=chosen.accept, count=chosen.cores)
        if chosen.accept == chosen.cores:
            which = Phrase("the exact result")
        values = {"result": which, "calls": chosen.depth, "steps": chosen.steps}
        if chosen.depth < chosen.steps:
            return Phrase("{result} after {calls} model calls instead of {steps}", **values)
        return Phrase("{result} after {calls} model calls", result=which, calls=chosen.depth)
    share = f"{chosen.accept.threshold:.0%}"
    if outcome is not None:
        return Phrase(
            "a result that is at most {share} off, or exact, after {calls} model calls",
            share=share,
            calls=outcome.depth,
        )
    if chosen.depth == chosen.steps:
        return Phrase("{result} after {calls} model calls", result=Phrase("the exact result"), calls=chosen.steps)
    return Phrase(
        "the first result that differs by at most {share} from the one before, after {calls} to {steps} model calls",
        share=share,
        calls=chosen.depth,
        steps=chosen.steps,
    )


def _pace_of_chords(chosen: ChordsPlan, devices: Sequence[str], outcome: Outcome | None) -> Phrase:
    depth = chosen.depth if outcome is None else outcome.depth
    names = ", ".join(devices)
    if len(devices) < chosen.cores:
        return Phrase(
            "on {counted_devices} ({devices}) the cores take turns, slower than one core; set cores to 0 for the "
            "fastest choice",
            counted_devices=counted_phrase(len(devices), "1 device", "{count} devices"),
            devices=names,
        )
    if depth < chosen.steps:
        factor = f"{chosen.steps / depth:.1f}"
        return Phrase("{factor}x fewer calls in a row on {devices}", factor=factor, devices=names)
    first = hit_depth(chosen.steps, chosen.starts, chosen.cores)
    if first < chosen.steps:
        return Phrase(
            "as many calls in a row as with one core, but the first result is there after {calls}; on {devices}",
            calls=first,
            devices=names,
        )
    return Phrase("as many calls in a row as with one core; on {devices}", devices=names)


_WITHIN_ALONE = "the other steps are interpolated, as far as the measured error allows"

_TOO_MANY_CORES = "{cores} cores were asked for, but {counted_steps} have work for {used} only"

_SENTENCES = {
    Cause.ONE_CORE_REQUESTED: "one core was asked for",
    Cause.CORES_REQUESTED: "{cores} cores were asked for",
    Cause.MORE_CORES_USELESS: "more than {used} are no faster",
    Cause.CORES_NOT_FASTER: "{cores} cores would be no faster",
    Cause.FASTEST: "the fewest calls in a row on {lanes} devices, with a result close to that of one core",
    Cause.WITHIN_TOLERANCE: "the fewest calls in a row on {lanes} devices that the measured error allows",
    Cause.ONE_LANE: "with one device, nothing can run in parallel",
    Cause.EXACT: "the exact result takes every step in turn",
    Cause.TOO_FEW_STEPS: "at {steps} steps there is little to gain and each step matters",
    Cause.NO_ROOM: "a schedule of {counted_steps} leaves no room for more cores",
    Cause.LITTLE_GAIN: "on {lanes} devices a result close to that of one core would hardly be faster",
    Cause.SLOW_TOGETHER: "as measured, {lanes} devices at once take too long for a call to gain anything",
    Cause.WINDOW_NOT_CLOSE: "on several cores {solver} is not close enough to one core; name a method to run it so",
    Cause.NEARLY_EVERY_STEP: "at {steps} steps {solver} needs nearly every call to come as near as fidelity says",
    Cause.NO_SUCH_HIT: "{used} cores give fewer results than asked for, so the last one is taken",
}


def reason_in_words(reason: Reason | str, chosen: Plan) -> str:
    """One reason for a plan; a phrase if it can be translated."""
    if isinstance(reason, str):
        return reason
    sentence = _SENTENCES[reason.cause]
    if reason.cause is Cause.WITHIN_TOLERANCE and chosen.cores == 1:
        sentence = _WITHIN_ALONE
    if reason.cause is Cause.CORES_REQUESTED and chosen.cores < reason.cores:
        sentence = _TOO_MANY_CORES
    return Phrase(
        sentence,
        cores=reason.cores,
        lanes=reason.lanes,
        solver=reason.solver,
        used=chosen.cores,
        steps=chosen.steps,
        counted_steps=counted_phrase(chosen.steps, "1 step", "{count} steps"),
    )
