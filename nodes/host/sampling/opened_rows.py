"""Finds out whether one device gains by several rows in one model call, and says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ....chords_core import ROW_COUNTS
from ..compatibility.rows import reason_against_rows
from ..devices.batched_rows import RowCalls
from ..devices.timings import Timings
from .announcer import Announcer
from .call import SamplerCall
from .placement import Facts, Placement
from .row_placement import place_rows

WITHOUT_GAIN = frozenset(("cpu",))
"""Types of devices that are not tried: there a call takes about as long as its rows one after another."""


def placed_in_rows(
    placed: Placement,
    call: SamplerCall,
    facts: Facts,
    timings: Timings | None,
    announcer: Announcer,
    keep: Callable[[Mapping[int, float]], object],
) -> tuple[Placement, RowCalls | None]:
    """The placement of a window in rows and its model calls; or the given one and None, if rows gain nothing.

    The first run of a model and shape tries rows, if no run of an earlier server has.

    Args:
        placed: adaptive steps on one core, on one device.
        call: the run.
        facts: of the run.
        timings: of this model on this device, if there are any.
        announcer: tells the user what is done.
        keep: gets the seconds of a call by its number of rows, if they were measured.
    """
    kept = timings.rows if timings is not None else {}
    if not kept and call.primary.type in WITHOUT_GAIN:
        return placed, None
    if kept and place_rows(placed, facts, kept).rows == 1:
        return placed, None
    reason = reason_against_rows(call.guider, call.model_options, call.x.shape[0])
    if reason is not None:
        return _noted(placed, reason), None
    calls = RowCalls(call.model, call.extra_args, call.x, call.sigmas, facts.guided)
    if not calls.seconds and kept:
        calls.use(kept)
    elif not calls.seconds:
        announcer.say(f"trying up to {max(ROW_COUNTS)} rows in one model call")
        measured = calls.measure()
        if len(measured) > 1:  # a problem may be gone with another prompt, or when there is more memory
            keep(measured)
    while (chosen := place_rows(placed, facts, calls.seconds)).rows > 1:
        if calls.check(chosen.rows):
            return chosen, calls
    # A problem matters only where rows would gain without it.
    hoped = place_rows(placed, facts, kept or dict.fromkeys(ROW_COUNTS, 1.0)).rows > 1
    return (_noted(placed, calls.problem) if calls.problem and hoped else placed), None


def _noted(placed: Placement, reason: str) -> Placement:
    return replace(placed, notes=(*placed.notes, f"one row in each model call: {reason}"))
