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
_ACE_15 = {
    "audio_model": "ace1.5",
    "hidden_size": 128,
    "text_hidden_dim": 48,
    "num_dit_layers": 2,
    "num_lyric_layers": 1,
    "num_timbre_layers": 1,
    "num_tokenizer_layers": 1,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "fsq_dim": 128,
    "encoder_hidden_size": 128,
    "encoder_intermediate_size": 128,
    "encoder_num_heads": 4,
}
_MINIMAX_H3 = {
    "image_model": "minimax_h3",
    "hidden_size": 256,
    "num_layers": 1,
    "token_refiner_num_layers": 1,
    "num_attention_heads": 2,
    "ffn_hidden_size": 256,
    "text_dim": 48,
    "time_embed_hidden_size": 128,
    "time_embed_dim": 128,
}
_TRIPO_SPLAT = {
    "image_model": "triposplat",
    "q_token_length": 32,
    "model_channels": 128,
    "cond_channels": 48,
    "num_blocks": 2,
    "num_refiner_blocks": 1,
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
    "MiniMaxH3": ("MiniMaxH3", _MINIMAX_H3, _of("MiniMaxH3"), _TEXT, [[1, 24, 3, 4, 4], [1, 32, 2, 10]]),
    "ACEStep": ("ACEStep", _ACE, _of("ACEStep"), _TEXT, [[1, 8, 16, 24]]),
    "ACEStep15": ("ACEStep15", _ACE_15, _of("ACEStep15"), _TEXT, [[1, 64, 40]]),
    "StableAudio": ("StableAudio", _STABLE_AUDIO, _stable_audio, [11, 768], [[1, 64, 40]]),
    "TripoSplat": ("TripoSplat", _TRIPO_SPLAT, _of("TripoSplat"), _TEXT, [[1, 32, 16], [1, 1, 5]]),
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
    network = model.diffusion_model
    saved = set(network.state_dict())  # which a file would have
    tensors = [*model.named_parameters(), *(item for item in network.named_buffers() if item[0] in saved)]
    with torch.no_grad():
        for weight_name, weight in sorted(tensors):
            if not weight.is_floating_point() or not weight.numel():
                continue
            noise = _random(generator, *weight.shape)
            scale = 0.7 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 0.1
            is_scale = weight.ndim == 1 and "norm" in weight_name and weight_name.endswith(("weight", "gamma"))
            weight.copy_(noise * scale + (1.0 if is_scale else 0.0))
        if kind == "MiniMaxH3":
            network.rope.inv_freq.copy_(torch.logspace(0, -3, 16))
    return model.eval(), [[_random(generator, 1, *text), {"conditioning_lyrics": lyrics_of(kind, generator)}]], shapes


def lyrics_of(kind, generator):
    """Tokens for the first ACE-Step, and embeddings for the second."""
    return _random(generator, 1, 9, 48) if kind == "ACEStep15" else torch.arange(1, 9)[None]


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
