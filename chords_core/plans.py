"""Plans: one type a method. A plan says what to run, how many model calls in a row that takes, and why it was chosen.

`chords_core.planning.plan` makes plans. ``sample(denoise, x, sigmas, **plan.sample_options())`` runs one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, Protocol, TypedDict, TypeVar

from .methods.accept import Accept, Agreement, OnDemand
from .methods.start_indices import hit_depth


class Cause(Enum):
    """Why a plan was chosen, or what else its user should know. The caller makes the sentence."""

    ONE_CORE_REQUESTED = "one core was asked for"
    CORES_REQUESTED = "`Reason.cores` cores were asked for"
    MORE_CORES_USELESS = "fewer cores are used, because more would bring nothing"
    CORES_NOT_FASTER = "one core is used, because `Reason.cores` cores would be no faster"
    FASTEST = "the fewest calls in a row on `Reason.lanes` lanes, with a result close to that of one core"
    FASTEST_WITH_FEWER_CALLS = "the fewest calls in a row on `Reason.lanes` lanes, with fewer calls than steps"
    INTERPOLATED = "the model's answers are interpolated at the steps that make no call"
    ONE_LANE = "there is one lane, so nothing can run in parallel"
    EXACT = "the exact result takes every step in turn"
    TOO_FEW_STEPS = "with so few steps there is little to gain, and each step matters"
    NO_ROOM = "the steps leave no room for more cores"
    LITTLE_GAIN = "on `Reason.lanes` lanes a close result would hardly be faster"
    SLOW_TOGETHER = "as measured, `Reason.lanes` lanes at once take too long a call to gain anything"
    WINDOW_NOT_CLOSE = "a window of `Reason.solver` is not close enough to one core, unless a method is named"
    WITHIN_TOLERANCE = "the fewest calls in a row on `Reason.lanes` lanes, with a result within the tolerance"
    NEARLY_EVERY_STEP = "a result of `Reason.solver` within the tolerance takes nearly every step"
    NO_SUCH_HIT = "there are fewer hits than asked for, so the last is taken"


@dataclass(frozen=True)
class Reason:
    """A cause with its figures; those that a cause does not use are 0 or empty.

    Attributes:
        cause: what it is.
        lanes: the lanes that were planned for.
        cores: the cores that were asked for.
        solver: the name of the solver.
    """

    cause: Cause
    lanes: int = 0
    cores: int = 0
    solver: str = ""


class SampleOptions(TypedDict):
    """The arguments of `chords_core.sample` that a plan decides."""

    method: str
    cores: int
    starts: tuple[int, ...] | None
    accept: Accept
    calls: int | None
    tolerance: float | None


class _Counted(Protocol):
    """What every plan counts."""

    @property
    def steps(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def calls(self) -> int | None: ...


_P = TypeVar("_P", bound="_Plan")


@dataclass(frozen=True)
class _Plan:
    """What all plans have.

    Attributes:
        steps: N, the steps of the schedule.
        reasons: why, the most important first. A str is a reason of the caller, in the caller's words.
    """

    steps: int
    reasons: tuple[Reason | str, ...]

    def because(self: _P, *reasons: Reason | str) -> _P:
        """The same plan with more reasons."""
        return replace(self, reasons=(*self.reasons, *reasons))

    @property
    def called_steps(self: _Counted) -> int:
        """The number of steps at which the model is called."""
        return self.calls or self.steps

    @property
    def speedup(self: _Counted) -> float:
        """The steps over the calls in a row, 1 or more: the gain if each core has a lane."""
        return self.steps / self.depth


@dataclass(frozen=True)
class SequentialPlan(_Plan):
    """One core that calls the model at every step."""

    method: ClassVar[str] = "sequential"
    cores: ClassVar[int] = 1
    calls: ClassVar[None] = None
    expected_hit: ClassVar[int] = 1

    @property
    def depth(self) -> int:
        """Model calls in a row until the result."""
        return self.steps

    def sample_options(self, accept_now: Callable[[], bool] | None = None) -> SampleOptions:
        """See `ChordsPlan.sample_options`."""
        return _options(self, 1, accept_now)


@dataclass(frozen=True)
class InterpolatedPlan(_Plan):
    """One core that calls the model at some of the steps.

    Attributes:
        calls: at how many, 2 to N - 1.
    """

    calls: int
    method: ClassVar[str] = "sequential"
    cores: ClassVar[int] = 1
    expected_hit: ClassVar[int] = 1

    @property
    def depth(self) -> int:
        """Model calls in a row until the result, if the model's answers do not jump."""
        return self.calls

    def sample_options(self, accept_now: Callable[[], bool] | None = None) -> SampleOptions:
        """See `ChordsPlan.sample_options`."""
        return _options(self, 1, accept_now)


@dataclass(frozen=True)
class ChordsPlan(_Plan):
    """CHORDS on several cores.

    Attributes:
        starts: the start index of each core.
        accept: the number of the hit to take (1 = the first), or the rule that takes one.
    """

    starts: tuple[int, ...]
    accept: int | Agreement
    method: ClassVar[str] = "chords"
    calls: ClassVar[None] = None

    @property
    def cores(self) -> int:
        """The number of cores, K."""
        return len(self.starts)

    @property
    def expected_hit(self) -> int:
        """The number of the hit that ends the run, 1 to K; with a rule the first that it can take."""
        return self.accept if isinstance(self.accept, int) else min(2, self.cores)

    @property
    def depth(self) -> int:
        """Model calls in a row until `expected_hit`."""
        return hit_depth(self.steps, self.starts, self.cores - self.expected_hit + 1)

    def sample_options(self, accept_now: Callable[[], bool] | None = None) -> SampleOptions:
        """The arguments with which `chords_core.sample` runs the plan.

        Args:
            accept_now: once it returns true, the newest hit is taken; see `chords_core.OnDemand`.
        """
        return _options(self, self.accept, accept_now, self.starts)


@dataclass(frozen=True)
class WindowPlan(_Plan):
    """The secant window on several cores.

    Attributes:
        cores: K, the steps that are evaluated in a round.
        depth: the rounds, which are the model calls in a row, that it is expected to take. The picture decides.
        accept: how close the result has to be: 1, or a larger number for a closer and later one.
        calls: at how many of the steps the model is called; None: at each.
    """

    cores: int
    depth: int
    accept: int = 1
    calls: int | None = None
    method: ClassVar[str] = "secant"

    @property
    def expected_hit(self) -> int:
        """The number of the last expected hit. Each round has one, and the first, a draft, is number 0."""
        return max(self.depth - 1, 1)

    def sample_options(self, accept_now: Callable[[], bool] | None = None) -> SampleOptions:
        """See `ChordsPlan.sample_options`."""
        return _options(self, self.accept, accept_now)


@dataclass(frozen=True)
class AdaptivePlan(_Plan):
    """As few calls in a row as a result within a tolerance takes: adaptive steps on one core, or a window on several.

    Attributes:
        cores: K, the steps that are evaluated in a round.
        depth: the model calls in a row that it is expected to take. The picture decides.
        tolerance: the relative RMS difference from the solver's own result.
    """

    cores: int
    depth: int
    tolerance: float
    calls: ClassVar[None] = None

    @property
    def method(self) -> str:
        """As `chords_core.sample` takes it."""
        return "secant" if self.cores > 1 else "sequential"

    @property
    def expected_hit(self) -> int:
        """The number of the last expected hit. Each round has one, and the first, a draft, is number 0."""
        return max(self.depth - 1, 1)

    def sample_options(self, accept_now: Callable[[], bool] | None = None) -> SampleOptions:
        """See `ChordsPlan.sample_options`."""
        return _options(self, 1, accept_now, tolerance=self.tolerance)


Plan = SequentialPlan | InterpolatedPlan | ChordsPlan | WindowPlan | AdaptivePlan


def _options(
    plan: Any,
    accept: int | Agreement,
    accept_now: Callable[[], bool] | None,
    starts: tuple[int, ...] | None = None,
    tolerance: float | None = None,
) -> SampleOptions:
    return {
        "method": plan.method,
        "cores": plan.cores,
        "starts": starts,
        "accept": accept if accept_now is None else OnDemand(accept, accept_now),
        "calls": plan.calls,
        "tolerance": tolerance,
    }
