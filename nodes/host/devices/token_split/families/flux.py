"""Flux (with Kontext's references), Flux 2 and Chroma: text and picture, both shared; text first in each attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..adapter import Adapter, Arguments, BlockKey
from ..shares import Segment

TEXT, PICTURE = 0, 1

Modulation = tuple[int, int | None, int]
"""The host's: first token, end (None: the last token's), and which row of the modulation these tokens take."""


class JointAdapter(Adapter):
    """Blocks with ``txt`` and ``img``, whose attention is among both. ``pe``, if any, is that of [txt, img], with the
    tokens in dimension 2."""

    residuals = {"double_block": "input", "single_block": "output"}
    patches = frozenset({"double_block", "post_input"})
    _positions: Tensor | None = None

    def patched(self) -> Mapping[str, int]:
        return {"img": PICTURE, "txt": TEXT}

    def enter(self, kind: str, args: Arguments) -> Arguments:
        if not self.active:
            if kind == "double_block":
                self.begin([Segment(args["txt"].shape[1]), Segment(args["img"].shape[1])])
                args["txt"], args["img"] = self.take(args["txt"], TEXT), self.take(args["img"])
            else:  # no double blocks: the text stays whole, for the network drops as much of it as it put in front
                text = args["transformer_options"]["img_slice"][0]
                self.begin([Segment(text, shared=False), Segment(args["img"].shape[1] - text)])
                args["img"] = self.layout.cut(args["img"], 1)
            self._positions = None if args.get("pe") is None else self.layout.cut(args["pe"], 2)
        if "pe" in args:
            args["pe"] = self._positions
        return args

    def leave(self, kind: str, output: Arguments) -> Arguments:
        if kind == "single_block":  # one sequence, of which the network drops as much text as this member put in front
            text, picture = output["img"].split(self.layout.lengths, 1)
            return {**output, "img": torch.cat((text, self.gather(picture, which=[PICTURE])), 1)}
        output = {**output, "img": self.gather(output["img"], which=[PICTURE])}
        if output.get("txt") is not None and self.layout.segments[TEXT].shared:
            output["txt"] = self.gather(output["txt"], which=[TEXT])
        return output


class FluxAdapter(JointAdapter):
    """The modulation of single tokens (references at time zero) hides in a closure of the host's: hooks change it."""

    name = "Flux"
    networks = ("comfy.ldm.flux.model.Flux",)
    blocks = (("double_block", "double_blocks"), ("single_block", "single_blocks"))
    hooked = ("double_blocks", "single_blocks")

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        if self.active:
            for key, place in (("modulation_dims_img", self._in_picture), ("modulation_dims", self._in_joint)):
                dims: list[Modulation] | None = arguments.get(key)
                if dims:
                    arguments[key] = [(place(first), place(end), row) for first, end, row in dims]
        return arguments

    def _in_picture(self, index: int | None) -> int:
        """Where a border in the whole picture lies in this member's share."""
        return self.layout.lengths[PICTURE] if index is None else self.layout.place(index, PICTURE)

    def _in_joint(self, index: int | None) -> int:
        """The same in the joint sequence of a single block. The host has added the number of text tokens that it sees,
        which are this member's; its 0 is the first text token."""
        text = self.layout.lengths[TEXT]
        if index == 0:
            return 0
        return text + (self.layout.lengths[PICTURE] if index is None else self.layout.place(index - text, PICTURE))


class ChromaAdapter(JointAdapter):
    """Chroma leaves out blocks that its file says are of no use."""

    name = "Chroma"
    networks = ("comfy.ldm.chroma.model.Chroma",)
    blocks = FluxAdapter.blocks

    def _block_keys(self) -> list[BlockKey]:
        skipped = {"double_block": self.network.skip_mmdit, "single_block": self.network.skip_dit}
        return [key for key in super()._block_keys() if key[1] not in skipped[key[0]]]  # type: ignore[operator]
