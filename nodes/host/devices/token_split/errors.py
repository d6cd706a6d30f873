"""What a split call raises. In each case the same call, repeated whole on one device, gives the right result."""

from __future__ import annotations

from collections.abc import Sequence


class TokenSplitError(RuntimeError):
    """A call could not be computed together."""


class CannotSplit(TokenSplitError):
    """This call has something that cannot be shared by tokens. The message is the reason, for the user."""


class Released(TokenSplitError):
    """A member ended its part because another member failed, was cancelled or did not answer."""


class MemberTimeout(TokenSplitError):
    """Members did not answer in time.

    Attributes:
        ranks: the members that were waited for.
    """

    def __init__(self, ranks: Sequence[int], seconds: float) -> None:
        self.ranks = tuple(ranks)
        names = ", ".join(map(str, self.ranks))
        super().__init__(f"no answer from member {names} of a split call for {seconds:.3g} s")


class OutOfStep(TokenSplitError):
    """Members are at different points of the call, so what they exchange does not belong together."""
