"""Figures of the mixtures of benchmarks/scale.py that its reading, its tables and its picture share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks._scale_mixtures import FIDELITIES, STATES, Row

EXACT, AUTO = FIDELITIES
FIRST_RUN, LATER_RUNS, BENCHMARK = STATES

CLOSE = 1.1
"""A choice that takes at most so many times as long as the fastest way is as good. Up to there the pack prefers the
way that is nearer to KSampler's picture."""

LONG_CALL = 0.5
"""Seconds of a call on the GPU that was measured."""

Rows = Sequence[Row]


def kind_of(name: str) -> str:
    """What a way mixes, without numbers: "2 cores x tokens 4" is "cores x tokens"."""
    return re.sub(r" \d+$", "", re.sub(r"\d+ cores", "cores", name))


def behind(row: Row, fidelity: str, state: str) -> float:
    """How many times as long as the fastest way the pack's choice takes."""
    return float(row["fastest"][fidelity][1] / row["picks"][fidelity][state][1])


def where(rows: Iterable[Row], **values: object) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def values_of(rows: Rows, key: str) -> list[int]:
    """All values of a key, in order."""
    return sorted({row[key] for row in rows})


def models_of(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


def is_long(row: Row) -> bool:
    """Whether a call of the model takes long against the launches of its kernels."""
    return bool(row["call"] >= LONG_CALL)


def cfg(guided: bool) -> str:
    """CFG in words."""
    return "> 1" if guided else "1"


def spread(values: Sequence[float]) -> str:
    """The median, the least and the largest; one figure where all are equal."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{median(values):.2f} ({low} to {high})"


def span(values: Sequence[float]) -> str:
    """The least and the largest; one figure where both are equal."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
