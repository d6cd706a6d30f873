"""Heads on embeddings: a stack of linear layers that gives a score, and how it is read from a state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from ...checks import check_choice, shown
from ...errors import InvalidInput
from .base import constant

Layers = tuple[tuple[Tensor, Tensor | None], ...]
"""Linear layers in their order: pairs (weight [out, in], bias [out] or None). The last has one output."""

ACTIVATIONS = ("none", "relu")
"""What may be between the layers."""


def head_layers(state: Mapping[str, Tensor]) -> Layers:
    """The linear layers of a head's state dict, in the order of the numbers in its keys.

    Such keys are "layers.0.weight", "layers.0.bias", "layers.2.weight", ...; "weight" and "bias" alone are a head of
    one layer.

    Raises:
        InvalidInput: if a tensor belongs to no linear layer.
    """
    names = [key.removesuffix("weight") for key, value in state.items() if key.endswith("weight") and value.ndim == 2]
    known = {name + part for name in names for part in ("weight", "bias")}
    unknown = sorted(set(state) - known)
    if unknown or not names:
        raise InvalidInput("state", f"is no stack of linear layers: {', '.join(unknown) or 'it has no weights'}")
    names.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    return tuple((state[name + "weight"], state.get(name + "bias")) for name in names)


def check_head(layers: Layers, activation: str) -> None:
    """Raise `InvalidInput` unless ``layers`` and ``activation`` are a head with one score."""
    check_choice("activation", activation, ACTIVATIONS)
    if not isinstance(layers, Sequence) or not all(map(_is_layer, layers)):
        raise InvalidInput("layers", f"must be pairs of a weight and a bias or None, not {shown(layers)}")
    if not layers:
        raise InvalidInput("layers", "there are none")
    width = layers[0][0].shape[-1] if layers[0][0].ndim else 0
    for weight, bias in layers:
        if weight.ndim != 2 or weight.shape[1] != width:
            raise InvalidInput("layers", f"a weight of shape {tuple(weight.shape)} cannot take {width} values")
        width = weight.shape[0]
        if bias is not None and bias.shape != (width,):
            raise InvalidInput("layers", f"a bias of shape {tuple(bias.shape)} for {width} outputs")
    if width != 1:
        raise InvalidInput("layers", f"the last must give one score, not {width} values")


def head_width(layers: Layers) -> int:
    """How many values a head takes."""
    return layers[0][0].shape[1]


def head_scores(layers: Layers, activation: str, embeddings: Tensor) -> Tensor:
    """The scores [B] of embeddings [B, D].

    Raises:
        InvalidInput: naming ``extract``, for embeddings that the head does not take.
    """
    width = head_width(layers)
    if embeddings.ndim != 2 or embeddings.shape[1] != width:
        raise InvalidInput(
            "extract",
            f"gives embeddings of shape {tuple(embeddings.shape)}; the head takes ({len(embeddings)}, {width})",
        )
    values = embeddings
    for number, (weight, bias) in enumerate(layers):
        if number and activation == "relu":
            values = values.relu()
        values = F.linear(values, constant(weight, values), None if bias is None else constant(bias, values))
    return values[:, 0]


def _is_layer(layer: object) -> bool:
    """Whether it is a weight with a bias or None."""
    if not isinstance(layer, Sequence) or len(layer) != 2 or not isinstance(layer[0], Tensor):
        return False
    return layer[1] is None or isinstance(layer[1], Tensor)
