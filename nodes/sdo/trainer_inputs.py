"""The inputs of the SDO LoRA Trainer."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.sampling.names import STEP_SAMPLERS, scheduler_names
from ..host.sdo.training.layers import CHOICES
from ..host.sdo.training.options import FIDELITIES
from ..inputs import Objective

FORGET, KEEP = "forget", "keep the best"

_SEED_MAX = 0xFFFFFFFFFFFFFFFF
_MAX_PROMPTS = 50

LoraModel = io.Custom("LORA_MODEL")


def required_inputs() -> list[io.Input]:
    """The inputs without which there is no training."""
    return [
        io.Model.Input(
            "model",
            tooltip="The model to train a LoRA for. It must fit in the device's memory as a whole; it does not change.",
        ),
        Objective.Input(
            "objective",
            tooltip="What the pictures should be like, from an SDO Objective node. Lower values are better.",
        ),
        io.Conditioning.Input("negative", tooltip="The conditioning describing what should not be in the pictures."),
        io.Latent.Input(
            "latent", tooltip="An empty latent, of which only the size is used. The number of pictures is batch."
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=_SEED_MAX,
            control_after_generate=True,
            tooltip="The seed of the training: of its noise, of the order of the prompts and of the new LoRA.",
        ),
        io.Float.Input(
            "cfg",
            default=4.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="The Classifier-Free Guidance scale. Use the same one afterwards.",
        ),
        io.Int.Input(
            "rank",
            default=8,
            min=1,
            max=1024,
            tooltip="The rank of the LoRA: a higher one can learn more, and its file is larger.",
        ),
        io.Combo.Input(
            "layers",
            options=list(CHOICES),
            default=CHOICES[0],
            tooltip="Which linear layers of the model get a LoRA. attention: those of its attention. all linear: every "
            "one. pattern: those whose names match pattern.",
        ),
        io.Int.Input(
            "iterations",
            default=100,
            min=1,
            max=100000,
            tooltip="How many times the LoRA is changed. The training ends earlier when nothing improves any more.",
        ),
        io.Float.Input(
            "lr",
            default=0.001,
            min=0.000001,
            max=1.0,
            step=0.0001,
            round=0.000001,
            tooltip="How much one iteration changes the LoRA. Small values are safe, large values are fast but may "
            "break the pictures.",
        ),
        io.Int.Input(
            "batch",
            default=4,
            min=1,
            max=256,
            tooltip="How many pictures an iteration learns from, each of another seed. They are made one after "
            "another, so that the memory is that of one.",
        ),
    ]


def prompt_inputs() -> list[io.Input]:
    """What the pictures show, and what decodes them."""
    return [
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Decodes the pictures for the objective. Not needed for objectives of the latent alone.",
        ),
        io.Autogrow.Input(
            "positive",
            optional=True,
            template=io.Autogrow.TemplatePrefix(
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="A prompt of the training. Connect several: the pictures of a batch take turns.",
                ),
                prefix="positive",
                min=1,
                max=_MAX_PROMPTS,
            ),
            tooltip="The prompts of the training, as conditionings. The pictures of a batch take turns.",
        ),
        io.Clip.Input("clip", optional=True, tooltip="The model's CLIP, which encodes the texts in prompts."),
        io.String.Input(
            "prompts",
            optional=True,
            default="",
            multiline=True,
            tooltip="More prompts of the training, one a line, encoded by clip. The pictures of a batch take turns.",
        ),
        LoraModel.Input(
            "lora",
            optional=True,
            tooltip="A LoRA of this model to go on from. rank, layers and pattern are then its own. Connect the model "
            "without it.",
        ),
    ]


def sampling_inputs() -> list[io.Input]:
    """How the pictures are sampled."""
    return [
        io.Int.Input(
            "steps",
            optional=True,
            default=20,
            min=1,
            max=10000,
            tooltip="The number of steps used in the denoising process.",
        ),
        io.Combo.Input(
            "sampler_name",
            optional=True,
            options=list(STEP_SAMPLERS),
            default="euler",
            tooltip="The sampler that the pictures of the training are made with.",
        ),
        io.Combo.Input(
            "scheduler",
            optional=True,
            options=scheduler_names(),
            default="simple",
            tooltip="How noise is gradually removed over the steps.",
        ),
    ]


def advanced_inputs() -> list[io.Input]:
    """How to train."""
    return [
        io.String.Input(
            "pattern",
            optional=True,
            default="",
            advanced=True,
            tooltip='For layers "pattern": a regular expression that is found in a layer\'s name, such as '
            "double_blocks.*qkv, or a name with * and ?, such as *attn.qkv.",
        ),
        io.Combo.Input(
            "fidelity",
            optional=True,
            options=list(FIDELITIES),
            default=next(iter(FIDELITIES)),
            advanced=True,
            tooltip="How near the pictures of the training are to the sampler's. exact: every step calls the model. "
            "near: about 1 % from it, in as few model calls as that takes. fast: about 3 % from it.",
        ),
        io.Float.Input(
            "hold",
            optional=True,
            default=0.3,
            min=0.0,
            max=1000.0,
            step=0.1,
            round=0.001,
            advanced=True,
            tooltip="How strongly the model is held near what it was, so that the pictures keep their content. 0: not "
            "at all.",
        ),
        io.String.Input(
            "keep",
            optional=True,
            default="auto",
            advanced=True,
            tooltip="The steps that the gradient goes through, one after another, by number: 5, 11, 17 of 20 steps, "
            "for example. auto: three of them, at a fifth, half and four fifths.",
        ),
        io.Int.Input(
            "patience",
            optional=True,
            default=50,
            min=0,
            max=100000,
            advanced=True,
            tooltip="The training ends when the mean objective has not improved for that many iterations. 0: never.",
        ),
        io.Combo.Input(
            "gradient",
            optional=True,
            options=["shortcut", "full"],
            default="shortcut",
            advanced=True,
            tooltip="shortcut: through a few steps (SDO). full: through all steps, several times slower, for "
            "comparison; it does not use fidelity.",
        ),
        io.Int.Input(
            "pictures",
            optional=True,
            default=4,
            min=1,
            max=64,
            advanced=True,
            tooltip="How many pictures show the result, without the LoRA and with it. Their seeds are seed, seed + 1 "
            "and so on, which the training does not use.",
        ),
        io.Combo.Input(
            "when_cancelled",
            optional=True,
            options=[FORGET, KEEP],
            default=FORGET,
            advanced=True,
            tooltip="forget: a cancelled training leaves nothing. keep the best: the next run with the same inputs "
            "outputs the best that the cancelled or failed training had found, at once. The seed must stay the "
            "same: set it to fixed.",
        ),
    ]
