"""How long a model call of several rows takes, and whether its rows are what calls of one row give."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import RowsFailed
from .batch_pool import DenoiseRows
from .pools import clear_frames

ROW_COUNTS = (1, 2, 4, 8)
"""The numbers of rows that are tried."""

_TOO_SLOW = 1.25
"""Where two rows take so many times as long as one, more rows gain nothing: at 20 steps a window of 8 cores makes about
1.4 times fewer calls in a row than adaptive steps on one core, and one of fewer cores gains less."""

_MAYBE_FIRST = 1.6
"""A call that takes up to so many times as long as one row is made once more: the first call of a shape may load or
compile something. Where it takes longer, that is not the cause in a long call."""

_SHORT_SECONDS = 0.1
"""A call of one row that takes less than this may be much shorter than what the first call of a shape loads. There a
second call is made in any case, for it costs little."""


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

    def measure(
        self,
        worth: Callable[[int, Mapping[int, float]], bool] = lambda rows, seconds: True,
        fits: Callable[[int], bool] = lambda rows: True,
    ) -> RowTimes:
        """Time calls of 1, 2, ... rows, as long as more rows can gain anything, and check that they agree. Rows that
        gain nothing cost three calls.

        Args:
            worth: whether to try so many rows, after these seconds of calls of fewer rows.
            fits: whether there is memory for so many rows.

        Raises:
            Exception: what a call of one row raises.
            BaseException: what any call raises that is no Exception.
        """
        first, middle, last = self._references()
        self._alone(first)  # which may load the model
        alone = self._alone(last)
        seconds = {1: alone}
        for rows in ROW_COUNTS[1:]:
            if rows > len(self.sigmas) or not worth(rows, seconds):
                break
            if not fits(rows):
                return RowTimes(seconds, f"{rows} rows do not fit in memory")
            if rows > 2 and middle.answer is None:
                seconds[1] = alone = min(alone, self._alone(middle))
            try:
                took, answers = self._time_rows(rows, alone)
            except Exception as error:
                clear_frames(error)
                return RowTimes(seconds, f"a call of {rows} rows failed: {error}")
            compared = {0: first, rows - 1: last} | ({rows // 2: middle} if rows > 2 else {})
            problem = next(filter(None, (self._problem(answers[row], to) for row, to in compared.items())), "")
            if problem:
                return RowTimes({1: alone}, problem)
            seconds[rows] = took
            if rows == 2 and took > _TOO_SLOW * alone:
                break
        return RowTimes(seconds)

    def check(self, rows: int) -> str:
        """What is wrong with a call of so many rows, by comparing its last row with a call of its own; empty if
        nothing is. There the sigma is the smallest, so that the sigma of another row shows.

        Raises:
            RowsFailed: if the call raises an Exception.
            BaseException: what the call of one row raises.
        """
        _, _, last = self._references()
        self._alone(last)
        try:
            answers = self.denoise_rows(*self._states(rows))
        except Exception as error:
            clear_frames(error)
            raise RowsFailed(rows, error) from error
        return self._problem(answers[-1], last)

    def _alone(self, reference: _Reference) -> float:
        """The seconds of a call of one row, whose answer is kept."""
        seconds, answers = self._timed([reference.x], [reference.sigma])
        reference.answer = answers[0]
        return seconds

    def _time_rows(self, rows: int, alone: float) -> tuple[float, Sequence[Tensor]]:
        """The seconds of a call of so many rows, and its answers. It is made once more where the first call of a shape
        may have taken longer."""
        xs, sigmas = self._states(rows)
        seconds, answers = self._timed(xs, sigmas)
        if seconds > _TOO_SLOW * alone and (seconds <= _MAYBE_FIRST * alone or alone < _SHORT_SECONDS):
            seconds = min(seconds, self._timed(xs, sigmas)[0])
        return seconds, answers

    def _timed(self, xs: Sequence[Tensor], sigmas: Sequence[float]) -> tuple[float, Sequence[Tensor]]:
        self.synchronize()
        began = self.clock()
        answers = self.denoise_rows(xs, sigmas)
        self.synchronize()
        return self.clock() - began, answers

    def _states(self, rows: int) -> tuple[list[Tensor], list[float]]:
        """So many states, from the first sigma to the last. Of more than two, the one at ``rows // 2`` is always the
        same."""
        last = len(self.sigmas) - 1
        places = [round(row * last / (rows - 1)) for row in range(rows)]
        if rows > 2:
            places[rows // 2] = round(last / 2)
        return [self._state(place) for place in places], [float(self.sigmas[place]) for place in places]

    def _state(self, place: int) -> Tensor:
        return self.x * (float(self.sigmas[place]) / float(self.sigmas[0]))

    def _references(self) -> tuple[_Reference, _Reference, _Reference]:
        """The states that are compared: of the first, of the middle, and of the last sigma."""
        last = len(self.sigmas) - 1
        first, middle, end = (_Reference(self._state(i), float(self.sigmas[i])) for i in (0, round(last / 2), last))
        return first, middle, end

    def _problem(self, answer: Tensor, reference: _Reference) -> str:
        """What is wrong with a row of a call."""
        alone = reference.answer
        assert alone is not None
        if answer.shape != alone.shape or answer.dtype != alone.dtype:
            return "the rows of a call have another shape or type than one row"
        difference = float(torch.linalg.vector_norm((answer - alone).float()))
        scale = float(torch.linalg.vector_norm((reference.x - alone).float()))
        if difference <= self.max_difference * scale:
            return ""
        share = difference / scale if scale > 0 else float("inf")
        return f"the rows of a call differ by {share:.1%} from calls of one row"


@dataclass(eq=False)
class _Reference:
    """A state, and what a call of its own answers."""

    x: Tensor
    sigma: float
    answer: Tensor | None = None
