"""Objectives: their values by hand, their gradients by finite differences, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import InvalidInput
from chords_core.sdo.objectives import (
    Aesthetic,
    Combine,
    Contrast,
    Preference,
    Reference,
    RegionBrightness,
    RegionColour,
    Sharpness,
    Similarity,
    Style,
    Through,
    head_layers,
    in_the_style_of,
    like_picture,
    preferred_over,
)
from chords_core.sdo.objectives.pictures import luminance, resized
from chords_core.sdo.objectives.style import gram
from chords_core.sdo.optimize import optimize_latent
from tests.core.problems import geometric, noise


def pictures(count: int = 2, height: int = 8, width: int = 10, seed: int = 0) -> Tensor:
    """Random pictures [B, H, W, 3] in 0..1."""
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def extract(batch: Tensor) -> Tensor:
    """Features [B, 4] of pictures of any size."""
    return torch.tanh(batch.mean((1, 2)) @ noise(3, 4, seed=9).to(batch))


def tokens(batch: Tensor) -> Tensor:
    """Features of places [B, H * W, 5]."""
    return torch.tanh(batch.flatten(1, 2) @ noise(3, 5, seed=9).to(batch))


def maps(batch: Tensor) -> Tensor:
    """The same as maps [B, 5, H, W]."""
    return torch.tanh(batch @ noise(3, 5, seed=9).to(batch)).movedim(-1, 1)


HALF = torch.zeros(8, 10)
HALF[:4] = 1
WITH_TEXT = ((noise(6, 7, seed=1), noise(6, seed=2)), (noise(1, 6, seed=3), None))  # 4 of the picture, 3 of the text
LAYERS = ((noise(6, 4, seed=1), noise(6, seed=2)), (noise(1, 6, seed=3), None))
ALL: dict[str, Callable[[Tensor], Tensor]] = {
    "reference L1": Reference(pictures(1, seed=5), p=1),
    "reference L2": Reference(pictures(1, 5, 7, seed=5)),
    "similarity": Similarity(extract, noise(4, seed=4)),
    "like a picture": like_picture(extract, pictures(1, 4, 4, seed=6)[0]),
    "style": in_the_style_of(tokens, pictures(1, 4, 4, seed=6)),
    "style of maps": in_the_style_of(maps, pictures(1, 4, 4, seed=6), channels_first=True),
    "colour": RegionColour((0.1, 0.2, 0.9), HALF),
    "brightness": RegionBrightness(0.8, HALF),
    "contrast": Contrast(),
    "contrast wanted": Contrast(0.4),
    "sharpness": Sharpness(),
    "sharpness wanted": Sharpness(0.1),
    "aesthetic": Aesthetic(extract, LAYERS),
    "aesthetic relu": Aesthetic(extract, LAYERS, "relu"),
    "preference": Preference(extract, LAYERS),
    "preference with a text": Preference(extract, WITH_TEXT, "relu", noise(3, seed=5)),
    "preference over a picture": preferred_over(extract, LAYERS, pictures(1, 4, 4, seed=6)[0], "relu"),
    "preference with both": preferred_over(extract, WITH_TEXT, pictures(1, 4, 4, seed=6), text=noise(1, 3, seed=5)),
    "combined": Combine(((Contrast(), 2.0), (RegionColour((1, 0, 0)), -0.5))),
    "decoded": Through(lambda x: x.sqrt(), Contrast()),
}


@pytest.mark.parametrize("name", ALL)
def test_one_value_an_item_with_its_slope(name: str) -> None:
    """[B]; items are independent; the gradient is that of finite differences."""
    objective, batch = ALL[name], pictures(3)
    values = objective(batch)
    assert values.shape == (3,) and bool(torch.isfinite(values).all())
    assert torch.allclose(objective(batch[1:2]), values[1:2])
    leaf = batch.clone().requires_grad_()
    (slope,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    direction, h = noise(*batch.shape, seed=8), 1e-6
    ahead, behind = objective(batch + h * direction), objective(batch - h * direction)
    assert float((slope * direction).sum()) == pytest.approx(float((ahead - behind).sum()) / (2 * h), rel=1e-4)
    assert objective(batch.float()).dtype == torch.float32


@pytest.mark.parametrize("name", ALL)
def test_flat_pictures_have_a_gradient(name: str) -> None:
    """A picture of one colour gives no NaN, neither as value nor as gradient."""
    leaf = torch.full((1, 8, 10, 3), 0.5, dtype=torch.float64, requires_grad=True)
    values = ALL[name](leaf)
    (slope,) = torch.autograd.grad(values.sum(), leaf)
    assert bool(torch.isfinite(values).all()) and bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("name", ["reference L2", "colour", "brightness", "contrast wanted", "combined"])
def test_the_optimizer_lowers_it(name: str) -> None:
    """An optimisation with a model of pictures lowers the objective."""
    found = optimize_latent(
        lambda x, s: torch.sigmoid(2 * x) if s > 0 else x,
        noise(2, 8, 10, 3),
        geometric(4, high=1.0, last_zero=True),
        ALL[name],
        iterations=15,
        refresh=3,
    )
    assert bool((found.objective < found.history[0]).all())


def test_constants_of_inference_mode() -> None:
    """A host's references and masks are inference tensors, which autograd cannot save."""
    with torch.inference_mode():
        picture, mask, target = pictures(1, seed=5), HALF * 1.0, noise(4, seed=4)
        layers = tuple((weight * 1.0, None) for weight, _ in LAYERS)
        style = in_the_style_of(tokens, picture)
    for objective in (
        Reference(picture),
        RegionColour((0, 0, 1), mask),
        Similarity(extract, target),
        Aesthetic(extract, layers),
        Preference(extract, layers, over=target),
        style,
    ):
        leaf = pictures().requires_grad_()
        (slope,) = torch.autograd.grad(objective(leaf).sum(), leaf)
        assert bool(slope.any())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.sampled_from([1, 2]), height=st.integers(1, 9), width=st.integers(1, 9))
def test_reference(seed: int, p: int, height: int, width: int) -> None:
    """Zero at the reference alone; the mean distance by hand; another size is resized."""
    batch = pictures(2, height, width, seed)
    assert torch.equal(Reference(batch, p)(batch), torch.zeros(2).double())
    other = pictures(2, height, width, seed + 1)
    assert torch.allclose(Reference(other, p)(batch), (batch - other).abs().pow(p).flatten(1).mean(1))
    assert torch.allclose(Reference(other[0], p)(batch)[1], (batch[1] - other[0]).abs().pow(p).mean())
    grey = Reference(torch.full((3, 4, 3), 0.25).double(), p)
    assert torch.allclose(grey(batch), (batch - 0.25).abs().pow(p).flatten(1).mean(1))


def test_reference_of_a_latent() -> None:
    """Any tensor of the item's shape works, and no other."""
    latent = noise(2, 16, 4, 4)
    assert torch.equal(Reference(latent[0])(latent)[:1], torch.zeros(1).double())
    with pytest.raises(InvalidInput, match="^reference: .*only pictures"):
        Reference(noise(16, 5, 4))(latent)


@given(height=st.integers(1, 20), width=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_resizing_keeps_what_is_flat(height: int, width: int) -> None:
    """A flat picture stays flat, and none leaves its range."""
    assert torch.allclose(resized(torch.full((1, 3, 7, 5), 0.3), height, width), torch.tensor(0.3))
    shrunk = resized(pictures(1, 7, 5).movedim(-1, 1), height, width)
    assert shrunk.shape == (1, 3, height, width)
    assert float(shrunk.min()) >= -1e-12 and float(shrunk.max()) <= 1 + 1e-12


def test_region_is_where_the_mask_is() -> None:
    """Only pixels in the mask count; masks of a batch and of another size work the same."""
    batch = pictures(2)
    batch[:, :4] = torch.tensor([0.2, 0.4, 0.6]).double()
    assert torch.allclose(RegionColour((0.2, 0.4, 0.6), HALF)(batch), torch.zeros(2).double())
    expected = ((0.2 - 1) ** 2 + 0.4**2 + 0.6**2) / 3
    both = torch.stack([HALF, HALF])
    for mask in (HALF, both, HALF[None], HALF.bool(), HALF * 0.5):
        assert torch.allclose(RegionColour((1, 0, 0), mask)(batch), torch.tensor(expected).double())
    light = 0.2126 * 0.2 + 0.7152 * 0.4 + 0.0722 * 0.6
    assert torch.allclose(RegionBrightness(0.0, HALF)(batch), torch.tensor(light**2).double())
    flat = torch.full((1, 16, 20, 3), 0.5).double()
    assert torch.allclose(RegionBrightness(0.7, HALF)(flat), torch.tensor(0.04).double())
    with pytest.raises(InvalidInput, match="^mask: has 2 items for a batch of 3"):
        RegionColour((1, 0, 0), both)(pictures(3))


def test_a_mask_that_vanishes_is_refused() -> None:
    """Empty as given, or for one item; a spot that shrinks keeps its weight."""
    spot = torch.zeros(64, 64)
    spot[0, 0] = 1
    assert bool(torch.isfinite(RegionColour((1, 0, 0), spot)(pictures())).all())
    for empty in (torch.zeros(4, 4), torch.stack([HALF, 0 * HALF])):
        with pytest.raises(InvalidInput, match="^mask: is empty"):
            RegionBrightness(0.5, empty)


def test_contrast_and_sharpness() -> None:
    """By hand: half black and half white; a ramp has no Laplacian; a checkerboard has the largest."""
    batch = torch.zeros(1, 8, 8, 3).double()
    batch[:, :4] = 1
    assert float(Contrast()(batch)) == pytest.approx(-0.5, abs=1e-6)
    assert float(Contrast(0.5)(batch)) == pytest.approx(0, abs=1e-9)
    ramp = torch.linspace(0, 1, 8).double()[None, :, None, None].expand(1, 8, 8, 3)
    assert float(Sharpness()(ramp)) == pytest.approx(0, abs=1e-3)
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).double()[None, ..., None].expand(1, 8, 8, 3)
    assert float(Sharpness()(board)) == pytest.approx(-4, rel=1e-3)
    assert torch.allclose(luminance(torch.ones(1, 2, 2, 3)), torch.ones(1, 2, 2))
    with pytest.raises(InvalidInput, match="^pictures: need at least 3 x 3"):
        Sharpness()(pictures(1, 2, 5))


def test_similarity() -> None:
    """0 for the same direction, 1 across, 2 against; one target for all or one each."""
    features = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0]])

    def give(batch: Tensor) -> Tensor:
        return features

    assert torch.allclose(Similarity(give, torch.tensor([5.0, 0.0]))(pictures(3)), torch.tensor([0.0, 1.0, 2.0]))
    assert torch.allclose(Similarity(give, 2 * features)(pictures(3)), torch.zeros(3))
    batch = pictures(1)
    assert float(like_picture(extract, batch)(batch)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(InvalidInput, match="^target: .*same model"):
        Similarity(give, torch.ones(3))(pictures(3))
    with pytest.raises(InvalidInput, match="^target: has 2 items for a batch of 3"):
        Similarity(give, torch.ones(2, 2))(pictures(3))


def test_style_does_not_see_places() -> None:
    """Shuffled pixels have the same style; tokens and maps give the same; other pixels another style."""
    batch = pictures(1)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    shuffled = batch.flatten(1, 2)[:, order].reshape(batch.shape)
    style, of_maps = in_the_style_of(tokens, batch), in_the_style_of(maps, batch, channels_first=True)
    assert float(style(shuffled)) == pytest.approx(0, abs=1e-12)
    assert torch.allclose(style(pictures(2, seed=3)), of_maps(pictures(2, seed=3)))
    assert float(style(1 - batch)) > 1e-4
    assert torch.allclose(gram(tokens(batch)), gram(maps(batch), channels_first=True))


def test_aesthetic_head_of_a_file() -> None:
    """LAION's layout in any order of keys, a head of one layer, and the score by hand."""
    state = {
        "layers.10.weight": noise(1, 3, seed=3),
        "layers.0.bias": noise(6, seed=2),
        "layers.0.weight": noise(6, 4, seed=1),
        "layers.2.weight": noise(3, 6, seed=5),
    }
    layers = head_layers(state)
    assert [tuple(weight.shape) for weight, _ in layers] == [(6, 4), (3, 6), (1, 3)]
    embedding = extract(pictures())
    embedding = embedding / embedding.norm(dim=1, keepdim=True)
    by_hand = embedding @ state["layers.0.weight"].T + state["layers.0.bias"]
    by_hand = by_hand @ state["layers.2.weight"].T @ state["layers.10.weight"].T
    assert torch.allclose(Aesthetic(extract, layers)(pictures()), -by_hand[:, 0])
    single = {"weight": noise(1, 4), "bias": noise(1)}
    assert len(head_layers(single)) == 1
    with pytest.raises(InvalidInput, match="^extract: .*takes"):
        Aesthetic(extract, head_layers({"weight": noise(1, 7)}))(pictures())


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings [B, D] with length 1."""
    return embeddings / embeddings.norm(dim=1, keepdim=True)


def test_preference_is_the_model_of_bradley_and_terry() -> None:
    """-r, and -log(1 / (1 + exp(r(other) - r(picture)))), written out for one head of one layer, with and without
    texts."""
    batch, other, texts = pictures(2), pictures(2, seed=5), noise(2, 3, seed=6)
    weight, bias = noise(1, 7, seed=1), noise(1, seed=2)

    def score(batch: Tensor) -> Tensor:
        return (unit(extract(batch)) @ weight[:, :4].T + unit(texts) @ weight[:, 4:].T + bias)[:, 0]

    assert torch.allclose(Preference(extract, ((weight, bias),), text=texts)(batch), -score(batch))
    over = preferred_over(extract, ((weight, bias),), other, text=texts)
    assert torch.allclose(over(batch), -(1 / (1 + (score(other) - score(batch)).exp())).log())
    one = preferred_over(extract, ((weight[:, :4], None),), other[0])
    by_hand = (unit(extract(batch)) - unit(extract(other[:1]))) @ weight[0, :4]
    assert torch.allclose(one(batch), (1 + (-by_hand).exp()).log())
    assert torch.allclose(over(other), torch.full((2,), math.log(2)).double())
    for item in range(2):
        alone = preferred_over(extract, ((weight, bias),), other[item], text=texts[item])
        assert torch.allclose(alone(batch[item : item + 1]), over(batch)[item : item + 1])


def test_one_of_two_pictures_is_preferred() -> None:
    """P(A over B) + P(B over A) = 1. An order of pictures by the score is that by the preference over any of them."""
    batch = pictures(4)
    for text, layers in ((None, LAYERS), (noise(3, seed=5), WITH_TEXT)):
        scores = -Preference(extract, layers, "relu", text)(batch)
        chances = torch.stack([(-preferred_over(extract, layers, b, "relu", text)(batch)).exp() for b in batch])
        assert torch.allclose(chances + chances.T, torch.ones(4, 4).double())
        assert all(torch.equal(row.argsort(), scores.argsort()) for row in chances)


def test_a_sure_preference_stays_finite() -> None:
    """Scores that are far apart: the value is their distance, or 0, without overflow."""
    layers = ((1e4 * torch.ones(1, 4).double(), None),)

    def signed(batch: Tensor) -> Tensor:
        return batch.mean((1, 2, 3))[:, None].expand(-1, 4)

    dark, light = -torch.ones(1, 2, 2, 3).double(), torch.ones(1, 2, 2, 3).double()
    assert float(preferred_over(signed, layers, dark)(light)) == 0
    assert float(preferred_over(signed, layers, light)(dark)) == pytest.approx(4e4)


def test_combine_adds_with_weights() -> None:
    """By hand, nested too; a wrong result of one term is an error."""
    batch = pictures()
    first, second = Contrast(), Sharpness()
    expected = 2 * first(batch) - 0.5 * second(batch)
    assert torch.allclose(Combine(((first, 2), (second, -0.5)))(batch), expected)
    assert torch.allclose(Combine(((Combine(((first, 4), (second, -1))), 0.5),))(batch), expected)
    with pytest.raises(InvalidInput, match="^objective: returned shape"):
        Combine(((lambda x: x.mean(), 1.0),))(batch)


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("terms", lambda: Combine(())),
    ("terms", lambda: Combine(((Contrast(), math.nan),))),
    ("reference", lambda: Reference(torch.ones(3, dtype=torch.int64))),
    ("reference", lambda: Reference(torch.full((4, 4, 3), math.nan))),
    ("reference", lambda: Reference(torch.zeros(0))),
    ("reference", lambda: Reference(pictures(3))(pictures(2))),
    ("p", lambda: Reference(pictures(), p=3)),
    ("target", lambda: Similarity(extract, torch.zeros(4))),
    ("target", lambda: Similarity(extract, torch.full((4,), math.inf))),
    ("target", lambda: Style(tokens, torch.ones(4))),
    ("target", lambda: Style(tokens, torch.ones(1, 4, 3))(pictures().float())),
    ("extract", lambda: Style(extract, torch.ones(1, 4, 4))(pictures())),
    ("extract", lambda: Similarity(lambda x: x.mean(), torch.ones(4))(pictures())),
    ("colour", lambda: RegionColour((0, 0, 1.5))),
    ("colour", lambda: RegionColour((0, 0))),  # type: ignore[arg-type]
    ("mask", lambda: RegionColour((0, 0, 1), torch.ones(4))),
    ("mask", lambda: RegionColour((0, 0, 1), 2 * torch.ones(4, 4))),
    ("mask", lambda: RegionColour((0, 0, 1), torch.full((4, 4), math.nan))),
    ("mask", lambda: RegionColour((0, 0, 1), "mask")),  # type: ignore[arg-type]
    ("brightness", lambda: RegionBrightness(-0.1)),
    ("brightness", lambda: RegionBrightness(math.nan)),
    ("pictures", lambda: RegionColour((0, 0, 1))(torch.rand(2, 3, 8, 8))),
    ("pictures", lambda: Contrast()(torch.rand(8, 8, 3))),
    ("target", lambda: Contrast(0.6)),
    ("target", lambda: Sharpness(-1)),
    ("picture", lambda: like_picture(extract, torch.rand(8, 8))),
    ("activation", lambda: Aesthetic(extract, LAYERS, "tanh")),
    ("layers", lambda: Aesthetic(extract, ())),
    ("layers", lambda: Aesthetic(extract, LAYERS[:1])),
    ("layers", lambda: Aesthetic(extract, LAYERS[::-1])),
    ("layers", lambda: Aesthetic(extract, ((torch.ones(1, 4), torch.ones(2)),))),
    ("activation", lambda: Preference(extract, LAYERS, "tanh")),
    ("layers", lambda: Preference(extract, LAYERS[:1])),
    ("extract", lambda: Preference(extract, WITH_TEXT)(pictures())),
    ("extract", lambda: Preference(extract, LAYERS, text=noise(3))(pictures())),
    ("extract", lambda: Preference(tokens, LAYERS, text=noise(3))(pictures())),
    ("text", lambda: Preference(extract, WITH_TEXT, text=torch.zeros(3))),
    ("text", lambda: Preference(extract, WITH_TEXT, text=noise(1, 1, 3))),
    ("text", lambda: Preference(extract, WITH_TEXT, text=noise(2, 3))(pictures(3))),
    ("over", lambda: Preference(extract, LAYERS, over=torch.full((4,), math.nan))),
    ("over", lambda: Preference(extract, LAYERS, over=noise(2, 4))(pictures(3))),
    ("over", lambda: Preference(extract, LAYERS, over=noise(5))(pictures())),
    ("picture", lambda: preferred_over(extract, LAYERS, torch.rand(8, 8))),
    ("state", lambda: head_layers({})),
    ("state", lambda: head_layers({"weight": torch.ones(1, 4), "logit_scale": torch.ones(())})),
]


@pytest.mark.parametrize(("name", "make"), REFUSED, ids=[f"{n}-{name}" for n, (name, _) in enumerate(REFUSED)])
def test_refused_by_name(name: str, make: Callable[[], Any]) -> None:
    """What cannot work is named."""
    with pytest.raises(InvalidInput, match=f"^{name}: .") as raised:
        make()
    assert raised.value.name == name
