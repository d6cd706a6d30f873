"""ControlNets of the host's classes with random weights, those that packs change, and what a run does with them."""

import copy
import gc
import sys
import threading

import comfy.cldm.cldm
import comfy.controlnet
import comfy.hooks
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.model_management
import comfy.ops
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io

from .base import ModelNode, SaltedOutputNode, lane_number
from .lanes import Hang

_FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 4,
    "context_in_dim": 1024,
    "hidden_size": 256,
    "num_heads": 2,
    "mlp_ratio": 4.0,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": False,
    "txt_ids_dims": [],
}
_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 32,
    "hint_channels": 3,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": True,
    "context_dim": 64,
    "num_heads": 2,
    "use_spatial_transformer": True,
    "legacy": False,
}
_HOW = {"device": "cpu", "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}


def _randomised(network, seed):
    """Random weights that keep activations near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(network.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            scale = 0.7 / max(weight[0].numel(), 1) ** 0.5 if weight.ndim > 1 else 0.1
            ones = weight.ndim == 1 and "norm" in name and name.endswith("weight")
            weight.copy_(noise * scale + (1.0 if ones else 0.0))
    return network.eval()


def _of_latents(channels):
    return comfy.ldm.flux.controlnet.ControlNetFlux(
        latent_input=True, control_latent_channels=channels, **_FLUX, **_HOW
    )


_NETWORKS = {
    "flux": lambda: comfy.ldm.flux.controlnet.ControlNetFlux(mistoline=True, **_FLUX, **_HOW),
    "flux_modes": lambda: comfy.ldm.flux.controlnet.ControlNetFlux(
        latent_input=True, num_union_modes=7, **_FLUX, **_HOW
    ),
    "flux_encoded": lambda: _of_latents(16),
    "flux_inpaint": lambda: _of_latents(17),
    "unet": lambda: comfy.cldm.cldm.ControlNet(**_UNET, **_HOW),
}
_ENCODED = {"compression_ratio": 1, "latent_format": comfy.latent_formats.Flux()}
_OPTIONS = {
    "flux": {"extra_conds": ["y", "guidance"]},
    "flux_modes": {"extra_conds": ["y", "guidance"], **_ENCODED},
    "flux_encoded": {"extra_conds": ["y", "guidance"], **_ENCODED},
    "flux_inpaint": {"extra_conds": ["y", "guidance"], "concat_mask": True, **_ENCODED},
    "unet": {},
}


class _Adapter(torch.nn.Module):
    """A T2I adapter for the blocks of the tiny UNet, which has two levels; the host's have four."""

    unshuffle_amount = 8

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(192, 32, 3, padding=1), torch.nn.Conv2d(32, 64, 3, 2, 1)

    def forward(self, x):
        _Watched.count("adapted")
        fine = torch.nn.functional.silu(self.first(torch.nn.functional.pixel_unshuffle(x, 8)))
        return {"input": [self.second(fine), None, None, fine]}


class OwnControl(comfy.controlnet.ControlNet):
    """A class of a pack, as for weights by step."""


def _of_pack(control, how):
    """The same ControlNet as a pack changes it; the host's nodes apply a copy, which is changed as well."""
    if how in ("class", "method"):
        usual_copy = control.copy
        control.copy = lambda: _changed(usual_copy(), how)
    elif how == "part":
        part = control.control_model.pos_embed_input
        usual = part.forward
        part.forward = lambda x: usual(x)
    elif how == "hooks":
        lora = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("loras", "tiny_lora.safetensors"))
        control.extra_hooks = comfy.hooks.create_hook_lora(lora, 1.0, 1.0)
    return control


def _changed(control, how):
    if how == "class":
        control.__class__ = OwnControl
    else:
        usual = control.get_control
        control.get_control = lambda *args: usual(*args)
    return control


class TestControlNet(io.ComfyNode):
    """A ControlNet, or a T2I adapter, for the demo model or the tiny UNet. ``how``: changed by a pack."""

    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("kind"), io.Int.Input("seed", default=0), io.String.Input("how", default="")]
        inputs += [io.Int.Input("salt", default=0)]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.ControlNet.Output()])

    @classmethod
    def execute(cls, kind, seed, how, salt):
        device = comfy.model_management.get_torch_device()
        if kind == "adapter":
            control = comfy.controlnet.T2IAdapter(_randomised(_Adapter(), seed), 3, 8, "nearest-exact")
        elif kind == "lora":
            control = comfy.controlnet.ControlLora({"lora_controlnet": torch.zeros(1)})
        else:
            network = _randomised(_NETWORKS[kind](), seed)
            control = comfy.controlnet.ControlNet(network, load_device=device, **_OPTIONS[kind])
        return io.NodeOutput(_of_pack(control, how))


def _module(name):
    (found,) = (module for full, module in sys.modules.items() if full.endswith(f".nodes.host.{name}"))
    return found


class _Watched:
    """What ControlNets of the host do, counted: preparations of pictures, and encodings, by the kind of thread."""

    counts: dict[str, int] = {}
    usual_upscale = staticmethod(comfy.utils.common_upscale)

    @classmethod
    def count(cls, what):
        place = "lane" if threading.current_thread().name.startswith("chords-") else "main"
        cls.counts[f"{what} {place}"] = cls.counts.get(f"{what} {place}", 0) + 1

    @classmethod
    def upscale(cls, *args, **kwargs):
        caller = sys._getframe(1).f_code
        if caller.co_name == "get_control":
            cls.count("prepared")
        return cls.usual_upscale(*args, **kwargs)


class TestCountedVae(io.ComfyNode):
    """The same VAE, whose encodings are counted."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Vae.Input("vae")]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls, vae):
        counted = copy.copy(vae)

        def encode(pixels):
            _Watched.count("encoded")
            return vae.encode(pixels)

        counted.encode = encode
        return io.NodeOutput(counted)


class TestWatchControls(SaltedOutputNode):
    """What ControlNets did since the node ran last, and what is left of them. ``left``: instances of lanes, without a
    collection of garbage; ``hints``: host's ControlNets that still have a prepared picture; ``alive``: networks."""

    @classmethod
    def execute(cls, salt):
        comfy.utils.common_upscale = _Watched.upscale
        counts, _Watched.counts = _Watched.counts, {}
        lane_control = _module("devices.controlnets").LaneControl
        left = sum(isinstance(value, lane_control) for value in gc.get_objects())
        gc.collect()
        found = gc.get_objects()
        controls = [value for value in found if isinstance(value, comfy.controlnet.ControlBase)]
        hints = sum(getattr(control, "cond_hint", None) is not None for control in controls)
        kinds = comfy.ldm.flux.controlnet.ControlNetFlux, comfy.cldm.cldm.ControlNet
        alive = sum(isinstance(value, kinds) for value in found)
        return io.NodeOutput(ui={"counts": [counts], "left": [left], "hints": [hints], "alive": [alive]})


class TestFailingControl(ModelNode):
    """The ControlNets of the given lanes raise or cancel the prompt from the given call on, or one call of each hangs
    as with TestHangingLane."""

    INPUTS = [
        io.String.Input("lanes", default="1"),
        io.Int.Input("from_call", default=0),
        io.String.Input("how", default="raise"),
        io.Int.Input("salt", default=0),
    ]

    @classmethod
    def execute(cls, model, lanes, from_call, how, salt):
        lane_control = _module("devices.controlnets").LaneControl
        usual = getattr(lane_control.get_control, "usual", lane_control.get_control)
        failing = {int(lane) for lane in lanes.split(",") if lane}
        calls = dict.fromkeys(failing, 0)
        if how == "hang":
            Hang.begin()

        def get_control(self, *args, **kwargs):
            lane = lane_number()
            if lane in failing:
                calls[lane] += 1
                if how == "hang":
                    if calls[lane] == from_call + 1:
                        Hang.over.wait(600)
                elif calls[lane] > from_call:
                    if how == "cancel":
                        comfy.model_management.interrupt_current_processing()
                        raise comfy.model_management.InterruptProcessingException
                    raise RuntimeError(f"the ControlNet of lane {lane} is broken on purpose")
            return usual(self, *args, **kwargs)

        get_control.usual = usual
        lane_control.get_control = get_control
        return io.NodeOutput(model.clone())


NODES = [TestControlNet, TestCountedVae, TestWatchControls, TestFailingControl]
