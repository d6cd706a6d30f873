"""What a picture shall be like: the objectives of the SDO Latent Optimizer, lower is better."""

from __future__ import annotations

import re
from typing import Any

from comfy_api.latest import io

from ...chords_core import InvalidInput
from ..host.sdo.objectives import (
    DISTANCES,
    SPACES,
    BrightnessWish,
    ColourWish,
    CombineWish,
    ContrastWish,
    ReferenceWish,
    SharpnessWish,
    SimilarityWish,
    StyleWish,
    aesthetic_files,
    aesthetic_wish,
    text_wish,
)
from ..inputs import CATEGORY, Objective

_CATEGORY = f"{CATEGORY}/SDO"
_MOST, _LEAST, _GIVEN = "as much as possible", "as little as possible", "the given value"
_AIMS = [_MOST, _LEAST, _GIVEN]
_TERMS = 4
_WEIGHT_MAX = 10000.0


def _schema(node_id: str, name: str, description: str, aliases: list[str], inputs: list[io.Input]) -> io.Schema:
    """What all objectives have in common; ``description`` ends with what a value means."""
    return io.Schema(
        node_id=node_id,
        display_name=f"SDO Objective: {name}",
        category=_CATEGORY,
        description=description,
        search_aliases=["sdo", "objective", "loss", "guidance", *aliases],
        inputs=inputs,
        outputs=[
            Objective.Output(
                display_name="objective",
                tooltip="For an SDO Latent Optimizer, or an SDO Objective: Combine to weigh it against others.",
            )
        ],
    )


def _mask_input() -> io.Input:
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="Where it counts: white fully, grey partly. It is stretched to the picture's size. Unconnected, the "
        "whole picture counts.",
    )


def _vision_input(tooltip: str, optional: bool = False) -> io.Input:
    return io.ClipVision.Input("clip_vision", optional=optional, tooltip=tooltip)


class SDOObjectiveReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveReference",
            "Reference",
            "Brings the result near to a picture, value by value. 0 is equal. In pixels, L2 is 0.1 to 0.2 for "
            "pictures that have nothing in common, L1 0.2 to 0.4; in latents it depends on the VAE, 1 to 50.",
            ["target image", "mse", "l1", "l2", "reconstruction"],
            [
                io.Image.Input(
                    "image",
                    tooltip="What the result shall be near to: one picture for all, or one for each of the batch. It "
                    "is stretched to the size of the result.",
                ),
                io.Combo.Input(
                    "distance",
                    optional=True,
                    options=list(DISTANCES),
                    default="L2",
                    tooltip="L2: the mean squared difference, which large errors dominate. L1: the mean absolute "
                    "difference, which lets some places differ much.",
                ),
                io.Combo.Input(
                    "space",
                    optional=True,
                    options=list(SPACES),
                    default="pixels",
                    tooltip="pixels: what the VAE decodes is compared with the picture. latent: the latent is compared "
                    "with the picture's latent, which is faster, as nothing is decoded; not for video.",
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Any, distance: str = "L2", space: str = "pixels") -> io.NodeOutput:
        return io.NodeOutput(ReferenceWish(image, distance, space))


class SDOObjectiveSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveSimilarity",
            "Look Alike",
            "Makes the result look like a picture to CLIP-Vision: the same kind of things, wherever they are. The "
            "value is 1 - the cosine similarity: 0 is the same, 0.3 to 0.6 usual for unrelated pictures, 2 at most.",
            ["similarity", "clip vision", "image similarity", "clip"],
            [
                _vision_input("The model that looks, from Load CLIP Vision."),
                io.Image.Input(
                    "image",
                    tooltip="What the result shall look like: one picture for all, or one for each of the batch. The "
                    "model looks at the square in the middle.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip_vision: Any, image: Any) -> io.NodeOutput:
        return io.NodeOutput(SimilarityWish(clip_vision, image))


class SDOObjectiveText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveText",
            "Text",
            "Makes the result show what a text says, as CLIP sees it. The value is 1 minus the cosine similarity of "
            "text and picture. Even a picture that fits well has about 0.65 to 0.75, one that does not 0.85 to 1.",
            ["clip score", "prompt", "text similarity", "clip"],
            [
                io.Clip.Input(
                    "clip",
                    tooltip="The text encoder that belongs to clip_vision: clip_l to ViT-L/14, clip_g to ViT-bigG. "
                    "Load clip_l from its own file with Load CLIP: checkpoints come without a part that is needed.",
                ),
                _vision_input("The model that looks, from Load CLIP Vision: CLIP ViT-L/14, ViT-H or ViT-bigG."),
                io.String.Input(
                    "text",
                    default="",
                    multiline=True,
                    tooltip="What the result shall show, in 75 tokens or fewer: the rest is not seen. Weights in "
                    "brackets have no effect.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, clip_vision: Any, text: str) -> io.NodeOutput:
        return io.NodeOutput(text_wish(clip, clip_vision, text))


class SDOObjectiveStyle(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveStyle",
            "Style",
            "Gives the result the style of a picture: which features occur together, wherever they are (Gram "
            "matrices). The value is relative to the style's own size: 0 is the same, 1 and more is very different.",
            ["style transfer", "gram matrix", "texture"],
            [
                io.Image.Input(
                    "image",
                    tooltip="Whose style the result shall have: one picture for all, or one for each of the batch.",
                ),
                _vision_input(
                    "The model whose features are compared, from Load CLIP Vision. Unconnected, those are the VAE's: "
                    "colours and their fine texture, at once and without decoding.",
                    optional=True,
                ),
            ],
        )

    @classmethod
    def execute(cls, image: Any, clip_vision: Any = None) -> io.NodeOutput:
        return io.NodeOutput(StyleWish(image, clip_vision))


class SDOObjectiveColour(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveColour",
            "Colour",
            "Brings the result, or a region of it, to a colour. The value is the mean squared distance from it: 0 is "
            "that colour everywhere, 0.1 to 0.4 is usual for another one.",
            ["color", "region colour", "tint"],
            [
                io.Color.Input("colour", default="#ff0000", tooltip="The colour: # and six hexadecimal digits."),
                _mask_input(),
            ],
        )

    @classmethod
    def execute(cls, colour: str, mask: Any = None) -> io.NodeOutput:
        return io.NodeOutput(ColourWish(*_parsed(colour), mask))


class SDOObjectiveBrightness(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveBrightness",
            "Brightness",
            "Brings the mean brightness of the result, or of a region of it, to a value. The objective is the squared "
            "distance: 0 is met, 0.01 is a tenth off, 0.25 half of the way from black to white.",
            ["luminance", "exposure", "dark", "light"],
            [
                io.Float.Input(
                    "brightness",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="0 is black, 1 white. Photographs have 0.2 to 0.6.",
                ),
                _mask_input(),
            ],
        )

    @classmethod
    def execute(cls, brightness: float, mask: Any = None) -> io.NodeOutput:
        return io.NodeOutput(BrightnessWish(brightness, mask))


def _aim_inputs(value: io.Input) -> list[io.Input]:
    return [
        io.Combo.Input(
            "aim",
            optional=True,
            options=_AIMS,
            default=_MOST,
            tooltip=f'As much of it as possible, as little, or "{_GIVEN}" below.',
        ),
        value,
    ]


class SDOObjectiveContrast(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveContrast",
            "Contrast",
            "Raises, lowers or sets the contrast: how far brightness spreads, 0 for a flat picture, 0.1 to 0.3 for "
            "photographs, 0.5 at most. The objective is minus that, that, or the squared distance from the value.",
            ["flat", "punchy"],
            _aim_inputs(
                io.Float.Input(
                    "value",
                    optional=True,
                    default=0.25,
                    min=0.0,
                    max=0.5,
                    step=0.01,
                    tooltip=f'The contrast for the aim "{_GIVEN}", 0 to 0.5. Not used for the other aims.',
                )
            ),
        )

    @classmethod
    def execute(cls, aim: str = _MOST, value: float = 0.25) -> io.NodeOutput:
        return io.NodeOutput(ContrastWish(*_aimed(aim, value)))


class SDOObjectiveSharpness(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveSharpness",
            "Sharpness",
            "Raises, lowers or sets the sharpness: how much pixels differ from their neighbours, 0.01 and less for "
            "blurred photographs, 0.05 to 0.15 for crisp ones. The objective is minus that, that, or the squared "
            "distance from the value.",
            ["blur", "detail", "soft"],
            _aim_inputs(
                io.Float.Input(
                    "value",
                    optional=True,
                    default=0.1,
                    min=0.0,
                    max=4.0,
                    step=0.01,
                    tooltip=f'The sharpness for the aim "{_GIVEN}". Not used for the other aims.',
                )
            ),
        )

    @classmethod
    def execute(cls, aim: str = _MOST, value: float = 0.1) -> io.NodeOutput:
        return io.NodeOutput(SharpnessWish(*_aimed(aim, value)))


class SDOObjectiveAesthetic(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "SDOObjectiveAesthetic",
            "Aesthetic",
            "Raises the score of an aesthetic predictor: a small head on CLIP-Vision's embeddings that has learned "
            "what people rate highly, such as LAION's. The objective is minus the score, mostly -4 to -7.",
            ["aesthetic predictor", "laion", "quality", "beauty"],
            [
                _vision_input("The model that looks, the one the head was made for: CLIP ViT-L/14 for LAION's."),
                io.Combo.Input(
                    "file",
                    options=aesthetic_files(),
                    tooltip="The head's weights, from the folder models/classifiers: a stack of linear layers, as "
                    "sac+logos+ava1-l14-linearMSE or sa_0_4_vit_l_14_linear.",
                ),
                io.Combo.Input(
                    "activation",
                    optional=True,
                    options=["none", "relu"],
                    default="none",
                    advanced=True,
                    tooltip="What is between the layers: nothing in LAION's heads, relu in some of others.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip_vision: Any, file: str, activation: str = "none") -> io.NodeOutput:
        return io.NodeOutput(aesthetic_wish(clip_vision, file, activation))


class SDOObjectiveCombine(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs: list[io.Input] = []
        for number in range(1, _TERMS + 1):
            inputs += [
                Objective.Input(
                    f"objective_{number}",
                    optional=number > 1,
                    tooltip="An objective, or what another Combine gives.",
                ),
                io.Float.Input(
                    f"weight_{number}",
                    optional=True,
                    default=1.0,
                    min=-_WEIGHT_MAX,
                    max=_WEIGHT_MAX,
                    step=0.05,
                    tooltip="How much it counts. Objectives have values of different sizes, told in their "
                    "descriptions: weigh small ones higher. Below 0 asks for the opposite, 0 leaves it out.",
                ),
            ]
        return _schema(
            "SDOObjectiveCombine",
            "Combine",
            "Several objectives at once: the sum of each times its weight. For more than four, combine what several of "
            "these give.",
            ["sum", "weighted", "merge objectives"],
            inputs,
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        numbers = range(1, _TERMS + 1)
        return io.NodeOutput(
            CombineWish(tuple((inputs.get(f"objective_{n}"), inputs.get(f"weight_{n}", 1.0)) for n in numbers))
        )


def _parsed(colour: str) -> tuple[float, float, float]:
    """Red, green and blue in 0..1 of "#rrggbb".

    Raises:
        InvalidInput: for any other text.
    """
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})", colour.strip()) if isinstance(colour, str) else None
    if match is None:
        raise InvalidInput("colour", f"must be # and six hexadecimal digits, as #ff0000 for red, not {colour!r}")
    red, green, blue = (value / 255 for value in bytes.fromhex(match[1]))
    return red, green, blue


def _aimed(aim: str, value: float) -> tuple[float | None, int]:
    """Target and sign of a measure."""
    return (value, 1) if aim == _GIVEN else (None, -1 if aim == _LEAST else 1)
