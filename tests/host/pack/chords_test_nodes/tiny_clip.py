"""Tiny CLIP models of the host's classes with random weights, and pictures and masks for them."""

import comfy.clip_vision
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import torch
from comfy_api.latest import io


def _randomised(network, seed):
    """Give every weight a random value of the size that training would give: activations stay near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(network.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            scale = 1 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 and "embedding" not in name else 0.1
            ones = weight.ndim == 1 and "norm" in name and name.endswith("weight")
            weight.copy_(noise * scale + (1.0 if ones else 0.0))


class TestTinyClipVision(io.ComfyNode):
    """A CLIP-Vision model of 32x32 pixels in patches of 8, two layers deep, with embeddings of ``width`` values."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestTinyClipVision",
            category="tests",
            inputs=[io.Int.Input("width", default=16), io.Int.Input("seed", default=0)],
            outputs=[io.ClipVision.Output()],
        )

    @classmethod
    def execute(cls, width, seed):
        config = {
            "model_type": "clip_vision_model",
            "image_size": 32,
            "patch_size": 8,
            "num_channels": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "hidden_act": "quick_gelu",
            "projection_dim": width,
        }
        model = comfy.clip_vision.ClipVisionModel(config)
        _randomised(model.model, seed)
        return io.NodeOutput(model)


class TestTinyClip(io.ComfyNode):
    """A CLIP of three layers: SD1's class with embeddings of ``width`` values, or SDXL's with ``width`` and
    ``width_g``.

    ``projection`` scales the projection of the text into the space of pictures: with 0 it is as in checkpoints of SD1,
    which have none; with -1 every embedding changes its sign.
    """

    @classmethod
    def define_schema(cls):
        inputs = [
            io.Int.Input("width", default=16),
            io.Int.Input("width_g", default=0),
            io.Float.Input("projection", default=1.0),
            io.Int.Input("seed", default=0),
        ]
        return io.Schema(node_id="TestTinyClip", category="tests", inputs=inputs, outputs=[io.Clip.Output()])

    @classmethod
    def execute(cls, width, width_g, projection, seed):
        small = {"intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
        options = {
            "clip_l_model_config": {**small, "hidden_size": width},
            "clip_g_model_config": {**small, "hidden_size": width_g},
        }
        sdxl = (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
        classes = sdxl if width_g else (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
        clip = comfy.sd.CLIP(comfy.supported_models_base.ClipTarget(*classes), model_options=options)
        _randomised(clip.cond_stage_model, seed)
        with torch.no_grad():
            clip.cond_stage_model.clip_l.transformer.text_projection.weight.mul_(projection)
        return io.NodeOutput(clip)


class TestImage(io.ComfyNode):
    """A picture of one colour with a brighter half, or, with ``broken``, one with a NaN."""

    @classmethod
    def define_schema(cls):
        inputs = [
            io.Float.Input("red", default=0.5),
            io.Float.Input("green", default=0.5),
            io.Float.Input("blue", default=0.5),
            io.Boolean.Input("broken", default=False),
        ]
        return io.Schema(node_id="TestImage", category="tests", inputs=inputs, outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, red, green, blue, broken):
        image = torch.tensor([red, green, blue]).repeat(1, 64, 64, 1)
        image[:, :, 32:] = 0.5 + image[:, :, 32:] / 2
        if broken:
            image[0, 0, 0, 0] = float("nan")
        return io.NodeOutput(image)


class TestMask(io.ComfyNode):
    """A mask with ``value`` in the left half and 0 in the right one."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Float.Input("value", default=1.0)]
        return io.Schema(node_id="TestMask", category="tests", inputs=inputs, outputs=[io.Mask.Output()])

    @classmethod
    def execute(cls, value):
        mask = torch.zeros(1, 64, 64)
        mask[:, :, :32] = value
        return io.NodeOutput(mask)


NODES = [TestTinyClipVision, TestTinyClip, TestImage, TestMask]
