"""The statistics of a comparison, and which variant to recommend. Pure."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

from .pictures import Difference

_EIGHT_BIT = 1e-6  # a relative difference that pictures of 8 bits cannot show: the text then says "apart from rounding"
_PACK = "chords_without_host"
_REPO = Path(__file__).resolve().parents[2]
_HOST = _REPO / "nodes" / "host"
FEW_ROUNDS = 5
"""With fewer, the 90th percentile is about the worst, and the page says so."""


@dataclass(frozen=True)
class Round:
    """One variant in one round: the seconds of its run, and how far its pictures are from KSampler's of that round."""

    seconds: float
    whole: float
    first: float
    difference: Difference
    memory: Mapping[str, int]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """What all rounds of a variant show.

    Attributes:
        seconds, seconds_90: median and 90th percentile.
        speed, speed_90: KSampler's seconds over this variant's of the same round: the median, and what is reached in
            nine of ten rounds.
        overlaps: whether one of its runs was not faster (or, of a slower one, not slower) than each of KSampler's.
        whole, first: medians of the seconds of the prompt and to the first picture.
        difference_90, worst: of the pictures, relative RMS.
        psnr: the smallest, in dB.
        calls: model calls in a row of a CHORDS sampler, the median; None for others.
        memory: the most bytes in use, by device.
    """

    name: str
    rounds: int
    seconds: float
    seconds_90: float
    speed: float
    speed_90: float
    overlaps: bool
    whole: float
    first: float
    difference_90: float
    worst: float
    psnr: float
    calls: float | None
    memory: Mapping[str, int]
    message: str


@dataclass(frozen=True)
class Advice:
    """The recommendation. ``place``: of its row; ``sentence``: what to do and why; ``cautions``: what limits it."""

    place: int
    sentence: str
    cautions: tuple[str, ...]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the values is, linear between two of them, as numpy has it.

    Raises:
        ValueError: there are no values, or the share is not within 0..1.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError(f"a percentile needs values and a share from 0 to 1, not {share}")
    in_order = sorted(values)
    place = share * (len(in_order) - 1)
    below, above = in_order[math.floor(place)], in_order[math.ceil(place)]
    return below if below == above else below + (place - math.floor(place)) * (above - below)


def row_of(name: str, rounds: Mapping[int, Round], stock: Mapping[int, Round]) -> Row | None:
    """A variant over the rounds that KSampler has, too. None if there are none.

    Args:
        rounds: by number; the same number means the same seed.
    """
    both = sorted(rounds.keys() & stock.keys())
    if not both:
        return None
    found = [rounds[number] for number in both]
    base = [stock[number] for number in both]
    times = [each.seconds for each in found]
    ratios = [one.seconds / other.seconds for one, other in zip(found, base, strict=True)]
    differences = [each.difference.rms for each in found]
    calls = [each.record["calls"] for each in found if "calls" in each.record]
    devices = dict.fromkeys(device for each in found for device in each.memory)
    return Row(
        name,
        len(both),
        median(times),
        percentile(times, 0.9),
        1 / median(ratios),
        1 / percentile(ratios, 0.9),
        _overlap(times, [each.seconds for each in stock.values()]),
        median(each.whole for each in found),
        median(each.first for each in found),
        percentile(differences, 0.9),
        max(differences),
        min(each.difference.psnr for each in found),
        median(calls) if calls else None,
        {device: max(each.memory.get(device, 0) for each in found) for device in devices},
        found[-1].record.get("message", ""),
    )


def _overlap(times: Sequence[float], others: Sequence[float]) -> bool:
    return not (max(times) < min(others) or min(times) > max(others))


def advise(rows: Sequence[Row], all_rounds: Mapping[str, Mapping[int, Round]], saving: Mapping[str, bool]) -> Advice:
    """Which row to take, by the rule of CHORDS Benchmark, with the 90th percentile of the pictures' differences.

    Args:
        rows: KSampler's first.
        all_rounds: of each row, by its name.
        saving: whether a variant makes fewer calls in a row than KSampler, or faster ones.
    """
    rule, stock = recommendation(), all_rounds[rows[0].name]
    entries = []
    for row in rows:
        times = tuple(each.seconds for number, each in sorted(all_rounds[row.name].items()) if number in stock)
        apart = max(row.difference_90, _EIGHT_BIT) if math.isfinite(row.difference_90) else math.nan
        typical = rows[0].seconds / row.speed  # so that the sentence has the speed of the table
        entry = rule.Entry(row.name, times, row.first, apart, row.psnr, saving[row.name], row.message, typical)
        entries.append(entry)
    place, why = rule.advise(entries)
    why = str(why).replace("more repeats", "more seeds")  # each seed is one timed run here
    if place == 0 and len(rows) == 1:
        why = "Only KSampler was measured, so there is nothing to recommend."
    cautions = []
    if rows[0].rounds < FEW_ROUNDS:
        seeds = "one seed" if rows[0].rounds == 1 else f"{rows[0].rounds} seeds"
        cautions.append(
            f"Measured with {seeds} only. Some pictures take more model calls than others: compare with {FEW_ROUNDS} "
            "seeds or more, and with several prompts, before you change a workflow for good."
        )
    if math.isfinite(rows[place].worst) and rows[place].worst >= rule.CLOSE:
        cautions.append(
            f"One of its pictures differs by {percent(rows[place].worst)} from KSampler's: look at the pictures below."
        )
    return Advice(place, why, tuple(cautions))


def percent(value: float) -> str:
    """A relative difference as text; what is not zero never reads as zero."""
    if not math.isfinite(value):
        return "not comparable"
    if value == 0:
        return "none"
    return f"{value:.1%}" if value >= 0.001 else "under 0.1%"


def duration(seconds: float) -> str:
    """Seconds in a few letters."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def limit() -> float:
    """The relative difference up to which a variant is recommended."""
    return float(recommendation().CLOSE)


def rule() -> str:
    """The rule of the recommendation in words."""
    least = recommendation().MIN_GAIN
    return (
        f"the fastest variant whose pictures differ from KSampler's by less than {limit():.0%} (relative RMS of the "
        f"pictures' values, the 90th percentile over the seeds), which takes at least {least:.0%} less time, and each "
        "of whose runs was faster than each of KSampler's; else KSampler"
    )


@cache
def recommendation() -> ModuleType:
    """`nodes/recommendation.py`, which CHORDS Benchmark uses. It needs no ComfyUI, but the packages around it do: here
    they are names without content."""
    for name, folder in {_PACK: _REPO, f"{_PACK}.nodes": _REPO / "nodes", f"{_PACK}.nodes.host": _HOST}.items():
        package = ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    return importlib.import_module(f"{_PACK}.nodes.recommendation")
