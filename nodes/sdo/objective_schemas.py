"""What the schemas of the objective nodes share: the frame, and inputs that several have."""

from __future__ import annotations

import re

from comfy_api.latest import io

from ...chords_core import InvalidInput
from ..inputs import CATEGORY, Objective

MAXIMISE, MINIMISE, AT_VALUE = "as much as possible", "as little as possible", "the given value"


def objective_schema(
    node_id: str, name: str, description: str, aliases: list[str], inputs: list[io.Input]
) -> io.Schema:
    """The schema of an objective node; ``description`` ends with what a value means."""
    return io.Schema(
        node_id=node_id,
        display_name=f"SDO Objective: {name}",
        category=f"{CATEGORY}/SDO",
        description=description,
        search_aliases=["sdo", "objective", "loss", "guidance", *aliases],
        inputs=inputs,
        outputs=[
            Objective.Output(
                display_name="objective",
                tooltip="For an SDO Latent Optimizer or an SDO LoRA Trainer, or for an SDO Objective: Combine with "
                "other objectives.",
            )
        ],
    )


def image_input(purpose: str, remark: str = "") -> io.Input:
    """A reference picture; ``purpose`` says what the result should have of it."""
    return io.Image.Input(
        "image",
        tooltip=f"{purpose}: one picture for all, or one for each item of the batch (a LoRA training takes one for "
        f"all).{remark and f' {remark}'}",
    )


def vision_input(tooltip: str, optional: bool = False) -> io.Input:
    """A CLIP-Vision model."""
    return io.ClipVision.Input("clip_vision", optional=optional, tooltip=tooltip)


def mask_input() -> io.Input:
    """The region that an objective is about."""
    return io.Mask.Input(
        "mask",
        optional=True,
        tooltip="The region that counts: white fully, grey partly. It is stretched to the size of the picture. If it "
        "is not connected, the whole picture counts.",
    )


def measure_schema(
    node_id: str, measure: str, meaning: str, aliases: list[str], *, default: float, min: float = 0.0, max: float
) -> io.Schema:
    """The schema of an objective node for a measure of the picture that can be raised, lowered or set.

    ``meaning``: what the measure is, with usual values; ``default``, ``min``, ``max``: of the value to set.
    """
    name = measure.capitalize()
    return objective_schema(
        node_id,
        name,
        f"Raises, lowers or sets the {measure}: {meaning}. The objective is minus the {measure}, the {measure}, or its "
        "squared distance from the given value.",
        aliases,
        [
            io.Combo.Input(
                "aim",
                optional=True,
                options=[MAXIMISE, MINIMISE, AT_VALUE],
                default=MAXIMISE,
                tooltip=f'Raise it as far as possible, lower it as far as possible, or bring it to "{AT_VALUE}" below.',
            ),
            io.Float.Input(
                "value",
                optional=True,
                default=default,
                min=min,
                max=max,
                step=0.01,
                tooltip=f'The {measure} for the aim "{AT_VALUE}". The other aims do not use it.',
            ),
        ],
    )


def target_and_sign(aim: str, value: float) -> tuple[float | None, int]:
    """Target and sign of a measure, from the inputs of `measure_schema`."""
    return (value, 1) if aim == AT_VALUE else (None, -1 if aim == MINIMISE else 1)


def parse_colour(colour: str) -> tuple[float, float, float]:
    """Red, green and blue in 0..1, from "#rrggbb".

    Raises:
        InvalidInput: for any other text.
    """
    match = re.fullmatch(r"#?([0-9a-fA-F]{6})", colour.strip()) if isinstance(colour, str) else None
    if match is None:
        raise InvalidInput("colour", f"must be # and six hexadecimal digits, as #ff0000 for red, not {colour!r}")
    red, green, blue = (value / 255 for value in bytes.fromhex(match[1]))
    return red, green, blue
