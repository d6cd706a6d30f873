"""The trajectory that the shortcut differentiates, and how it is carried from one sampling to the next.

The shortcut takes all but a few kept steps as constant (`gradients`). So a sampled trajectory is *carried* along with
the noise: when the noise moves by delta, the first kept state does too, the kept steps are made again from there, and
what lies between them stays. It is sampled again only now and then. Pure functions and immutable records; sampling
itself is in `gradient_sources`.
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
from ..solvers.base import jump
from .batch import per_item, precise, rms
from .gradients import KeptStep

Group = tuple[int, ...]
"""Steps whose graphs are kept together, by index, ascending."""

_MAX_INTERVAL = 20  # iterations between two samplings of an adaptive refresh
_TRUSTED, _DOUBTED = 0.7, 0.3  # share of the predicted gain that was found: carry twice as long, half as long
_DRIFT_TOLERANCE = 1e-3  # relative to the objective: a prediction this close has not drifted


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What gradients need of a trajectory: its ``end`` x_N [B, ...] as sampled, and groups of steps to keep together.

    ``kept``: the steps of each group, by their indices, in order; ``share``: how much of a move of the noise arrives at
    the first step of each group, 0..1 [B]; empty where the variable is a conditioning, which moves no state before the
    first kept one.
    """

    end: Tensor
    kept: Mapping[Group, tuple[KeptStep, ...]]
    share: Mapping[Group, Tensor]

    @staticmethod
    def of_noise(
        noise: Tensor, end: Tensor, evaluated: Mapping[int, Evaluated], groups: Collection[Group], sigmas: Tensor
    ) -> Trajectory:
        """From ``noise`` x_0 [B, ...] to ``end`` x_N, as sampled.

        ``evaluated``: the model calls on the way, by index, at least at the indices in ``groups``.
        """
        kept = _kept_groups(end, evaluated, groups, sigmas)
        size = rms(noise)
        # Some models scale the noise with sigma. Their states shrink on the way, and so does a move of the noise.
        share = {
            group: torch.where(size > 0, (rms(steps[0].x) / size).clamp(max=1.0), 1.0) for group, steps in kept.items()
        }
        return Trajectory(end, kept, share)

    @staticmethod
    def of_condition(
        end: Tensor, evaluated: Mapping[int, Evaluated], groups: Collection[Group], sigmas: Tensor
    ) -> Trajectory:
        """As `of_noise`, for a trajectory that begins where it did when the variable moves."""
        return Trajectory(end, _kept_groups(end, evaluated, groups, sigmas), {})

    def moved(self, before: Tensor, after: Tensor) -> Trajectory:
        """Carried along with the noise, from ``before`` to ``after`` (both [B, ...]): the first step of each group.

        The others follow with `gradients.moved`.
        """
        delta = precise(after) - precise(before)
        kept = {
            group: (replace(first, x=first.x + (delta * per_item(self.share[group], delta)).to(after.dtype)), *others)
            for group, (first, *others) in self.kept.items()
            if group in self.share
        }
        return replace(self, kept={**self.kept, **kept})


def _kept_groups(
    end: Tensor, evaluated: Mapping[int, Evaluated], groups: Collection[Group], sigmas: Tensor
) -> dict[Group, tuple[KeptStep, ...]]:
    """The kept steps of each group, with the constants that make each end where the sampled trajectory was."""
    kept = {}
    for group in groups:
        steps = []
        for index, following in zip(group, (*group[1:], len(sigmas) - 1), strict=True):
            x, denoised = evaluated[index].x, evaluated[index].denoised
            arrived = evaluated[following].x if following < len(sigmas) - 1 else end
            constant = arrived - jump(x, denoised, sigmas[index], sigmas[following])
            steps.append(KeptStep(x, sigmas[index], sigmas[following], constant))
        kept[group] = tuple(steps)
    return kept


def group_to_keep(iteration: int, groups: Sequence[Group]) -> Group:
    """The one of ``groups`` whose graphs an iteration keeps.

    All come up equally often, and neighbouring iterations take groups far apart (golden ratio sequence).
    """
    golden = (math.sqrt(5) - 1) / 2
    return groups[int((0.5 + iteration * golden) % 1.0 * len(groups))]


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


def groups_to_keep(keep: str | int | Sequence[int] | None, steps: int, cores: int, conditioned: bool) -> list[Group]:
    """The groups of steps whose graphs the shortcut keeps, one group after another, from the argument ``keep``.

    Raises:
        InvalidInput: if ``keep`` names no step, or one that is not part of every trajectory.
    """
    first = lattice_starts(steps, cores)[-1]  # the result is the trajectory of the core that begins here
    if keep is None:
        keep = "spread" if conditioned else "last"
    if isinstance(keep, str) and keep == "spread":
        return [(index,) for index in range(first, steps)]
    if isinstance(keep, str) and keep == "last":
        return [(steps - 1,)]
    indices = [keep] if isinstance(keep, int) else keep
    if not isinstance(indices, Sequence) or not indices or not all(_is_step(index, first, steps) for index in indices):
        raise InvalidInput(
            "keep", f'must be "last", "spread", a step {first}..{steps - 1} or several of them, not {shown(keep)}'
        )
    return [tuple(sorted(set(indices)))]


def _is_step(index: object, first: int, steps: int) -> bool:
    return isinstance(index, int) and not isinstance(index, bool) and first <= index < steps
