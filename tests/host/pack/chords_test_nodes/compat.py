"""Patches like those of the host's own nodes, in a form that fits the tiny models; and which models are loaded."""

import gc

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.utils
import torch
from comfy.gligen import GatedSelfAttentionDense, Gligen, PositionNet
from comfy.ldm.modules.attention import SpatialTransformer
from comfy_api.latest import io

from .base import ModelNode, SaltedOutputNode


def _blurred(latent: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(latent, 3, stride=1, padding=1)


def _guided_away_from_blur(args, scale: float, strength: torch.Tensor | float) -> torch.Tensor:
    """What SelfAttentionGuidance does: one more call of the model, with a degraded picture."""
    degraded = args["uncond_denoised"] + strength * (_blurred(args["uncond_denoised"]) - args["uncond_denoised"])
    noised = degraded + args["input"] - args["uncond_denoised"]
    (again,) = comfy.samplers.calc_cond_batch(
        args["model"], [args["uncond"]], noised, args["sigma"], args["model_options"]
    )
    return args["denoised"] + (degraded - again) * scale


class TestCallsAgain(ModelNode):
    """A post-CFG function that calls the model once more, with another picture."""

    INPUTS = [io.Float.Input("scale", default=0.5)]

    @classmethod
    def execute(cls, model, scale):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(
            lambda args: _guided_away_from_blur(args, scale, 1.0), disable_cfg1_optimization=True
        )
        return io.NodeOutput(model)


class TestCallsAgainWithRecord(ModelNode):
    """The same, with something recorded during the first call of the model, as in SelfAttentionGuidance."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        recorded = None

        def record(args):
            nonlocal recorded
            recorded = args["img"].std()
            return args

        def post_cfg(args):
            return _guided_away_from_blur(args, 0.5, recorded.clamp(0, 1))

        model.set_model_patch(record, "post_input")
        model.set_model_sampler_post_cfg_function(post_cfg, disable_cfg1_optimization=True)
        return io.NodeOutput(model)


class TestPlaceForGligen(ModelNode):
    """Puts GLIGEN's attention, which is made for the middle of a UNet, at the beginning of a transformer."""

    @classmethod
    def execute(cls, model):
        model = model.clone()

        def as_in_the_middle(args):
            for patch in args["transformer_options"].get("patches", {}).get("middle_patch", []):
                args["img"] = patch(args["img"], {"transformer_index": 0})
            return args

        model.set_model_patch(as_in_the_middle, "post_input")
        return io.NodeOutput(model)


class TestGligenOfUNet(io.ComfyNode):
    """GLIGEN with random weights for the attention blocks of a UNet, with embeddings of 16 values."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs, outputs = [io.Model.Input("model")], [io.Custom("GLIGEN").Output()]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, model):
        parts = model.model.diffusion_model.modules()
        widths = [part.in_channels for part in parts if isinstance(part, SpatialTransformer)]
        blocks = [GatedSelfAttentionDense(width, 16, n_heads=2, d_head=width // 2) for width in widths]
        network = Gligen(blocks, PositionNet(16, 16), 16)
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for name, weight in sorted(network.named_parameters()):
                noise = torch.randn(weight.shape, generator=generator)
                scale = 0.5 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 0.1
                shift = 0.5 if "alpha" in name else float("norm" in name and name.endswith("weight"))
                weight.copy_(noise * scale + shift)
        device = comfy.model_management.get_torch_device()
        return io.NodeOutput(comfy.model_patcher.ModelPatcher(network, device, torch.device("cpu")))


class TestTwoParts(ModelNode):
    """A model for a latent of two parts, which the host samples packed into one tensor. The first part is denoised by
    the given model. The second part has another shape, and becomes the mean of itself and the average of the first."""

    @classmethod
    def execute(cls, model):
        model = model.clone()

        def by_part(apply_model, args):
            batch = args["input"].shape[0]
            shapes = [(batch, 16, 16, 16), (batch, 16, 8)]
            picture, sound = comfy.utils.unpack_latents(args["input"], shapes)
            picture = apply_model(picture, args["timestep"], **args["c"])
            sound = 0.5 * sound + 0.5 * picture.mean((2, 3), keepdim=False)[..., None]
            return comfy.utils.pack_latents([picture, sound])[0]

        model.set_model_unet_function_wrapper(by_part)
        return io.NodeOutput(model)


class TestSoundLatent(io.ComfyNode):
    """An empty LATENT that is not a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id=cls.__name__, category="tests", inputs=[], outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput({"samples": torch.zeros(1, 16, 8)})


class TestEmptyPicture(io.ComfyNode):
    """An empty LATENT of the demo model's own shape: the host does not adapt a latent that is one part of several."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id=cls.__name__, category="tests", inputs=[], outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput({"samples": torch.zeros(1, 16, 16, 16)})


class TestLoadedModels(SaltedOutputNode):
    """The number of models that the host has loaded, and of diffusion models in memory."""

    @classmethod
    def execute(cls, salt):
        gc.collect()
        alive = sum(isinstance(found, comfy.model_base.BaseModel) for found in gc.get_objects())
        return io.NodeOutput(ui={"loaded": [len(comfy.model_management.current_loaded_models)], "alive": [alive]})


NODES = [
    TestCallsAgain,
    TestCallsAgainWithRecord,
    TestPlaceForGligen,
    TestGligenOfUNet,
    TestTwoParts,
    TestEmptyPicture,
    TestSoundLatent,
    TestLoadedModels,
]
