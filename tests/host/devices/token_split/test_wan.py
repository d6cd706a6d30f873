"""Wan: text, image, VACE, camera, SCAIL; references, and times by frame and by token."""

from __future__ import annotations

import inspect
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
    skip,
    without_exchange,
)
from token_split.families.wan import WanAdapter

CONFIG = {"dim": 128, "num_heads": 2, "num_layers": 4, "text_dim": 48, "ffn_dim": 256, "in_dim": 4, "out_dim": 4}
TOKENS = 150
EXCHANGES = 4 + 1  # the self-attention of each block, and all tokens before the head


def case(
    kind: str = "WanModel",
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    exchanges: int = EXCHANGES,
    time: torch.Tensor | None = None,
    text: int = 17,
    config: dict[str, Any] | None = None,
    **inputs: Any,
) -> Case:
    """A video of 5 frames of 30 tokens."""
    import comfy.ldm.wan.model

    network = network_of(getattr(comfy.ldm.wan.model, kind), dtype, **CONFIG, **(config or {}))
    x, context = rand(batch, 4, 5, 12, 10).to(dtype), rand(batch, text, 48).to(dtype)
    t = torch.linspace(700, 400, batch) if time is None else time

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, transformer_options=options, **inputs)

    return Case(network, call, exchanges)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_videos(comfy: None, dtype: torch.dtype) -> None:
    assert_same(case(dtype=dtype, batch=2), members=(1, 2, 3, 4))


@pytest.mark.parametrize("times", [5, 150], ids=["frame", "token"])
def test_a_time_for_each(comfy: None, times: int) -> None:
    assert_same(case(time=torch.linspace(0, 900, times)[None]))


def test_an_image_to_begin_with(comfy: None) -> None:
    """Three attentions a block, of which one is shared."""
    assert_same(case(config={"model_type": "i2v"}, clip_fea=rand(1, 11, 1280)))


@pytest.mark.parametrize("time", [None, torch.linspace(0, 900, 5)[None]], ids=["one time", "a time for each frame"])
def test_a_reference_in_front(comfy: None, time: torch.Tensor | None) -> None:
    """The tokens are no multiple of the frames then."""
    assert_same(case(config={"in_dim_ref_conv": 4}, reference_latent=rand(1, 4, 12, 10), time=time))


def test_latents_in_context(comfy: None) -> None:
    assert_same(case(context_latents=[rand(1, 4, 1, 12, 10), rand(1, 4, 2, 8, 6)]))


def test_frames_behind(comfy: None) -> None:
    assert_same(case(time_dim_concat=rand(1, 4, 1, 12, 10)))


@pytest.mark.parametrize("layers", [2, 4])
def test_vace(comfy: None, layers: int) -> None:
    """Two contexts, each through every VACE block."""
    exchanges = 4 + 2 * layers + 1
    config = {"vace_layers": layers, "vace_in_dim": 6}
    context = rand(1, 2, 6, 5, 12, 10)
    vace = case("VaceWanModel", config=config, exchanges=exchanges, vace_context=context, vace_strength=[0.8, 0.5])
    assert_same(vace)


def test_camera(comfy: None) -> None:
    config = {"in_dim_control_adapter": 6}
    assert_same(
        case("CameraWanModel", config=config, clip_fea=rand(1, 11, 1280), camera_conditions=rand(1, 6, 5, 96, 80))
    )


def test_scail(comfy: None) -> None:
    pose, reference = rand(1, 4, 5, 12, 10), rand(1, 4, 1, 12, 10)
    assert_same(case("SCAILWanModel", clip_fea=rand(1, 11, 1280), pose_latents=pose, reference_latent=reference))


def test_a_patch_between_blocks(comfy: None) -> None:
    """As Uni3C's. It runs after the last block too, where the tokens are still shared."""
    from comfy.ldm.wan.model import WanModel

    if 'patches["double_block"]' not in inspect.getsource(WanModel):
        pytest.skip("Wan of this ComfyUI calls no patches between its blocks: it is too old")
    patched = case(exchanges=EXCHANGES + 4)
    plain = patched.whole()
    patched.options = lambda: {"patches": {"double_block": [Stateful(TOKENS)]}}
    assert difference(patched.whole(), plain) > SHOWS
    assert_same(patched)


def test_another_node_skips_the_last_block(comfy: None) -> None:
    skipped = case(exchanges=EXCHANGES - 1)
    skipped.options = replacing(("double_block", 3), skip)
    assert_same(skipped)


def test_a_prompt_as_long_as_a_share(comfy: None) -> None:
    """Its keys are everybody's own, whatever their number."""
    assert_same(case(text=TOKENS // 2), members=(2,))


# --- that these tests can fail


def test_a_lost_exchange_shows(comfy: None) -> None:
    broken = case()
    broken.family = without_exchange(WanAdapter)
    assert largest_difference(broken) > SHOWS


def test_an_exchange_too_many_shows(comfy: None) -> None:
    """A prompt that is there twice is hardly seen in the result, so exchanges are counted."""

    class Every(WanAdapter):
        first_only = False

    broken = case(text=TOKENS // 2)
    broken.family = Every
    broken.split(2)
    assert broken.found == EXCHANGES + 4
