"""The faster of two ways to make the same model call."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from .pools import Denoise

_TRIALS = 3
"""Calls of each way before one is chosen: the first may still have something to get ready and does not count, of the
others the quicker one does."""


class Autotuner:
    """Makes the first calls either way, and all further ones the way that took less time.

    The two need give the same only to rounding; whatever they raise is raised.

    Args:
        usual: the way to take unless the other one is faster.
        other: the other one.
        settled: waits until what was begun on the device is done, where calls return before that.
        clock: seconds.

    Attributes:
        usual_wins: the choice, or None before there is one.
    """

    def __init__(
        self,
        usual: Denoise,
        other: Denoise,
        settled: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ways = (usual, other)
        self._settled, self._clock = settled, clock
        self._seconds: list[float] = []
        self.usual_wins: bool | None = None

    @property
    def seconds(self) -> tuple[float, float] | None:
        """What a call of each way took, usual first; None before both are known."""
        if len(self._seconds) < _TRIALS * len(self._ways):
            return None
        return min(self._seconds[1:_TRIALS]), min(self._seconds[_TRIALS + 1 :])

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """[the shape of x], as both ways give it."""
        if self.usual_wins is not None:
            return self._ways[0 if self.usual_wins else 1](x, sigma)
        self._settled()
        began = self._clock()
        denoised = self._ways[len(self._seconds) // _TRIALS](x, sigma)
        self._settled()
        self._seconds.append(self._clock() - began)
        if self.seconds is not None:
            usual, other = self.seconds
            self.usual_wins = usual <= other
        return denoised
