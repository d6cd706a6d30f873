"""The node that makes a schedule of sigmas, for any sampler."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.scheduler import accurate_schedule
from .inputs import CATEGORY, steps_input


class ChordsScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsScheduler",
            display_name="CHORDS Scheduler",
            category=CATEGORY,
            description="Sigmas spaced for accuracy, in place of BasicScheduler, for any sampler and any device. On "
            "the demo model, 20 steps of dpmpp_2m then come about three times closer to the result of very many steps.",
            search_aliases=["basicscheduler", "sigmas", "schedule", "chords", "grid"],
            inputs=[
                io.Model.Input("model", tooltip="The model to sample: the node uses its sigmas and its shift."),
                steps_input(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, only the last part of a longer schedule, which keeps the structure of the "
                    "initial picture.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="For SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: Any, steps: int, denoise: float) -> io.NodeOutput:
        return io.NodeOutput(accurate_schedule(model, steps, denoise))
