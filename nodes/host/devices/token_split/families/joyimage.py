"""JoyImage (with references): the picture is shared; the text stays whole behind it."""

from __future__ import annotations

from ..adapter import Adapter, Arguments
from ..shares import Segment

PICTURE = 0


class JoyImageAdapter(Adapter):
    """Double blocks; positions are the picture's alone."""

    name = "JoyImage"
    networks = ("comfy.ldm.joyimage.model.JoyImageTransformer3DModel",)
    blocks = (("double_block", "double_blocks"),)

    def enter(self, kind: str, args: Arguments) -> Arguments:
        if not self.active:
            segments = [Segment(args["img"].shape[1]), Segment(args["txt"].shape[1], shared=False)]
            self.begin(segments, picture=PICTURE)
            args["img"] = self.take(args["img"])
        args["pe"] = self.own(args["pe"])
        return args

    def leave(self, kind: str, output: Arguments) -> Arguments:
        return {**output, "img": self.gather(output["img"], which=[PICTURE])}
