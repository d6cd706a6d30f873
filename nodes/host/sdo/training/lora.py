"""A LoRA: updates of low rank for linear layers, and their names in a file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor, nn

from .....chords_core import InvalidInput
from .batches import hashed_seed

LoraFile = Mapping[str, Tensor]
"""A LoRA as the host has it (LORA_MODEL): tensors by their names."""

NETWORK = "diffusion_model."
"""The path of the network in a model."""

_SHOWN = 3  # names in an error


@dataclass(frozen=True)
class Part:
    """A part of a weight [out, in]: ``length`` rows (``axis`` 0) or columns (1) from ``start`` on."""

    axis: int
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """The update ``scale * up @ down`` of the weight of one linear layer.

    ``path``: of the layer in the network; ``name``: of the update in a file; ``down`` [rank, in], ``up`` [out, rank],
    float32; ``alpha``: ``scale`` times the rank; ``part``: of the weight that is updated, None: all of it.
    """

    path: str
    name: str
    down: Tensor
    up: Tensor
    alpha: float
    part: Part | None = None

    @property
    def rank(self) -> int:
        """The rank of the update, at most."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """What the product of ``up`` and ``down`` is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA of a network. Its tensors can be trained, that is, changed in place."""

    layers: tuple[LoraLayer, ...]

    @property
    def parameters(self) -> list[Tensor]:
        """All tensors that are trained."""
        return [tensor for layer in self.layers for tensor in (layer.down, layer.up)]

    def beside(self, network: nn.Module) -> Lora:
        """The same values as new tensors, each on the device of its layer of ``network``."""
        layers = []
        with torch.inference_mode(False):
            for layer in self.layers:
                weight = network.get_submodule(layer.path).get_parameter("weight")
                down, up = (tensor.to(weight.device, copy=True) for tensor in (layer.down, layer.up))
                layers.append(replace(layer, down=down, up=up))
        return Lora(tuple(layers))

    def trained(self, network: nn.Module) -> dict[nn.Module, list[Tensor]]:
        """The tensors by the module of ``network`` that uses them."""
        found: dict[nn.Module, list[Tensor]] = {}
        for layer in self.layers:
            found.setdefault(network.get_submodule(layer.path), []).extend((layer.down, layer.up))
        return found

    def file(self) -> dict[str, Tensor]:
        """The LoRA with the names that the host's loaders read, as copies on the CPU."""
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            found[f"{layer.name}.lora_up.weight"] = layer.up.detach().to("cpu", copy=True).contiguous()
            found[f"{layer.name}.lora_down.weight"] = layer.down.detach().to("cpu", copy=True).contiguous()
            found[f"{layer.name}.alpha"] = torch.tensor(layer.alpha)
        return found


def new_lora(modules: Mapping[str, nn.Linear], rank: int, seed: int) -> Lora:
    """A LoRA that changes nothing yet: ``up`` is 0, ``down`` uniform (Kaiming), by ``seed`` alone.

    ``modules``: the linear layers by their paths; ``rank``: of each, as far as the layer is as large as that.

    Raises:
        InvalidInput: naming ``rank``, if all layers are smaller than that.
    """
    largest = max(_smaller_side(module) for module in modules.values())
    if rank > largest:
        raise InvalidInput("rank", f"{rank} is above the size of all layers: the largest can have {largest}")
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(hashed_seed(seed, "new LoRA"))
        layers = []
        for path, module in modules.items():
            own = min(rank, _smaller_side(module))
            bound = 1 / math.sqrt(module.in_features)
            down = torch.empty(own, module.in_features).uniform_(-bound, bound, generator=generator)
            up = torch.zeros(module.out_features, own)
            layers.append(LoraLayer(path, NETWORK + path, down, up, float(own)))
    return Lora(tuple(layers))


def _smaller_side(module: nn.Linear) -> int:
    return min(module.in_features, module.out_features)


def read_lora(model: ModelPatcher, file: LoraFile) -> Lora:
    """The LoRA of a file, in any of the names that the host's loaders take for this model.

    Raises:
        InvalidInput: naming ``lora``, if it is of another model, or not a LoRA of linear layers alone.
    """
    if not isinstance(file, Mapping) or not file:
        raise InvalidInput("lora", "is empty")
    names: dict[Any, str] = {}
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    for name, target in keys.items():
        names.setdefault(target, name)
    converted = comfy.lora_convert.convert_lora(dict(file))
    try:
        found = comfy.lora.load_lora(converted, keys, log_missing=False)
    except KeyError as error:
        raise InvalidInput("lora", f"is incomplete: {error.args[0]} is missing") from error
    if not found:
        raise InvalidInput("lora", f"is of another model: this one has none of its layers, such as {_some(file)}")
    layers = [
        _read_layer(model.model, target, names.get(target, str(target)), adapter) for target, adapter in found.items()
    ]
    read = set(_read_names(found.values()))
    unread = [name for name in converted if name not in read]
    if unread:
        raise InvalidInput(
            "lora",
            f"has {len(unread)} tensors for which this model has no linear layer, such as {_some(unread)}. "
            "A LoRA of this model alone can be trained further, without parts for the text encoder",
        )
    return Lora(tuple(layers))


def _read_names(adapters: Sequence[Any] | Any) -> Iterator[str]:
    """The names in the file that the host has read."""
    for adapter in adapters:
        yield from adapter.loaded_keys


def _read_layer(model: nn.Module, target: Any, name: str, adapter: Any) -> LoraLayer:
    """The update of one weight; ``target``: its key, or the key and the part of it."""
    key, part = (target, None) if isinstance(target, str) else (target[0], Part(*target[1]))
    path = key.removeprefix(NETWORK).removesuffix(".weight")
    if not isinstance(target, str) and len(target) > 2:
        raise InvalidInput("lora", f"its update of {path} is stored in another order than the model's")
    module = _module(model, key)
    if not isinstance(adapter, LoRAAdapter) or not isinstance(module, nn.Linear):
        raise InvalidInput("lora", f"is not a plain LoRA of linear layers: {path} has another kind of update")
    up, down, alpha, middle, dora, reshape = adapter.weights
    up, down = _flattened(up), _flattened(down)
    if middle is not None or dora is not None or reshape is not None or up.ndim != 2 or down.ndim != 2:
        raise InvalidInput(
            "lora", f"is not a plain LoRA of linear layers: the update of {path} has more than two matrices"
        )
    size = [module.out_features, module.in_features]
    if part is not None:
        size[part.axis] = part.length
    if [len(up), down.shape[1]] != size or up.shape[1] != len(down):
        raise InvalidInput(
            "lora",
            f"is of another model: its update of {path} is of {len(up)} x {down.shape[1]}, and the layer of "
            f"{size[0]} x {size[1]}",
        )
    with torch.inference_mode(False):
        up, down = (tensor.detach().to("cpu", torch.float32, copy=True) for tensor in (up, down))
    if not bool(torch.isfinite(up).all()) or not bool(torch.isfinite(down).all()):
        raise InvalidInput("lora", f"has NaN or infinity in the update of {path}")
    own_name = NETWORK + path if part is None else name
    return LoraLayer(path, own_name, down, up, float(len(down) if alpha is None else alpha), part)


def _flattened(matrix: Tensor) -> Tensor:
    """A matrix [a, b] that may be stored as that of a convolution of one pixel, [a, b, 1, 1]."""
    return matrix.flatten(1) if matrix.ndim > 2 and matrix.shape[2:].numel() == 1 else matrix


def _module(model: nn.Module, key: str) -> nn.Module | None:
    path, _, attribute = key.rpartition(".")
    if attribute != "weight" or not path.startswith(NETWORK):
        return None
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _some(names: Any) -> str:
    return ", ".join(list(names)[:_SHOWN])
