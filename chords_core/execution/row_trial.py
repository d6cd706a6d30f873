"""How long a model call of several rows takes, and whether its rows are what calls of one row give."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .batch_pool import DenoiseRows
from .pools import clear_frames

ROW_COUNTS = (1, 2, 4, 8)
"""The numbers of rows that are tried."""

_TOO_SLOW = 1.6
"""Rows that take so many times as long as one gain nothing: a window of 8 cores makes about 1.5 times fewer calls in a
row than adaptive steps on one core, and one of fewer cores gains less."""

_LONG_SECONDS = 0.5
"""A call that takes longer than this is not repeated, unless it takes longer than its rows one after another: the first
call of a shape may load or compile something, but that changes a long call little."""


@dataclass(frozen=True, eq=False)
class RowTimes:
    """What a trial of rows has shown.

    Attributes:
        seconds: of a call, by its number of rows, for the numbers that can be used. 1 is among them.
        problem: why no more rows can be used; empty if nothing is against them.
    """

    seconds: Mapping[int, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, eq=False)
class RowTrial:
    """What a trial calls, and with what: states of pure noise, at sigmas that are spread over a schedule.

    Attributes:
        denoise_rows: makes the calls.
        x: the state at sigmas[0], of which the others are made.
        sigmas: of the steps, N values.
        max_difference: of a row from the same state in a call of its own, relative to x - denoised (RMS).
        synchronize: waits until the device has done its work.
        clock: the time in seconds, from any origin.
    """

    denoise_rows: DenoiseRows
    x: Tensor
    sigmas: Sequence[float]
    max_difference: float
    synchronize: Callable[[], object] = lambda: None
    clock: Callable[[], float] = time.perf_counter

    def measure(self, counts: Sequence[int] = ROW_COUNTS, fits: Callable[[int], bool] = lambda rows: True) -> RowTimes:
        """Time calls of 1, 2, ... rows, as long as more rows can gain anything, and check that they agree.

        Args:
            counts: the numbers of rows, rising from 1.
            fits: whether there is memory for so many rows.

        Raises:
            Exception: what a call of one row raises.
            BaseException: what any call raises that is no Exception.
        """
        alone, expected = self._alone()
        seconds = {1: alone}
        for rows in counts[1:]:
            if rows > len(self.sigmas):
                break
            if not fits(rows):
                return RowTimes(seconds, f"{rows} rows do not fit in memory")
            try:
                took, problem = self._together(rows, expected, 1.2 * rows * alone)
            except Exception as error:
                clear_frames(error)
                return RowTimes(seconds, f"a call of {rows} rows failed: {error}")
            if problem:
                return RowTimes({1: alone}, problem)
            seconds[rows] = took
            if took > _TOO_SLOW * alone:
                break
        return RowTimes(seconds)

    def check(self, rows: int) -> str:
        """What is wrong with the answers of a call of so many rows, by three calls; empty if nothing is.

        Raises:
            BaseException: what a call raises.
        """
        expected = [self.denoise_rows([x], [sigma])[0] for x, sigma in self._ends()]
        return self._problem(self.denoise_rows(*self._states(rows)), expected)

    def _alone(self) -> tuple[float, list[Tensor]]:
        """The seconds of a call of one row, and the answers at the first and at the last sigma."""
        timed = [self._timed([x], [sigma]) for x, sigma in self._ends()]
        seconds = timed[-1][0]  # the first call may load the model
        if seconds < _LONG_SECONDS:
            x, sigma = self._ends()[-1]
            seconds = min(seconds, self._timed([x], [sigma])[0])
        return seconds, [answers[0] for _, answers in timed]

    def _together(self, rows: int, expected: Sequence[Tensor], longest: float) -> tuple[float, str]:
        """The seconds of a call of so many rows, and what is wrong with its answers. ``longest``: that it can take, if
        it loads nothing."""
        xs, sigmas = self._states(rows)
        seconds, answers = self._timed(xs, sigmas)
        problem = self._problem(answers, expected)
        if not problem and (seconds < _LONG_SECONDS or seconds > longest):
            seconds = min(seconds, self._timed(xs, sigmas)[0])
        return seconds, problem

    def _timed(self, xs: Sequence[Tensor], sigmas: Sequence[float]) -> tuple[float, Sequence[Tensor]]:
        self.synchronize()
        began = self.clock()
        answers = self.denoise_rows(xs, sigmas)
        self.synchronize()
        return self.clock() - began, answers

    def _states(self, rows: int) -> tuple[list[Tensor], list[float]]:
        last = len(self.sigmas) - 1
        sigmas = [float(self.sigmas[round(row * last / (rows - 1))]) for row in range(rows)]
        return [self.x * (sigma / float(self.sigmas[0])) for sigma in sigmas], sigmas

    def _ends(self) -> list[tuple[Tensor, float]]:
        """The first and the last of `_states`, however many there are."""
        return list(zip(*self._states(2), strict=True))

    def _problem(self, answers: Sequence[Tensor], expected: Sequence[Tensor]) -> str:
        """What is wrong with the first and the last row of a call."""
        for (x, _), answer, alone in zip(self._ends(), (answers[0], answers[-1]), expected, strict=True):
            if answer.shape != alone.shape or answer.dtype != alone.dtype:
                return "the rows of a call have another shape or type than one row"
            difference = float(torch.linalg.vector_norm((answer - alone).float()))
            scale = float(torch.linalg.vector_norm((x - alone).float()))
            if not difference <= self.max_difference * scale:
                share = difference / scale if scale > 0 else float("inf")
                return f"the rows of a call differ by {share:.1%} from calls of one row"
        return ""
