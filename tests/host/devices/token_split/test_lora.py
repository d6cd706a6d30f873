"""The demo model with a LoRA, as the host's own loaders and its ModelPatcher have it, through `apply_model`."""

from __future__ import annotations

from typing import Any

import torch
from split_cases import CPU, REPO, TIMEOUT, difference, is_same, rand
from token_split import Member, SplitCall
from torch import Tensor


def lora_of(network: torch.nn.Module) -> dict[str, Tensor]:
    """Rank 2, for every attention matrix."""
    found = {}
    for name, weight in network.named_parameters():
        if name.endswith(("qkv.weight", "linear1.weight")):
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            rows, columns = weight.shape
            found[f"{key}.lora_A.weight"] = rand(2, columns) / columns**0.5
            found[f"{key}.lora_B.weight"] = rand(rows, 2) * 0.3
    return found


def test_a_lora_on_the_demo_model(comfy: None) -> None:
    import comfy.model_management
    import comfy.sd

    with torch.inference_mode(False):
        model = comfy.sd.load_diffusion_model(str(REPO / "models" / "chords_demo_flow.safetensors"))
        patched, _ = comfy.sd.load_lora_for_models(model, None, lora_of(model.model.diffusion_model), 0.8, 0.0)
    x, text, sigma = rand(2, 16, 16, 16), rand(2, 12, 1024), torch.tensor([0.9, 0.5])

    def run(rank: int, options: dict[str, Any], control: Any) -> Tensor:
        return patched.model.apply_model(x, sigma, c_crossattn=text, control=control, transformer_options=options)

    comfy.model_management.load_models_gpu([model])
    plain = model.model.apply_model(x, sigma, c_crossattn=text, transformer_options={})
    comfy.model_management.load_models_gpu([patched])
    whole = run(0, {}, None)
    assert difference(whole, plain) > 0.01
    for count in (2, 3):
        with SplitCall([Member(CPU, patched.model.diffusion_model)] * count) as split:
            results = split(run, [{}] * count, timeout=TIMEOUT)
        assert all(is_same(result, whole) for result in results)
