"""LTX-Video: the video is shared; the prompt has keys of its own, whole."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..adapter import Adapter, Arguments
from ..shares import Segment


class LTXVAdapter(Adapter):
    """The first attention of a block is self-attention. Where guides have a strength, the host calls it up to three
    times with the same keys, for the queries before, of and behind the guides; the keys are exchanged once."""

    name = "LTX-Video"
    networks = ("comfy.ldm.lightricks.model.LTXVModel",)
    blocks = (("double_block", "transformer_blocks"),)
    first_only = True

    def enter(self, kind: str, args: Arguments) -> Arguments:
        if not self.active:
            self.begin([Segment(args["img"].shape[1])])
            args["img"] = self.take(args["img"])
        args["pe"] = self._own_positions(args["pe"])
        if args["vec"].shape[1] == self.layout.tokens:  # a timestep for each token
            args["vec"] = self.own(args["vec"])
        return self._with_own_guides(args)

    def leave(self, kind: str, output: Arguments) -> Arguments:
        return {**output, "img": self.gather(output["img"])}

    def _own_positions(self, positions: Sequence[Any]) -> tuple[Any, ...]:
        """The rotations of this member's tokens: a matrix [b, n, ...]; before ComfyUI 0.30 cosine and sine, [b, n, d]
        or [b, heads, n, d]. What else there is says how they are applied."""
        return tuple(
            self.own(part, 2 if part.ndim == 4 else 1) if isinstance(part, Tensor) else part for part in positions
        )

    def _with_own_guides(self, args: Arguments) -> Arguments:
        """With the guides' mask, which names tokens, for this member's queries. Its columns stay: keys are whole."""
        mask = args.get("self_attention_mask")
        if hasattr(mask, "guide_start"):
            args["self_attention_mask"] = self._own_guides(mask)
        return args

    def _own_guides(self, mask: Any) -> Any:
        first, end = self.layout.bounds(0)
        start = self.layout.place(mask.guide_start, 0)
        stop = self.layout.place(mask.guide_start + mask.tracked_count, 0)
        if start == stop:  # this member has no guide: its queries are all before them, or all behind
            return mask.noisy_mask if first < mask.guide_start else None
        own, row = copy.copy(mask), first + start - mask.guide_start
        own.guide_start, own.tracked_count = start, stop - start
        own.tracked_mask = mask.tracked_mask[:, :, row : row + stop - start]
        return own
