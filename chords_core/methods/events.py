"""What happens in a run, as immutable records: evaluations to make, and events to report."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model evaluation that may start now. It says all that a call needs, so that another lane can repeat it.

    Attributes:
        core: 1 is the slowest.
        index: the step of the schedule, from 0.
        depth: the round to which it belongs if every core has a lane, from 1.
        x: the state there.
        sigma: its sigma.
    """

    core: int
    index: int
    depth: int
    x: Tensor
    sigma: float


@dataclass(frozen=True)
class RoundDone:
    """All evaluations of the first ``depth`` rounds have come. The accepted hit needs at most ``of`` rounds."""

    depth: int
    of: int


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A lane has made an evaluation, in so many ``seconds``."""

    core: int
    index: int
    depth: int
    lane: int
    seconds: float
    x: Tensor
    denoised: Tensor


@dataclass(frozen=True)
class Rectified:
    """Core ``core`` was corrected by its slower neighbour when it arrived at ``index``."""

    core: int
    index: int


@dataclass(frozen=True, eq=False)
class Hit:
    """An estimate of the end.

    Attributes:
        core: which made it. K is the fastest, 1 the slowest, which is the sequential sampler. 0 is the draft: one jump
            to the end from the fastest core's first evaluation.
        depth: the model calls in a row that it took.
        x: the state at the last sigma.
    """

    core: int
    depth: int
    x: Tensor


@dataclass(frozen=True, eq=False)
class Accepted:
    """The run ends with this hit."""

    hit: Hit


@dataclass(frozen=True, eq=False)
class LaneLost:
    """A lane raised ``error``, or was the only one to return NaN (`LaneFaulty`). It gets no more work, and its
    evaluation goes to another lane."""

    lane: int
    error: Exception


@dataclass(frozen=True)
class LaneSlow:
    """A lane has been at an evaluation for ``seconds``, which is too long. Another lane, if there is one, makes the
    evaluation too. The slow lane gets no more work until it is back."""

    lane: int
    seconds: float


@dataclass(frozen=True)
class LaneBack:
    """A slow lane has answered, ``seconds`` after it began. It gets work again."""

    lane: int
    seconds: float


Event = RoundDone | Evaluated | Rectified | Hit | Accepted | LaneLost | LaneSlow | LaneBack
