"""Kandinsky 5: the video is shared; the prompt has keys of its own, whole."""

from __future__ import annotations

from typing import Any

from ..adapter import Adapter, Arguments
from ..shares import Segment


class Kandinsky5Adapter(Adapter):
    """Hooks only: the host's block replacement calls the block with arguments that it does not have. The sequence is
    reshaped into frames before the head, so the last block puts the tokens together."""

    name = "Kandinsky 5"
    networks = ("comfy.ldm.kandinsky5.model.Kandinsky5",)
    hooked = ("visual_transformer_blocks",)
    first_only = True

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        if index == 0:
            self.begin([Segment(arguments["visual_embed"].shape[1])])
            arguments["visual_embed"] = self.take(arguments["visual_embed"])
        arguments["freqs"] = self.own(arguments["freqs"])
        return arguments

    def after(self, name: str, index: int, output: Any) -> Any:
        if index < len(self.network.visual_transformer_blocks) - 1:  # type: ignore[arg-type]
            return output
        return self.finish(output)
