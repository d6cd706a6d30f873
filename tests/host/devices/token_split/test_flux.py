"""Flux, Kontext's references, Flux 2 and Chroma."""

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
    replacing,
    residuals,
    skip,
    without_exchange,
)
from token_split.adapter import Arguments
from token_split.families.flux import FluxAdapter

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
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
FLUX_2: dict[str, Any] = CONFIG | {
    "vec_in_dim": None,
    "guidance_embed": False,
    "axes_dim": [8, 8, 8, 8],
    "patch_size": 1,
    "qkv_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "txt_ids_dims": [3],
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    "theta": 2000,
    "mlp_ratio": 3.0,
}
TEXT, PICTURE = 13, 99  # tokens
EXCHANGES = 2 + 3 + 1  # the attention of each block, and all tokens at the end


def flux(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    from comfy.ldm.flux.model import Flux

    return network_of(Flux, dtype, **CONFIG)


def flux_2() -> torch.nn.Module:
    from comfy.ldm.flux.model import Flux

    return network_of(Flux, **FLUX_2)


def chroma() -> torch.nn.Module:
    from comfy.ldm.chroma.model import Chroma

    names = ("context_in_dim", "hidden_size", "mlp_ratio", "num_heads", "depth", "depth_single_blocks")
    config = {name: CONFIG[name] for name in (*names, "axes_dim", "theta", "patch_size", "qkv_bias", "txt_ids_dims")}
    config |= {"in_channels": 16, "out_channels": 16, "in_dim": 64, "out_dim": 128, "hidden_dim": 64, "n_layers": 2}
    return network_of(Chroma, vec_in_dim=0, **config)


def case(dtype: torch.dtype = torch.float32, text: int = TEXT, **inputs: Any) -> Case:
    """Two pictures of 99 tokens with 13 tokens of text."""
    x, context, y = rand(2, 4, 22, 18).to(dtype), rand(2, text, 48).to(dtype), rand(2, 24).to(dtype)
    t, guidance = torch.tensor([0.7, 0.4]), torch.tensor([3.5, 3.5])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, y=y, guidance=guidance, control=control, transformer_options=options, **inputs)

    return Case(flux(dtype), call, EXCHANGES)


def case_2(**inputs: Any) -> Case:
    x, context, t = rand(2, 4, 11, 9), rand(2, TEXT, 48), torch.tensor([0.7, 0.4])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        return network(x, t, context, control=control, transformer_options=options, **inputs)

    return Case(flux_2(), call, EXCHANGES)


def case_chroma(**inputs: Any) -> Case:
    x, context, t = rand(2, 4, 22, 18), rand(2, TEXT, 48), torch.tensor([0.7, 0.4])

    def call(network: torch.nn.Module, options: dict[str, Any], control: Any) -> torch.Tensor:
        guidance = torch.zeros(2)
        return network(x, t, context, guidance=guidance, control=control, transformer_options=options, **inputs)

    return Case(chroma(), call, EXCHANGES)


def control(picture: int = PICTURE) -> dict[str, Any]:
    return {"input": residuals(2, (2, picture, 128), missing=[0]), "output": residuals(3, (2, picture, 128))}


def mask() -> torch.Tensor:
    found = torch.zeros(1, TEXT + PICTURE, TEXT + PICTURE)
    found[:, :TEXT, 30:60], found[:, 40:, 2:6] = -3.0, -1.5
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_pictures_with_guidance(comfy: None, dtype: torch.dtype) -> None:
    assert_same(case(dtype), members=(1, 2, 3))


def test_a_text_shorter_than_the_members(comfy: None) -> None:
    assert_same(case(text=2), members=(3, 5))


@pytest.mark.parametrize("method", ["offset", "index", "uxo"])
def test_references(comfy: None, method: str) -> None:
    references = [rand(2, 4, 12, 10), rand(2, 4, 8, 14)]
    with_references = case(ref_latents=references, ref_latents_method=method)
    assert_same(with_references)


@pytest.mark.parametrize("rows", [slice(None), slice(20, 21)], ids=["by query", "for all queries"])
def test_an_attention_mask(comfy: None, rows: slice) -> None:
    assert_same(case(attention_mask=mask()[:, rows]))


@pytest.mark.parametrize("references", [False, True])
def test_controlnet(comfy: None, references: bool) -> None:
    """Residuals of the picture; references follow it."""
    controlled = case(**({"ref_latents": [rand(2, 4, 12, 10)]} if references else {}))
    controlled.control = control()
    assert_same(controlled)


@pytest.mark.parametrize("key", [("double_block", 0), ("double_block", 1), ("single_block", 0), ("single_block", 2)])
def test_another_node_skips_a_block(comfy: None, key: tuple[str, int]) -> None:
    skipped = case()
    skipped.options, skipped.exchanges = replacing(key, skip), EXCHANGES - 1
    assert_same(skipped)


def test_another_node_overrides_attention(comfy: None) -> None:
    """It gets the keys of all tokens."""

    def scaled(function: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert k.shape[2] == v.shape[2] == TEXT + PICTURE
        return function(q * 0.9, k, v, *args, **kwargs) * 1.1

    overridden = case()
    overridden.options = lambda: {"optimized_attention_override": scaled}
    assert_same(overridden)


def test_normalized_attention_guidance(comfy: None) -> None:
    from comfy_extras.nodes_nag import NAGuidance
    from token_split import reason_against

    class Model:
        def clone(self) -> Model:
            return self

        def set_model_attn1_output_patch(self, patch: Any) -> None:
            self.patch = patch

        def disable_model_cfg1_optimization(self) -> None:
            pass

    model = Model()
    NAGuidance.execute(model, 5.0, 0.25, 2.5)
    options = {"patches": {"attn1_output_patch": [model.patch]}, "cond_or_uncond": [0, 1]}
    guided = case()
    plain = guided.whole()
    guided.options = lambda: dict(options)
    assert difference(guided.whole(), plain) > SHOWS
    assert reason_against(guided.network, options) is None
    assert_same(guided)


@pytest.mark.parametrize("method", [None, "index", "index_timestep_zero"])
def test_flux_2_with_references(comfy: None, method: str | None) -> None:
    references = [rand(2, 4, 6, 5), rand(2, 4, 4, 7)]
    inputs = {} if method is None else {"ref_latents": references, "ref_latents_method": method}
    assert_same(case_2(**inputs))


def test_flux_2_with_controlnet(comfy: None) -> None:
    controlled = case_2()
    controlled.control = {"input": residuals(2, (2, PICTURE, 128)), "output": residuals(3, (2, 50, 128))}
    assert_same(controlled)


def test_chroma(comfy: None) -> None:
    assert_same(case_chroma())


def test_chroma_with_a_mask_controlnet_and_blocks_left_out(comfy: None) -> None:
    masked = case_chroma(attention_mask=mask())
    masked.control = control()
    assert_same(masked)
    masked.network.skip_mmdit, masked.network.skip_dit, masked.exchanges = [0], [2], EXCHANGES - 2
    assert_same(masked)


# --- that these tests can fail


def test_a_lost_exchange_shows(comfy: None) -> None:
    broken = case()
    broken.family = without_exchange(FluxAdapter)
    assert largest_difference(broken) > SHOWS


def test_wrong_positions_show(comfy: None) -> None:
    class Wrong(FluxAdapter):
        def enter(self, kind: str, args: Arguments) -> Arguments:
            args = super().enter(kind, args)
            return {**args, "pe": args["pe"].flip(2)}

    broken = case()
    broken.family = Wrong
    assert largest_difference(broken) > SHOWS


def test_references_that_keep_their_time_show(comfy: None) -> None:
    class Untouched(FluxAdapter):
        hooked = ()

    references = [rand(2, 4, 6, 5), rand(2, 4, 4, 7)]
    broken = case_2(ref_latents=references, ref_latents_method="index_timestep_zero")
    broken.family = Untouched
    assert largest_difference(broken) > SHOWS
