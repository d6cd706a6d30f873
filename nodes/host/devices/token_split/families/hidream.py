"""HiDream: the picture is shared; the text, of which each block has its own, stays whole behind it."""

from __future__ import annotations

from torch import Tensor

from ..adapter import Adapter, Arguments
from ..errors import CannotSplit
from ..shares import Segment


class HiDreamAdapter(Adapter):
    """Hooks only. The network drops a block's text by its whole length, so a share of it would not do."""

    name = "HiDream"
    networks = ("comfy.ldm.hidream.model.HiDreamImageTransformer2DModel",)
    hooked = ("double_stream_blocks", "single_stream_blocks")
    head = "final_layer"
    _picture_tokens = 0

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        if arguments.get("image_tokens_masks") is not None:
            raise CannotSplit("HiDream with pictures of several sizes in a batch masks tokens of the whole picture")
        x = arguments["image_tokens"]
        if name == "double_stream_blocks":
            if index == 0:
                self._picture_tokens = x.shape[1]
            self._begin(arguments["text_tokens"].shape[1])
            if index == 0:
                arguments["image_tokens"] = self.take(x)
        else:
            self._begin(x.shape[1] - self.layout.lengths[0])
        arguments["rope"] = self.layout.cut(arguments["rope"], 1)
        return arguments

    def _begin(self, text: int) -> None:
        self.begin([Segment(self._picture_tokens), Segment(text, shared=False)], picture=0)

    def finish(self, x: Tensor) -> Tensor:
        self.begin([Segment(self._picture_tokens)])
        return super().finish(x)
