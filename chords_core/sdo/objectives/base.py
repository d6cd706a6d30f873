"""What puts objectives together, and the checks that all objectives share.

An objective is a small differentiable function of a batch: lower is better, one value an item. Each is a frozen record
that is called with the batch. It is checked where it is made (`InvalidInput` names the argument); what only the batch
can show is checked in the first call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._types import Objective
from ...checks import check_callable, is_number, shown
from ...errors import InvalidInput
from ..gradients import evaluate


@dataclass(frozen=True, eq=False)
class Combine:
    """The weighted sum of objectives.

    ``terms``: pairs (objective, weight). A negative weight asks for the opposite of its objective.
    """

    terms: Sequence[tuple[Objective, float]]

    def __post_init__(self) -> None:
        if not isinstance(self.terms, Sequence) or isinstance(self.terms, str):
            raise InvalidInput("terms", f"must be pairs of an objective and its weight, not {shown(self.terms)}")
        if not self.terms:
            raise InvalidInput("terms", "give at least one objective with its weight")
        for term in self.terms:
            if not isinstance(term, Sequence) or len(term) != 2 or not callable(term[0]):
                raise InvalidInput("terms", f"must be pairs of an objective and its weight, not {shown(term)}")
            if not is_number(term[1]) or math.isinf(term[1]):
                raise InvalidInput("terms", f"a weight must be a finite number, not {shown(term[1])}")

    def __call__(self, sample: Tensor) -> Tensor:
        """The sum [B] for a sample [B, ...]."""
        total = sample.new_zeros(len(sample))
        for objective, weight in self.terms:
            total = total + weight * evaluate(objective, sample)
        return total


@dataclass(frozen=True, eq=False)
class Through:
    """``objective`` of ``transform(sample)``: for example of the pictures that a decoder makes of a latent."""

    transform: Callable[[Tensor], Tensor]
    objective: Objective

    def __post_init__(self) -> None:
        check_callable("transform", self.transform, "a sample")
        check_callable("objective", self.objective, "what the transform gives")

    def __call__(self, sample: Tensor) -> Tensor:
        """The values [B] for a sample [B, ...]."""
        return evaluate(self.objective, self.transform(sample))


def constant(x: Tensor, like: Tensor) -> Tensor:
    """``x`` with the device and dtype of ``like``, fit for a graph.

    A host may make its tensors in inference mode, and autograd cannot save those.
    """
    x = x.detach().to(like)
    return x.clone() if x.is_inference() else x


def item_mean(values: Tensor) -> Tensor:
    """The mean of each item: [B, ...] -> [B]."""
    return values.reshape(len(values), -1).mean(1)


def check_items(name: str, given: Tensor, sample: Tensor) -> None:
    """Raise `InvalidInput` unless ``given`` has one item, or as many as ``sample``."""
    if len(given) not in (1, len(sample)):
        raise InvalidInput(name, f"has {len(given)} items for a batch of {len(sample)}; give one, or one each")


def check_finite(name: str, x: Tensor) -> None:
    """Raise `InvalidInput` unless ``x`` is a floating-point tensor that is not empty and has no NaN or infinity."""
    if not isinstance(x, Tensor) or not torch.is_floating_point(x):
        what = x.dtype if isinstance(x, Tensor) else shown(x)
        raise InvalidInput(name, f"must be a floating-point tensor, not {what}")
    if x.numel() == 0 or not bool(torch.isfinite(x).all()):
        raise InvalidInput(name, f"is empty or has NaN or infinity (shape {tuple(x.shape)})")


def check_unit(name: str, value: float) -> None:
    """Raise `InvalidInput` unless ``value`` is a number in 0..1."""
    if not is_number(value) or not 0 <= value <= 1:
        raise InvalidInput(name, f"must lie in 0..1, not {shown(value)}")
