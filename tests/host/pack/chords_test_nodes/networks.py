"""Networks that packs change in place, a tiny UNet, and loaders of other packs."""

import types

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy_api.latest import io

from .base import ModelNode
from .patches import scaled


def _blocks(model):
    return model.model.diffusion_model.double_blocks


class TestChangedNetwork(ModelNode):
    """Changes the loaded network itself: ``forward`` of a block, the class of a block, or a weight, which comes with a
    harmless patch. TestRestoredNetwork undoes the change."""

    INPUTS = [io.String.Input("how"), io.Int.Input("salt", default=0, optional=True)]

    @classmethod
    def execute(cls, model, how, salt=0):
        model = model.clone()
        block = _blocks(model)[0]
        if how == "forward":
            original = block.forward

            def forward(*args, **kwargs):
                img, txt = original(*args, **kwargs)
                return img * 1.1, txt

            block.forward = forward
        elif how == "class":
            block.__class__ = type("Louder", (type(block),), {"__module__": __name__})
        else:
            block.img_mlp[0].bias.data.add_(0.3)
            model.set_model_unet_function_wrapper(scaled())
        return io.NodeOutput(model)


class TestRestoredNetwork(ModelNode):
    """Undoes the change of TestChangedNetwork after the latent was sampled."""

    INPUTS = [io.String.Input("how"), io.Latent.Input("latent")]

    @classmethod
    def execute(cls, model, how, latent):
        block = _blocks(model)[0]
        if how == "forward":
            del block.forward
        elif how == "class":
            block.__class__ = type(block).__mro__[1]
        else:
            block.img_mlp[0].bias.data.sub_(0.3)
        return io.NodeOutput(model)


class TestUNet(io.ComfyNode):
    """A tiny UNet of the host's class, with random weights, for patches for UNets. It has no function to load it again:
    some loaders of special weight formats give none."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=cls.__name__,
            category="tests",
            inputs=[io.Int.Input("seed", default=0)],
            outputs=[io.Model.Output(), io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed):
        config = {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "num_res_blocks": [1, 1],
            "channel_mult": [1, 2],
            "transformer_depth": [1, 1],
            "transformer_depth_output": [1, 1, 1, 1],
            "transformer_depth_middle": 1,
            "use_linear_in_transformer": True,
            "context_dim": 64,
            "num_heads": 2,
            "num_head_channels": -1,
            "use_spatial_transformer": True,
            "legacy": False,
            "adm_in_channels": None,
            "use_temporal_attention": False,
            "dtype": torch.float32,
        }
        config = comfy.supported_models.SD15(config)
        config.set_inference_dtype(torch.float32, None)
        model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS, device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in sorted(model.diffusion_model.named_parameters()):
                noise = torch.randn(weight.shape, generator=generator)
                scale = 0.7 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 0.1
                ones = weight.ndim == 1 and "norm" in name and name.endswith("weight")
                weight.copy_(noise * scale + (1.0 if ones else 0.0))
        model.eval()
        device = comfy.model_management.get_torch_device()
        patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))
        prompt = torch.randn(1, 8, 64, generator=generator)
        return io.NodeOutput(patcher, [[prompt, {}]])


class _Linear(torch.nn.Linear):
    """Similar to GGUF: weights in a format of their own, converted in each call."""

    def forward(self, x):
        return _forward(self, x)


def _forward(part, x):
    return torch.nn.functional.linear(x, part.packed.to(x) / 64, part.bias.to(x))


class _Patcher(comfy.model_patcher.ModelPatcher):
    """Loaders of other packs have a patcher of their own."""


class TestOwnLoader(ModelNode):
    """A loader that puts classes of its own into the network, or sets functions on its parts. It has a patcher of its
    own and gives no function to load the model again."""

    INPUTS = [io.String.Input("by"), io.Int.Input("salt", default=0, optional=True)]

    @classmethod
    def execute(cls, model, by, salt=0):
        model = model.clone()
        model.cached_patcher_init = None
        model.__class__ = _Patcher
        for block in _blocks(model):
            linear = block.img_mlp[0]
            part = (_Linear if by == "class" else torch.nn.Linear)(linear.in_features, linear.out_features)
            part.packed = torch.nn.Parameter((linear.weight * 64).round().to(torch.int8), requires_grad=False)
            part.bias, part.weight = torch.nn.Parameter(linear.bias.clone(), requires_grad=False), None
            if by != "class":
                part.forward = types.MethodType(_forward, part)
            block.img_mlp[0] = part
        return io.NodeOutput(model)


NODES = [TestChangedNetwork, TestRestoredNetwork, TestUNet, TestOwnLoader]
