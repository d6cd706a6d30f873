"""The objective nodes whose score is a head on CLIP-Vision's embeddings, from a file."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...chords_core.sdo.objectives.heads import ACTIVATIONS
from ..host.sdo.head_files import head_files
from ..host.sdo.head_objectives import aesthetic_spec, preference_spec
from ..host.sdo.prompt_text import PROMPT
from .objective_schemas import objective_schema, vision_input


class SDOObjectiveAesthetic(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectiveAesthetic",
            "Aesthetic",
            "Raises the score of an aesthetic predictor: a small head on CLIP-Vision's embeddings that has learned "
            "what people rate highly, such as LAION's. The objective is minus the score, mostly -4 to -7.",
            ["aesthetic predictor", "laion", "quality", "beauty"],
            [
                vision_input("The model that the head was made for: CLIP ViT-L/14 for LAION's heads."),
                *_head_inputs(", as sac+logos+ava1-l14-linearMSE or sa_0_4_vit_l_14_linear", none="LAION's heads"),
            ],
        )

    @classmethod
    def execute(cls, clip_vision: Any, file: str, activation: str = "none") -> io.NodeOutput:
        return io.NodeOutput(aesthetic_spec(clip_vision, file, activation))


class SDOObjectivePreference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectivePreference",
            "Preference",
            "Raises the score of a head on CLIP-Vision's embeddings that was trained on pairs of pictures: which of "
            "the two do people prefer? The objective is minus the score, whose scale depends on the head. With a "
            "picture to be preferred over, it is minus the logarithm of the probability of that: 0.69 if both are as "
            "good, near 0 if the result is surely preferred.",
            ["reward", "human preference", "bradley terry", "alignment", "quality"],
            [
                vision_input("The model that the head was made for."),
                *_head_inputs(", trained on pairs of pictures", none="linear layers alone"),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="Only for a head that takes the embeddings of picture and text, one after the other: the "
                    "text encoder that belongs to clip_vision. A head that takes the picture alone does not use it.",
                ),
                io.String.Input(
                    "text",
                    optional=True,
                    default=PROMPT,
                    multiline=True,
                    tooltip="The text for such a head: what should be in the result. The word prompt in curly braces "
                    "stands for the prompt of the picture, for an SDO LoRA Trainer whose prompts are given as text. "
                    "For an SDO Latent Optimizer, write the text itself.",
                ),
                io.Image.Input(
                    "preferred_over",
                    optional=True,
                    tooltip="What the result should be preferred over: one picture for all, or one for each item of "
                    "the batch (a LoRA training takes one for all). If it is not connected, the score itself is "
                    "raised.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip_vision: Any,
        file: str,
        activation: str = "none",
        clip: Any = None,
        text: str = PROMPT,
        preferred_over: Any = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(preference_spec(clip_vision, file, activation, clip, text, preferred_over))


def _head_inputs(files: str, none: str) -> list[io.Input]:
    """The file of a head, and what is between its layers.

    ``files``: more about the files; ``none``: the heads whose activation is "none".
    """
    return [
        io.Combo.Input(
            "file",
            options=head_files(),
            tooltip=f"The weights of the head, from the folder models/classifiers: a stack of linear layers{files}.",
        ),
        io.Combo.Input(
            "activation",
            optional=True,
            options=list(ACTIVATIONS),
            default="none",
            advanced=True,
            tooltip=f"What is between the layers: none for {none}, relu for some others.",
        ),
    ]
