"""Writes the random model files the live tests use, with the host's own classes: run by its Python.

    python tiny_models.py COMFYUI_FOLDER OUTPUT_FOLDER

Untrained but not trivial: every weight is random, so that a wrong input anywhere changes the output.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CONTEXT_WIDTH = 1024  # that of the stock LotusConditioning node, which needs no text encoder


def main(host: Path, folder: Path) -> None:
    sys.path.insert(0, str(host))
    from comfy.cli_args import args

    args.cpu = True
    import comfy.ops
    from comfy.ldm.flux.controlnet import ControlNetFlux
    from comfy.ldm.wan.model import WanModel

    wan = {"dim": 64, "num_heads": 2, "num_layers": 1, "text_dim": CONTEXT_WIDTH, "ffn_dim": 64}
    model = WanModel(operations=comfy.ops.disable_weight_init, device="cpu", dtype=torch.float32, **wan)
    metadata = {"config": json.dumps({"transformer": wan})}
    _save(_randomised(model.state_dict(), 1), folder / "diffusion_models" / "tiny_wan.safetensors", metadata)

    demo = load_file(Path(__file__).resolve().parents[2] / "models" / "chords_demo_flow.safetensors")
    broken = {name: weight.clone() for name, weight in demo.items()}
    broken["final_layer.linear.bias"][0] = float("nan")
    _save(broken, folder / "diffusion_models" / "tiny_nan.safetensors", None)
    _save(demo, folder / "diffusion_models" / "demo_copy.safetensors", None)  # weights no other test has copied
    _save(demo, folder / "diffusion_models" / "uncopyable.safetensors", None)
    for by in ("class", "method"):
        _save(demo, folder / "diffusion_models" / f"own_loader_{by}.safetensors", None)
    _save_gguf(demo, folder / "diffusion_models" / "tiny_q8.gguf")
    _save_fp8(demo, folder / "diffusion_models" / "tiny_fp8.safetensors")
    other = {name: weight * (1.1 if name.endswith("qkv.weight") else 1.0) for name, weight in demo.items()}
    _save(other, folder / "diffusion_models" / "demo_other.safetensors", None)  # another model of the same shape

    flux = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 4, "context_in_dim": CONTEXT_WIDTH}
    flux |= {"hidden_size": 256, "num_heads": 2, "mlp_ratio": 4.0, "depth": 1, "depth_single_blocks": 1}
    flux |= {"axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False}
    flux |= {"txt_ids_dims": [], "mistoline": True}
    control = ControlNetFlux(operations=comfy.ops.disable_weight_init, device="cpu", dtype=torch.float32, **flux)
    _save(_randomised(control.state_dict(), 4), folder / "controlnet" / "tiny_flux.safetensors", None)
    _save(_gligen(), folder / "gligen" / "tiny_gligen.safetensors", None)
    _save(_lora(demo), folder / "loras" / "tiny_lora.safetensors", None)
    _save(_aesthetic_head(), folder / "classifiers" / "tiny_aesthetic.safetensors", None)
    torch.save(_aesthetic_head(), folder / "classifiers" / "tiny_aesthetic.pth")  # as LAION's come
    _save(_preference_head(), folder / "classifiers" / "tiny_preference.safetensors", None)
    _save({"table": torch.ones(2, 2, 2)}, folder / "classifiers" / "no_head.safetensors", None)


def _randomised(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Weights that keep activations near one: norm scales near 1, matrices by their fan-in."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, weight in sorted(weights.items()):
        noise = torch.randn(weight.shape, generator=generator)
        scale = 0.5 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 0.1
        out[name] = noise * scale + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return out


def _lora(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rank-2 updates of all attention matrices of the demo model, strong enough to be seen."""
    generator = torch.Generator().manual_seed(2)
    lora = {}
    for name, weight in sorted(weights.items()):
        if name.endswith(("qkv.weight", "linear1.weight")):
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            rows, columns = weight.shape
            lora[f"{key}.lora_A.weight"] = torch.randn(2, columns, generator=generator) / columns**0.5
            lora[f"{key}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) * 0.3
    return lora


def _gligen() -> dict[str, torch.Tensor]:
    """GLIGEN with embeddings of 16 values for a model of the demo model's width, with one attention block."""
    from comfy.gligen import GatedSelfAttentionDense, PositionNet

    block = _randomised(GatedSelfAttentionDense(256, 16, n_heads=4, d_head=64).state_dict(), 5)
    block |= {"alpha_attn": torch.tensor(0.5), "alpha_dense": torch.tensor(0.5)}
    weights = {
        f"position_net.{name}": weight for name, weight in _randomised(PositionNet(16, 16).state_dict(), 6).items()
    }
    return weights | {f"middle_block.1.transformer_blocks.0.fuser.{name}": weight for name, weight in block.items()}


def _aesthetic_head() -> dict[str, torch.Tensor]:
    """Two linear layers on embeddings of 16 values, with the names of LAION's heads."""
    generator = torch.Generator().manual_seed(3)
    return {
        "layers.0.weight": torch.randn(8, 16, generator=generator) / 4,
        "layers.0.bias": torch.randn(8, generator=generator) * 0.1,
        "layers.2.weight": torch.randn(1, 8, generator=generator) / 3,
        "layers.2.bias": torch.full((1,), 5.0),
    }


def _preference_head() -> dict[str, torch.Tensor]:
    """One linear layer on the embeddings of picture and text, of 16 values each."""
    generator = torch.Generator().manual_seed(7)
    return {"weight": torch.randn(1, 32, generator=generator), "bias": torch.full((1,), 0.5)}


def _save_gguf(weights: dict[str, torch.Tensor], path: Path) -> None:
    """The matrices of the blocks in Q8_0, the rest in float32."""
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), "flux")
    for name, weight in weights.items():
        if _is_block_matrix(name, weight):
            quantised = gguf.quants.quantize(weight.float().numpy(), gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, weight.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _save_fp8(weights: dict[str, torch.Tensor], path: Path) -> None:
    """The matrices of the blocks in fp8, each with a scale: the host's own format for quantised layers."""
    tensors, layers = {}, {}
    for name, weight in weights.items():
        tensors[name] = weight
        if _is_block_matrix(name, weight):
            scale = weight.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
            tensors[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale"] = scale
            layers[name.removesuffix(".weight")] = {"format": "float8_e4m3fn"}
    _save(tensors, path, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})})


def _is_block_matrix(name: str, weight: torch.Tensor) -> bool:
    return "_blocks." in name and name.endswith(".weight") and weight.ndim == 2 and weight.shape[1] % 32 == 0


def _save(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str] | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
