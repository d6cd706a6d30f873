"""Schedules of sigmas, for any sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.scheduler import accurate_schedule
from .inputs import CATEGORY


class ChordsScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsScheduler",
            display_name="CHORDS Scheduler",
            category=CATEGORY,
            description="Sigmas spaced for accuracy, in place of BasicScheduler, for any sampler and on any device: "
            "20 steps of dpmpp_2m come about three times as close to what very many would give, on the demo model.",
            search_aliases=["basicscheduler", "sigmas", "schedule", "chords", "grid"],
            inputs=[
                io.Model.Input("model", tooltip="The model that is sampled: its noise levels and shift are used."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps of the denoising process."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 only the last part of a longer schedule, which keeps the structure of a picture.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="The noise levels, for SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: Any, steps: int, denoise: float) -> io.NodeOutput:
        return io.NodeOutput(accurate_schedule(model, steps, denoise))
