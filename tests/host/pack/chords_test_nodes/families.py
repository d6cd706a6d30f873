"""Tiny models of the host's classes for the model families on the workflows page, with random weights."""

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy_api.latest import io

TEXT, WIDTH = 13, 48  # of a prompt, in tokens and channels
_FLUX_2 = {
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "context_in_dim": WIDTH,
    "hidden_size": 128,
    "mlp_ratio": 3.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 8, 8, 8],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "guidance_embed": True,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "txt_ids_dims": [3],
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
_QWEN_IMAGE = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": WIDTH,
    "axes_dims_rope": (8, 12, 12),
}
_HUNYUAN_VIDEO = {
    "in_channels": 65,  # the noise, the frame to begin with, and its mask
    "out_channels": 32,
    "vec_in_dim": None,
    "context_in_dim": WIDTH,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 0,
    "axes_dim": [8, 12, 12],
    "theta": 256,
    "patch_size": [1, 1, 1],
    "qkv_bias": True,
    "guidance_embed": False,
    "byt5": True,
    "meanflow": False,
    "use_cond_type_embedding": True,
    "vision_in_dim": 40,
    "meanflow_sum": True,
}
_Z_IMAGE = {
    "in_channels": 16,
    "dim": 256,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 4,
    "multiple_of": 32,
    "ffn_dim_multiplier": 1.0,
    "qk_norm": True,
    "cap_feat_dim": WIDTH,
    "axes_dims": [16, 24, 24],
    "axes_lens": [64, 64, 64],
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
_WAN = {"in_dim": 36, "dim": 64, "num_heads": 2, "num_layers": 2, "text_dim": WIDTH, "ffn_dim": 64}
FAMILIES = {  # the host's class, what else it takes, its configuration, and the shape of a latent
    "flux_2": ("Flux2", {}, _FLUX_2, (1, 128, 8, 8)),
    "qwen_image_edit": ("QwenImage", {}, _QWEN_IMAGE, (1, 16, 1, 16, 16)),
    "hunyuan_video_1.5": ("HunyuanVideo15", {}, _HUNYUAN_VIDEO, (1, 32, 3, 8, 8)),
    "z_image_turbo": ("Lumina2", {}, _Z_IMAGE, (1, 16, 16, 16)),
    "wan2.2_14b": ("WAN21", {"image_to_video": True}, _WAN, (1, 16, 2, 8, 8)),
}
CONFIGS = {"z_image_turbo": "ZImage", "wan2.2_14b": "WAN21_I2V"}  # where another name than the class's


class TestFamily(io.ComfyNode):
    """A model of a family, a prompt with what this family has beside its text, another prompt, and an empty latent.

    ``plain``: the prompt has its text only: no references, no first frame, no second encoder.
    """

    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("family"), io.Boolean.Input("plain", default=False)]
        outputs = [io.Model.Output(), io.Conditioning.Output(), io.Conditioning.Output(), io.Latent.Output()]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, family, plain=False):
        name, more, network, shape = FAMILIES[family]
        config = getattr(comfy.supported_models, CONFIGS.get(family, name))({**network})
        config.set_inference_dtype(torch.float32, None)
        model = getattr(comfy.model_base, name)(config, device="cpu", **more)
        generator = torch.Generator().manual_seed(1)
        _randomise(model.diffusion_model, generator)
        model.eval()
        device = comfy.model_management.get_torch_device()
        patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))

        def random(*shape):
            return torch.randn(shape, generator=generator)

        beside = {} if plain else _beside(family, random)
        positive, negative = random(1, TEXT, WIDTH), random(1, TEXT - 4, WIDTH)
        prompts = ([[text, {"pooled_output": None, **beside}]] for text in (positive, negative))
        return io.NodeOutput(patcher, *prompts, {"samples": torch.zeros(shape)})


def _beside(family, random):
    """What a prompt of the family has beside its text."""
    if family == "flux_2":
        return {"reference_latents": [random(1, 128, 6, 5)], "guidance": 4.0}
    if family == "qwen_image_edit":
        references = [random(1, 16, 1, 12, 10), random(1, 16, 1, 8, 14)]
        return {"reference_latents": references, "reference_latents_method": "index_timestep_zero"}
    if family == "hunyuan_video_1.5":
        mask = torch.ones(1, 1, 3, 8, 8)
        mask[:, :, 0] = 0
        return {
            "conditioning_byt5small": random(1, 7, 1472),
            "concat_latent_image": random(1, 32, 3, 8, 8),
            "concat_mask": mask,
        }
    if family == "wan2.2_14b":
        mask = torch.ones(1, 1, 2, 8, 8)
        mask[:, :, 0] = 0
        return {"concat_latent_image": random(1, 16, 2, 8, 8), "concat_mask": mask}
    return {}


def _randomise(network, generator):
    with torch.no_grad():
        for name, weight in sorted(network.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            scale = 0.7 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 0.1
            ones = weight.ndim == 1 and "norm" in name and not name.endswith("bias")
            weight.copy_(noise * scale + (1.0 if ones else 0.0))


NODES = [TestFamily]
