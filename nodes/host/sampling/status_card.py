"""The card that a sampler shows: what is gained first, then how and where, then advice. Pure; needs no host."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....chords_core import AdaptivePlan, Agreement, ChordsPlan, Plan, WindowPlan
from ..phrases import Advice, Card, Phrase, counted_phrase
from .messages import Outcome, reason_in_words
from .percent import SMALLEST, one_digit

_MAX_NAMED = 4  # devices


def card_of(chosen: Plan, devices: Sequence[str], outcome: Outcome | None = None, rows: int = 1) -> Card:
    """The card of a run.

    Args:
        chosen: the plan.
        devices: one name a lane.
        outcome: None before the end of the run.
        rows: how many evaluations are one model call.
    """
    reasons = list(dict.fromkeys(reason_in_words(reason, chosen) for reason in chosen.reasons))
    causes = [reason for reason in reasons if not isinstance(reason, Advice)]
    advice = [reason for reason in reasons if isinstance(reason, Advice)]
    turns = _turns(chosen, devices, rows)
    if turns > 1:
        advice.append(Advice("set cores to 0 for the fastest choice"))
    detail = [_how(chosen, devices, rows), *_picture(chosen, outcome), *causes]
    return Card(_title(chosen, outcome, turns), tuple(detail), tuple(advice))


def _turns(chosen: Plan, devices: Sequence[str], rows: int) -> int:
    """How many model calls a round takes, one after the other."""
    return 1 if rows > 1 or not devices else math.ceil(chosen.cores / len(devices))


def _title(chosen: Plan, outcome: Outcome | None, turns: int) -> tuple[str, ...]:
    steps, saves = chosen.steps, isinstance(chosen, WindowPlan | AdaptivePlan | ChordsPlan)
    if not saves or (chosen.cores == 1 and not isinstance(chosen, AdaptivePlan)):
        return (counted_phrase(steps, "1 step", "{count} steps"), Phrase("as in KSampler"))
    calls = turns * (chosen.depth if outcome is None else outcome.depth)
    in_turn, about = chosen.cores > 1, outcome is None and not isinstance(chosen, ChordsPlan)
    if calls > steps:
        return (
            Phrase("{calls} calls in a row instead of {steps}", calls=calls, steps=steps),
            Phrase("slower than one core"),
        )
    if outcome is None and isinstance(chosen, ChordsPlan) and isinstance(chosen.accept, Agreement) and calls < steps:
        return (Phrase("{calls} to {steps} calls in a row", calls=calls, steps=steps),)
    template = {
        (False, False): Phrase("{calls} of {steps} calls", calls=calls, steps=steps),
        (False, True): Phrase("about {calls} of {steps} calls", calls=calls, steps=steps),
        (True, False): Phrase("{calls} of {steps} calls in a row", calls=calls, steps=steps),
        (True, True): Phrase("about {calls} of {steps} calls in a row", calls=calls, steps=steps),
    }[in_turn, about]
    fewer = Phrase("{factor}x fewer", factor=f"{steps / calls:.1f}") if calls < steps else Phrase("none saved")
    return (template, fewer)


def _how(chosen: Plan, devices: Sequence[str], rows: int) -> Phrase:
    names, cores = _names(devices), chosen.cores
    if rows > 1:
        return Phrase("{rows} steps in each call, on {devices}", rows=rows, devices=names)
    if cores == 1:
        return Phrase("one core on {devices}", devices=names)
    chords, turns = isinstance(chosen, ChordsPlan), len(devices) < cores
    if chords and turns:
        return Phrase("CHORDS with {cores} cores, which take turns on {devices}", cores=cores, devices=names)
    if chords:
        return Phrase("CHORDS with {cores} cores on {devices}", cores=cores, devices=names)
    if turns:
        return Phrase("{cores} cores, which take turns on {devices}", cores=cores, devices=names)
    return Phrase("{cores} cores on {devices}", cores=cores, devices=names)


def _names(devices: Sequence[str]) -> str:
    """The devices, each once; of many, the first and the last."""
    each = list(dict.fromkeys(devices))
    if len(each) <= _MAX_NAMED:
        return ", ".join(each)
    return Phrase("{count} devices, {first} to {last}", count=len(each), first=each[0], last=each[-1])


def _picture(chosen: Plan, outcome: Outcome | None) -> tuple[str, ...]:
    """Which result is taken, and how near it is to KSampler's."""
    if outcome is not None and outcome.by_request:
        return (Phrase("ended early by request"),)
    if outcome is not None and outcome.estimate is not None and not isinstance(chosen, ChordsPlan):
        if outcome.estimate < SMALLEST:
            return (Phrase("less than 0.1 % from KSampler's picture"),)
        percent = one_digit(outcome.estimate)
        return (Phrase("about {percent} % from KSampler's picture", percent=percent),)
    if not isinstance(chosen, ChordsPlan) or chosen.cores == 1:
        return ()
    if isinstance(chosen.accept, Agreement):
        percent = f"{100 * chosen.accept.threshold:.0f}"
        return (Phrase("until a result differs by at most {percent} % from the one before", percent=percent),)
    if chosen.accept == chosen.cores:
        return (Phrase("the exact result"),)
    return (Phrase("result {index} of {count}", index=chosen.accept, count=chosen.cores),)
