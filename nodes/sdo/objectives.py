"""The objective nodes: what the picture should be like, for the SDO Latent Optimizer. Lower values are better."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.sdo.objectives import (
    DISTANCES,
    SPACES,
    BrightnessSpec,
    ColourSpec,
    CombineSpec,
    ContrastSpec,
    ReferenceSpec,
    SharpnessSpec,
    SimilaritySpec,
    StyleSpec,
    text_spec,
)
from ..host.sdo.prompt_text import PROMPT
from ..inputs import Objective
from .objective_schemas import (
    MAXIMISE,
    image_input,
    mask_input,
    measure_schema,
    objective_schema,
    parse_colour,
    target_and_sign,
    vision_input,
)

_TERMS = 4
_WEIGHT_MAX = 10000.0


class SDOObjectiveReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectiveReference",
            "Reference",
            "Brings the result close to a picture, value by value. 0 is equal. In pixels, L2 is 0.1 to 0.2 for "
            "pictures that have nothing in common, L1 0.2 to 0.4; in latents it depends on the VAE, 1 to 50.",
            ["target image", "mse", "l1", "l2", "reconstruction"],
            [
                image_input("What the result should be close to", "It is stretched to the size of the result."),
                io.Combo.Input(
                    "distance",
                    optional=True,
                    options=list(DISTANCES),
                    default="L2",
                    tooltip="L2: the mean squared difference; large differences count most. L1: the mean absolute "
                    "difference; a few places may differ a lot.",
                ),
                io.Combo.Input(
                    "space",
                    optional=True,
                    options=list(SPACES),
                    default="pixels",
                    tooltip="pixels: compares the decoded result with the picture. latent: compares the latent with "
                    "the latent of the picture, which is faster because nothing is decoded; not for video.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Any, distance: str = "L2", space: str = "pixels") -> io.NodeOutput:
        return io.NodeOutput(ReferenceSpec(image, distance, space))


class SDOObjectiveSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectiveSimilarity",
            "Similarity",
            "Makes the result similar to a picture by CLIP-Vision: the same kind of things, wherever they are. The "
            "value is 1 - the cosine similarity: 0 is the same, 0.3 to 0.6 usual for unrelated pictures, 2 at most.",
            ["look alike", "clip vision", "image similarity", "clip"],
            [
                vision_input("The model that compares the pictures, from Load CLIP Vision."),
                image_input("What the result should be similar to", "The model sees only the square in the middle."),
            ],
        )

    @classmethod
    def execute(cls, clip_vision: Any, image: Any) -> io.NodeOutput:
        return io.NodeOutput(SimilaritySpec(clip_vision, image))


class SDOObjectiveText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectiveText",
            "Text",
            "Makes the result fit a text, or each picture its own prompt, by CLIP similarity. The value is 1 minus the "
            "cosine similarity of text and picture. Even a picture that fits well has about 0.65 to 0.75, one that "
            "does not fit 0.85 to 1.",
            ["clip score", "prompt", "text similarity", "clip"],
            [
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder that belongs to clip_vision: clip_l to ViT-L/14, clip_g to ViT-bigG. "
                    "Load clip_l from its own file with Load CLIP: in checkpoints a part of it is missing.",
                ),
                vision_input("The model that sees the picture, from Load CLIP Vision: ViT-L/14, ViT-H or ViT-bigG."),
                io.String.Input(
                    "text",
                    default=PROMPT,
                    multiline=True,
                    tooltip="What should be in the result, in 75 tokens or fewer. The rest is not used, and weights in "
                    "brackets have no effect. The word prompt in curly braces stands for the prompt of the picture, "
                    "for an SDO LoRA Trainer whose prompts are given as text. For an SDO Latent Optimizer, write the "
                    "text itself.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, clip_vision: Any, text: str) -> io.NodeOutput:
        return io.NodeOutput(text_spec(clip, clip_vision, text))


class SDOObjectiveStyle(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectiveStyle",
            "Style",
            "Gives the result the style of a picture: which features occur together, wherever they are (Gram "
            "matrices). The value is relative to the size of the style itself: 0 is the same, 1 and more is very "
            "different.",
            ["style transfer", "gram matrix", "texture"],
            [
                image_input("The picture whose style the result should have"),
                vision_input(
                    "The model whose features are compared, from Load CLIP Vision. If it is not connected, features "
                    "of the VAE are compared: colours and their fine texture, quickly and without decoding.",
                    optional=True,
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Any, clip_vision: Any = None) -> io.NodeOutput:
        return io.NodeOutput(StyleSpec(image, clip_vision))


class SDOObjectiveColour(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectiveColour",
            "Colour",
            "Brings the result, or a region of it, to a colour. The value is the mean squared distance from it: 0 is "
            "that colour everywhere, 0.1 to 0.4 is usual for another colour.",
            ["color", "region colour", "tint"],
            [
                io.Color.Input("colour", default="#ff0000", tooltip="The colour: # and six hexadecimal digits."),
                mask_input(),
            ],
        )

    @classmethod
    def execute(cls, colour: str, mask: Any = None) -> io.NodeOutput:
        return io.NodeOutput(ColourSpec(*parse_colour(colour), mask))


class SDOObjectiveBrightness(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectiveBrightness",
            "Brightness",
            "Brings the mean brightness of the result, or of a region of it, to a value. The objective is the squared "
            "distance: 0 is met, 0.01 is a tenth off, 0.25 is half of the way from black to white.",
            ["luminance", "exposure", "dark", "light"],
            [
                io.Float.Input(
                    "brightness",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0 is black, 1 is white. Photographs have 0.2 to 0.6.",
                ),
                mask_input(),
            ],
        )

    @classmethod
    def execute(cls, brightness: float, mask: Any = None) -> io.NodeOutput:
        return io.NodeOutput(BrightnessSpec(brightness, mask))


class SDOObjectiveContrast(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return measure_schema(
            "SDOObjectiveContrast",
            "contrast",
            "how much the brightness varies over the picture, 0 for a flat picture, 0.1 to 0.3 for photographs, 0.5 at "
            "most",
            ["flat", "punchy"],
            default=0.25,
            max=0.5,
        )

    @classmethod
    def execute(cls, aim: str = MAXIMISE, value: float = 0.25) -> io.NodeOutput:
        return io.NodeOutput(ContrastSpec(*target_and_sign(aim, value)))


class SDOObjectiveSharpness(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return measure_schema(
            "SDOObjectiveSharpness",
            "sharpness",
            "how much pixels differ from their neighbours, 0.01 and less for blurred photographs, 0.05 to 0.15 for "
            "crisp ones",
            ["blur", "detail", "soft"],
            default=0.1,
            max=4.0,
        )

    @classmethod
    def execute(cls, aim: str = MAXIMISE, value: float = 0.1) -> io.NodeOutput:
        return io.NodeOutput(SharpnessSpec(*target_and_sign(aim, value)))


class SDOObjectiveCombine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return objective_schema(
            "SDOObjectiveCombine",
            "Combine",
            "Several objectives at once: the sum of each times its weight. For more than four, combine the outputs of "
            "several of these nodes.",
            ["sum", "weighted", "merge objectives"],
            [field for number in range(1, _TERMS + 1) for field in _term_inputs(number)],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        numbers = range(1, _TERMS + 1)
        return io.NodeOutput(
            CombineSpec(tuple((inputs.get(f"objective_{n}"), inputs.get(f"weight_{n}", 1.0)) for n in numbers))
        )


def _term_inputs(number: int) -> list[io.Input]:
    """An objective and its weight."""
    return [
        Objective.Input(
            f"objective_{number}", optional=number > 1, tooltip="An objective, or the output of another Combine."
        ),
        io.Float.Input(
            f"weight_{number}",
            optional=True,
            default=1.0,
            min=-_WEIGHT_MAX,
            max=_WEIGHT_MAX,
            step=0.05,
            tooltip="How much it counts. The values of objectives differ in size (see their descriptions): give small "
            "ones a higher weight. A weight below 0 asks for the opposite, 0 leaves the objective out.",
        ),
    ]
