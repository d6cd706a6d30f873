"""LTX-Video, and LTX 2 with its sound."""

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
from token_split.families.ltx2 import LTX2Adapter
from token_split.families.ltxv import LTXVAdapter

CONFIG: dict[str, Any] = {
    "in_channels": 8,
    "cross_attention_dim": 128,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "caption_channels": 48,
    "num_layers": 3,
}
TOKENS = 120  # 4 frames of 30
SOUND = 30


def ltxv(
    dtype: torch.dtype = torch.float32,
    time: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    config: dict[str, Any] | None = None,
    **inputs: Any,
) -> Case:
    from comfy.ldm.lightricks.model import LTXVModel

    x, context = rand(2, 8, 4, 6, 5).to(dtype), rand(2, 11, 48).to(dtype)
    t = (torch.tensor([[0.7], [0.4]]) if time is None else time).to(dtype)

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, mask, transformer_options=options, **inputs)

    return Case(network_of(LTXVModel, dtype, **CONFIG, **(config or {})), call, 3 + 1)


def ltx2(dtype: torch.dtype = torch.float32, by_frame: bool = False, **config: Any) -> Case:
    from comfy.ldm.lightricks.av_model import LTXAVModel

    sound = {"audio_in_channels": 8, "audio_cross_attention_dim": 64, "audio_attention_head_dim": 16}
    connectors = ("audio_embeddings_connector", "video_embeddings_connector")
    network = network_of(LTXAVModel, dtype, connectors, **CONFIG, **sound, audio_num_attention_heads=4, **config)
    network.num_audio_channels, network.audio_frequency_bins = 8, 1
    video, audio, context = rand(2, 8, 4, 6, 5).to(dtype), rand(2, 8, SOUND, 1).to(dtype), rand(2, 11, 96).to(dtype)
    t = torch.tensor([[0.7], [0.4]])
    if by_frame:
        t = torch.linspace(0, 1, 4).repeat_interleave(SOUND)[None].repeat(2, 1)
    times = t.to(dtype), torch.tensor([[0.6], [0.5]]).to(dtype)

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        found = network([video.clone(), audio.clone()], times, context, None, transformer_options=options)
        return torch.cat([part.flatten(1) for part in found], 1)

    return Case(network, call, 3 * 2 + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_videos(comfy: None, dtype: torch.dtype) -> None:
    assert_same(ltxv(dtype))


def test_a_mask_of_the_text(comfy: None) -> None:
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[0, 8:] = 0
    assert_same(ltxv(mask=mask))


def test_a_time_for_each_token(comfy: None) -> None:
    assert_same(ltxv(time=torch.linspace(0, 1, 2 * TOKENS).reshape(2, TOKENS)))


def test_another_modulation_and_other_positions(comfy: None) -> None:
    assert_same(ltxv(config={"cross_attention_adaln": True, "rope_type": "split"}))


def guided(**entry: Any) -> Case:
    """Guides are the last frame's tokens, with a strength: three attentions of parts of the queries, one exchange."""
    keyframes = torch.rand(2, 3, SOUND, 2, generator=torch.Generator().manual_seed(2)) * 50
    entries = [{"pre_filter_count": 30, "strength": 0.6, "pixel_mask": None, "latent_shape": (1, 6, 5)}]
    inputs: dict[str, Any] = {"keyframe_idxs": keyframes, "denoise_mask": torch.ones(2, 1, 4, 6, 5)}
    return ltxv(time=torch.full((2, TOKENS), 0.7), **inputs, **({"guide_attention_entries": entries} if entry else {}))


def test_guides_with_a_strength(comfy: None) -> None:
    with_guides = guided(strength=True)
    assert_same(with_guides, members=(2, 3, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_frame", [False, True])
@pytest.mark.parametrize("newer", [False, True])
def test_video_with_sound(comfy: None, by_frame: bool, newer: bool, dtype: torch.dtype) -> None:
    assert_same(ltx2(dtype, by_frame, apply_gated_attention=newer, cross_attention_adaln=newer))


def test_sound_as_long_as_a_share_of_the_video(comfy: None) -> None:
    """Only what runs tells which keys are shared. Products of so few rows have other last bits."""
    case = ltx2()
    whole = case.whole()
    for result in case.split(TOKENS // SOUND):
        assert difference(result, whole) < 1e-6
    assert case.found == case.exchanges


@pytest.mark.parametrize(("make", "family"), [(ltxv, LTXVAdapter), (ltx2, LTX2Adapter)])
def test_a_lost_exchange_shows(comfy: None, make: Any, family: Any) -> None:
    broken = make()
    broken.family = without_exchange(family)
    assert largest_difference(broken) > SHOWS
