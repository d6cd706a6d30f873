"""Tries the patches of other packs before their first run in parallel, with the run's own input.

Reading a patch's code (`reading`) misses things. So the first run of a model with such patches makes each lane call
the model at one noise level, at another one, and at the first one again. What the run relies on must hold: the same
call gives the same result, on each lane what it gives on the model's own device; no generator was drawn from; no
option was added; the picture that was given is as it was. If anything does not hold, the steps run in order on one
core. Either way, what the trial changed is put back. The answer to the first call is the run's own, so that a trial
costs two calls, once while the server runs.
"""

from __future__ import annotations

import textwrap
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....chords_core import (
    Denoise,
    Evaluated,
    Evaluation,
    EvaluationResult,
    Event,
    Hit,
    LaneLost,
    LaneStuck,
    LaneTimeouts,
    NonFiniteDenoised,
    Pool,
    WorkersUnavailable,
)
from ....chords_core.execution.driver import drive
from ....chords_core.execution.lane_timeout import LaneWatchdog
from ....chords_core.execution.pools import Waits
from .hooks import Hook
from .saved_state import Generators, Held, Options

_ROUNDS = 3
Unit = tuple[torch.device, ...] | str
"""A lane's devices, or a name of a worker."""

_VERDICTS_OF_A_MODEL = 16
_LONGEST = 200  # letters of an error in a message


@dataclass(frozen=True, eq=False)
class Subject:
    """What is tried. ``packs``: whose code it is; ``hooks``: what they put into a call; ``model``: the BaseModel;
    ``version``: of its weights; ``guider``: its class."""

    packs: tuple[str, ...]
    hooks: tuple[Hook, ...]
    model: Any
    version: Any
    guider: type


@dataclass(frozen=True, eq=False)
class Lanes:
    """The lanes of a trial. ``devices``: of each, its own; ``primary``: which has the model itself, if any;
    ``own``: the same call as the host makes it, where no lane does; ``options``: the model options that they
    use; ``dtype``: the type that the model computes in; ``shared``: whether two devices make one call, so that sums
    may come in another order from call to call."""

    devices: tuple[torch.device, ...]
    primary: int | None
    options: Sequence[dict[str, Any]]
    dtype: torch.dtype
    shared: bool
    own: Denoise | None = None

    @property
    def reference(self) -> int:
        """The lane that the others are compared with."""
        return self.primary or 0

    def apart(self, *lanes: int) -> float:
        """How far two results of these lanes may be apart, relative to their size: rounding."""
        if not self.shared and self.own is None and {self.devices[lane].type for lane in lanes} == {"cpu"}:
            return 1e-6  # usually they are the same bits
        error = torch.finfo(self.dtype).eps
        return max(1e-4, 4 * error) if self.shared or len(set(lanes)) > 1 else max(1e-5, error / 4)


# Verdicts


@dataclass(frozen=True, eq=False)
class Verdict:
    """What came of a trial: the ``reason`` for one core, or None. Hooks and guider are referred to weakly.

    ``units``: the lanes, as what says on which devices each calls the model. ``anywhere``: whether the reason holds for
    any others, too.
    """

    hooks: tuple[Callable[[], Any], ...]
    version: Any
    guider: Callable[[], type | None]
    units: frozenset[Unit]
    reason: str | None
    anywhere: bool

    def is_about(self, subject: Subject) -> bool:
        """Whether it came from a trial of the very same hooks."""
        return (
            self.version == subject.version
            and self.guider() is subject.guider
            and len(self.hooks) == len(subject.hooks)
            and all(_is_same(reference(), hook.call) for reference, hook in zip(self.hooks, subject.hooks, strict=True))
        )


_verdicts: weakref.WeakKeyDictionary[Any, list[Verdict]] = weakref.WeakKeyDictionary()  # by model


def failed(subject: Subject) -> str | None:
    """The reason for one core, if an earlier trial had one that holds for any lanes."""
    return next(
        (verdict.reason for verdict in _about(subject) if verdict.reason is not None and verdict.anywhere), None
    )


def known(subject: Subject, units: Sequence[Unit]) -> Verdict | None:
    """What an earlier trial on these lanes has shown, if there was one; it passed also if there were more of them."""
    wanted = frozenset(units)
    for verdict in _about(subject):
        if verdict.units >= wanted if verdict.reason is None else verdict.units == wanted:
            return verdict
    return None


def _about(subject: Subject) -> list[Verdict]:
    return [verdict for verdict in _verdicts.get(subject.model, ()) if verdict.is_about(subject)]


def _remember(subject: Subject, units: Sequence[Unit], reason: str | None, anywhere: bool) -> None:
    try:
        hooks = tuple(_reference(hook.call) for hook in subject.hooks)
    except TypeError:  # one that cannot be referred to weakly: it is tried in each run
        return
    alive = [old for old in _verdicts.get(subject.model, ()) if all(hook() is not None for hook in old.hooks)]
    new = Verdict(hooks, subject.version, weakref.ref(subject.guider), frozenset(units), reason, anywhere)
    _verdicts[subject.model] = [new, *alive][:_VERDICTS_OF_A_MODEL]


def _reference(call: Any) -> Callable[[], Any]:
    return weakref.WeakMethod(call) if _is_bound(call) else weakref.ref(call)


def _is_bound(call: Any) -> bool:
    return hasattr(call, "__self__") and hasattr(call, "__func__")


def _is_same(one: Any, other: Any) -> bool:
    if _is_bound(one) and _is_bound(other):  # a bound method is a new object each time
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    return one is other


# The trial


def tried(
    subject: Subject,
    pool: Pool,
    lanes: Lanes,
    units: Sequence[Unit],
    x: Tensor,
    sigmas: Tensor,
    cancelled: Callable[[], bool],
    timeouts: LaneTimeouts,
) -> tuple[Pool, str | None]:
    """The pool for the run, which knows the answer to its first call; and the reason for one core if the trial failed.

    ``units``: see `Verdict`. What a patch raises is a failure. A cancel of the prompt
    passes through. What has nothing to do with patches (no memory, no finite number, a device that hangs) is left to
    the run.
    """
    trial = _Trial(pool.lanes, x, (float(sigmas[0]), float(sigmas[max(1, (len(sigmas) - 1) // 2)])))
    local = {device for unit in units if not isinstance(unit, str) for device in unit}
    generators, options = Generators.now(local), Options.of(*lanes.options)
    held = Held(hook.call for hook in subject.hooks)
    conclusive = anywhere = True
    try:
        drive(trial, pool, _ROUNDS, on_event=trial.listen, cancel=cancelled, watchdog=LaneWatchdog(timeouts))
        moved, added = generators.moved(Generators.now(local)), options.changed()
        if moved:
            failure: str | None = f"they draw random numbers in each call ({', '.join(moved)})"
        elif added:
            failure = f"they keep state in the model's options ({', '.join(added)})"
        else:
            failure = trial.unmet(lanes)
        if failure is None and (failure := trial.unlike_own(lanes)) is not None:
            anywhere = False
        conclusive = failure is not None or trial.is_complete
    except Exception as error:
        conclusive = not _has_other_causes(error)
        failure = _failing(error) if conclusive else None
    finally:
        generators.restore()
        held.restore()
        options.restore()
    reason = None if failure is None else f"patches of {', '.join(subject.packs)} were tried, and {failure}"
    if conclusive:
        _remember(subject, units, reason, anywhere)
    return _Begun(pool, trial), reason


def _failing(error: Exception) -> str:
    return f"out of step order they fail ({textwrap.shorten(str(error), _LONGEST, placeholder='...')})"


def _has_other_causes(error: Exception) -> bool:
    """Whether this has nothing to do with patches."""
    return isinstance(error, NonFiniteDenoised | LaneStuck | WorkersUnavailable | torch.cuda.OutOfMemoryError)


class _Trial:
    """A method in the sense of `chords_core.execution.driver`: rounds of the same call on each lane."""

    def __init__(self, lanes: int, x: Tensor, sigmas: tuple[float, float]) -> None:
        self.x = x
        self.accepted: Hit | None = None
        self.sigma, other = sigmas
        start, further = (x, self.sigma), (x * (other / self.sigma), other)  # about as large as it is there
        self._given = [given for given, _ in (start, further, start)]
        self._rounds = [
            [Evaluation(lane + 1, number, number + 1, given.clone(), sigma) for lane in range(lanes)]
            for number, (given, sigma) in enumerate((start, further, start))
        ]
        self._begun = self._waiting = 0
        self._answers: list[dict[int, Evaluated]] = [{} for _ in self._rounds]  # by lane
        self._lost: dict[int, Exception] = {}

    def ready(self) -> list[Evaluation]:
        if self._waiting or self._begun == len(self._rounds):
            return []
        evaluations = self._rounds[self._begun]  # every lane is idle, so that each gets one
        self._begun, self._waiting = self._begun + 1, len(evaluations)
        return evaluations

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        self._waiting -= 1
        if not self._waiting and self._begun == len(self._rounds):
            self.accepted = Hit(1, self._begun, denoised)
        return []

    def accept_newest(self) -> list[Event]:
        return []

    def listen(self, event: Event) -> None:
        """What the driver tells."""
        if isinstance(event, Evaluated):
            self._answers[event.index][event.lane] = event
        elif isinstance(event, LaneLost):
            self._lost[event.lane] = event.error

    @property
    def is_complete(self) -> bool:
        """Whether each lane has answered in each round."""
        return all(len(answers) == len(self._rounds[0]) for answers in self._answers)

    def first(self) -> dict[int, Evaluated]:
        """The answers of the first round, by lane."""
        return self._answers[0]

    def unmet(self, lanes: Lanes) -> str | None:
        """What does not hold that a run in parallel relies on."""
        for error in self._lost.values():
            if not _has_other_causes(error):
                return _failing(error)
        first, _, again = self._answers
        for lane in first.keys() & again.keys():
            if _apart(first[lane].denoised, again[lane].denoised) > lanes.apart(lane, lane):
                return "the same call gave another result after another one"
        if not all(
            _is_equal(evaluation.x, self._given[evaluation.index])
            for evaluations in self._rounds
            for evaluation in evaluations
        ):
            return "they change the picture that they are given"
        own = first.get(lanes.reference)
        for lane in sorted(first) if own is not None else ():
            if _apart(own.denoised, first[lane].denoised) > lanes.apart(lanes.reference, lane):
                return f"the model's copy on {lanes.devices[lane]} gave another result than the model"
        return None

    def unlike_own(self, lanes: Lanes) -> str | None:
        """Whether the host's own call gives something else, where no lane makes it."""
        first = self._answers[0].get(lanes.reference)
        if lanes.own is None or first is None:
            return None
        here = lanes.own(self.x.clone(), self.sigma)
        if _apart(here, first.denoised) <= max(1e-4, 4 * torch.finfo(lanes.dtype).eps):
            return None
        return "the lanes gave another result than the model on its own device"


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _apart(one: Tensor, other: Tensor) -> float:
    """How far two results are apart, relative to the first one's size."""
    if torch.equal(one, other):
        return 0.0
    return float((one - other).float().norm() / one.float().norm().clamp_min(torch.finfo(torch.float32).tiny))


class _Begun:
    """A pool that has the answer to a run's first call already, from a trial."""

    def __init__(self, pool: Pool, trial: _Trial) -> None:
        self._pool, self._x = pool, trial.x
        self._sigma, self._answers = trial.sigma, trial.first()
        self._outcome: EvaluationResult | None = None

    @property
    def lanes(self) -> int:
        return self._pool.lanes

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        answer = self._answers.get(lane)
        if answer is None or not self._is_first(evaluation):
            self._pool.submit(lane, evaluation)
            return
        self._answers = {}
        self._outcome = EvaluationResult(lane, evaluation, answer.seconds, answer.denoised)

    def _is_first(self, evaluation: Evaluation) -> bool:
        same_place = float(evaluation.sigma) == self._sigma and evaluation.x.device == self._x.device
        return same_place and torch.equal(evaluation.x, self._x)

    def next(self, timeout: float) -> EvaluationResult | None:
        outcome, self._outcome = self._outcome, None
        return self._pool.next(timeout) if outcome is None else outcome

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        known = [] if self._outcome is None else [self._outcome]
        self._outcome = None
        return [*known, *self._pool.settle(within)]

    def wait(self, timeout: float) -> bool:
        """See `chords_core.execution.pools.Waits`; the answer that is known keeps nobody waiting."""
        return not isinstance(self._pool, Waits) or self._pool.wait(timeout)
