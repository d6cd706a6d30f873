"""A line of JSON for each run, for log collectors and for audits. The owner of the server switches it on.

A line has no prompt text, no picture and no path of a model. It has the message of the run and its error, which may
name devices, machines of a cluster and nodes.
"""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from .finished_run import FinishedRun
from .sdo_run import SdoRun

VARIABLE = "CHORDS_RUN_LOG"
TO_LOG = "log"
"""The value of the variable for lines in the server's own log. Every other value is the path of a file."""

_log = logging.getLogger("chords")


def write_line(run: FinishedRun | SdoRun) -> None:
    """Write the line of a run where the environment variable `VARIABLE` says; nothing without it.

    Raises:
        OSError: the file cannot be written to.
    """
    place = os.environ.get(VARIABLE, "").strip()
    if not place:
        return
    fields = sdo_fields_of(run) if isinstance(run, SdoRun) else fields_of(run)
    line = json.dumps({"time": _now(), **fields}, allow_nan=False)
    if place == TO_LOG:
        _log.info("%s", line)
        return
    with open(place, "a", encoding="utf-8") as file:  # anew for each line, so that the file may be moved away
        file.write(line + "\n")


def fields_of(run: FinishedRun) -> dict[str, Any]:
    """What the line says apart from its time. Fields that are not known are null."""
    fields: dict[str, Any] = {
        "event": "chords_run",
        "prompt_id": run.prompt_id,
        "node_id": run.node_id,
        "outcome": run.outcome,
        "error": run.error,
        "method": run.method,
        "steps": run.steps,
        "seconds": _finite(run.seconds),
        "first_picture_seconds": _finite(run.first_picture_seconds),
        "devices": list(run.devices),
        "lanes": [{"device": device, "state": state} for device, state in run.lanes],
    }
    record = run.record
    if record is None:
        return fields
    calls = {device: _finite(sum(each) / len(each)) for device, each in run.call_seconds.items() if each}
    return fields | {
        "steps": record.plan.steps,
        "solver": record.solver,
        "cores": record.plan.cores,
        "calls_in_row": record.depth,
        "calls_in_row_saved": run.saved,
        "model_calls": record.evaluations,
        "estimate": _finite(record.estimate),
        "by_request": record.by_request,
        "fallbacks": list(record.fallbacks),
        "lost_lanes": list(record.lost_lanes),
        "split": "off" if record.shared is None else record.shared.split,
        "rows": record.rows,
        "call_seconds": calls,
        "message": record.message,
    }


def sdo_fields_of(run: SdoRun) -> dict[str, Any]:
    """What the line of a run of an SDO node says apart from its time."""
    return {"event": "sdo_run", **asdict(run), "seconds": _finite(run.seconds)}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
