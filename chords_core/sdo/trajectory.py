"""The trajectory that the shortcut differentiates, and how it is carried from one sampling to the next.

The shortcut takes all but a few kept steps as constant (`gradients`). So a sampled trajectory is *carried* along with
the noise: when the noise moves by delta, the first kept state does too, the kept steps are made again from there, and
what lies between them stays. It is sampled again only now and then. Pure functions and immutable records; sampling
itself is in `gradient_sources`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..checks import shown
from ..errors import InvalidInput
from ..methods.events import Evaluated
from ..methods.start_indices import lattice_starts
from ..solvers.base import jump
from .batch import per_item, precise, rms
from .gradients import KeptStep

_TRUSTED, _DOUBTED = 0.6, 1.0  # error of a prediction, relative to the change: carry twice as long, half as long
_DRIFT_TOLERANCE = 1e-3  # relative to the objective: a prediction this close has not drifted
_SPREAD = (0.2, 0.6)  # where the first kept steps of "spread" are, as a share of all steps; the last step is the last


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What gradients need of a trajectory: its ``end`` x_N [B, ...] as sampled, and the steps ``kept``, in order.

    ``share`` [B]: how much of a move of the noise arrives at the first kept step, 0..1; None where the variable is a
    conditioning, which moves no state before that step.
    """

    end: Tensor
    kept: tuple[KeptStep, ...]
    share: Tensor | None

    @staticmethod
    def of_noise(
        noise: Tensor, end: Tensor, evaluated: Mapping[int, Evaluated], indices: Sequence[int], sigmas: Tensor
    ) -> Trajectory:
        """From ``noise`` x_0 [B, ...] to ``end`` x_N, as sampled.

        ``evaluated``: the model calls on the way, by index, at least at ``indices``, which are those of the steps to
        keep, in order.
        """
        kept = _kept_steps(end, evaluated, indices, sigmas)
        size = rms(noise)
        # Some models scale the noise with sigma. Their states shrink on the way, and so does a move of the noise.
        return Trajectory(end, kept, torch.where(size > 0, (rms(kept[0].x) / size).clamp(max=1.0), 1.0))

    @staticmethod
    def of_condition(
        end: Tensor, evaluated: Mapping[int, Evaluated], indices: Sequence[int], sigmas: Tensor
    ) -> Trajectory:
        """As `of_noise`, for a trajectory that begins where it did when the variable moves."""
        return Trajectory(end, _kept_steps(end, evaluated, indices, sigmas), None)

    def moved(self, before: Tensor, after: Tensor) -> Trajectory:
        """Carried along with the noise, from ``before`` to ``after`` (both [B, ...]).

        This moves the first kept step. The others follow with `gradients.moved`.
        """
        if self.share is None:
            return self
        first, *others = self.kept
        delta = precise(after) - precise(before)
        x = first.x + (delta * per_item(self.share, delta)).to(after.dtype)
        return replace(self, kept=(replace(first, x=x), *others))


def _kept_steps(
    end: Tensor, evaluated: Mapping[int, Evaluated], indices: Sequence[int], sigmas: Tensor
) -> tuple[KeptStep, ...]:
    """The kept steps, with the constants that make each end where the sampled trajectory was."""
    last = len(sigmas) - 1
    kept = []
    for index, following in zip(indices, (*indices[1:], last), strict=True):
        x, denoised = evaluated[index].x, evaluated[index].denoised
        arrived = end if following == last else evaluated[following].x
        constant = arrived - jump(x, denoised, sigmas[index], sigmas[following])
        kept.append(KeptStep(x, sigmas[index], sigmas[following], constant))
    return tuple(kept)


def max_interval(steps: int, kept: int) -> int:
    """The longest interval between two samplings of an adaptive refresh.

    A carried iteration costs four evaluations a kept step. From here on, sampling is less than half of that: a longer
    interval would save little.
    """
    return max(1, round(steps / (2 * kept)))


def next_interval(interval: int, longest: int, before: Tensor, predicted: Tensor, found: Tensor) -> int:
    """How many iterations to carry the next trajectory, at most ``longest``, by how well the last one predicted.

    ``before``, ``predicted``, ``found`` [B]: the objective at the last sampling, now by the carried trajectory, and now
    by sampling. It is the error of the prediction, relative to the change, that decides. A change that is much larger
    than predicted counts as an error too: the carried trajectory leads less far than a sampled one. A prediction within
    `_DRIFT_TOLERANCE` has not drifted, whatever the change was.
    """
    longer = min(longest, 2 * interval)
    error, change = float((found - predicted).abs().sum()), float((found - before).abs().sum())
    if error <= _DRIFT_TOLERANCE * float(found.abs().sum()) or error < _TRUSTED * change:
        return longer
    return interval if error < _DOUBTED * change else max(1, interval // 2)  # half also for NaN


def steps_to_keep(keep: str | int | Sequence[int], steps: int, cores: int) -> tuple[int, ...]:
    """The indices of the steps whose graphs the shortcut keeps, in order, from the argument ``keep``.

    Raises:
        InvalidInput: if ``keep`` names no step, or one that is not part of every trajectory.
    """
    first = lattice_starts(steps, cores)[-1]  # the result is the trajectory of the core that begins here
    named = {
        "spread": {max(first, int(share * steps)) for share in _SPREAD} | {steps - 1},
        "last": {steps - 1},
    }
    if isinstance(keep, str):
        indices = named.get(keep, set())
    else:
        given: tuple[Any, ...] = tuple(keep) if isinstance(keep, Sequence) else (keep,)
        indices = set(given) if all(_is_step(index, first, steps) for index in given) else set()
    if not indices:
        raise InvalidInput(
            "keep", f'must be "last", "spread", a step {first}..{steps - 1} or several of them, not {shown(keep)}'
        )
    return tuple(sorted(indices))


def _is_step(index: object, first: int, steps: int) -> bool:
    return isinstance(index, int) and not isinstance(index, bool) and first <= index < steps
