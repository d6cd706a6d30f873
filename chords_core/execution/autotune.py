"""Chooses the fastest of several ways to make the same model call, by measuring each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

_TRIALS = 3
"""Calls of each way before the choice. The first one may load or compile and does not count; of the others the faster
one counts."""

_HOPELESS = 1.5
"""A way whose second call takes so many times the fastest way's time is not tried a third time."""

_MAX_DIFFERENCE = 0.02
"""Relative to the norm of the default's result. Rounding in half precision stays below it."""

Way = TypeVar("Way", bound=Hashable)


def fastest_way(seconds: Mapping[Way, float], default: Way, min_gain: float = 0.0) -> Way:
    """The way that takes the least time; the default, unless another one saves more than ``min_gain`` of its time.

    Args:
        seconds: of a call, by way; the default is among them.
        default: the way that needs the fewest devices.
        min_gain: 0 <= min_gain < 1.
    """
    best = min(seconds, key=lambda way: (seconds[way], way != default))
    return best if seconds[best] < (1 - min_gain) * seconds[default] else default


class Autotuner(Generic[Way]):
    """Makes the first calls by each of several ways, and all later calls by the fastest.

    The ways have to give the same result, apart from rounding. This is checked once for each way: its first call is
    also made by the default, whose result is then the call's. A way with another result is not used again.

    Args:
        ways: names of the ways; the last one is the default.
        min_gain: the share of the default's time that another way has to save, 0 <= min_gain < 1.
        known: seconds of a call that were measured before. If all ways are known, nothing is measured.
        clock: the time in seconds, from any origin.

    Attributes:
        dropped: the ways that are not used, each with the reason.
    """

    def __init__(
        self,
        ways: Sequence[Way],
        min_gain: float = 0.0,
        known: Mapping[Way, float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ways, self._default, self._min_gain, self._clock = tuple(ways), ways[-1], min_gain, clock
        known = known or {}
        self._known = {way: known[way] for way in ways} if all(way in known for way in ways) else {}
        self._trials: dict[Way, list[float]] = {way: [] for way in ways}
        self._checked: set[Way] = set()
        self._failures: dict[Way, int] = {}
        self.dropped: dict[Way, str] = {}

    @property
    def choice(self) -> Way | None:
        """The way that makes all further calls; None while ways are measured."""
        return None if self._next() is not None else self._fastest()

    @property
    def seconds(self) -> dict[Way, float]:
        """Seconds of a call by each way that was measured."""
        measured = {way: min(trials[1:]) for way, trials in self._trials.items() if len(trials) > 1}
        return self._known | measured

    def drop(self, way: Way, reason: str) -> None:
        """Do not use this way again. The default stays."""
        if way != self._default:
            self.dropped[way] = reason

    def fail(self, way: Way, reason: str, limit: int) -> None:
        """The way has failed: its measurements are void. At the ``limit``-th failure it is dropped for this reason."""
        self._failures[way] = self._failures.get(way, 0) + 1
        if self._failures[way] >= limit:
            self.drop(way, reason)
        elif way != self._default:
            self._trials[way].clear()
            self._checked.discard(way)

    def __call__(
        self,
        call: Callable[[Way], Tensor],
        synchronize: Callable[[], object] = lambda: None,
        compare: bool = True,
        without: Collection[Way] = (),
    ) -> Tensor:
        """One model call.

        Args:
            call: makes it by the given way. What it raises is raised.
            synchronize: waits until the devices have done their work; needed where calls return before that.
            compare: make the first call of a way by the default, too. Without it no call is made twice.
            without: ways that cannot be used now. The default is not among them.
        """
        way = self._next(without)
        if way is None:
            return call(self._fastest(without))
        result = self._timed(call, way, synchronize)
        if not compare or way == self._default or way in self._checked:
            return result
        expected = self._timed(call, self._default, synchronize)
        self._checked.add(way)
        difference = _difference(result, expected)
        if not difference <= _MAX_DIFFERENCE:
            self.drop(way, f"its result differs by {difference:.1%}")
        return expected

    def _fastest(self, without: Collection[Way] = ()) -> Way:
        """Of the ways that were measured; the default if it was not."""
        seconds = {way: time for way, time in self.seconds.items() if way not in self.dropped and way not in without}
        return fastest_way(seconds, self._default, self._min_gain) if self._default in seconds else self._default

    def _next(self, without: Collection[Way] = ()) -> Way | None:
        """The way to measure now; None if there is nothing more to measure."""
        if self._known:
            return None
        left = [way for way in self._ways if way not in self.dropped and way not in without]
        if left == [self._default]:
            return None
        return next((way for way in left if self._is_tried(way)), None)

    def _is_tried(self, way: Way) -> bool:
        """Whether it is worth another trial."""
        trials = len(self._trials[way])
        if trials != _TRIALS - 1 or way == self._default:
            return trials < _TRIALS
        seconds = self.seconds
        return seconds[way] < _HOPELESS * min(seconds.values())

    def _timed(self, call: Callable[[Way], Tensor], way: Way, synchronize: Callable[[], object]) -> Tensor:
        synchronize()
        began = self._clock()
        result = call(way)
        synchronize()
        self._trials[way].append(self._clock() - began)
        return result


def _difference(result: Tensor, expected: Tensor) -> float:
    """Relative, in single precision; 0 where both have the same NaN."""
    if torch.equal(result.isnan(), expected.isnan()):
        result, expected = result.nan_to_num(), expected.nan_to_num()
    difference = torch.linalg.vector_norm((result - expected).float())
    return float(difference / torch.linalg.vector_norm(expected.float()).clamp(min=1e-30))
