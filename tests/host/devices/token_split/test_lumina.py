"""Lumina 2 and Z-Image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from split_cases import (
    SHOWS,
    Case,
    assert_same,
    difference,
    largest_difference,
    network_of,
    rand,
    without_exchange,
)
from token_split.families.lumina import LuminaAdapter

CONFIG: dict[str, Any] = {
    "in_channels": 4,
    "dim": 128,
    "n_layers": 3,
    "n_refiner_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "multiple_of": 32,
    "ffn_dim_multiplier": 1.0,
    "qk_norm": True,
    "cap_feat_dim": 48,
    "axes_dims": [8, 12, 12],
    "axes_lens": [64, 64, 64],
}
Z_IMAGE = CONFIG | {
    "dim": 256,
    "n_kv_heads": 4,
    "axes_dims": [16, 24, 24],
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
CAPTION = 13
PICTURE = 128  # Z-Image's, padded; its caption is padded to 32
EXCHANGES = 2 + 1 + 3 + 1  # the picture's refiner, the picture, the layers, all tokens


def case(
    config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    batch: int = 2,
    exchanges: int = EXCHANGES,
    **inputs: Any,
) -> Case:
    from comfy.ldm.lumina.model import NextDiT

    x, context = rand(batch, 4, 22, 18).to(dtype), rand(batch, CAPTION, 48).to(dtype)
    t = torch.linspace(0.7, 0.4, batch)

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, CAPTION, transformer_options=options, **inputs)

    return Case(network_of(NextDiT, dtype, **config), call, exchanges)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lumina_2(comfy: None, dtype: torch.dtype) -> None:
    """Fewer heads for keys than for queries."""
    assert_same(case(CONFIG, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_z_image(comfy: None, dtype: torch.dtype) -> None:
    assert_same(case(Z_IMAGE, dtype), members=(1, 2, 3))


def test_references(comfy: None) -> None:
    """The picture's tokens have another time than those of references."""
    contexts = [rand(1, 9, 48), rand(1, 9, 48)]
    assert_same(case(Z_IMAGE, batch=1, ref_latents=[rand(1, 4, 12, 10)], ref_contexts=contexts))


class Control:
    """As the host's ZImageControlPatch: takes ``img`` out, works in place, keeps a running state, and runs in the
    refiner and between the layers."""

    def __init__(self) -> None:
        self._state: torch.Tensor | None = None

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:
        img, before, positions = args.pop("img"), args["img_input"], args["pe"]
        assert img.shape == before.shape and positions.shape[1] == img.shape[1] == PICTURE
        assert args.pop("txt").shape[1] == 32
        self._state = before.flip(1) * 0.2 if self._state is None else self._state * 0.5 + before * 0.1
        img[:, :90] += self._state[:, :90]
        return {**args, "img": img} if args.get("block_type") == "noise_refiner" else args


@pytest.mark.parametrize("refiner", [False, True])
def test_a_patch_between_layers(comfy: None, refiner: bool) -> None:
    patched = case(Z_IMAGE, exchanges=EXCHANGES + 3 + refiner)
    plain = patched.whole()

    def options() -> dict[str, Any]:
        patch = Control()
        return {"patches": {"double_block": [patch]} | ({"noise_refiner": [patch]} if refiner else {})}

    patched.options = options
    assert difference(patched.whole(), plain) > SHOWS
    assert_same(patched)


def test_a_patch_may_change_the_caption(comfy: None) -> None:
    def shift(args: dict[str, Any]) -> dict[str, Any]:
        return {"img": args["img"], "txt": args["txt"] + args["img"].mean(1, keepdim=True)}

    patched = case(Z_IMAGE, exchanges=EXCHANGES + 3)
    plain = patched.whole()
    patched.options = lambda: {"patches": {"double_block": [shift]}}
    assert difference(patched.whole(), plain) > SHOWS
    assert_same(patched)


def test_a_lost_exchange_shows(comfy: None) -> None:
    broken = case(Z_IMAGE)
    broken.family = without_exchange(LuminaAdapter)
    assert largest_difference(broken) > SHOWS
