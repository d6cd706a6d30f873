"""Qwen-Image and Qwen-Image-Edit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from split_cases import (
    SHOWS,
    Case,
    Stateful,
    assert_same,
    difference,
    largest_difference,
    network_of,
    rand,
    replacing,
    residuals,
    skip,
    without_exchange,
)
from token_split.families.qwen_image import QwenImageAdapter

CONFIG: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 48,
    "axes_dims_rope": (8, 12, 12),
}
TEXT, PICTURE = 13, 99
EXCHANGES = 3 + 2  # the attention of each block; picture and text at the end


def case(dtype: torch.dtype = torch.float32, text: int = TEXT, exchanges: int = EXCHANGES, **inputs: Any) -> Case:
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    x, context, t = rand(2, 4, 1, 22, 18).to(dtype), rand(2, text, 48).to(dtype), torch.tensor([0.7, 0.4])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, control=control, transformer_options=options, **inputs)

    return Case(network_of(QwenImageTransformer2DModel, dtype, **CONFIG), call, exchanges)


def references() -> list[torch.Tensor]:
    return [rand(2, 4, 1, 12, 10), rand(2, 4, 1, 8, 14)]


def text_mask() -> torch.Tensor:
    mask = torch.ones(2, TEXT, dtype=torch.long)
    mask[0, 9:] = 0
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_pictures(comfy: None, dtype: torch.dtype) -> None:
    assert_same(case(dtype), members=(1, 2, 3))


def test_a_text_shorter_than_the_members(comfy: None) -> None:
    assert_same(case(text=2, exchanges=EXCHANGES - 1), members=(3,))


def test_a_mask_of_the_text(comfy: None) -> None:
    assert_same(case(attention_mask=text_mask()))


@pytest.mark.parametrize("method", ["index", "negative_index", "offset", "index_timestep_zero"])
def test_references(comfy: None, method: str) -> None:
    assert_same(case(ref_latents=references(), ref_latents_method=method))


def test_references_at_time_zero_with_a_mask(comfy: None) -> None:
    inputs = {"ref_latents": references(), "ref_latents_method": "index_timestep_zero"}
    assert_same(case(attention_mask=text_mask(), **inputs))


def test_controlnet(comfy: None) -> None:
    controlled = case()
    controlled.control = {"input": residuals(3, (2, PICTURE, 128))}
    assert_same(controlled)


@pytest.mark.parametrize("controlled", [False, True])
def test_a_patch_between_blocks(comfy: None, controlled: bool) -> None:
    """As DiffSynth's. Behind the last block all tokens are back."""
    patched = case(exchanges=EXCHANGES + 2 * 2)
    plain = patched.whole()
    patched.options = lambda: {"patches": {"double_block": [Stateful(PICTURE)]}}
    assert difference(patched.whole(), plain) > SHOWS
    if controlled:
        patched.control = {"input": residuals(3, (2, PICTURE, 128))}
    assert_same(patched)


def test_a_patch_may_change_the_text(comfy: None) -> None:
    def shift(args: dict[str, Any]) -> dict[str, Any]:
        assert args["txt"].shape[1] == TEXT
        return {**args, "txt": args["txt"] + args["img"].mean(1, keepdim=True) + args["txt"].flip(1)}

    patched = case(exchanges=EXCHANGES + 2 * 2)
    patched.options = lambda: {"patches": {"double_block": [shift]}}
    assert_same(patched)


@pytest.mark.parametrize("block", [0, 2])
def test_another_node_skips_a_block(comfy: None, block: int) -> None:
    skipped = case(exchanges=EXCHANGES - 1)
    skipped.options = replacing(("double_block", block), skip)
    assert_same(skipped)


# --- that these tests can fail


def test_a_lost_exchange_shows(comfy: None) -> None:
    broken = case()
    broken.family = without_exchange(QwenImageAdapter)
    assert largest_difference(broken) > SHOWS


def test_references_that_keep_their_time_show(comfy: None) -> None:
    class Untouched(QwenImageAdapter):
        hooked = ()

    broken = case(ref_latents=references(), ref_latents_method="index_timestep_zero")
    broken.family = Untouched
    assert largest_difference(broken) > SHOWS
