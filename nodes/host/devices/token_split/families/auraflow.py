"""AuraFlow: text (with the registers) and picture, both shared; positions are in the embedding."""

from __future__ import annotations

from .flux import JointAdapter


class AuraFlowAdapter(JointAdapter):
    """Double layers, then single layers on [text, picture]."""

    name = "AuraFlow"
    networks = ("comfy.ldm.aura.mmdit.MMDiT",)
    blocks = (("double_block", "double_layers"), ("single_block", "single_layers"))
    residuals = {}
