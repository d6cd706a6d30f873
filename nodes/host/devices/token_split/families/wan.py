"""Wan 2.1 and 2.2 (text, image, VACE, camera, SCAIL): the video is shared; the prompt has keys of its own, whole."""

from __future__ import annotations

from torch import Tensor

from ..adapter import Adapter, Arguments
from ..shares import Segment, frame_rows


class WanAdapter(Adapter):
    """The first attention of a block is self-attention. VACE's blocks and patches follow the last block, so that the
    tokens are put together at the head."""

    name = "Wan"
    networks = (
        "comfy.ldm.wan.model.WanModel",
        "comfy.ldm.wan.model.VaceWanModel",
        "comfy.ldm.wan.model.CameraWanModel",
        "comfy.ldm.wan.model.SCAILWanModel",
    )
    blocks = (("double_block", "blocks"),)
    hooked = ("vace_blocks",)
    head = "head"
    first_only = True
    patches = frozenset({"double_block"})

    def enter(self, kind: str, args: Arguments) -> Arguments:
        if not self.active:
            self.begin([Segment(args["img"].shape[1])])
            args["img"] = self.take(args["img"])
        args["pe"], args["vec"] = self.own(args["pe"]), self._modulation(args["vec"])
        return args

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        if arguments["c"].shape[1] == self.layout.tokens:  # the first VACE block; later ones get what they gave
            arguments["c"] = self.take(arguments["c"])
        arguments["x"], arguments["freqs"] = self.take(arguments["x"]), self.own(arguments["freqs"])
        arguments["e"] = self._modulation(arguments["e"])
        return arguments

    def _modulation(self, rows: Tensor) -> Tensor:
        """This member's rows, of [b, 6, d] or [b, 1, 6, d] for all tokens, or of [b, frames or tokens, 6, d]."""
        if rows.ndim < 4 or rows.shape[1] == 1:
            return rows
        return rows[:, frame_rows(self.layout.tokens, rows.shape[1], *self.layout.bounds(0), rows.device)]
