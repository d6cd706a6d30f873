"""HunyuanVideo 1.0 and 1.5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from split_cases import SHOWS, Case, assert_same, largest_difference, network_of, rand, residuals, without_exchange
from token_split.families.hunyuan_video import HunyuanVideoAdapter

CONFIG: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "vec_in_dim": 24,
    "context_in_dim": 48,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 3,
    "axes_dim": [8, 12, 12],
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
VERSION_1_5 = CONFIG | {
    "vec_in_dim": None,
    "guidance_embed": False,
    "byt5": True,
    "use_cond_type_embedding": True,
    "vision_in_dim": 40,
    "meanflow_sum": True,
    "depth": 4,
    "depth_single_blocks": 0,
}
TEXT, VIDEO = 13, 90


def case(
    config: dict[str, Any], exchanges: int, dtype: torch.dtype = torch.float32, batch: int = 1, **inputs: Any
) -> Case:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    x, context, t = rand(batch, 4, 3, 12, 10).to(dtype), rand(batch, TEXT, 48).to(dtype), torch.full((batch,), 700.0)
    if config["vec_in_dim"]:
        inputs |= {"y": rand(batch, 24).to(dtype)}
    if config["guidance_embed"]:
        inputs |= {"guidance": torch.full((batch,), 6.0)}

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, control=control, transformer_options=options, **inputs)

    return Case(network_of(HunyuanVideo, dtype, **config), call, exchanges)


def version_1(**inputs: Any) -> Case:
    return case(CONFIG, 2 + 3 + 1, **inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_videos(comfy: None, dtype: torch.dtype) -> None:
    """The text's refiner has attention of its own, which is not shared."""
    assert_same(version_1(dtype=dtype, batch=2))


def test_a_mask_of_the_text(comfy: None) -> None:
    mask = torch.ones(1, TEXT, dtype=torch.long)
    mask[0, 9:] = 0
    assert_same(version_1(attention_mask=mask))


def test_controlnet(comfy: None) -> None:
    controlled = version_1()
    controlled.control = {"input": residuals(2, (1, VIDEO, 128)), "output": residuals(3, (1, VIDEO, 128))}
    assert_same(controlled)


def test_a_guiding_frame(comfy: None) -> None:
    """Its tokens have a time of their own."""
    config = CONFIG | {"guidance_embed": False}
    assert_same(case(config, 2 + 3 + 1, guiding_frame_index=torch.tensor([0.0])))


def test_a_reference(comfy: None) -> None:
    assert_same(version_1(ref_latent=rand(1, 4, 1, 12, 10)))


@pytest.mark.parametrize("vision", [False, True])
def test_version_1_5(comfy: None, vision: bool) -> None:
    """Double blocks only; text of two encoders and, perhaps, a picture's embedding."""
    inputs = {"txt_byt5": rand(1, 7, 1472)} | ({"clip_fea": rand(1, 5, 40)} if vision else {})
    assert_same(case(VERSION_1_5, 4 + 2, **inputs))


# --- that these tests can fail


def test_a_lost_exchange_shows(comfy: None) -> None:
    broken = version_1()
    broken.family = without_exchange(HunyuanVideoAdapter)
    assert largest_difference(broken) > SHOWS


def test_a_guiding_frame_without_its_time_shows(comfy: None) -> None:
    class Untouched(HunyuanVideoAdapter):
        hooked = ()

    broken = case(CONFIG | {"guidance_embed": False}, 6, guiding_frame_index=torch.tensor([0.0]))
    broken.family = Untouched
    assert largest_difference(broken) > SHOWS
