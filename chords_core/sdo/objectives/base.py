"""Objectives of a sample or a picture: small differentiable functions, lower is better, one value an item.

Each is a frozen record, called with a batch. Pictures are [B, H, W, 3] in 0..1, as ComfyUI's IMAGE; values a little
outside, as decoders give, are welcome and not clamped, which would take their gradient away. `Through` puts a decoder
in front, `Combine` adds several with weights.

Records are checked where they are made (`InvalidInput` names the argument); what only a picture can show is checked
at the first call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...checks import check_callable, check_choice, is_number, shown
from ...errors import InvalidInput
from ..gradients import Objective, evaluate

Extract = Callable[[Tensor], Tensor]
"""``extract(pictures [B, H, W, 3]) -> features [B, ...]``, differentiable: a CLIP-Vision model, say."""

_LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709
_EPS = 1e-8


@dataclass(frozen=True, eq=False)
class Combine:
    """The weighted sum of objectives: ``terms`` are pairs (objective, weight); a negative weight turns one round."""

    terms: Sequence[tuple[Objective, float]]

    def __post_init__(self) -> None:
        if not isinstance(self.terms, Sequence) or isinstance(self.terms, str):
            raise InvalidInput("terms", f"must be pairs of an objective and its weight, not {shown(self.terms)}")
        if not self.terms:
            raise InvalidInput("terms", "give at least one objective with its weight")
        for term in self.terms:
            if not isinstance(term, Sequence) or len(term) != 2 or not callable(term[0]):
                raise InvalidInput("terms", f"must be pairs of an objective and its weight, not {shown(term)}")
            if not is_number(term[1]) or math.isinf(term[1]):
                raise InvalidInput("terms", f"a weight must be a finite number, not {shown(term[1])}")

    def __call__(self, sample: Tensor) -> Tensor:
        """The sum, [B]."""
        total = sample.new_zeros(len(sample))
        for objective, weight in self.terms:
            total = total + weight * evaluate(objective, sample)
        return total


@dataclass(frozen=True, eq=False)
class Through:
    """``objective`` of what ``transform`` makes of the sample: the pictures a decoder sees in a latent, say."""

    transform: Callable[[Tensor], Tensor]
    objective: Objective

    def __post_init__(self) -> None:
        check_callable("transform", self.transform, "a sample")
        check_callable("objective", self.objective, "what the transform gives")

    def __call__(self, sample: Tensor) -> Tensor:
        """The values, [B]."""
        return evaluate(self.objective, self.transform(sample))


@dataclass(frozen=True, eq=False)
class Reference:
    """Mean of |sample - reference|^p over an item.

    ``reference``: a picture [H, W, 3] or a batch [1 or B, H, W, 3], resized to the sample's size; or any tensor
    [1 or B, ...] of the sample's own item shape (a latent). ``p``: 1 or 2.
    """

    reference: Tensor
    p: int = 2

    def __post_init__(self) -> None:
        _check_finite("reference", self.reference)
        if not is_number(self.p) or self.p not in (1, 2):
            raise InvalidInput("p", f"must be 1 (absolute) or 2 (squared), not {shown(self.p)}")

    def __call__(self, sample: Tensor) -> Tensor:
        """The mean distance, [B]."""
        reference = _constant(self.reference, sample)
        if reference.ndim == sample.ndim - 1:
            reference = reference[None]
        if reference.shape[1:] != sample.shape[1:]:
            if not (_is_pictures(sample) and _is_pictures(reference)):
                raise InvalidInput(
                    "reference",
                    f"has shape {tuple(self.reference.shape)} for a sample of {tuple(sample.shape)}; only pictures "
                    "[..., H, W, 3] are resized",
                )
            reference = resized(reference.movedim(-1, 1), sample.shape[1], sample.shape[2]).movedim(1, -1)
        _check_items("reference", reference, sample)
        return _item_mean((sample - reference).abs().pow(self.p))


@dataclass(frozen=True, eq=False)
class Similarity:
    """1 - cosine of the angle between the features of a picture and ``target``: 0 (same) .. 2 (opposite).

    ``extract``: pictures -> features [B, ...]; ``target``: features [...] or [1 or B, ...], of a reference picture
    (`like_picture`), or the embedding of a text in the same space (CLIP).
    """

    extract: Extract
    target: Tensor

    def __post_init__(self) -> None:
        check_callable("extract", self.extract, "pictures")
        _check_finite("target", self.target)
        if float(self.target.abs().amax()) == 0:
            raise InvalidInput("target", "is all zero: it has no direction to be similar to")

    def __call__(self, pictures: Tensor) -> Tensor:
        """One value an item, [B]."""
        features = _features(self.extract, pictures)
        target = _like_features("target", self.target, features)
        return 1 - F.cosine_similarity(features.flatten(1), target.flatten(1), dim=1, eps=_EPS)


@dataclass(frozen=True, eq=False)
class Style:
    """How far the Gram matrix of a picture's features is from that of ``target`` features (Gatys et al.,
    arXiv 1508.06576): what occurs together, wherever it is. The squared distance, relative to the target's Gram.

    Features are [B, places, D] (tokens of a vision model) or, with ``channels_first``, [B, D, ...] (maps of an
    encoder). ``target`` has features of its own, of any number of places: [1 or B, ...].
    """

    extract: Extract
    target: Tensor
    channels_first: bool = False

    def __post_init__(self) -> None:
        check_callable("extract", self.extract, "pictures")
        _check_finite("target", self.target)
        if self.target.ndim < 3:
            raise InvalidInput("target", f"must be features [B, places, D], not of shape {tuple(self.target.shape)}")
        if float(self.target.abs().amax()) == 0:
            raise InvalidInput("target", "is all zero: it has no style")

    def __call__(self, pictures: Tensor) -> Tensor:
        """One value an item, [B]."""
        features = _features(self.extract, pictures)
        if features.ndim < 3:
            raise InvalidInput("extract", f"must give features of places, not of shape {tuple(features.shape)}")
        own = gram(features, self.channels_first)
        wanted = gram(_constant(self.target, features), self.channels_first)
        if own.shape[1:] != wanted.shape[1:]:
            raise InvalidInput("target", f"has {wanted.shape[1]} features, the pictures' have {own.shape[1]}")
        _check_items("target", wanted, features)
        return (own - wanted).square().flatten(1).sum(1) / wanted.square().flatten(1).sum(1).clamp(min=_EPS)


@dataclass(frozen=True, eq=False)
class RegionColour:
    """Mean squared distance from ``colour`` (red, green, blue in 0..1) within ``mask``.

    ``mask``: [H, W] or [1 or B, H, W], in 0..1, of any size (resized); None is the whole picture.
    """

    colour: tuple[float, float, float]
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.colour, Sequence) or len(self.colour) != 3:
            raise InvalidInput("colour", f"must be red, green and blue, not {shown(self.colour)}")
        for value in self.colour:
            _check_unit("colour", value)
        _check_mask(self.mask)

    def __call__(self, pictures: Tensor) -> Tensor:
        """The mean, [B]."""
        _check_pictures(pictures)
        distance = (pictures - pictures.new_tensor(self.colour)).square().mean(-1)
        return _region_mean(distance, self.mask)


@dataclass(frozen=True, eq=False)
class RegionBrightness:
    """Squared distance of the mean luminance within ``mask`` from ``brightness`` (0 black .. 1 white).

    ``mask``: as for `RegionColour`.
    """

    brightness: float
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        _check_unit("brightness", self.brightness)
        _check_mask(self.mask)

    def __call__(self, pictures: Tensor) -> Tensor:
        """One value an item, [B]."""
        return (_region_mean(luminance(pictures), self.mask) - self.brightness).square()


@dataclass(frozen=True)
class Contrast:
    """Contrast, the standard deviation of luminance (0 flat .. 0.5 half black, half white): as much as possible
    (its negative), or the squared distance from ``target``."""

    target: float | None = None

    def __post_init__(self) -> None:
        if self.target is not None and not (is_number(self.target) and 0 <= self.target <= 0.5):
            raise InvalidInput("target", f"a contrast lies in 0..0.5, not {shown(self.target)}")

    def __call__(self, pictures: Tensor) -> Tensor:
        """One value an item, [B]."""
        light = luminance(pictures).flatten(1)
        deviation = ((light - light.mean(1, keepdim=True)).square().mean(1) + _EPS).sqrt()
        return -deviation if self.target is None else (deviation - self.target).square()


@dataclass(frozen=True)
class Sharpness:
    """Sharpness, the RMS of the luminance's Laplacian (differences of a pixel from its four neighbours): as much as
    possible (its negative), or the squared distance from ``target`` >= 0."""

    target: float | None = None

    def __post_init__(self) -> None:
        if self.target is not None and not (is_number(self.target) and 0 <= self.target < math.inf):
            raise InvalidInput("target", f"a sharpness is a number of at least 0, not {shown(self.target)}")

    def __call__(self, pictures: Tensor) -> Tensor:
        """One value an item, [B]."""
        light = luminance(pictures)
        if min(light.shape[1:]) < 3:
            raise InvalidInput("pictures", f"need at least 3 x 3 pixels, not {light.shape[1]} x {light.shape[2]}")
        inner = light[:, 1:-1, 1:-1]
        around = light[:, :-2, 1:-1] + light[:, 2:, 1:-1] + light[:, 1:-1, :-2] + light[:, 1:-1, 2:]
        size = ((4 * inner - around).square().flatten(1).mean(1) + _EPS).sqrt()
        return -size if self.target is None else (size - self.target).square()


@dataclass(frozen=True, eq=False)
class Aesthetic:
    """The negative score of a head on embeddings (LAION's aesthetic predictors): linear layers one after another.

    ``extract``: pictures -> embeddings [B, D], normalised here as the heads expect; ``layers``: pairs (weight
    [out, in], bias [out] or None), the last with one output; ``activation`` between them: "none", as in LAION's, or
    "relu". `aesthetic_layers` reads them from a state dict.
    """

    extract: Extract
    layers: tuple[tuple[Tensor, Tensor | None], ...]
    activation: str = "none"

    def __post_init__(self) -> None:
        check_callable("extract", self.extract, "pictures")
        check_choice("activation", self.activation, ("none", "relu"))
        if not isinstance(self.layers, Sequence) or not all(map(_is_layer, self.layers)):
            raise InvalidInput("layers", f"must be pairs of a weight and a bias or None, not {shown(self.layers)}")
        if not self.layers:
            raise InvalidInput("layers", "there are none")
        width = self.layers[0][0].shape[-1] if self.layers[0][0].ndim else 0
        for weight, bias in self.layers:
            if weight.ndim != 2 or weight.shape[1] != width:
                raise InvalidInput("layers", f"a weight of shape {tuple(weight.shape)} cannot take {width} values")
            width = weight.shape[0]
            if bias is not None and bias.shape != (width,):
                raise InvalidInput("layers", f"a bias of shape {tuple(bias.shape)} for {width} outputs")
        if width != 1:
            raise InvalidInput("layers", f"the last must give one score, not {width} values")

    def __call__(self, pictures: Tensor) -> Tensor:
        """The negative score, [B]."""
        values = _features(self.extract, pictures)
        width = self.layers[0][0].shape[1]
        if values.ndim != 2 or values.shape[1] != width:
            raise InvalidInput(
                "extract", f"gives embeddings of shape {tuple(values.shape)}; the head takes ({len(values)}, {width})"
            )
        values = F.normalize(values, dim=1)
        for number, (weight, bias) in enumerate(self.layers):
            if number and self.activation == "relu":
                values = values.relu()
            values = F.linear(values, _constant(weight, values), None if bias is None else _constant(bias, values))
        return -values[:, 0]


def _is_layer(layer: object) -> bool:
    """Whether it is a weight with a bias or None."""
    if not isinstance(layer, Sequence) or len(layer) != 2 or not isinstance(layer[0], Tensor):
        return False
    return layer[1] is None or isinstance(layer[1], Tensor)


def like_picture(extract: Extract, picture: Tensor) -> Similarity:
    """`Similarity` to the features of a reference picture [H, W, 3] or a batch [1 or B, H, W, 3] of any size."""
    return Similarity(extract, _reference_features(extract, picture))


def in_the_style_of(extract: Extract, picture: Tensor, channels_first: bool = False) -> Style:
    """`Style` of a reference picture [H, W, 3] or a batch [1 or B, H, W, 3] of any size."""
    return Style(extract, _reference_features(extract, picture), channels_first)


def aesthetic_layers(state: Mapping[str, Tensor]) -> tuple[tuple[Tensor, Tensor | None], ...]:
    """The linear layers of a head's state dict, in the order of the numbers in its keys ("layers.0.weight",
    "layers.0.bias", "layers.2.weight", ...; "weight" and "bias" alone are a head of one layer).

    Raises:
        InvalidInput: if there is a tensor that belongs to no linear layer.
    """
    names = [key.removesuffix("weight") for key, value in state.items() if key.endswith("weight") and value.ndim == 2]
    known = {name + part for name in names for part in ("weight", "bias")}
    unknown = sorted(set(state) - known)
    if unknown or not names:
        raise InvalidInput("state", f"is no stack of linear layers: {', '.join(unknown) or 'it has no weights'}")
    names.sort(key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    return tuple((state[name + "weight"], state.get(name + "bias")) for name in names)


def luminance(pictures: Tensor) -> Tensor:
    """Rec. 709 luma of pictures [B, H, W, 3]: [B, H, W].

    Raises:
        InvalidInput: for anything but pictures.
    """
    _check_pictures(pictures)
    return pictures @ pictures.new_tensor(_LUMA)


def gram(features: Tensor, channels_first: bool = False) -> Tensor:
    """The Gram matrix [B, D, D] of features [B, places, D] (or [B, D, ...]), a mean over the places."""
    if channels_first:
        features = features.flatten(2).transpose(1, 2)
    else:
        features = features.flatten(1, -2)
    return features.transpose(1, 2) @ features / features.shape[1]


def resized(planes: Tensor, height: int, width: int) -> Tensor:
    """[B, C, H, W] at another size: bilinear, with the pixels' whole area counted where it shrinks."""
    if planes.shape[2:] == (height, width):
        return planes
    return F.interpolate(planes, (height, width), mode="bilinear", align_corners=False, antialias=True)


def _reference_features(extract: Extract, picture: Tensor) -> Tensor:
    check_callable("extract", extract, "pictures")
    _check_finite("picture", picture)
    if picture.ndim == 3:
        picture = picture[None]
    if not _is_pictures(picture):
        raise InvalidInput("picture", f"must be [H, W, 3] or [B, H, W, 3], not of shape {tuple(picture.shape)}")
    with torch.no_grad():
        return _features(extract, picture).detach()


def _features(extract: Extract, pictures: Tensor) -> Tensor:
    features = extract(pictures)
    if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(pictures):
        what = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InvalidInput("extract", f"must give features [B, ...] of {len(pictures)} pictures, not {what}")
    return features


def _like_features(name: str, target: Tensor, features: Tensor) -> Tensor:
    """``target`` on the features' device and dtype, with a first dimension of 1 or B."""
    target = _constant(target, features)
    if target.ndim == features.ndim - 1:
        target = target[None]
    if target.shape[1:] != features.shape[1:]:
        raise InvalidInput(
            name,
            f"has shape {tuple(target.shape)}, the pictures' features have {tuple(features.shape)}; "
            "are both of the same model?",
        )
    _check_items(name, target, features)
    return target


def _region_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of ``values`` [B, H, W] weighted by ``mask``: [B]."""
    if mask is None:
        return _item_mean(values)
    weight = _constant(mask, values)
    weight = weight[None] if weight.ndim == 2 else weight
    weight = resized(weight[:, None], values.shape[1], values.shape[2])[:, 0]
    _check_items("mask", weight, values)
    total = weight.flatten(1).sum(1)
    if not bool((total > 0).all()):
        raise InvalidInput("mask", f"is empty at the pictures' size {values.shape[1]} x {values.shape[2]}")
    return (values * weight).flatten(1).sum(1) / total


def _constant(x: Tensor, like: Tensor) -> Tensor:
    """``x`` with the device and dtype of ``like``, fit for a graph: hosts make their tensors in inference mode."""
    x = x.detach().to(like)
    return x.clone() if x.is_inference() else x


def _item_mean(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(1)


def _is_pictures(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[-1] == 3


def _check_pictures(pictures: Tensor) -> None:
    if not _is_pictures(pictures):
        raise InvalidInput("pictures", f"must be [B, H, W, 3], not of shape {tuple(pictures.shape)}")


def _check_items(name: str, given: Tensor, sample: Tensor) -> None:
    if len(given) not in (1, len(sample)):
        raise InvalidInput(name, f"has {len(given)} items for a batch of {len(sample)}; give one, or one each")


def _check_finite(name: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or not torch.is_floating_point(x):
        what = x.dtype if isinstance(x, Tensor) else shown(x)
        raise InvalidInput(name, f"must be a floating-point tensor, not {what}")
    if x.numel() == 0 or not bool(torch.isfinite(x).all()):
        raise InvalidInput(name, f"is empty or has NaN or infinity (shape {tuple(x.shape)})")


def _check_unit(name: str, value: float) -> None:
    if not is_number(value) or not 0 <= value <= 1:
        raise InvalidInput(name, f"must lie in 0..1, not {shown(value)}")


def _check_mask(mask: Tensor | None) -> None:
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3) or mask.numel() == 0:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InvalidInput("mask", f"must be [H, W] or [B, H, W], not {shape}")
    values = mask.detach().float()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise InvalidInput("mask", "must lie in 0..1")
    if not bool((values.reshape(-1, values.shape[-2] * values.shape[-1]).sum(1) > 0).all()):
        raise InvalidInput("mask", "is empty: it covers no pixel")
