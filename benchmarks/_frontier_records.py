"""The records of benchmarks/frontier.py: where they are kept, and what they mean, in pure functions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._frontier_cases import ALSO, STOCK_STEPS, Case
from benchmarks._report import write

CLOSE = 0.01  # fidelity: the median relative RMSE
DIVERGED = 10.0  # a relative RMSE that counts as no result; larger values are cut to it
MAX_STEPS = STOCK_STEPS[-1]
ACCURATE_FROM = 15  # equal accuracy is judged where the best stock sampler needs so many calls or more
DEVICES = (1, 2, 4, 8)

FIDELITY_GOALS = {  # by CFG and devices: for Euler with 20 steps and with 50 steps
    1: {1: (1.0, 1.0), 2: (1.5, 1.8), 4: (2.5, 3.3), 8: (3.0, 4.5)},
    4: {1: (1.0, 1.0), 2: (2.0, 2.0), 4: (2.6, 3.0), 8: (3.6, 5.0)},
}
ACCURACY_GOALS = {
    1: {1: 1.25, 2: 1.8, 4: 3.0, 8: 5.0},
    4: {1: 1.25, 2: 2.0, 4: 3.5, 8: 6.0},
}

COLUMNS = ("depth", "evaluations", "median", "mean", "p90", "pixels")
Record = dict[str, Any]


@dataclass
class Book:
    """The records so far, by case, and their file."""

    folder: Path
    facts: dict[str, Any]
    cases: dict[str, Case]
    known: dict[str, list[list[float | None]]] = field(default_factory=dict)  # rows of COLUMNS
    own_errors: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    seconds_before: float = 0.0

    def load(self) -> None:
        """Read what an earlier run with the same seeds has measured."""
        path = self.folder / "frontier.json"
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            same = ("seeds", "device", "small")
            if all(earlier["facts"].get(name) == self.facts[name] for name in same):
                self.known, self.own_errors = earlier["known"], earlier["own_errors"]
                self.seconds_before = earlier["facts"]["seconds"]

    def save(self, left_out: int, seconds: float) -> None:
        """Write frontier.json, ``seconds`` after this run began."""
        self.facts["left_out"] = left_out
        self.facts["seconds"] = round(self.seconds_before + seconds)
        content = {
            "facts": self.facts,
            "own_errors": self.own_errors,
            "failures": self.failures,
            "columns": COLUMNS,
            "known": self.known,
        }
        text = json.dumps(content, separators=(",", ":")).replace(']],"', ']],\n"')
        write(self.folder / "frontier.json", [text])

    @property
    def records(self) -> list[Record]:
        """One for each result: what was run, and what came out."""
        return [
            {**as_record(self.cases[key]), **dict(zip(COLUMNS, row, strict=True))}
            for key, rows in self.known.items()
            if key in self.cases
            for row in rows
        ]


def as_record(case: Case) -> Record:
    always = {name: getattr(case, name) for name in ("problem", "part", "method", "solver", "steps", "grid", "cores")}
    return always | {name: getattr(case, name) for name in ("starts", "rounds", "calls") if getattr(case, name)}


# --- what the records mean: pure functions


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    return [record for record in records if all(record[name] == value for name, value in wanted.items())]


def by_method(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each method, by its name."""
    found: dict[str, list[Record]] = {}
    for record in records:
        for name in record["method"].split(ALSO):
            found.setdefault(name, []).append(record)
    return found


def fastest(records: Iterable[Record], cores: int, within: float = CLOSE) -> Record | None:
    """The record with the least depth on at most ``cores`` cores whose median is at most ``within``; of equal depths
    the closest one."""
    close = [record for record in records if record["cores"] <= cores and record["median"] <= within]
    return min(close, key=lambda record: (record["depth"], record["median"]), default=None)


@dataclass(frozen=True)
class Needed:
    """The calls that a stock sampler needs.

    ``beyond``: it needs more than the most that were tried. ``fewer``: the fewest that were tried are more than enough.
    """

    calls: float
    sampler: str = ""
    beyond: bool = False
    fewer: bool = False

    def __str__(self) -> str:
        return f"{'> ' if self.beyond else '≤ ' if self.fewer else ''}{self.calls:.1f}"


def calls_needed(stock: Iterable[Record], error: float) -> Needed:
    """What the best stock sampler and grid needs for a median error of at most ``error``.

    Between measured numbers of calls it is interpolated, both in logarithms.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for record in stock:
        curves.setdefault(record["method"], []).append((record["depth"], record["median"]))
    best = Needed(max(points[-1][0] for points in map(sorted, curves.values())), beyond=True)
    for sampler, points in curves.items():
        calls = crossing(sorted(points), error)
        if calls is not None and (best.beyond or calls < best.calls):
            best = Needed(calls, sampler, fewer=calls <= min(points)[0])
    return best


def crossing(points: Sequence[tuple[int, float]], error: float) -> float | None:
    """The calls at which a curve of (calls, error) first comes down to ``error``; None if it never does."""
    before: tuple[int, float] | None = None
    for calls, value in points:
        if value <= error:
            if before is None or before[1] >= DIVERGED:
                return float(calls)
            share = math.log(before[1] / error) / math.log(before[1] / value) if value < before[1] else 1.0
            return math.exp(math.log(before[0]) + share * math.log(calls / before[0]))
        before = (calls, value)
    return None


@dataclass(frozen=True)
class Gain:
    """A record, and what the best stock sampler needs for the same error."""

    record: Record
    needed: Needed

    @property
    def ratio(self) -> float:
        return self.needed.calls / self.record["depth"]


def gains(records: Iterable[Record], stock: Sequence[Record], cores: int) -> list[Gain]:
    """The gains on at most ``cores`` cores of all records that are accurate enough to count, the best first."""
    found = [Gain(r, calls_needed(stock, r["median"])) for r in records if r["cores"] <= cores]
    enough = [gain for gain in found if gain.needed.calls >= ACCURATE_FROM]
    return sorted(enough, key=lambda gain: (-gain.ratio, gain.record["median"]))


def splits(devices: int, cfg: int) -> tuple[int, int]:
    """The number of cores, and how many times as fast a call is: with guidance, two devices share each call first."""
    return (devices // 2, 2) if cfg != 1 and devices > 1 else (devices, 1)


def verdict(value: float | None, goal: float, lower_bound: bool = False) -> str:
    if value is not None and round(value, 2) >= goal:
        return "met"
    return "unknown (a lower bound)" if lower_bound and value is not None else "**missed**"


def cfg_of(problem: str) -> int:
    return int(problem.rpartition("cfg")[2])
