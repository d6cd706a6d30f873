"""Qwen-Image and Qwen-Image-Edit: text and picture, both shared; double blocks only."""

from __future__ import annotations

from ..adapter import Arguments
from .flux import PICTURE, TEXT, JointAdapter


class QwenImageAdapter(JointAdapter):
    """Where references at time zero begin, and the text's mask, hide in a closure of the host's: hooks change them.

    The block makes its attention mask out of the text's mask, for its own tokens; the columns come with the keys.
    """

    name = "Qwen-Image"
    networks = ("comfy.ldm.qwen_image.model.QwenImageTransformer2DModel",)
    blocks = (("double_block", "transformer_blocks"),)
    hooked = ("transformer_blocks",)

    def before(self, name: str, index: int, arguments: Arguments) -> Arguments:
        if self.active:
            if arguments.get("timestep_zero_index") is not None:
                arguments["timestep_zero_index"] = self.layout.place(arguments["timestep_zero_index"], PICTURE)
            if arguments.get("encoder_hidden_states_mask") is not None:
                arguments["encoder_hidden_states_mask"] = self.own(arguments["encoder_hidden_states_mask"], -1, TEXT)
        return arguments
