"""What a training refuses before any model call, beside what all SDO nodes refuse."""

from __future__ import annotations

from collections.abc import Sequence

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .....chords_core import InvalidInput
from ..context import ObjectiveSpec, fields_called
from .lora import NETWORK, Lora

_OF_PICTURES = ("image", "preferred_over", "mask")  # fields of objectives that hold a picture or a mask


def check_devices(model: ModelPatcher) -> None:
    """Raise `InvalidInput` naming ``model`` if the host splits its calls between devices."""
    if "multigpu_clones" in model.model_options:
        raise InvalidInput(
            "model",
            "ComfyUI's own multi-GPU node splits its calls between devices, and the LoRA would be on one of them only: "
            "connect the model without that node",
        )


def check_layers_in_use(model: ModelPatcher, lora: Lora) -> None:
    """Raise `InvalidInput` naming ``model`` if a patch replaces a part of the network that has layers of ``lora``."""
    for key in model.object_patches:
        part = f"{key}."
        for layer in lora.layers:
            if f"{NETWORK}{layer.path}.".startswith(part):
                raise InvalidInput(
                    "model",
                    f"a patch replaces its part {key}, in which the layer {layer.path} is to be trained: remove the "
                    "patch, or choose other layers",
                )


def check_one_picture_for_all(spec: ObjectiveSpec, latent_shape: Sequence[int]) -> None:
    """Raise `InvalidInput` if an objective has a picture or a mask for each of several items.

    ``latent_shape``: [1, C, (T,) h, w]; the frames of a video may have one each.
    """
    if len(latent_shape) == 5 and latent_shape[2] > 1:
        return
    for name in _OF_PICTURES:
        for given in fields_called(spec, name):
            alone = 2 if name == "mask" else 3  # dimensions of a single one
            if isinstance(given, Tensor) and given.ndim > alone and len(given) > 1:
                things = "masks" if name == "mask" else "pictures"
                raise InvalidInput(name, f"has {len(given)} {things}; a training takes one for all its pictures")
