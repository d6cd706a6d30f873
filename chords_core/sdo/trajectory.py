"""The trajectory that the shortcut differentiates, and how it is carried from one sampling to the next.

x_N = x_0 + sum_j h_j f(x_j) with constant drifts f(x_j) says: when the initial noise moves by delta, every state moves
by delta. So a sampled trajectory is *carried* along with the noise: its states are shifted, and it is sampled again
only now and then. Pure functions and immutable records; sampling itself is in `gradient_sources`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import shown
from ..errors import InvalidInput
from ..methods.events import Evaluated
from ..methods.start_indices import lattice_starts
from ..solvers.base import Past
from .batch import per_item, precise, rms
from .gradients import KeptStep

_MAX_INTERVAL = 20  # iterations between two samplings of an adaptive refresh
_TRUSTED, _DOUBTED = 0.7, 0.3  # share of the predicted gain that was found: carry twice as long, half as long
_DRIFT_TOLERANCE = 1e-3  # relative to the objective: a prediction this close has not drifted


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What gradients need of a trajectory: its ``end`` x_N [B, ...] as sampled, and the steps ``kept``, by index.

    ``shares``: by index, how much of a move of the noise arrives at that step, 0..1 [B]; empty where the variable is a
    conditioning, whose effect on the states is not known.
    """

    end: Tensor
    kept: Mapping[int, KeptStep]
    shares: Mapping[int, Tensor]

    @staticmethod
    def of_noise(
        noise: Tensor, end: Tensor, evaluated: Mapping[int, Evaluated], indices: Collection[int], sigmas: Tensor
    ) -> Trajectory:
        """From ``noise`` x_0 [B, ...] to ``end`` x_N, as sampled.

        ``evaluated``: the model calls on the way, by index, at least at ``indices`` and at their neighbours.
        """
        kept = _kept_steps(end, evaluated, indices, sigmas)
        size = rms(noise)
        # Some models scale the noise with sigma. Their states shrink on the way, and so does a move of the noise.
        shares = {
            index: torch.where(size > 0, (rms(step.x) / size).clamp(max=1.0), 1.0) for index, step in kept.items()
        }
        return Trajectory(end, kept, shares)

    @staticmethod
    def of_condition(
        end: Tensor, evaluated: Mapping[int, Evaluated], indices: Collection[int], sigmas: Tensor
    ) -> Trajectory:
        """As `of_noise`, for a trajectory that stays where it is when the variable moves."""
        return Trajectory(end, _kept_steps(end, evaluated, indices, sigmas), {})

    def moved(self, before: Tensor, after: Tensor) -> Trajectory:
        """Carried along with the noise, from ``before`` to ``after`` (both [B, ...])."""
        delta = precise(after) - precise(before)
        moved = {
            index: self.kept[index].shifted((delta * per_item(share, delta)).to(after.dtype))
            for index, share in self.shares.items()
        }
        return replace(self, kept={**self.kept, **moved})


def _kept_steps(
    end: Tensor, evaluated: Mapping[int, Evaluated], indices: Collection[int], sigmas: Tensor
) -> dict[int, KeptStep]:
    return {index: _kept_step(end, evaluated, index, sigmas) for index in indices}


def _kept_step(end: Tensor, evaluated: Mapping[int, Evaluated], index: int, sigmas: Tensor) -> KeptStep:
    past = None
    if index - 1 in evaluated:
        past = Past(sigmas[index - 1], evaluated[index - 1].denoised)
    rest = end - evaluated[index + 1].x if index + 1 < len(sigmas) - 1 else None
    return KeptStep(evaluated[index].x, sigmas[index], sigmas[index + 1], past, rest)


def step_to_keep(iteration: int, indices: Sequence[int]) -> int:
    """The one of ``indices`` whose graph an iteration keeps.

    All come up equally often, and neighbouring iterations take indices far apart (golden ratio sequence).
    """
    golden = (math.sqrt(5) - 1) / 2
    return indices[int((0.5 + iteration * golden) % 1.0 * len(indices))]


def next_interval(interval: int, before: Tensor, predicted: Tensor, found: Tensor) -> int:
    """How many iterations to carry the next trajectory, by how well the last one predicted.

    ``before``, ``predicted``, ``found`` [B]: the objective at the last sampling, now by the carried trajectory, and now
    by sampling. As a trust region sets its radius: by the share of the predicted gain that was found. A prediction
    within `_DRIFT_TOLERANCE` has not drifted, whatever the gain was.
    """
    longer = min(_MAX_INTERVAL, 2 * interval)
    if float((found - predicted).abs().sum()) <= _DRIFT_TOLERANCE * float(found.abs().sum()):
        return longer
    share = float((before - found).sum() / (before - predicted).sum().clamp(min=1e-12))
    if not share >= _DOUBTED:  # also for NaN
        return max(1, interval // 2)
    return longer if share > _TRUSTED else interval


def steps_to_keep(keep: str | int | None, steps: int, cores: int, conditioned: bool) -> Sequence[int]:
    """The indices of the steps whose graph the shortcut keeps in turn, from the argument ``keep``.

    Raises:
        InvalidInput: if ``keep`` names no step, or one that is not part of every trajectory.
    """
    first = lattice_starts(steps, cores)[-1]  # the result is the trajectory of the core that begins here
    if keep is None:
        keep = "spread" if conditioned else "last"
    if isinstance(keep, str) and keep == "spread":
        return range(first, steps)
    if isinstance(keep, str) and keep == "last":
        return (steps - 1,)
    if isinstance(keep, bool) or not isinstance(keep, int) or not first <= keep < steps:
        raise InvalidInput("keep", f'must be "last", "spread" or a step {first}..{steps - 1}, not {shown(keep)}')
    return (keep,)
