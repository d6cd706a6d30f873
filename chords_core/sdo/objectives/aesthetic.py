"""The score of an aesthetic predictor: linear layers on the embedding of a picture (LAION's predictors)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ...checks import check_callable, check_choice, shown
from ...errors import InvalidInput
from .base import constant
from .features import Extract, features_of

Layers = tuple[tuple[Tensor, Tensor | None], ...]
"""Linear layers in their order: pairs (weight [out, in], bias [out] or None)."""


@dataclass(frozen=True, eq=False)
class Aesthetic:
    """Minus the score of a small head on embeddings.

    ``extract``: pictures -> embeddings [B, D], which are normalised here, as the heads expect; ``layers``: the head,
    whose last layer has one output (`aesthetic_layers` reads it from a state dict); ``activation`` between the layers:
    "none", as in LAION's heads, or "relu".
    """

    extract: Extract
    layers: Layers
    activation: str = "none"

    def __post_init__(self) -> None:
        check_callable("extract", self.extract, "pictures")
        check_choice("activation", self.activation, ("none", "relu"))
        _check_layers(self.layers)

    def __call__(self, pictures: Tensor) -> Tensor:
        """The values [B] of pictures [B, H, W, 3]."""
        values = features_of(self.extract, pictures)
        width = self.layers[0][0].shape[1]
        if values.ndim != 2 or values.shape[1] != width:
            raise InvalidInput(
                "extract", f"gives embeddings of shape {tuple(values.shape)}; the head takes ({len(values)}, {width})"
            )
        values = F.normalize(values, dim=1)
        for number, (weight, bias) in enumerate(self.layers):
            if number and self.activation == "relu":
                values = values.relu()
            values = F.linear(values, constant(weight, values), None if bias is None else constant(bias, values))
        return -values[:, 0]


def aesthetic_layers(state: Mapping[str, Tensor]) -> Layers:
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


def _check_layers(layers: Layers) -> None:
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


def _is_layer(layer: object) -> bool:
    """Whether it is a weight with a bias or None."""
    if not isinstance(layer, Sequence) or len(layer) != 2 or not isinstance(layer[0], Tensor):
        return False
    return layer[1] is None or isinstance(layer[1], Tensor)
