"""Stable Diffusion 3, 3.5 large and medium; AuraFlow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from split_cases import (
    SHOWS,
    Case,
    assert_same,
    largest_difference,
    network_of,
    rand,
    replacing,
    residuals,
    skip,
    without_exchange,
)
from token_split.families.auraflow import AuraFlowAdapter
from token_split.families.sd3 import SD3Adapter

EXCHANGES = 3 + 1  # the attention of each block, and the picture at the end; the last block drops the text


def sd3(exchanges: int = EXCHANGES, dtype: torch.dtype = torch.float32, **config: Any) -> Case:
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    embedder = {"target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128}}
    config |= {"input_size": None, "in_channels": 4, "depth": 2, "num_blocks": 3, "pos_embed_max_size": 24}
    config |= {"num_patches": 576, "adm_in_channels": 24, "context_size": 48, "context_embedder_config": embedder}
    x, context, y = rand(2, 4, 22, 18).to(dtype), rand(2, 13, 48).to(dtype), rand(2, 24).to(dtype)
    t = torch.tensor([700.0, 400.0])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, y=y, control=control, transformer_options=options)

    return Case(network_of(OpenAISignatureMMDITWrapper, dtype, **config), call, exchanges)


def aura(dtype: torch.dtype = torch.float32) -> Case:
    from comfy.ldm.aura.mmdit import MMDiT

    config = {"in_channels": 4, "out_channels": 4, "dim": 128, "n_layers": 4, "n_double_layers": 2, "n_heads": 4}
    config |= {"global_conddim": 128, "cond_seq_dim": 48, "max_seq": 256}
    x, context, t = rand(2, 4, 22, 18).to(dtype), rand(2, 13, 48).to(dtype), torch.tensor([0.7, 0.4])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, transformer_options=options)

    return Case(network_of(MMDiT, dtype, **config), call, 4 + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sd_3(comfy: None, dtype: torch.dtype) -> None:
    assert_same(sd3(dtype=dtype))


def test_sd_3_5_large_with_controlnet(comfy: None) -> None:
    controlled = sd3(qk_norm="rms")
    controlled.control = {"output": residuals(3, (2, 99, 128))}
    assert_same(controlled)


def test_sd_3_5_medium(comfy: None) -> None:
    """A second attention in each block, among the picture's tokens alone."""
    assert_same(sd3(exchanges=3 * 2 + 1, qk_norm="rms", x_block_self_attn_layers=[0, 1, 2]))


def test_another_node_skips_a_layer(comfy: None) -> None:
    skipped = sd3(exchanges=EXCHANGES - 1)
    skipped.options = replacing(("double_block", 1), skip)
    assert_same(skipped)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auraflow(comfy: None, dtype: torch.dtype) -> None:
    assert_same(aura(dtype))


@pytest.mark.parametrize(("make", "family"), [(sd3, SD3Adapter), (aura, AuraFlowAdapter)])
def test_a_lost_exchange_shows(comfy: None, make: Any, family: Any) -> None:
    broken = make()
    broken.family = without_exchange(family)
    assert largest_difference(broken) > SHOWS
