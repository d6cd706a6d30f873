"""The record of a run: which lane made which evaluation and when, the hits, and the lost lanes.

A `Recorder` listens to the events of one run. Its `Timeline` is the record so far; it holds numbers only. All times
are in seconds since the run began.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from ..methods.events import Accepted, Evaluated, Event, Hit, LaneBack, LaneLost, LaneSlow, Rectified


@dataclass(frozen=True)
class EvaluationMark:
    """One model call.

    ``core``: which core asked for it; ``index``: its place on the sigma grid; ``depth``: its round, from 1; ``lane``:
    the lane that made it; ``began``: when; ``seconds``: how long it took there.
    """

    core: int
    index: int
    depth: int
    lane: int
    began: float
    seconds: float


@dataclass(frozen=True)
class HitMark:
    """A hit. ``index`` counts from 0 in the order of arrival; see `chords_core.methods.events.Hit` for core and depth.

    ``seconds``: when it arrived; ``change``: `relative_change` from the hit before; None for the first hit, and for
    a hit that is all zeros.
    """

    index: int
    core: int
    depth: int
    seconds: float
    change: float | None


@dataclass(frozen=True)
class RectificationMark:
    """Core ``core`` took over the correction of its slower neighbour when it arrived at ``index``, after the
    evaluations of round ``depth``."""

    core: int
    index: int
    depth: int


@dataclass(frozen=True)
class LostMark:
    """A lane that failed, with its ``error``, or a lane that is slow and has not answered yet; ``seconds``: when that
    was noticed."""

    lane: int
    error: str
    seconds: float


@dataclass(frozen=True)
class Timeline:
    """The record of one run, each kind of mark in the order of its events.

    Evaluations that were still under way when a hit was accepted are not in it. ``seconds``: from the beginning of
    the run to its newest event. Hits after the accepted one are not in it either.
    """

    evaluations: tuple[EvaluationMark, ...] = ()
    hits: tuple[HitMark, ...] = ()
    rectified: tuple[RectificationMark, ...] = ()
    lost: tuple[LostMark, ...] = ()
    seconds: float = 0.0

    def seconds_per_evaluation(self) -> dict[int, float]:
        """The mean seconds of an evaluation by lane, for the lanes that made at least one."""
        return {lane: fmean(seconds) for lane, seconds in self._seconds_by_lane().items() if seconds}

    def busy(self) -> dict[int, float]:
        """The fraction of the run, 0 to 1, in which each lane made evaluations. It was idle or lost in the rest.

        A lane without any event has no entry.
        """
        return {
            lane: min(1.0, math.fsum(seconds) / self.seconds) if self.seconds > 0 else 0.0
            for lane, seconds in self._seconds_by_lane().items()
        }

    def sequential_seconds(self, steps: int) -> float | None:
        """An estimate of the seconds of ``steps`` evaluations one after another; None if nothing was evaluated.

        One evaluation counts as the 10th percentile of this run's: lanes that share a processor slow each other down,
        which one lane alone would not suffer from.
        """
        if not self.evaluations:
            return None
        seconds = sorted(evaluation.seconds for evaluation in self.evaluations)
        return steps * seconds[len(seconds) // 10]

    def speedup(self, steps: int) -> float | None:
        """How many times longer sequential sampling would have taken: `sequential_seconds` divided by ``seconds``. None
        if nothing was evaluated."""
        sequential = self.sequential_seconds(steps)
        return None if sequential is None or self.seconds <= 0 else sequential / self.seconds

    @property
    def accuracy_estimate(self) -> float | None:
        """A cautious estimate of the relative error of the newest hit: its change from the hit before, which is about
        the error of the hit before. None with fewer than two hits."""
        return self.hits[-1].change if self.hits else None

    def _seconds_by_lane(self) -> dict[int, list[float]]:
        lanes = {evaluation.lane for evaluation in self.evaluations} | {mark.lane for mark in self.lost}
        seconds: dict[int, list[float]] = {lane: [] for lane in sorted(lanes)}
        for evaluation in self.evaluations:
            seconds[evaluation.lane].append(evaluation.seconds)
        return seconds


class Recorder:
    """Keeps the `Timeline` of one run. The run begins when the recorder is made. Call it with each event, in the
    thread of `chords_core.execution.driver.drive`.

    Args:
        clock: the time in seconds, from any origin.

    It keeps one tensor in memory: the newest hit's, for the comparison with the next hit.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._seconds = 0.0
        self._evaluations: list[EvaluationMark] = []
        self._hits: list[HitMark] = []
        self._rectified: list[RectificationMark] = []
        self._lost: dict[int, LostMark] = {}
        self._newest_hit: Tensor | None = None
        self._rounds_ahead: dict[int, int] = {}  # of each core's index: depth - index, constant over a run

    def __call__(self, event: Event) -> None:
        now = self._seconds = self._clock() - self._began
        if isinstance(event, Evaluated):
            self._rounds_ahead[event.core] = event.depth - event.index
            began = max(0.0, now - event.seconds)  # the first call may have begun before the run
            self._evaluations.append(
                EvaluationMark(event.core, event.index, event.depth, event.lane, began, event.seconds)
            )
        elif isinstance(event, Rectified):
            depth = event.index - 1 + self._rounds_ahead[event.core]
            self._rectified.append(RectificationMark(event.core, event.index, depth))
        elif isinstance(event, Hit):
            x = event.x.detach()
            change = None if self._newest_hit is None else relative_change(x, self._newest_hit)
            finite = change if change is not None and math.isfinite(change) else None
            self._hits.append(HitMark(len(self._hits), event.core, event.depth, now, finite))
            self._newest_hit = x
        elif isinstance(event, Accepted):
            self._drop_later_hits(event.hit)
        elif isinstance(event, LaneLost):
            self._mark(event.lane, f"{type(event.error).__name__}: {event.error}")
        elif isinstance(event, LaneSlow):
            self._mark(event.lane, f"no answer for {event.seconds:.3g} s")
        elif isinstance(event, LaneBack):
            self._lost.pop(event.lane, None)

    def _drop_later_hits(self, accepted: Hit) -> None:
        """The last hit of the record is the accepted one, also where a user has taken an earlier one."""
        found = [mark.index for mark in self._hits if (mark.core, mark.depth) == (accepted.core, accepted.depth)]
        del self._hits[found[-1] + 1 if found else len(self._hits) :]

    def _mark(self, lane: int, error: str) -> None:
        self._lost.pop(lane, None)  # so that the new mark comes last
        self._lost[lane] = LostMark(lane, error, self._seconds)

    @property
    def hits(self) -> tuple[HitMark, ...]:
        """The hits so far, the newest last."""
        return tuple(self._hits)

    def timeline(self) -> Timeline:
        """The record so far."""
        return Timeline(
            tuple(self._evaluations),
            tuple(self._hits),
            tuple(self._rectified),
            tuple(self._lost.values()),
            self._seconds,
        )


def relative_change(after: Tensor, before: Tensor) -> float:
    """RMS(after - before) / RMS(after): 0 if they are equal, infinite if only ``after`` is all zeros."""
    dtype = torch.promote_types(after.dtype, torch.float32)  # squares overflow in half precision
    change = float(torch.linalg.vector_norm(after.to(dtype) - before.to(dtype)))
    own = float(torch.linalg.vector_norm(after.to(dtype)))
    if change == 0:
        return 0.0
    return change / own if own > 0 else math.inf
