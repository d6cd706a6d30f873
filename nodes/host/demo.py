"""The demo model as the host's MODEL and VAE, from the files in ``models``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_sampling
import comfy.sd
import comfy.utils

from ...demo import SHIFT
from .sdo.initial_noise import TakesInitialNoise

_FOLDER = Path(__file__).resolve().parents[2] / "models"
_FLOW, _VAE = _FOLDER / "chords_demo_flow.safetensors", _FOLDER / "chords_demo_vae.safetensors"


class _FlowSampling(TakesInitialNoise, comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    pass


class _DemoLatents(comfy.latent_formats.Flux):
    """Latents with the scale of Flux, and with the demo autoencoder's own colours for quick previews."""

    def __init__(self, rgb: list[list[float]]) -> None:
        super().__init__()
        *self.latent_rgb_factors, self.latent_rgb_factors_bias = rgb
        self.taesd_decoder_name = None


def load_demo_model() -> tuple[Any, Any]:
    """MODEL and VAE, loaded as the stock loaders do it: every node that works with a stock model works with these.

    Raises:
        FileNotFoundError: if the pack's model files are missing.
    """
    for path in (_FLOW, _VAE):
        if not path.is_file():
            raise FileNotFoundError(
                f"the demo model's file {path.name} is missing from the pack's models folder; "
                "install the pack again, or make it with scripts/train_demo.py"
            )
    model = comfy.sd.load_diffusion_model(str(_FLOW))
    sampling = _FlowSampling(model.model.model_config)
    sampling.set_parameters(shift=SHIFT, multiplier=1.0)
    model.add_object_patch("model_sampling", sampling)
    weights, metadata = comfy.utils.load_torch_file(str(_VAE), return_metadata=True)
    model.model.latent_format = _DemoLatents(json.loads(metadata["latent_rgb"]))
    return model, comfy.sd.VAE(sd=weights, metadata=metadata)
