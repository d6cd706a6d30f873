"""LTX 2 (video and sound): the video is shared; the sound, which has few tokens, is computed by every member."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from ..adapter import Arguments
from ..shares import Segment
from .ltxv import LTXVAdapter


class LTX2Adapter(LTXVAdapter):
    """Six attentions a block, two of which have the video's keys. Hooks on these two tell which one runs: sound can be
    as long as a share of the video, so neither counting nor lengths would do."""

    name = "LTX 2"
    networks = ("comfy.ldm.lightricks.av_model.LTXAVModel",)
    watched = ("attn1", "video_to_audio_attn")
    first_only = False

    def enter(self, kind: str, args: Arguments) -> Arguments:
        video, audio = args["img"]
        if not self.active:
            self.begin([Segment(video.shape[1])])
            video = self.take(video)
        args["img"] = video, audio
        for name in ("v_pe", "v_cross_pe"):
            args[name] = self._own_positions(args[name])
        for name in ("v_timestep", "v_cross_scale_shift_timestep", "v_cross_gate_timestep"):
            args[name] = self._own_timestep(args[name])
        return self._with_own_guides(args)

    def leave(self, kind: str, output: Arguments) -> Arguments:
        video, audio = output["img"]
        return {**output, "img": (self.gather(video), audio)}

    def _own_timestep(self, timestep: Any) -> Any:
        """The timestep of this member's tokens. The host keeps it once a frame (its CompressedTimestep) and expands it
        to all tokens of the frames."""
        if not hasattr(timestep, "patches_per_frame"):
            whole: Tensor = timestep
            return self.own(whole) if whole.shape[1] == self.layout.tokens else whole
        if timestep.data.shape[1] == 1:  # one for all
            own = copy.copy(timestep)
            own.patches_per_frame = 1
            return own
        each, (first, end) = timestep.patches_per_frame, self.layout.bounds(0)
        frames = slice(first // each, -(-end // each))
        skipped = frames.start * each
        return _cut_class(type(timestep), slice(first - skipped, end - skipped))(
            timestep.data[:, frames], each, per_frame=True
        )


def _cut_class(compressed: type[Any], tokens: slice) -> type[Any]:
    """The host's class, which expands its frames and then gives these of their tokens."""

    class Cut(compressed):  # type: ignore[misc]
        def expand_for_computation(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            return tuple(expanded[:, tokens] for expanded in super().expand_for_computation(*args, **kwargs))

    return Cut
