"""Stable Diffusion 3 and 3.5: text and picture, both shared; no positions in the attention, the last block drops the
text."""

from __future__ import annotations

from .flux import JointAdapter


class SD3Adapter(JointAdapter):
    """3.5 medium has a second attention among the picture's tokens alone; it is known by the number of its keys."""

    name = "Stable Diffusion 3"
    networks = ("comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",)
    blocks = (("double_block", "joint_blocks"),)
    residuals = {"double_block": "output"}
