"""Cosmos Predict 2: the video [b, t, h, w, d] is shared by rows of patches; the prompt has keys of its own, whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapter import Adapter, Arguments
from ..errors import CannotSplit
from ..shares import Layout, Segment, share


@dataclass(frozen=True)
class RowLayout(Layout):
    """One segment of tokens in the order (t, h, w), of which each member has some of the rows h of every frame."""

    grid: tuple[int, int, int] = (1, 1, 1)

    def rows(self, rank: int | None = None) -> tuple[int, int]:
        """The first row of a member, and the one after its last."""
        return share(self.grid[1], self.members, self.rank if rank is None else rank)

    def length(self, segment: int, rank: int | None = None) -> int:
        first, end = self.rows(rank)
        return self.grid[0] * (end - first) * self.grid[2]

    def joined(self, x: Tensor, sent: Sequence[Tensor], dim: int, which: Sequence[int]) -> Tensor:
        frames, _, columns = self.grid
        rows = [torch.unflatten(part, dim, (frames, -1, columns)) for part in sent]
        return torch.cat(rows, dim + 1).flatten(dim, dim + 2)


class CosmosAdapter(Adapter):
    """Hooks only. The first attention of a block is self-attention."""

    name = "Cosmos Predict 2"
    networks = ("comfy.ldm.cosmos.predict2.MiniTrainDIT",)
    hooked = ("blocks",)
    head = "final_layer"
    first_only = True

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        if index == 0:
            self._begin_rows(arguments["x_B_T_H_W_D"])
            arguments["x_B_T_H_W_D"] = self._own_rows(arguments["x_B_T_H_W_D"]).contiguous()
        positions = arguments["rope_emb_L_1_1_D"].unflatten(1, self._layout.grid)
        arguments["rope_emb_L_1_1_D"] = self._own_rows(positions).flatten(1, 3)
        if arguments.get("extra_per_block_pos_emb") is not None:
            arguments["extra_per_block_pos_emb"] = self._own_rows(arguments["extra_per_block_pos_emb"])
        return arguments

    def finish(self, x: Tensor) -> Tensor:
        self.active = False
        return torch.cat([parts[0] for parts in self.exchange.all_gather(self.rank, [x])], 2)

    @property
    def _layout(self) -> RowLayout:
        assert isinstance(self.layout, RowLayout)
        return self.layout

    def _begin_rows(self, x: Tensor) -> None:
        grid = (x.shape[1], x.shape[2], x.shape[3])
        members = self.exchange.members
        if grid[1] < members:
            raise CannotSplit(f"a picture of {grid[1]} rows of tokens cannot be shared by {members} devices")
        segments = (Segment(grid[0] * grid[1] * grid[2]),)
        self.layout, self.active = RowLayout(segments, members, self.rank, grid), True

    def _own_rows(self, x: Tensor) -> Tensor:
        first, end = self._layout.rows()
        return x[:, :, first:end]
