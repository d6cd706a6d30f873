"""The calls of a trial, as a method for the driver, and the first answer for the run that follows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .....chords_core import (
    Denoise,
    Evaluated,
    Evaluation,
    EvaluationResult,
    Event,
    Hit,
    LaneLost,
    LaneStuck,
    NonFiniteDenoised,
    Pool,
    WorkersUnavailable,
)
from .....chords_core.execution.pools import Waits
from ...phrases import Phrase

ROUNDS = 3

_MAX_ERROR_LENGTH = 200  # characters of an error in a message


@dataclass(frozen=True, eq=False)
class TrialLanes:
    """The lanes of a trial.

    Attributes:
        devices: the device of each lane.
        primary: the lane that has the model itself, if one has it.
        options: the model options that the lanes use.
        dtype: the type that the model computes in.
        shared: whether two devices share a call, so that sums may have another order from call to call.
        host_call: the same call as the host makes it, where no lane makes that call.
    """

    devices: tuple[torch.device, ...]
    primary: int | None
    options: Sequence[dict[str, Any]]
    dtype: torch.dtype
    shared: bool
    host_call: Denoise | None = None

    @property
    def reference(self) -> int:
        """The lane with which the others are compared."""
        return self.primary or 0

    def tolerance(self, *lanes: int) -> float:
        """The largest relative difference between results of these lanes that rounding can explain."""
        if not self.shared and self.host_call is None and {self.devices[lane].type for lane in lanes} == {"cpu"}:
            return 1e-6  # usually they are the same bits
        error = torch.finfo(self.dtype).eps
        return max(1e-4, 4 * error) if self.shared or len(set(lanes)) > 1 else max(1e-5, error / 4)


class TrialRounds:
    """A `Method` for the driver: rounds of the same call on each lane.

    The first and the last round have the start of the run, and the one between has a later sigma.

    Args:
        lanes: their number.
        x: the start of the run.
        sigmas: the first sigma, and a later one.
    """

    def __init__(self, lanes: int, x: Tensor, sigmas: tuple[float, float]) -> None:
        self.x = x
        self.accepted: Hit | None = None
        self.sigma, other = sigmas
        start, later = (x, self.sigma), (x * (other / self.sigma), other)  # scaled to about the size at that sigma
        self._inputs = [state for state, _ in (start, later, start)]
        self._rounds = [
            [Evaluation(lane + 1, number, number + 1, state.clone(), sigma) for lane in range(lanes)]
            for number, (state, sigma) in enumerate((start, later, start))
        ]
        self._begun = self._pending = 0
        self._answers: list[dict[int, Evaluated]] = [{} for _ in self._rounds]  # by lane
        self._lost: dict[int, Exception] = {}

    def ready(self) -> list[Evaluation]:
        """The calls of the next round, once all calls of the round before have ended: each lane gets one."""
        if self._pending or self._begun == len(self._rounds):
            return []
        evaluations = self._rounds[self._begun]
        self._begun, self._pending = self._begun + 1, len(evaluations)
        return evaluations

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        """Count a call that has ended."""
        self._pending -= 1
        if not self._pending and self._begun == len(self._rounds):
            self.accepted = Hit(1, self._begun, denoised)
        return []

    def accept_hit(self, index: int | None = None) -> list[Event]:
        """Nothing: a trial has no results to accept."""
        return []

    def listen(self, event: Event) -> None:
        """Take an event of the driver."""
        if isinstance(event, Evaluated):
            self._answers[event.index][event.lane] = event
        elif isinstance(event, LaneLost):
            self._lost[event.lane] = event.error

    @property
    def is_complete(self) -> bool:
        """Whether each lane has answered in each round."""
        return all(len(answers) == len(self._rounds[0]) for answers in self._answers)

    def first_answers(self) -> dict[int, Evaluated]:
        """The answers of the first round, by lane."""
        return self._answers[0]

    def failure(self, lanes: TrialLanes) -> Phrase | None:
        """Which condition of a parallel run does not hold; None if all hold."""
        for error in self._lost.values():
            if not has_other_cause(error):
                return failure_of(error)
        first, _, again = self._answers
        for lane in first.keys() & again.keys():
            if _difference(first[lane].denoised, again[lane].denoised) > lanes.tolerance(lane, lane):
                return Phrase("the same call gave another result after a different call")
        if not all(
            _is_equal(evaluation.x, self._inputs[evaluation.index])
            for evaluations in self._rounds
            for evaluation in evaluations
        ):
            return Phrase("they change the latent that they get as input")
        if (reference := first.get(lanes.reference)) is None:
            return None
        for lane in sorted(first):
            if _difference(reference.denoised, first[lane].denoised) > lanes.tolerance(lanes.reference, lane):
                device = str(lanes.devices[lane])
                return Phrase("the model's copy on {device} gave another result than the model", device=device)
        return None

    def failure_against_host(self, lanes: TrialLanes) -> Phrase | None:
        """Whether the host's own call gives another result, where no lane makes that call."""
        first = self.first_answers().get(lanes.reference)
        if lanes.host_call is None or first is None:
            return None
        expected = lanes.host_call(self.x.clone(), self.sigma)
        if _difference(expected, first.denoised) <= max(1e-4, 4 * torch.finfo(lanes.dtype).eps):
            return None
        return Phrase("the lanes gave another result than the model on its own device")


def has_other_cause(error: Exception) -> bool:
    """Whether patches cannot be the cause of an error: no memory, no finite number, a device that hangs."""
    return isinstance(error, NonFiniteDenoised | LaneStuck | WorkersUnavailable | torch.cuda.OutOfMemoryError)


def failure_of(error: Exception) -> Phrase:
    """The failure of patches that raised an error."""
    message = textwrap.shorten(str(error), _MAX_ERROR_LENGTH, placeholder="...")
    return Phrase("they fail when the steps are not in order ({message})", message=message)


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _difference(one: Tensor, other: Tensor) -> float:
    """The norm of the difference, relative to the norm of ``one``."""
    if torch.equal(one, other):
        return 0.0
    return float((one - other).float().norm() / one.float().norm().clamp_min(torch.finfo(torch.float32).tiny))


class FirstAnswerPool:
    """A `Pool` that already has the answer to the first call of a run, from a trial."""

    def __init__(self, pool: Pool, trial: TrialRounds) -> None:
        self._pool, self._x = pool, trial.x
        self._sigma, self._answers = trial.sigma, trial.first_answers()
        self._result: EvaluationResult | None = None

    @property
    def lanes(self) -> int:
        """The number of lanes."""
        return self._pool.lanes

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        """Begin a call, or take the known answer."""
        answer = self._answers.get(lane)
        if answer is None or not self._is_first(evaluation):
            self._pool.submit(lane, evaluation)
            return
        self._answers = {}
        self._result = EvaluationResult(lane, evaluation, answer.seconds, answer.denoised)

    def _is_first(self, evaluation: Evaluation) -> bool:
        is_same_place = float(evaluation.sigma) == self._sigma and evaluation.x.device == self._x.device
        return is_same_place and torch.equal(evaluation.x, self._x)

    def next(self, timeout: float) -> EvaluationResult | None:
        """The known answer if it was asked for, otherwise the next result of the pool."""
        result, self._result = self._result, None
        return self._pool.next(timeout) if result is None else result

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        """See `Pool`."""
        known = [] if self._result is None else [self._result]
        self._result = None
        return [*known, *self._pool.settle(within)]

    def wait(self, timeout: float) -> bool:
        """See `chords_core.execution.pools.Waits`. Nobody has to wait for the known answer."""
        return not isinstance(self._pool, Waits) or self._pool.wait(timeout)
