"""A pool that makes all waiting evaluations in one model call: the rounds of a method as rows of a batch.

It gains where a call of several rows takes hardly longer than a call of one, on one device. The bits of a row depend on
how many rows its call has. So a result differs from that of other pools by the rounding of the model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from torch import Tensor

from ..checks import check_callable, check_whole, shown
from ..errors import InvalidInput
from ..methods.events import Evaluation
from .pools import EvaluationResult, clear_frames

DenoiseRows = Callable[[Sequence[Tensor], Sequence[float]], Sequence[Tensor]]
"""``denoise_rows(xs, sigmas) -> denoised``: states of one shape, each with its sigma, to as many tensors like them."""


class BatchPool:
    """As many lanes as rows, in the thread of the caller. All evaluations that are submitted before a result is asked
    for are one call.

    If a call of several rows raises an Exception, for example because they do not fit in memory, its evaluations are
    made again in calls of one row, and so are all later ones. If a call of one row raises, every lane answers with that
    error from then on, without a call: all lanes are the same device.

    Args:
        denoise_rows: makes the calls.
        lanes: how many rows a call has at most, 1 or more.
        on_fallback: called with the error after which calls have one row. The tensors of the failed call are freed by
            then.

    Attributes:
        calls: how many calls of each number of rows came back, by that number.
        fallback: why calls have one row, the error of a call of several; None: they have more.
    """

    def __init__(
        self,
        denoise_rows: DenoiseRows,
        lanes: int,
        on_fallback: Callable[[Exception], object] = lambda error: None,
    ) -> None:
        check_callable("denoise_rows", denoise_rows, "states and their sigmas")
        check_callable("on_fallback", on_fallback, "an error")
        self._denoise_rows, self._on_fallback = denoise_rows, on_fallback
        self._lanes = check_whole("lanes", lanes)
        self._waiting: list[tuple[int, Evaluation]] = []
        self._results: deque[EvaluationResult] = deque()
        self._broken: Exception | None = None
        self.fallback: Exception | None = None
        self.calls: dict[int, int] = {}

    @property
    def lanes(self) -> int:
        return self._lanes

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        self._waiting.append((lane, evaluation))

    def next(self, timeout: float) -> EvaluationResult | None:
        if not self._results:
            waiting, self._waiting = self._waiting, []
            self._evaluate(waiting)
        return self._results.popleft() if self._results else None

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        self._waiting = []  # they were submitted, but have not begun
        came = list(self._results)
        self._results.clear()
        self._broken = None  # another run may use the pool
        return came

    def _evaluate(self, waiting: Sequence[tuple[int, Evaluation]]) -> None:
        """Make these evaluations, and queue a result for each."""
        if len(waiting) > 1 and self.fallback is None:
            error = self._call(waiting)
            if not isinstance(error, Exception):
                return
            clear_frames(error)
            self.fallback = error
            self._on_fallback(error)
        for each in waiting:
            self._call([each])

    def _call(self, waiting: Sequence[tuple[int, Evaluation]]) -> BaseException | None:
        """Make one call and queue its results; or return what it raised, which is queued too if there is no other way
        to make these evaluations."""
        began = time.perf_counter()
        rows: Sequence[Tensor] = ()
        error: BaseException | None = self._broken
        if error is None:
            try:
                evaluations = [evaluation for _, evaluation in waiting]
                rows = self._denoise_rows([each.x for each in evaluations], [each.sigma for each in evaluations])
                _check_rows(rows, evaluations)
            except BaseException as raised:  # a host's interrupt may be no Exception; the driver tells them apart
                error = raised
        seconds = time.perf_counter() - began
        if error is None:
            self.calls[len(waiting)] = self.calls.get(len(waiting), 0) + 1
            for (lane, evaluation), row in zip(waiting, rows, strict=True):
                self._results.append(EvaluationResult(lane, evaluation, seconds, row))
            return None
        if len(waiting) > 1 and isinstance(error, Exception):
            return error
        if isinstance(error, Exception):
            self._broken = error
        for lane, evaluation in waiting:
            self._results.append(EvaluationResult(lane, evaluation, seconds, error=error))
        return error


def _check_rows(rows: object, evaluations: Sequence[Evaluation]) -> None:
    """Raise `InvalidInput` unless there is a row for each evaluation. The driver checks each row itself."""
    if not isinstance(rows, Sequence | Tensor) or len(rows) != len(evaluations):
        found = f"{len(rows)} of them" if isinstance(rows, Sequence | Tensor) else shown(rows)
        raise InvalidInput("denoise_rows", f"must return a tensor for each of {len(evaluations)} states, not {found}")
