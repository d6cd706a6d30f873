"""Finds out whether one device gains by several rows in one model call, and says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ....chords_core import ROW_COUNTS, RowsFailed
from ..compatibility.rows import reason_against_rows
from ..devices.batched_rows import RowCalls
from ..devices.timings import Timings
from ..known_sentences import phrase_of
from ..phrases import Card, Phrase
from .announcer import Announcer
from .call import SamplerCall
from .placement import Facts, Placement
from .row_placement import may_gain, place_rows, worth_a_trial

TRIED = frozenset(("cuda", "xpu"))
"""Types of devices that are tried. On a CPU a call takes about as long as its rows one after another. What the others
gain is not known, and not all of them tell when a call is done."""

Keep = Callable[[Mapping[int, float]], object]
"""Gets the seconds of a call by its number of rows, for later runs."""


@dataclass(frozen=True, eq=False)
class OpenedRows:
    """The model calls of a run in rows, and what later runs learn from it."""

    calls: RowCalls
    keep: Keep

    def failed(self, error: RowsFailed) -> None:
        """No later run of this model and shape makes calls of so many rows."""
        self.calls.forbid(error.rows, phrase_of(str(error)))
        self.keep(self.calls.seconds)


def placed_in_rows(
    placed: Placement, call: SamplerCall, facts: Facts, timings: Timings | None, announcer: Announcer, keep: Keep
) -> tuple[Placement, OpenedRows | None]:
    """The placement of a window in rows and its model calls; or the given one and None, if rows gain nothing.

    The first run of a model and shape tries rows, if no run of an earlier server has and if that may pay.

    Args:
        placed: adaptive steps on one core, on one device.
        call: the run.
        facts: of the run.
        timings: of this model on this device, if there are any.
        announcer: tells the user what is done.
        keep: gets the times that are measured, also those of one row alone: then nothing is tried again.
    """
    kept = timings.rows if timings is not None else {}
    usable = TRIED | {"cpu"} if kept else TRIED
    if call.primary.type not in usable:
        return placed, None
    hopeful = place_rows(placed, facts, kept).rows > 1 if kept else worth_a_trial(placed, facts)
    if not hopeful:
        return placed, None
    reason = reason_against_rows(call.guider, call.model_options, call.x.shape[0])
    if reason is not None:
        return _noted(placed, reason), None
    rows = OpenedRows(RowCalls(call.model, call.extra_args, call.x, call.sigmas, facts.guided), keep)
    chosen = _placed_by_times(placed, facts, rows, kept, announcer)
    if chosen.rows > 1:
        return chosen, rows
    # A problem matters only where rows would gain without it.
    problem, hoped = rows.calls.problem, place_rows(placed, facts, kept or dict.fromkeys(ROW_COUNTS, 1.0)).rows > 1
    return (_noted(placed, problem) if problem and hoped else placed), None


def _placed_by_times(
    placed: Placement, facts: Facts, rows: OpenedRows, kept: Mapping[int, float], announcer: Announcer
) -> Placement:
    """The fastest placement by the times that are known, or that a trial measures, whose rows are right."""
    calls = rows.calls
    if not calls.seconds and kept:
        calls.use(kept)
    elif not calls.seconds and not calls.problem:
        trying = Phrase("trying up to {rows} rows in one model call", rows=max(ROW_COUNTS))
        announcer.say(trying, Card((trying,)))
        measured = calls.measure(lambda count, seconds: may_gain(placed, facts, count, seconds))
        if measured:
            rows.keep(measured)
    while (chosen := place_rows(placed, facts, calls.seconds)).rows > 1:
        try:
            if calls.check(chosen.rows):
                break
        except RowsFailed as error:
            rows.failed(error)
    return chosen


def _noted(placed: Placement, reason: Phrase) -> Placement:
    return replace(placed, notes=(*placed.notes, Phrase("one row in each model call: {reason}", reason=reason)))
