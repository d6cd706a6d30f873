"""The sentences that tell a user what a run does and why. Pure; needs no host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ....chords_core import AdaptivePlan, Agreement, Cause, ChordsPlan, Plan, Reason, WindowPlan, hit_depth
from ..devices.groups import WHOLE, Split
from ..phrases import Phrase, counted_phrase
from .percent import in_percent


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


def describe(chosen: Plan, devices: Sequence[str], outcome: Outcome | None = None, rows: int = 1) -> str:
    """The choice, what it brings and why, in one line. It begins with "one core" if there is only one.

    Args:
        chosen: the plan.
        devices: one name a lane.
        outcome: None before the end of the run.
        rows: how many evaluations are one model call.
    """
    if isinstance(chosen, AdaptivePlan) and rows > 1:
        calls = f"{_calls(chosen, outcome)}{_distance(outcome)}"
        return f"{rows} rows in one call on {devices[0]}: {calls} ({reasons_of(chosen)})"
    if isinstance(chosen, WindowPlan | AdaptivePlan) and chosen.cores > 1:
        return _describe_window(chosen, devices, outcome)
    if isinstance(chosen, ChordsPlan) and chosen.cores > 1:
        return _describe_chords(chosen, devices, outcome)
    if isinstance(chosen, AdaptivePlan):
        return f"one core, {_calls(chosen, outcome)}{_distance(outcome)}: {reasons_of(chosen)}"
    return f"one core: {reasons_of(chosen)}"


def reasons_of(chosen: Plan) -> str:
    """Why this plan was chosen, the most important reason first."""
    return "; ".join(dict.fromkeys(reason_in_words(reason, chosen) for reason in chosen.reasons))


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


def counted(number: int, thing: str) -> str:
    """A number of things, as in "1 device" and "2 devices"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _calls(chosen: WindowPlan | AdaptivePlan, outcome: Outcome | None) -> str:
    """As in "about 13 of 20 calls"."""
    made = f"about {chosen.depth}" if outcome is None else f"{outcome.depth}"
    return f"{made} of {chosen.steps} calls"


def _distance(outcome: Outcome | None) -> str:
    """As in ", about 0.4 % from KSampler's picture"; empty before the run, and if the distance is not known."""
    if outcome is None:
        return ""
    if outcome.by_request:
        return ", ended early by request"
    return "" if outcome.estimate is None else f", {in_percent(outcome.estimate)} from KSampler's picture"


def _describe_window(chosen: WindowPlan | AdaptivePlan, devices: Sequence[str], outcome: Outcome | None) -> str:
    depth = chosen.depth if outcome is None else outcome.depth
    names = ", ".join(devices)
    if len(devices) < chosen.cores:
        turns = depth * math.ceil(chosen.cores / len(devices))
        slower = ", slower than one core" if turns >= chosen.steps else ""
        pace = f"on {names} the cores take turns, {turns} calls in a row{slower}"
    elif depth >= chosen.steps:
        pace = f"no faster than one core, on {names}"
    else:
        pace = f"{chosen.steps / depth:.1f}x fewer on {names}"
    about = f"{chosen.cores} cores in a window: {_calls(chosen, outcome)} in a row{_distance(outcome)}"
    return f"{about}; {pace} ({reasons_of(chosen)})"


def _describe_chords(chosen: ChordsPlan, devices: Sequence[str], outcome: Outcome | None) -> str:
    which, pace = _which_result(chosen, outcome), _pace_of_chords(chosen, devices, outcome)
    return f"{chosen.cores} cores (CHORDS): {which}; {pace} ({reasons_of(chosen)})"


def _which_result(chosen: ChordsPlan, outcome: Outcome | None) -> str:
    """The result that ends the run, and when."""
    if outcome is not None and outcome.by_request:
        return f"ended early by request, with a result after {counted(outcome.depth, 'model call')}"
    if not isinstance(chosen.accept, Agreement):
        which = "the exact result" if chosen.accept == chosen.cores else f"result {chosen.accept} of {chosen.cores}"
        instead = f" instead of {chosen.steps}" if chosen.depth < chosen.steps else ""
        return f"{which} after {chosen.depth} model calls{instead}"
    share = f"{chosen.accept.threshold:.0%}"
    if outcome is not None:
        return f"a result that is at most {share} off, or exact, after {outcome.depth} model calls"
    if chosen.depth == chosen.steps:
        return f"the exact result after {chosen.steps} model calls"
    between = f"{chosen.depth} to {chosen.steps}"
    return f"the first result that differs by at most {share} from the one before, after {between} model calls"


def _pace_of_chords(chosen: ChordsPlan, devices: Sequence[str], outcome: Outcome | None) -> str:
    depth = chosen.depth if outcome is None else outcome.depth
    names = ", ".join(devices)
    if len(devices) < chosen.cores:
        turns = f"on {counted(len(devices), 'device')} ({names}) the cores take turns, slower than one core"
        return f"{turns}; set cores to 0 for the fastest choice"
    if depth < chosen.steps:
        return f"{chosen.steps / depth:.1f}x fewer calls in a row on {names}"
    first = hit_depth(chosen.steps, chosen.starts, chosen.cores)
    shown = f", but the first result is there after {first}" if first < chosen.steps else ""
    return f"as many calls in a row as with one core{shown}; on {names}"


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
