"""The nodes of the demo model: a tiny model in the pack, for a picture in seconds on any machine."""

from __future__ import annotations

from comfy_api.latest import io

from ..demo.prompts import encode_prompt
from .host.demo import load_demo_model
from .inputs import CATEGORY


class ChordsDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsDemoModel",
            display_name="CHORDS Demo Model",
            category=CATEGORY,
            description="A tiny text-to-image model of simple scenes, 128x128, which is part of the pack. It runs in "
            "seconds on a CPU. Use it with CHORDS Demo Prompt.",
            inputs=[],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model, for any sampler."),
                io.Vae.Output(
                    display_name="VAE", tooltip="Decodes its latents to pictures, and encodes pictures to latents."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_demo_model())


class ChordsDemoPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsDemoPrompt",
            display_name="CHORDS Demo Prompt",
            category=CATEGORY,
            description="A prompt for the CHORDS Demo Model. It knows circle, square, triangle, star, ring and cross; "
            "red, orange, yellow, green, blue, purple, white and black; small and big; left, right, top, bottom and "
            "center; and a background colour. Empty text is the negative prompt.",
            inputs=[
                io.String.Input(
                    "text",
                    default="a big red circle on the left, blue background",
                    multiline=True,
                    tooltip="For example: a small blue star on the left and a big yellow square on the right, black "
                    "background",
                )
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="For the positive or negative input of a sampler."
                )
            ],
        )

    @classmethod
    def execute(cls, text: str) -> io.NodeOutput:
        return io.NodeOutput([[encode_prompt(text), {}]])
