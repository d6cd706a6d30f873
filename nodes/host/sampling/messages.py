"""The sentences that tell a user what a run does and why. Pure; needs no host."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....chords_core import Plan, hit_depth


def describe(chosen: Plan, devices: Sequence[str], took: int | None = None) -> str:
    """The choice, what it brings and why, in one line.

    Args:
        chosen: the plan.
        devices: one name a lane.
        took: after the run: the number of model calls in a row that it took.
    """
    if chosen.cores == 1:
        return f"one core{_called(chosen)}: {chosen.reason}"
    return (_describe_window if chosen.method == "secant" else _describe_chords)(chosen, devices, took)


def counted(number: int, thing: str) -> str:
    """ "1 device", "2 devices"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _called(chosen: Plan) -> str:
    return "" if chosen.calls is None else f", the model called at {chosen.calls} of {chosen.steps} steps"


def _describe_window(chosen: Plan, devices: Sequence[str], took: int | None) -> str:
    depth = took or chosen.depth
    names = ", ".join(devices)
    if len(devices) < chosen.cores:
        turns = depth * math.ceil(chosen.cores / len(devices))
        slower = ", slower than one core" if turns >= chosen.steps else ""
        pace = f"on {names} the cores take turns, {turns} calls in a row{slower}"
    elif depth >= chosen.steps:
        pace = f"no faster than one core, on {names}"
    else:
        pace = f"{chosen.steps / depth:.1f}x fewer on {names}"
    calls = f"{'' if took else 'about '}{depth} model calls in a row instead of {chosen.steps}"
    return f"{chosen.cores} cores in a window{_called(chosen)}: a result after {calls}; {pace} ({chosen.reason})"


def _describe_chords(chosen: Plan, devices: Sequence[str], took: int | None) -> str:
    which, pace = _which_result(chosen, took), _pace_of_chords(chosen, devices)
    return f"{chosen.cores} cores (CHORDS): {which}; {pace} ({chosen.reason})"


def _which_result(chosen: Plan, took: int | None) -> str:
    """The result that ends the run, and when."""
    if chosen.agreement is None:
        which = "the exact result" if chosen.accept == chosen.cores else f"result {chosen.accept} of {chosen.cores}"
        instead = f" instead of {chosen.steps}" if chosen.depth < chosen.steps else ""
        return f"{which} after {chosen.depth} model calls{instead}"
    share = f"{chosen.agreement.threshold:.0%}"
    if took:
        return f"a result that is at most {share} off, or exact, after {took} model calls"
    if chosen.depth == chosen.steps:
        return f"the exact result after {chosen.steps} model calls"
    between = f"{chosen.depth} to {chosen.steps}"
    return f"the first result that differs by at most {share} from the one before, after {between} model calls"


def _pace_of_chords(chosen: Plan, devices: Sequence[str]) -> str:
    names = ", ".join(devices)
    if len(devices) < chosen.cores:
        turns = f"on {counted(len(devices), 'device')} ({names}) the cores take turns, slower than one core"
        return f"{turns}; set cores to 0 for the fastest choice"
    if chosen.depth < chosen.steps:
        return f"{chosen.speedup:.1f}x fewer calls in a row on {names}"
    first = hit_depth(chosen.steps, chosen.starts, chosen.cores)
    shown = f", but shows the first result after {first} calls" if first < chosen.steps else ""
    return f"as long as with one core{shown}; on {names}"
