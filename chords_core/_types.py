"""Types that several parts of the core share, so that no part imports another's machinery for a type."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from .execution.pools import EvaluationResult
    from .methods.events import Evaluation, Event, Hit

Denoise = Callable[[Tensor, float], Tensor]
"""``denoise(x, sigma) -> denoised``, of x's shape, device and dtype."""

Objective = Callable[[Tensor], Tensor]
"""``objective(sample) -> [B]``, lower is better, differentiable. B is the sample's first dimension."""


@runtime_checkable
class Method(Protocol):
    """A sampling method as a state machine; see `chords_core.methods.chords.Chords`.

    The items of a batch must not influence one another: what is NaN in one item stays in that item.
    """

    accepted: Hit | None
    """The hit that ended the run, or None while it goes on."""

    def ready(self) -> list[Evaluation]:
        """The evaluations that may start now and have not been returned before."""

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        """Take the result of one evaluation. Returns the events that follow from it, in order."""

    def accept_hit(self, index: int | None = None) -> list[Event]:
        """End with the hit of this index, 0 for the first; None: with the newest. If it is not there yet, it will end
        the run when it comes; for None, the first one will. A later call takes the place of an earlier one."""


@runtime_checkable
class Pool(Protocol):
    """Where evaluations run, as the driver needs it. A lane makes one evaluation at a time."""

    @property
    def lanes(self) -> int:
        """How many lanes there are, numbered from 0."""

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        """Start ``evaluation`` on an idle lane. A lane that is lost answers with an error."""

    def next(self, timeout: float) -> EvaluationResult | None:
        """The next result, or None after ``timeout`` seconds without one."""

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        """Wait until no evaluation is under way, and return the results that came in, errors too.

        After ``within`` seconds (None: never) it gives up what is still under way. `next` must not return that later.
        """
