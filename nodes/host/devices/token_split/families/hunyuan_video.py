"""HunyuanVideo 1.0 and 1.5: text and video, both shared; text first. The text's refiner lies outside the blocks."""

from __future__ import annotations

from .flux import FluxAdapter


class HunyuanVideoAdapter(FluxAdapter):
    """As Flux, but the host counts the modulation of single blocks from the first text token, without the text."""

    name = "HunyuanVideo"
    networks = ("comfy.ldm.hunyuan_video.model.HunyuanVideo",)

    def _in_joint(self, index: int | None) -> int:
        return self.layout.local_tokens if index is None else self.layout.place_in_all(index)
