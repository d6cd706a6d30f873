"""How the tokens of one call are cut into the members' shares, and put together again. Pure; no threads, no devices.

A block's sequence consists of *segments*: text, picture. Each segment is cut on its own into contiguous shares, so that
every member has a part of each. A member's *local* sequence is its share of every segment, in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MIN_TOKENS = 4
"""That a member has to have of a segment, except the picture's. Matrix products with fewer rows round differently on a
CPU, and are hardly faster."""


def share(tokens: int, members: int, rank: int) -> tuple[int, int]:
    """The first token of a member's share, and the one after its last.

    Shares are contiguous, in the order of the ranks, and differ by at most one token.

    Args:
        tokens: how many there are, 0 or more.
        members: how many members share them, 1 or more.
        rank: the member, 0 to ``members - 1``.
    """
    each, rest = divmod(tokens, members)
    first = rank * each + min(rank, rest)
    return first, first + each + (rank < rest)


@dataclass(frozen=True)
class Segment:
    """A stretch of the whole sequence. If it is not ``shared``, every member has all of it."""

    tokens: int
    shared: bool = True


@dataclass(frozen=True)
class Layout:
    """The cut of one sequence, as one member sees it.

    A segment that is too short is not shared: the host's blocks fail on an empty tensor.

    Args:
        segments: in the order of the joint sequence.
        members: how many members there are.
        rank: the member whose view this is.
    """

    segments: tuple[Segment, ...]
    members: int
    rank: int

    @staticmethod
    def of(segments: Sequence[Segment], members: int, rank: int, picture: int) -> Layout:
        """The layout in which segments with too few tokens for all members are kept whole.

        The segment ``picture`` needs only one token a member, because it has to be shared.
        """
        needed = [members * (1 if index == picture else MIN_TOKENS) for index in range(len(segments))]
        pairs = zip(segments, needed, strict=True)
        return Layout(tuple(Segment(item.tokens, item.shared and item.tokens >= n) for item, n in pairs), members, rank)

    def bounds(self, segment: int, rank: int | None = None) -> tuple[int, int]:
        """First token and end of a member's share of a segment, counted from the segment's first token."""
        item = self.segments[segment]
        if not item.shared:
            return 0, item.tokens
        return share(item.tokens, self.members, self.rank if rank is None else rank)

    def length(self, segment: int, rank: int | None = None) -> int:
        """How many tokens of a segment a member has."""
        first, end = self.bounds(segment, rank)
        return end - first

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """This member's tokens, by segment."""
        return tuple(self.length(index) for index in range(len(self.segments)))

    @property
    def tokens(self) -> int:
        """The length of the whole sequence."""
        return self.total(self.all)

    @property
    def local_tokens(self) -> int:
        """The length of this member's local sequence."""
        return sum(self.lengths)

    @property
    def all(self) -> tuple[int, ...]:
        """The indices of all segments."""
        return tuple(range(len(self.segments)))

    def total(self, which: Sequence[int]) -> int:
        """The tokens of some segments together, in the whole sequence."""
        return sum(self.segments[index].tokens for index in which)

    def own(self, x: Tensor, dim: int, segment: int) -> Tensor:
        """This member's share of one whole segment; a view."""
        first, end = self.bounds(segment)
        return x.narrow(dim, first, end - first)

    def cut(self, x: Tensor, dim: int) -> Tensor:
        """The local sequence out of the whole one."""
        parts, start = [], 0
        for index, item in enumerate(self.segments):
            first, end = self.bounds(index)
            parts.append(x.narrow(dim, start + first, end - first))
            start += item.tokens
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim)

    def sent(self, x: Tensor, dim: int, which: Sequence[int]) -> Tensor:
        """What the others need of a local sequence of the segments ``which``: its shared ones, of which there is one at
        least."""
        if all(self.segments[index].shared for index in which):
            return x
        parts = torch.split(x, [self.lengths[index] for index in which], dim)
        kept = [part for part, index in zip(parts, which, strict=True) if self.segments[index].shared]
        return kept[0] if len(kept) == 1 else torch.cat(kept, dim)

    def joined(self, x: Tensor, sent: Sequence[Tensor], dim: int, which: Sequence[int]) -> Tensor:
        """The whole sequence of the segments ``which``, in its original order.

        Args:
            x: this member's local sequence of these segments.
            sent: what each member sent of its own, by rank (see `sent`).
            dim: the dimension of the tokens.
            which: indices of segments, in ascending order.
        """
        shared = [index for index in which if self.segments[index].shared]
        by_member = [
            dict(zip(shared, torch.split(part, [self.length(index, rank) for index in shared], dim), strict=True))
            for rank, part in enumerate(sent)
        ]
        local = dict(zip(which, torch.split(x, [self.lengths[index] for index in which], dim), strict=True))
        pieces: list[Tensor] = []
        for index in which:
            pieces += [part[index] for part in by_member] if index in shared else [local[index]]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)

    def place(self, index: int, segment: int) -> int:
        """Where a border in a whole segment lies in this member's share of it: its tokens before ``index``."""
        first, end = self.bounds(segment)
        return min(max(index - first, 0), end - first)

    def place_in_all(self, index: int) -> int:
        """Where a border in the whole sequence lies in the local one: this member's tokens before ``index``."""
        start = found = 0
        for number, item in enumerate(self.segments):
            found += self.place(index - start, number)
            start += item.tokens
        return found


def own_rows(mask: Tensor, layout: Layout) -> Tensor:
    """A mask's rows for this member's queries, where its second last dimension is the whole sequence."""
    return layout.cut(mask, mask.ndim - 2)


def frame_rows(tokens: int, frames: int, first: int, end: int, device: torch.device) -> Tensor:
    """The frame of each token from ``first`` to ``end``, if all ``tokens`` are in order of ``frames`` equal frames.

    As the host's `repeat_e` (comfy/ldm/wan/model.py): where the frames do not divide the tokens, a frame has one token
    more, and the last frame is cut.
    """
    each = -(-tokens // frames)
    return torch.arange(first, end, device=device) // each
