"""What `optimize_latent` and `optimize_parameters` tell while they run: one record for each thing that happens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Iterated:
    """An iteration has its gradient.

    ``iteration``: from 0; ``of``: how many are planned; ``objective`` [B]: at the current ``sample``; ``best`` [B]: the
    best so far; ``sampled``: whether the trajectory was sampled (True) or carried (False); ``evaluations``:
    forward-equivalent model calls so far.
    """

    iteration: int
    of: int
    objective: Tensor
    best: Tensor
    sampled: bool
    sample: Tensor
    evaluations: int


@dataclass(frozen=True, eq=False)
class Improved:
    """A sampled trajectory is the best so far for some items.

    ``x``: the best noise (or conditioning) of all items; ``sample``, ``objective`` [B]: what belongs to it.
    ``iteration``: the number of iterations where the check after the last one found it.
    """

    iteration: int
    x: Tensor
    sample: Tensor
    objective: Tensor


@dataclass(frozen=True, eq=False)
class Refreshed:
    """An adaptive refresh has sampled a trajectory again.

    ``predicted``, ``sampled`` [B]: the objective of the same noise, by the carried trajectory and by the sampled one;
    ``interval``: iterations until the next sampling.
    """

    iteration: int
    predicted: Tensor
    sampled: Tensor
    interval: int


@dataclass(frozen=True)
class RolledBack:
    """``items`` broke; ``reason``: NaN, infinity or an exploding objective. They continue from their best noise with
    half the step size. In a training the parameters do so, whatever the items are."""

    iteration: int
    items: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Stopped:
    """It ends before its last iteration, for this ``reason``: mostly that nothing has improved for a while."""

    iteration: int
    reason: str


@dataclass(frozen=True, eq=False)
class TrainingIterated:
    """An iteration of a training has its gradient.

    ``iteration``: from 0; ``of``: how many are planned; ``objective`` [B]: at ``sample`` [B, ...]; ``mean``: of the
    objective over the last iterations; ``best``: the lowest mean so far; ``drift``: how far the predictions at the kept
    steps are from the old network's, relative RMS, or None where nothing holds the network; ``evaluations``:
    forward-equivalent model calls so far.
    """

    iteration: int
    of: int
    objective: Tensor
    mean: float
    best: float
    drift: float | None
    sample: Tensor
    evaluations: int


OptimizationEvent = Iterated | Improved | Refreshed | RolledBack | Stopped

TrainingEvent = TrainingIterated | RolledBack | Stopped
