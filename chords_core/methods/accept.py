"""Rules that decide which hit ends the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import check_callable, is_number, shown
from ..errors import InvalidInput

if TYPE_CHECKING:
    from .events import Hit


@dataclass(frozen=True)
class Residual:
    """The rule of the CHORDS authors' code.

    It accepts a hit if the L2 norm of its difference from the hit before, divided by the number of elements, is below
    ``threshold`` (> 0). The draft counts as a hit before. If no hit passes, the slowest core's is accepted.
    """

    threshold: float

    def __post_init__(self) -> None:
        if not is_number(self.threshold) or not 0 < self.threshold < math.inf:
            raise InvalidInput("accept", f"a residual threshold must be a positive number, not {shown(self.threshold)}")

    def accepts(self, before: Tensor, after: Tensor) -> bool:
        """Whether ``after`` is close enough to ``before`` (same shape). Items of a batch that are not finite in one of
        the two do not count. If no item is finite, it is not close."""
        difference = after - before
        norm = float(difference.norm())
        if not math.isfinite(norm) and difference.ndim > 1:
            difference = difference[torch.isfinite(difference).flatten(1).all(1)]
            norm = float(difference.norm())
        return difference.numel() > 0 and norm / difference.numel() < self.threshold


@dataclass(frozen=True)
class Agreement:
    """A rule that bounds the error, whatever the size of the latent.

    It accepts a hit if it differs from the hit before by at most ``threshold`` (> 0) of its own RMS, in each item of
    the batch. The draft does not count. If no hit passes, the slowest core's is accepted.

    The change between two hits is larger than the error of the later one, as measured on the demo model
    (benchmarks/results/trust.md).
    """

    threshold: float

    def __post_init__(self) -> None:
        if not is_number(self.threshold) or not 0 < self.threshold < math.inf:
            raise InvalidInput("accept", f"an agreement's threshold must be positive, not {shown(self.threshold)}")

    def accepts(self, before: Tensor, after: Tensor) -> bool:
        """Whether ``after`` is close enough to ``before`` (same shape). An item that is not finite does not count."""
        before, after = (x.cpu().double().flatten(1) if x.ndim > 1 else x.cpu().double()[None] for x in (before, after))
        change = (after - before).norm(dim=1)
        finite = change.isfinite()
        close = change <= self.threshold * after.norm(dim=1)
        return bool(finite.any()) and bool(close[finite].all())


AcceptRule = int | str | Residual | Agreement
"""The number of a hit, "exact", or a rule on two hits."""


def _newest() -> None:
    """The newest hit, as `OnDemand.index`."""


@dataclass(frozen=True)
class OnDemand:
    """The rule ``otherwise``, until ``asked()`` returns true. Then the hit of index ``index()`` ends the run at once.

    Index 0 is the draft. If that hit is not there yet, it ends the run when it comes, unless ``otherwise`` ends it
    before. None stands for the newest hit, which may be the draft; if there is no hit yet, for the first one.

    A run keeps the states of all its hits to its end in any case, so an earlier hit costs no memory.

    Attributes:
        otherwise: the number of a hit, "exact", `Residual` or `Agreement`.
        asked: called in the thread of `chords_core.sample`, as often as its ``cancel``.
        index: called after each ``asked()`` that returned true: 0 or more, or None. The newest answer counts.
    """

    otherwise: AcceptRule
    asked: Callable[[], bool]
    index: Callable[[], int | None] = _newest

    def __post_init__(self) -> None:
        check_callable("accept", self.asked, "nothing")
        check_callable("accept", self.index, "nothing")


Accept = AcceptRule | OnDemand
"""What `chords_core.sample` takes as ``accept``."""


def asked_hit(hits: Sequence[Hit], index: int | None) -> tuple[Hit | None, int]:
    """The hit that `OnDemand` asks for, None if it is not there yet; and its index, which is where the run ends then.

    Args:
        hits: those that have come.
        index: of the hit, 0 or more; None: the newest, or the first to come.
    """
    wanted = max(0, len(hits) - 1) if index is None else index
    return (hits[wanted] if wanted < len(hits) else None), wanted


def check_accept(accept: AcceptRule, cores: int) -> int | Residual | Agreement:
    """``accept`` as the number of a hit (1 = fastest core .. ``cores`` = slowest), or the rule on two hits.

    Raises:
        InvalidInput: for any other value, or a number out of range.
    """
    if isinstance(accept, Residual | Agreement):
        return accept
    if isinstance(accept, str) and accept == "exact":
        return cores
    if isinstance(accept, bool) or not isinstance(accept, int):
        raise InvalidInput("accept", f'must be a hit number, "exact" or Residual(threshold), not {shown(accept)}')
    if not 1 <= accept <= cores:
        hits = f'{cores} core(s) give hits 1 to {cores}, or "exact"'
        raise InvalidInput("accept", f"{shown(accept)} is out of range: {hits}")
    return accept
