"""The devices of one lane, and their names for the user. Needs torch only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Group = tuple[torch.device, ...]
"""The devices of a lane, its own first; a second one evaluates one of the two sides of each guided call."""

SHARE = "+"
"""Between the names of a group's devices."""


def names_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """One name a lane: "cuda:0", or "cuda:0+cuda:1" where two devices share its calls."""
    return tuple(SHARE.join(map(str, group)) for group in groups)


def is_shared(name: str) -> bool:
    """Whether this name of a lane stands for several devices."""
    return SHARE in name
