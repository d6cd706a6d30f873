"""The pack's own socket types, and the inputs that several nodes share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.devices.request import DeviceRequest
from .host.sampling.names import sampler_names, scheduler_names
from .host.sampling.options import ACCEPTS, FIDELITIES, METHODS, SamplerOptions, parse_options

CATEGORY = "CHORDS"

Devices = io.Custom("CHORDS_DEVICE_SET")
Run = io.Custom("CHORDS_RUN")
Objective = io.Custom("SDO_OBJECTIVE")

_SEED_MAX = 0xFFFFFFFFFFFFFFFF


# --- KSampler's inputs, under its names


def model_input() -> io.Input:
    """The MODEL to sample."""
    return io.Model.Input("model", tooltip="The model used for denoising the latent.")


def seed_input(name: str = "seed") -> io.Input:
    """The seed of the noise."""
    return io.Int.Input(
        name,
        default=0,
        min=0,
        max=_SEED_MAX,
        control_after_generate=True,
        tooltip="The random seed used for creating the noise. The same seed gives the same picture on any devices, to "
        "within what fidelity says.",
    )


def steps_input() -> io.Input:
    """The number of steps."""
    return io.Int.Input(
        "steps", default=20, min=1, max=10000, tooltip="The number of steps used in the denoising process."
    )


def sampler_name_input() -> io.Input:
    """The name of the host's sampler."""
    return io.Combo.Input(
        "sampler_name",
        options=sampler_names(),
        tooltip="The algorithm used when sampling. With euler, ddim, dpmpp_2m, res_multistep, uni_pc and uni_pc_bh2, "
        "fidelity decides how many calls it takes. All others make every call of KSampler, which several devices may "
        "share.",
    )


def sampling_inputs() -> list[io.Input]:
    """What KSampler and KSampler Advanced share, from ``steps`` to ``latent_image``."""
    return [
        steps_input(),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="The Classifier-Free Guidance scale. Higher values follow the prompt more closely; values that are "
            "too high reduce the quality.",
        ),
        sampler_name_input(),
        io.Combo.Input(
            "scheduler",
            options=scheduler_names(),
            tooltip="The scheduler controls how noise is gradually removed to form the image.",
        ),
        io.Conditioning.Input(
            "positive", tooltip="The conditioning describing the attributes you want to include in the image."
        ),
        io.Conditioning.Input(
            "negative", tooltip="The conditioning describing the attributes you want to exclude from the image."
        ),
        io.Latent.Input("latent_image", tooltip="The latent image to denoise."),
    ]


def denoise_input() -> io.Input:
    """The share of the noise that is added and removed."""
    return io.Float.Input(
        "denoise",
        default=1.0,
        min=0.0,
        max=1.0,
        step=0.01,
        tooltip="The amount of denoising applied. Lower values keep the structure of the initial image, for image to "
        "image sampling.",
    )


def ksampler_inputs() -> list[io.Input]:
    """All inputs of KSampler."""
    return [model_input(), seed_input(), *sampling_inputs(), denoise_input()]


# --- what the CHORDS samplers take beyond the stock ones


def devices_input() -> io.Input:
    """The devices to use."""
    return Devices.Input(
        "devices",
        optional=True,
        tooltip="From a CHORDS Devices node. Without it, all devices that ComfyUI sees are used.",
    )


def parallel_inputs() -> list[io.Input]:
    """The inputs of the CHORDS samplers.

    They are optional: the host refuses an API graph that lacks a required input, even one with a default, and a graph
    made for the stock node has none of these.
    """
    return [
        io.Combo.Input(
            "fidelity",
            optional=True,
            options=list(FIDELITIES),
            default=FIDELITIES[0],
            tooltip="How near the picture is to KSampler's, on any devices. exact: KSampler's picture; several devices "
            "share each call. near: about 1 % from it, in as few model calls as that takes, also on one device. fast: "
            "about 3 % from it. auto: exact on one device; on several the fastest way that is at least near.",
        ),
        devices_input(),
        io.Vae.Input(
            "preview_vae",
            optional=True,
            tooltip="If connected, this VAE decodes each result when it arrives, in place of ComfyUI's quick preview, "
            "if there is enough memory. It runs beside the sampling, on the same device.",
        ),
        io.Int.Input(
            "cores",
            optional=True,
            advanced=True,
            default=0,
            min=0,
            max=64,
            tooltip="How many solvers work on the picture at once. 0 chooses the fastest number for your devices. With "
            "another number, the picture is the same on every machine; if there are fewer devices than cores, the "
            "cores take turns, which is slower than KSampler.",
        ),
        io.Combo.Input(
            "method",
            optional=True,
            advanced=True,
            options=list(METHODS),
            default=METHODS[0],
            tooltip="How several cores work together. auto, secant window: each round calls the model at neighbouring "
            "steps and solves the whole path again, until fidelity is reached. CHORDS: the cores start at different "
            "steps, and each core corrects the next one; the last result is exactly KSampler's, and accept says which "
            "one is taken.",
        ),
        io.Combo.Input(
            "accept",
            optional=True,
            advanced=True,
            options=list(ACCEPTS),
            default=ACCEPTS[0],
            tooltip="Which result ends the run. auto: what fidelity asks for; with CHORDS, the first result that is "
            "at most 5 % from the one before, or the exact one. Any other choice overrides fidelity. first: with "
            "CHORDS, the first result that arrives. second, third: later results, which are closer. exact: the result "
            "of KSampler.",
        ),
    ]


def parse_parallel(
    fidelity: str = FIDELITIES[0],
    devices: DeviceRequest | None = None,
    preview_vae: Any = None,
    cores: int = 0,
    method: str = METHODS[0],
    accept: str = ACCEPTS[0],
) -> tuple[SamplerOptions, DeviceRequest | None, Any]:
    """The values of `parallel_inputs`: what to run, where, and the VAE for previews.

    Raises:
        InvalidInput: for a choice that does not exist.
    """
    return parse_options(fidelity, cores, method, accept), devices, preview_vae
