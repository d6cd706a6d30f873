"""How fast the model computes on the devices, from the records of a benchmark's runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from statistics import fmean

from ....chords_core import EvaluationMark, Timeline
from ..devices.groups import Split, is_shared, split_named
from ..devices.timings import Timings
from ..sampling.run_record import ChordsRun


def timings_of(runs: Iterable[ChordsRun], step: float) -> Timings:
    """What later placements can use. ``step``: seconds a step of the host's own sampler.

    Rounds are measured with windows. CHORDS has fewer cores at work in some rounds, so it counts only for numbers of
    cores without a window.
    """
    rounds: dict[int, float] = {}
    calls: dict[str, float] = {}
    splits: dict[Split, float] = {}
    for run in sorted(runs, key=lambda run: run.method == "secant"):
        if (
            run.timeline is None
            or run.depth == 0
            or run.lost_lanes
            or len(run.devices) < run.plan.cores
            or run.rows > 1
        ):
            continue
        windowed = run.method == "secant"
        seconds = _seconds_a_round(run.timeline) if windowed else run.timeline.seconds / run.depth
        if any(map(is_shared, run.devices)):
            if run.plan.cores == 1 and run.shared is not None:
                splits[split_named(run.shared.split)] = seconds
                splits |= {split_named(name): value for name, value in run.shared.seconds.items()}
            continue
        if windowed:
            rounds[run.plan.cores] = seconds
        else:
            rounds.setdefault(run.plan.cores, seconds)
        lanes = run.timeline.seconds_per_evaluation()
        if len(lanes) >= len(calls):
            calls = {run.devices[lane]: pace for lane, pace in lanes.items()}
    when = datetime.now(timezone.utc).isoformat("T", "seconds")
    return Timings(step, rounds, calls, splits, when=when)


def _seconds_a_round(timeline: Timeline) -> float:
    """The mean time from the first model call of a round to its last answer. The time that solving takes in between is
    not in it, for a plan adds that by itself."""
    rounds: dict[int, list[EvaluationMark]] = {}
    for mark in timeline.evaluations:
        rounds.setdefault(mark.depth, []).append(mark)
    ends = (max(each.began + each.seconds for each in marks) for marks in rounds.values())
    begins = (min(each.began for each in marks) for marks in rounds.values())
    return fmean(end - begin for begin, end in zip(begins, ends, strict=True))
