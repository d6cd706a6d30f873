"""The devices of one lane, how they share its calls, and their names for the user. Needs torch only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..phrases import Phrase

Group = tuple[torch.device, ...]
"""The devices of a lane, its own first."""

SHARE = "+"
"""Between the names of a group's devices."""

SIDES = 2
"""Of a guided call: the positive and the negative one."""


@dataclass(frozen=True, order=True)
class Split:
    """How the devices of a lane share each of its calls.

    Attributes:
        sides: devices, or teams of devices, that evaluate the sides of guidance: 1 (no guidance split) or `SIDES`.
        shares: devices of a team, each with its share of the tokens; 1: no token split.
    """

    sides: int = 1
    shares: int = 1

    @property
    def devices(self) -> int:
        """The number of devices that take part."""
        return self.sides * self.shares

    @property
    def whole(self) -> bool:
        """Whether one device makes each call by itself."""
        return self.devices == 1

    @property
    def name(self) -> str:
        """The name in files and records: "off", "guidance", "tokens 4" or "guidance x tokens 2"."""
        parts = [*(["guidance"] if self.sides > 1 else []), *([f"tokens {self.shares}"] if self.shares > 1 else [])]
        return " x ".join(parts) or "off"

    def teams(self, group: Group) -> tuple[Group, ...]:
        """The devices of each side, the one that leads a side first; those of the group that are left have no part."""
        return tuple(group[side * self.shares : (side + 1) * self.shares] for side in range(self.sides))


WHOLE = Split()

MIN_GAIN = 0.1
"""The share of a call's time that further devices have to save."""


def split_named(name: str) -> Split:
    """The split of this `Split.name`.

    Raises:
        ValueError: if there is none.
    """
    shares = name.rpartition("tokens ")[2]
    split = Split(SIDES if name.startswith("guidance") else 1, int(shares) if shares.isdigit() else 1)
    if split.name != name:
        raise ValueError(name)
    return split


def possible_splits(devices: int, guidance: bool, tokens: bool) -> tuple[Split, ...]:
    """The ways in which so many devices can share a call: all of them, half of them, half of that, and so on to one.

    Args:
        devices: 1 or more.
        guidance: whether the sides of guidance can be evaluated at once.
        tokens: whether a call can be shared by tokens.

    Returns:
        The ways with the most devices first, `WHOLE` last.
    """
    found = {Split(shares=count) for count in _halves(devices)} if tokens else set()
    if guidance and devices >= SIDES:
        found |= {Split(SIDES), *(Split(SIDES, count) for count in _halves(devices // SIDES) if tokens)}
    return (*sorted(found, key=lambda split: (-split.devices, split)), WHOLE)


def _halves(count: int) -> list[int]:
    """The count, half of it and so on, rounded down, as far as that is more than one."""
    return [count >> times for times in range(count.bit_length() - 1)]


def names_of(groups: Sequence[Group]) -> tuple[str, ...]:
    """One name a lane: "cuda:0", or "cuda:0+cuda:1" where two devices share its calls."""
    return tuple(SHARE.join(map(str, group)) for group in groups)


def is_shared(name: str) -> bool:
    """Whether this name of a lane stands for several devices."""
    return SHARE in name


def in_words(group: Group) -> str:
    """The devices in words, as in "cuda:0, cuda:1 and cuda:2"."""
    *first, last = map(str, group)
    return Phrase("{names} and {last}", names=", ".join(first), last=last) if first else last
