"""What happens in a run, as immutable records: evaluations to make and events to report."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model evaluation that may start now. Self-contained, so that it can be issued again elsewhere.

    ``core``: 1 = slowest; ``index``: step on the sigma grid; ``depth``: the round it belongs to when
    every core has a device of its own, from 1; ``x``: the state there; ``sigma``: its noise level.
    """

    core: int
    index: int
    depth: int
    x: Tensor
    sigma: float


@dataclass(frozen=True)
class RoundDone:
    """All evaluations of the first ``depth`` rounds are there; the accepted hit needs at most ``of``."""

    depth: int
    of: int


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A lane has answered: which evaluation, on which lane, and how many seconds it took there."""

    core: int
    index: int
    depth: int
    lane: int
    seconds: float
    x: Tensor
    denoised: Tensor


@dataclass(frozen=True)
class Rectified:
    """Core ``core``, arriving at ``index``, took over the correction of its slower neighbour."""

    core: int
    index: int


@dataclass(frozen=True, eq=False)
class Hit:
    """An estimate of the end, made by ``core``: K = the fastest, ..., 1 = the slowest, the sequential
    sampler; 0 = the draft, one jump to the end from the fastest core's first evaluation.
    ``depth``: sequential model calls it took; ``x``: the state at the last sigma."""

    core: int
    depth: int
    x: Tensor


@dataclass(frozen=True, eq=False)
class Accepted:
    """The run ends with this hit."""

    hit: Hit


@dataclass(frozen=True, eq=False)
class LaneLost:
    """A lane raised ``error``, or was alone with NaN (`LaneFaulty`), and gets no more work; its evaluation goes to
    another lane."""

    lane: int
    error: Exception


@dataclass(frozen=True)
class LaneSlow:
    """A lane has been at an evaluation for ``seconds``, too long; it goes to another lane as well, if there is one.
    The lane gets no more work until it is back."""

    lane: int
    seconds: float


@dataclass(frozen=True)
class LaneBack:
    """A lane that was slow has answered after all, ``seconds`` after it began, and gets work again."""

    lane: int
    seconds: float


Event = RoundDone | Evaluated | Rectified | Hit | Accepted | LaneLost | LaneSlow | LaneBack
