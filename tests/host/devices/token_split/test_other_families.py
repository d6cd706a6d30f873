"""Kandinsky 5, Krea 2, HiDream, JoyImage and Cosmos Predict 2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from split_cases import SHOWS, Case, assert_same, largest_difference, network_of, rand, without_exchange
from token_split import CannotSplit, find_family

HALF = [torch.float32, torch.bfloat16, torch.float16]


def kandinsky_5(dtype: torch.dtype = torch.float32) -> Case:
    from comfy.ldm.kandinsky5.model import Kandinsky5

    config = {"in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": 48, "in_text_dim2": 24, "time_dim": 64}
    config |= {"model_dim": 128, "ff_dim": 256, "visual_embed_dim": 16, "num_text_blocks": 1, "num_visual_blocks": 3}
    x, context, y = rand(2, 4, 5, 12, 10).to(dtype), rand(2, 17, 48).to(dtype), rand(2, 24).to(dtype)
    t = torch.tensor([700.0, 400.0])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, y, transformer_options=options)

    return Case(network_of(Kandinsky5, dtype, axes_dims=(8, 12, 12), **config), call, 3 + 1)


def krea_2(dtype: torch.dtype = torch.float32, **inputs: Any) -> Case:
    """Fewer heads for keys than for queries."""
    from comfy.ldm.krea2.model import SingleStreamDiT

    config = {"features": 128, "tdim": 64, "txtdim": 48, "heads": 4, "kvheads": 2, "multiplier": 4, "layers": 3}
    config |= {"patch": 2, "channels": 4, "txtlayers": 2, "txtheads": 4, "txtkvheads": 4}
    x, context, t = rand(2, 4, 22, 18).to(dtype), rand(2, 13, 96).to(dtype), torch.tensor([0.7, 0.4])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, transformer_options=options, **inputs)

    return Case(network_of(SingleStreamDiT, dtype, **config), call, 3 + 1)


def hidream(dtype: torch.dtype = torch.float32, **inputs: Any) -> Case:
    """Experts, of which each token has its own."""
    from comfy.ldm.hidream.model import HiDreamImageTransformer2DModel

    config: dict[str, Any] = {"patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2}
    config |= {"num_single_layers": 2, "attention_head_dim": 32, "num_attention_heads": 4, "text_emb_dim": 24}
    config |= {"num_routed_experts": 4, "num_activated_experts": 2, "caption_channels": [48, 40]}
    config |= {"axes_dims_rope": [16, 8, 8], "max_resolution": [64, 64], "llama_layers": [0, 1, 2, 2]}
    x, context, y = rand(2, 4, 22, 18).to(dtype), rand(2, 13, 48).to(dtype), rand(2, 24).to(dtype)
    layers, t = rand(2, 3, 9, 40).to(dtype), torch.tensor([700.0, 400.0])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        more = {"encoder_hidden_states_llama3": layers, **inputs}
        return network(x, t, y=y, context=context, transformer_options=options, **more)

    return Case(network_of(HiDreamImageTransformer2DModel, dtype, **config), call, 2 + 2 + 1)


def joyimage(dtype: torch.dtype = torch.float32, **inputs: Any) -> Case:
    from comfy.ldm.joyimage.model import JoyImageTransformer3DModel

    config: dict[str, Any] = {"patch_size": [1, 2, 2], "in_channels": 4, "hidden_size": 128, "num_layers": 3}
    config |= {"num_attention_heads": 4, "text_dim": 48, "rope_dim_list": [8, 12, 12]}
    x, context, t = rand(2, 4, 1, 22, 18).to(dtype), rand(2, 13, 48).to(dtype), torch.tensor([700.0, 400.0])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, transformer_options=options, **inputs)

    return Case(network_of(JoyImageTransformer3DModel, dtype, **config), call, 3 + 1)


def cosmos(dtype: torch.dtype = torch.float32, latent: tuple[int, ...] = (2, 4, 5, 14, 10), times: int = 1) -> Case:
    from comfy.ldm.cosmos.predict2 import MiniTrainDIT

    config: dict[str, Any] = {"max_img_h": 64, "max_img_w": 64, "max_frames": 16, "in_channels": 4, "out_channels": 4}
    config |= {"patch_spatial": 2, "patch_temporal": 1, "model_channels": 128, "num_blocks": 3, "num_heads": 4}
    config |= {"crossattn_emb_channels": 48, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 32}
    x, context = rand(*latent).to(dtype), rand(latent[0], 17, 48).to(dtype)
    t = torch.linspace(0.2, 0.9, latent[0] * times).reshape(latent[0], times).to(dtype)

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, transformer_options=options)

    return Case(network_of(MiniTrainDIT, dtype, **config), call, 3 + 1)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("make", [kandinsky_5, krea_2, hidream, joyimage, cosmos])
def test_two_at_once(comfy: None, make: Any, dtype: torch.dtype) -> None:
    assert_same(make(dtype))


@pytest.mark.parametrize("method", ["index", "index_timestep_zero"])
def test_krea_2_with_references(comfy: None, method: str) -> None:
    references = [rand(2, 4, 12, 10), rand(2, 4, 8, 14)]
    assert_same(krea_2(ref_latents=references, ref_latents_method=method))


def test_hidream_edits_a_picture(comfy: None) -> None:
    assert_same(hidream(image_cond=rand(2, 4, 22, 18)))


def test_joyimage_with_a_reference(comfy: None) -> None:
    assert_same(joyimage(ref_latents=[rand(2, 4, 1, 12, 10)]))


def test_a_picture_of_cosmos(comfy: None) -> None:
    assert_same(cosmos(latent=(1, 4, 1, 22, 18)))


def test_cosmos_with_a_time_for_each_frame(comfy: None) -> None:
    assert_same(cosmos(times=5))


def test_cosmos_needs_a_row_for_each_member(comfy: None) -> None:
    with pytest.raises(CannotSplit, match="2 rows of tokens cannot be shared by 3 devices"):
        cosmos(latent=(1, 4, 1, 4, 40)).split(3)


@pytest.mark.parametrize("make", [kandinsky_5, krea_2, hidream, joyimage, cosmos])
def test_a_lost_exchange_shows(comfy: None, make: Any) -> None:
    broken = make()
    family = find_family(broken.network)
    assert family is not None
    if make is cosmos:

        class Alone(family):  # type: ignore[misc, valid-type]
            def gather_all(self, tensors: Any, dims: Any, which: Any) -> Any:
                self.exchange.all_gather(self.rank, tensors)
                return list(tensors)

        broken.family = Alone
    else:
        broken.family = without_exchange(family)
    assert largest_difference(broken) > SHOWS
