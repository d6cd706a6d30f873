"""Chooses the faster of two ways to make the same model call, by measuring both."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from .._types import Denoise

_TRIALS = 3
"""Calls of each way before the choice. The first one may load or compile and does not count; of the others the faster
one counts."""


class Autotuner:
    """A denoiser that makes its first calls by both ways, and all later calls by the faster one.

    The two ways have to give the same result, apart from rounding. What either raises is raised.

    Args:
        default: the way that is chosen unless the other is faster.
        alternative: the other way.
        synchronize: waits until the device has done its work; needed where calls return before that.
        clock: the time in seconds, from any origin.

    Attributes:
        default_is_faster: the choice; None before there is one.
    """

    def __init__(
        self,
        default: Denoise,
        alternative: Denoise,
        synchronize: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._ways = (default, alternative)
        self._synchronize, self._clock = synchronize, clock
        self._seconds: list[float] = []
        self.default_is_faster: bool | None = None

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Seconds of a call by the default way and by the alternative; None before both are measured."""
        if len(self._seconds) < _TRIALS * len(self._ways):
            return None
        return min(self._seconds[1:_TRIALS]), min(self._seconds[_TRIALS + 1 :])

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """[the shape of x] The result of one of the ways."""
        if self.default_is_faster is not None:
            return self._ways[0 if self.default_is_faster else 1](x, sigma)
        self._synchronize()
        began = self._clock()
        denoised = self._ways[len(self._seconds) // _TRIALS](x, sigma)
        self._synchronize()
        self._seconds.append(self._clock() - began)
        if self.seconds is not None:
            default, alternative = self.seconds
            self.default_is_faster = default <= alternative
        return denoised
