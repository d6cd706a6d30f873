"""Tiny models of the host's own classes for latents that are no pictures: sound, video with sound, 3D objects."""

import comfy.ldm.audio.embedders
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy_api.latest import io

_LTXAV = {
    "image_model": "ltxav",
    "cross_attention_dim": 128,
    "audio_cross_attention_dim": 64,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "audio_attention_head_dim": 16,
    "audio_num_attention_heads": 4,
    "caption_channels": 48,
    "num_layers": 2,
}
_ACE = {
    "audio_model": "ace",
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "mlp_ratio": 2.0,
    "text_embedding_dim": 48,
    "lyric_encoder_vocab_size": 64,
}
_STABLE_AUDIO = {"audio_model": "dit1.0", "embed_dim": 128, "depth": 2, "num_heads": 2, "project_cond_tokens": True}
_HUNYUAN_3D = {
    "image_model": "hunyuan3d2",
    "context_in_dim": 48,
    "hidden_size": 128,
    "num_heads": 4,
    "depth": 1,
    "depth_single_blocks": 1,
}


def _stable_audio(config):
    embedder = comfy.ldm.audio.embedders.NumberConditioner(768, min_val=0, max_val=512)
    return comfy.model_base.StableAudio1(config, embedder.state_dict(), embedder.state_dict(), device="cpu")


def _of(name):
    return lambda config: getattr(comfy.model_base, name)(config, device="cpu")


def _random(generator, *shape):
    return torch.randn(*shape, generator=generator)


_TEXT = [11, 48]
KINDS = {
    # The class of the configuration, the configuration, the model, the text, and the latent's parts.
    "LTXAV": ("LTXAV", _LTXAV, _of("LTXAV"), [11, 96], [[1, 128, 3, 4, 4], [1, 8, 10, 16]]),
    "ACEStep": ("ACEStep", _ACE, _of("ACEStep"), _TEXT, [[1, 8, 16, 24]]),
    "StableAudio": ("StableAudio", _STABLE_AUDIO, _stable_audio, [11, 768], [[1, 64, 40]]),
    "Hunyuan3D": ("Hunyuan3Dv2", _HUNYUAN_3D, _of("Hunyuan3Dv2"), _TEXT, [[1, 64, 48]]),
}


def model_of(kind):
    """A model with random weights, its prompt, and the shapes of its latent's parts."""
    name, config, make, text, shapes = KINDS[kind]
    config = getattr(comfy.supported_models, name)({**config, "dtype": torch.float32})
    config.set_inference_dtype(torch.float32, None)
    model = make(config)
    for part in ("audio_embeddings_connector", "video_embeddings_connector"):  # large, and for texts only
        if hasattr(model.diffusion_model, part):
            delattr(model.diffusion_model, part)
    if kind == "ACEStep":
        lyrics = model.diffusion_model.lyric_encoder
        lyrics.encoders = lyrics.encoders[:1]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight_name, weight in sorted(model.named_parameters()):
            noise = _random(generator, *weight.shape)
            scale = 0.7 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 0.1
            is_scale = weight.ndim == 1 and "norm" in weight_name and weight_name.endswith(("weight", "gamma"))
            weight.copy_(noise * scale + (1.0 if is_scale else 0.0))
    return model.eval(), [[_random(generator, 1, *text), {"conditioning_lyrics": torch.arange(1, 9)[None]}]], shapes


class TestModelOfKind(io.ComfyNode):
    """A tiny model, its prompt, and the parts of an empty latent for it; the second is empty where there is one."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=cls.__name__,
            category="tests",
            inputs=[io.String.Input("kind")],
            outputs=[io.Model.Output(), io.Conditioning.Output(), io.Latent.Output(), io.Latent.Output("sound")],
        )

    @classmethod
    def execute(cls, kind):
        model, prompt, shapes = model_of(kind)
        device = comfy.model_management.get_torch_device()
        patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
        parts = [{"samples": torch.zeros(shape)} for shape in shapes]
        return io.NodeOutput(patcher, prompt, parts[0], parts[-1])


NODES = [TestModelOfKind]
