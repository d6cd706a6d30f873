"""Models of real shapes with random weights, built by ComfyUI's own classes, for benchmarks on a GPU.

Only the demo model is a trained one.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import host
import torch
from torch import Tensor

from benchmarks._report import REPO


@dataclass(frozen=True)
class Architecture:
    """A model as ComfyUI builds it.

    ``family``: the class in comfy.supported_models. ``config``: what ComfyUI detects in the real checkpoint, under its
    names. ``small``: what ``--small`` changes. ``conds``: for each input of the model, the shape of one row; a text is
    the name of a number in the config. ``depths``: the numbers of layers that are halved until the weights fit.
    ``file``: a file with trained weights, which takes the place of family and config.
    """

    family: str
    dtype: torch.dtype
    config: dict[str, Any]
    small: dict[str, Any]
    conds: dict[str, tuple[int | str, ...]]
    depths: tuple[str, ...] = ()
    file: str = ""


@dataclass(frozen=True)
class Shape:
    """What a model is asked for.

    ``model``: its name in `ARCHITECTURES`. ``latent``: the shape of one picture or video; ``small``: the same for
    ``--small``. ``rows``: the batch sizes to time. ``guided``: whether such a model usually runs with guidance.
    ``seconds``: for the timed rounds. ``lanes``, ``driver``, ``windows``: whether these are measured too.
    """

    name: str
    model: str
    latent: tuple[int, ...]
    small: tuple[int, ...]
    rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    guided: bool = True
    seconds: float = 5.0
    lanes: bool = False
    driver: bool = False
    windows: bool = False


UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "use_checkpoint": False,
    "legacy": False,
}
ARCHITECTURES = {
    "demo": Architecture(
        family="",
        dtype=torch.float16,
        config={},
        small={},
        conds={"c_crossattn": (12, 1024)},
        file="chords_demo_flow.safetensors",
    ),
    "SD 1.5": Architecture(
        family="SD15",
        dtype=torch.float16,
        config=UNET
        | {
            "adm_in_channels": None,
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
            "use_linear_in_transformer": False,
            "context_dim": 768,
        },
        small={"model_channels": 32, "context_dim": 32},
        conds={"c_crossattn": (77, "context_dim")},
    ),
    "SDXL": Architecture(
        family="SDXL",
        dtype=torch.float16,
        config=UNET
        | {
            "num_classes": "sequential",
            "adm_in_channels": 2816,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "use_linear_in_transformer": True,
            "context_dim": 2048,
        },
        small={
            "model_channels": 32,
            "context_dim": 32,
            "adm_in_channels": 64,
            "transformer_depth": [0, 0, 1, 1, 1, 1],
            "transformer_depth_middle": 1,
            "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
        },
        conds={"c_crossattn": (77, "context_dim"), "y": ("adm_in_channels",)},
    ),
    "Flux": Architecture(
        family="Flux",
        dtype=torch.bfloat16,
        config={
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": 19,
            "depth_single_blocks": 38,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": True,
            "txt_ids_dims": [],
        },
        small={
            "vec_in_dim": 16,
            "context_in_dim": 32,
            "hidden_size": 256,
            "num_heads": 2,
            "depth": 1,
            "depth_single_blocks": 1,
        },
        conds={"c_crossattn": (256, "context_in_dim"), "y": ("vec_in_dim",), "guidance": ()},
        depths=("depth", "depth_single_blocks"),
    ),
    "Wan 2.1 1.3B": Architecture(
        family="WAN21_T2V",
        dtype=torch.float16,
        config={
            "image_model": "wan2.1",
            "model_type": "t2v",
            "dim": 1536,
            "ffn_dim": 8960,
            "num_heads": 12,
            "num_layers": 30,
            "in_dim": 16,
            "out_dim": 16,
            "text_dim": 4096,
            "freq_dim": 256,
            "patch_size": (1, 2, 2),
            "window_size": (-1, -1),
            "qk_norm": True,
            "cross_attn_norm": True,
            "eps": 1e-6,
        },
        small={"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 1, "text_dim": 32},
        conds={"c_crossattn": (512, "text_dim")},
        depths=("num_layers",),
    ),
}
SHAPES = (
    Shape("demo model, 128x128", "demo", (16, 16, 16), (16, 8, 8), seconds=1.0, lanes=True, driver=True, windows=True),
    Shape("SD 1.5, 512x512", "SD 1.5", (4, 64, 64), (4, 8, 8), seconds=3.0, lanes=True, driver=True, windows=True),
    Shape("SDXL, 512x512", "SDXL", (4, 64, 64), (4, 8, 8), seconds=4.0, windows=True),
    Shape("SDXL, 1024x1024", "SDXL", (4, 128, 128), (4, 16, 16), lanes=True, windows=True),
    Shape("Flux dev 12B, 1024x1024", "Flux", (16, 128, 128), (16, 8, 8), rows=(1, 2, 4, 8), guided=False),
    Shape("Wan 2.1 1.3B, 832x480, 33 frames", "Wan 2.1 1.3B", (16, 9, 60, 104), (16, 3, 8, 8), rows=(1, 2, 4, 8)),
)


# --- models


class Inputs:
    """All inputs of a model call with ``rows`` rows; a row does not depend on the number of rows."""

    def __init__(self, model: Model, latent: tuple[int, ...], rows: int) -> None:
        generator = torch.Generator().manual_seed(1)

        def rand(*shape: int) -> Tensor:
            return torch.randn(rows, *shape, generator=generator).to(model.device)

        shares = torch.linspace(0.9, 0.2, rows) if rows > 1 else torch.tensor([0.9])
        self.sigma = (shares * model.sigma_max).to(model.device)
        self.x = rand(*latent) * self.sigma.view(-1, *[1] * len(latent))
        self.conds = {name: rand(*shape).to(model.dtype) for name, shape in model.conds.items() if shape}
        for name in (name for name, shape in model.conds.items() if not shape):
            self.conds[name] = torch.full((rows,), 3.5, device=model.device)


class Model:
    """A BaseModel of ComfyUI with all its weights on ``device``."""

    def __init__(self, architecture: Architecture, small: bool, device: torch.device) -> None:
        self.device, self.dtype = device, architecture.dtype
        config = architecture.config | (architecture.small if small else {})
        self.notes: list[str] = []
        with torch.no_grad():
            if architecture.file:
                self._model = _trained(architecture, device)
            else:
                config = self._fitting(architecture, config)
                self._model = _untrained(architecture, config, device)
                _randomise(self._model.diffusion_model)
        self._model.to(device)
        self.parameters = sum(weight.numel() for weight in self._model.diffusion_model.parameters())
        self.conds = {
            name: tuple(config[size] if isinstance(size, str) else size for size in shape)
            for name, shape in architecture.conds.items()
        }
        self.sigma_max = float(self._model.model_sampling.sigma_max)

    def _fitting(self, architecture: Architecture, config: dict[str, Any]) -> dict[str, Any]:
        """``config`` with as many layers as fit into 60 % of the device's free memory."""
        if self.device.type != "cuda":
            return config
        room = 0.6 * torch.cuda.mem_get_info(self.device)[0]
        whole = config
        while any(config[name] > 1 for name in architecture.depths):
            empty = _untrained(architecture, config, torch.device("meta")).diffusion_model
            if sum(weight.numel() * weight.element_size() for weight in empty.parameters()) <= room:
                break
            config = config | {name: max(1, config[name] // 2) for name in architecture.depths}
        if config is not whole:
            layers = ", ".join(f"{name} {config[name]} instead of {whole[name]}" for name in architecture.depths)
            self.notes.append(f"REDUCED to fit into the memory that is free: {layers}")
        return config

    @property
    def network(self) -> torch.nn.Module:
        """The diffusion model itself."""
        network: torch.nn.Module = self._model.diffusion_model
        return network

    def __call__(
        self,
        inputs: Inputs,
        rows: slice | list[int],
        x: Tensor | None = None,
        sigma: Tensor | None = None,
        options: dict[str, Any] | None = None,
    ) -> Tensor:
        """Denoised latents of these rows, or of other ``x`` and ``sigma`` with the rows' conditioning.

        ``options``: the call's ``transformer_options``.
        """
        denoised: Tensor = self._model.apply_model(
            inputs.x[rows] if x is None else x,
            inputs.sigma[rows] if sigma is None else sigma,
            transformer_options=options or {},
            **{name: cond[rows] for name, cond in inputs.conds.items()},
        )
        return denoised


def _untrained(architecture: Architecture, config: dict[str, Any], device: torch.device) -> Any:
    """As ComfyUI's loader builds it; its weights are whatever the memory holds."""
    import comfy.supported_models

    model_config = getattr(comfy.supported_models, architecture.family)(config)
    model_config.set_inference_dtype(architecture.dtype, None)
    return model_config.get_model({}, "", device=device)


def _trained(architecture: Architecture, device: torch.device) -> Any:
    """The pack's own file, loaded as ComfyUI's loader does."""
    import comfy.model_detection
    import comfy.utils

    weights = comfy.utils.load_torch_file(str(REPO / "models" / architecture.file))
    model_config = comfy.model_detection.model_config_from_unet(weights, "")
    model_config.set_inference_dtype(architecture.dtype, None)
    model = model_config.get_model(weights, "", device=device)
    model.load_model_weights(weights, "")
    return model


def _randomise(network: torch.nn.Module) -> None:
    """Weights that keep activations near 1: matrices scaled by their fan-in, scales near 1. Made on the device."""
    torch.manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0.0, 0.5 / math.sqrt(max(weight[0].numel(), 1)))
        else:
            weight.normal_(0.0 if name.endswith("bias") else 1.0, 0.1)


# --- ComfyUI and time


def start_comfy(device: torch.device, folder: Path | None = None) -> dict[str, Any]:
    """Makes ``comfy`` importable, for this device; returns its version and its attention function.

    ``folder``: a ComfyUI that is ready to run on this Python; by default the one of `.host`, prepared if need be.
    """
    folder = host.prepare() if folder is None else folder
    sys.path.insert(1, str(folder))
    from comfy.cli_args import args

    args.cpu = device.type == "cpu"
    import comfy.ldm.modules.attention
    import comfyui_version

    return {
        "comfyui": comfyui_version.__version__,
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__.removeprefix("attention_"),
    }


def wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device, run: Callable[[], Any]) -> float:
    """Wall time of ``run`` and of the work that it gives to the device."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def median_ms(seconds: Sequence[float]) -> float:
    """Their median, in milliseconds."""
    return 1000 * statistics.median(seconds)
