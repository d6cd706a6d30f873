"""What monitoring knows of a run that has ended, well or not. Pure; needs torch only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..sampling.run_record import ChordsRun

METHODS = ("stock", "sequential", "chords", "secant", "none")
"""The labels of methods; "none" for a run that ended before it had a plan."""
OUTCOMES = ("success", "interrupted", "error")


class Stream(Protocol):
    """What monitoring reads of the stream of a run (`streaming.stream.RunStream`)."""

    prompt_id: str | None
    node_id: str | None
    queued_seconds: float | None

    @property
    def first_picture_seconds(self) -> float | None: ...

    def events(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that has ended.

    Attributes:
        prompt_id, node_id: whose run it was; None outside of a prompt.
        outcome: one of `OUTCOMES`.
        method: one of `METHODS`.
        error: what went wrong; None if nothing did.
        steps: of the schedule; it is what KSampler calls the model for, once each.
        seconds: from the beginning of the run to its end.
        first_picture_seconds: from the arrival of the prompt to the first picture or result of this run. None if the
            prompt had another run before, and where the arrival is not known.
        devices: one name a lane.
        lanes: what happened to lanes, in order: the device and "lost", "slow", "back" or "member_lost", which is a
            device of a lane that shared its calls.
        call_seconds: of each model call that the pack made itself, by the device that made it.
        record: of a run that ended well. None for another one.
    """

    prompt_id: str | None
    node_id: str | None
    outcome: str
    method: str
    error: str | None = None
    steps: int = 0
    seconds: float = 0.0
    first_picture_seconds: float | None = None
    devices: tuple[str, ...] = ()
    lanes: tuple[tuple[str, str], ...] = ()
    call_seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    record: ChordsRun | None = None

    @property
    def saved(self) -> int:
        """The calls in a row that the run took less than KSampler; 0 if it did not end well."""
        return 0 if self.record is None else max(0, self.record.plan.steps - self.record.depth)


def finished_run(stream: Stream, record: ChordsRun | None) -> FinishedRun:
    """The run of a stream whose ``done`` event was sent. ``record``: of the run, if it ended well."""
    events = stream.events()
    plan = newest(events, "plan")
    done = newest(events, "done")
    outcome, method = done.get("status", "success" if record else "error"), str(plan.get("method", "none"))
    run = FinishedRun(
        stream.prompt_id,
        stream.node_id,
        outcome if outcome in OUTCOMES else "error",
        method if method in METHODS else "none",
        error=done.get("error"),
        steps=int(plan.get("steps", 0)),
        seconds=float(done.get("seconds", 0.0)),
        first_picture_seconds=_first_picture(stream, done),
        devices=tuple(plan.get("devices", ())),
        lanes=tuple((str(each["device"]), str(each["state"])) for each in events if each["kind"] == "lane"),
    )
    if record is None:
        return run
    lanes = (*run.lanes, *((device, "member_lost") for device in _lost_members(record, events)))
    return replace(run, devices=record.devices, lanes=lanes, call_seconds=_call_seconds(record), record=record)


def newest(events: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """The newest event of a kind; {} if there is none."""
    return next((event for event in reversed(events) if event["kind"] == kind), {})


def _first_picture(stream: Stream, done: Mapping[str, Any]) -> float | None:
    """A run without any picture or hit that ends well shows its result at its end."""
    shown = stream.first_picture_seconds
    if shown is None and done.get("status") == "success":
        shown = float(done["seconds"])
    return None if stream.queued_seconds is None or shown is None else stream.queued_seconds + shown


def _lost_members(record: ChordsRun, events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lanes whose lost device has no event: its lane went on without it."""
    told = {f"{event['device']} ({event['error']})" for event in events if event["kind"] == "lane"}
    return (lost.partition(" (")[0] for lost in record.lost_lanes if lost not in told)


def _call_seconds(record: ChordsRun) -> dict[str, list[float]]:
    """The seconds of each call by device. The evaluations of a round that are rows of one call count once."""
    seconds: dict[str, list[float]] = {}
    calls: set[int] = set()
    lanes = record.lanes
    for mark in record.timeline.evaluations if record.timeline is not None else ():
        if record.rows > 1:
            if mark.depth in calls:
                continue
            calls.add(mark.depth)
        seconds.setdefault(lanes[mark.lane], []).append(mark.seconds)
    return seconds
