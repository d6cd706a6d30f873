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
from ..errors import InvalidInput, RowsFailed
from ..methods.events import Evaluation
from .pools import EvaluationResult, clear_frames

DenoiseRows = Callable[[Sequence[Tensor], Sequence[float]], Sequence[Tensor]]
"""``denoise_rows(xs, sigmas) -> denoised``: states of one shape, each with its sigma, to as many tensors like them."""


class BatchPool:
    """As many lanes as rows, in the thread of the caller. All evaluations that are submitted before a result is asked
    for are one call.

    What a call raises, `next` raises: all lanes are the same device, so that no other one can do it. If the call has
    several rows, an Exception becomes `RowsFailed`. The tensors of the failed call are freed by then. The pool is as
    good as new for another run.

    Args:
        denoise_rows: makes the calls.
        lanes: how many rows a call has at most, 1 or more.

    Attributes:
        calls: how many calls of each number of rows came back, by that number.
    """

    def __init__(self, denoise_rows: DenoiseRows, lanes: int) -> None:
        check_callable("denoise_rows", denoise_rows, "states and their sigmas")
        self._denoise_rows = denoise_rows
        self._lanes = check_whole("lanes", lanes)
        self._waiting: list[tuple[int, Evaluation]] = []
        self._results: deque[EvaluationResult] = deque()
        self.calls: dict[int, int] = {}

    @property
    def lanes(self) -> int:
        return self._lanes

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        self._waiting.append((lane, evaluation))

    def next(self, timeout: float) -> EvaluationResult | None:
        if not self._results and self._waiting:
            waiting, self._waiting = self._waiting, []
            self._call(waiting)
        return self._results.popleft() if self._results else None

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        self._waiting = []  # they were submitted, but have not begun
        came = list(self._results)
        self._results.clear()
        return came

    def _call(self, waiting: Sequence[tuple[int, Evaluation]]) -> None:
        """Make these evaluations in one call, and queue a result for each."""
        evaluations = [evaluation for _, evaluation in waiting]
        began = time.perf_counter()
        try:
            rows = self._denoise_rows([each.x for each in evaluations], [each.sigma for each in evaluations])
        except Exception as error:
            if len(waiting) == 1:
                raise
            clear_frames(error)
            raise RowsFailed(len(waiting), error) from error
        seconds = time.perf_counter() - began
        _check_rows(rows, evaluations)
        self.calls[len(waiting)] = self.calls.get(len(waiting), 0) + 1
        for (lane, evaluation), row in zip(waiting, rows, strict=True):
            self._results.append(EvaluationResult(lane, evaluation, seconds, row))


def _check_rows(rows: object, evaluations: Sequence[Evaluation]) -> None:
    """Raise `InvalidInput` unless there is a row for each evaluation. The driver checks each row itself."""
    if not isinstance(rows, Sequence | Tensor) or len(rows) != len(evaluations):
        found = f"{len(rows)} of them" if isinstance(rows, Sequence | Tensor) else shown(rows)
        raise InvalidInput("denoise_rows", f"must return a tensor for each of {len(evaluations)} states, not {found}")
