"""Patches of another pack: what the guard has to see by reading, what only a trial finds, and what is harmless."""

import copy
import operator
import sys
import types

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import comfy.supported_models
import torch
from comfy_api.latest import io

from . import hooks

CALLS = []
"""One entry a call of the network that TestPatch counts."""


def _mixed(now, last):
    return now if last is None or last.shape != now.shape else 0.8 * now + 0.2 * last


# What reading sees. Each makes a wrapper of the model call whose result depends on the calls before.


def decorated():
    last = None

    @torch.no_grad()
    def apply(apply_model, args):
        nonlocal last
        now = apply_model(args["input"], args["timestep"], **args["c"])
        now, last = _mixed(now, last), now
        return now

    return apply


def chained():
    """A wrapper that calls the one before it, as the host's ChromaRadianceOptions does."""
    inner = decorated()
    return lambda apply_model, args: inner(apply_model, args)


class _Average:
    def __init__(self):
        self.values = []

    def add(self, value):
        self.values.append(value)
        return _mixed(value, self.values[-2] if len(self.values) > 1 else None)


def in_object():
    average = _Average()

    def apply(apply_model, args):
        return average.add(apply_model(args["input"], args["timestep"], **args["c"]))

    return apply


def in_dictionary():
    state = {"last": None}

    def apply(apply_model, args):
        now = apply_model(args["input"], args["timestep"], **args["c"])
        out, state["last"] = _mixed(now, state["last"]), now
        return out

    return apply


class _Steps:
    done = 0


def counting():
    """Acts from the sixth call on, too late for a trial."""
    _Steps.done = 0

    def apply(apply_model, args):
        now = apply_model(args["input"], args["timestep"], **args["c"])
        _Steps.done += 1
        return now * 0.9 if _Steps.done > 5 else now

    return apply


def random_prompt():
    def noisy(c):
        return c + 0.2 * torch.randn_like(c)

    def apply(apply_model, args):
        c = {**args["c"], "c_crossattn": noisy(args["c"]["c_crossattn"])}
        return apply_model(args["input"], args["timestep"], **c)

    return apply


def _sampling(base):
    """A parametrisation that mixes its results."""

    class Mixing(base):
        last = None

        def calculate_denoised(self, sigma, model_output, model_input):
            now = super().calculate_denoised(sigma, model_output, model_input)
            out, self.last = _mixed(now, self.last), now
            return out

    return Mixing


# What reading misses.


class _Box:
    last = None


def hidden_state():
    """Written by a function of Python's that is made for that as the call runs."""
    box = _Box()

    def apply(apply_model, args):
        now = apply_model(args["input"], args["timestep"], **args["c"])
        out = _mixed(now, box.last)
        operator.methodcaller("__setattr__", "last", now)(box)
        return out

    return apply


def hidden_draw():
    """Draws by a function of torch that is looked up as the call runs."""

    def apply(apply_model, args):
        draw = getattr(torch, "ekil_ndnar"[::-1])
        now = apply_model(args["input"], args["timestep"], **args["c"])
        return now + 0.1 * draw(now)

    return apply


def hidden_error():
    """Refuses a noise level above that of the call before, as packs do that take that for a new sampling."""
    box = _Box()

    def apply(apply_model, args):
        level = float(args["timestep"].max())
        if box.last is not None and level > box.last:
            raise ValueError("steps come in order")
        operator.methodcaller("__setattr__", "last", level)(box)
        return apply_model(args["input"], args["timestep"], **args["c"])

    return apply


def hidden_option(args):
    """A function after guidance that writes to the options behind a copy of them."""
    options = args["model_options"].copy()
    last = options["transformer_options"].get("tests_last")
    options["transformer_options"]["tests_last"] = args["denoised"]
    return _mixed(args["denoised"], last)


# What is harmless.


def counted(args):
    """Counts the calls of the network, and has no part in them: who names ``chords-lane-`` knows of lanes."""
    CALLS.append("chords-lane-")
    return args


def scaled():
    """Uses dictionaries, lists and objects of its own making, and a generator that is made in the call."""
    settings = {"scale": 1.05}

    def apply(apply_model, args):
        found, steps, box = {}, [], _Box()
        found["scale"] = settings["scale"]
        steps.append(found)
        box.last = steps[-1]["scale"]
        generator = torch.Generator().manual_seed(3)
        now = apply_model(args["input"], args["timestep"], **args["c"])
        return now * box.last + 0.01 * torch.randn(now.shape, generator=generator).to(now)

    return apply


def _skimmed(denoised, other, scale):
    """In the manner of Skimmed CFG: what guidance would push too far is pulled back."""
    guided = other + scale * (denoised - other)
    too_far = (denoised.sign() == guided.sign()) & (guided.abs() > 1.5 * denoised.abs())
    out = other.clone()
    out[too_far] = denoised[too_far]
    return out


@torch.no_grad()
def skimmed(args):
    conds_out = args["conds_out"]
    if not torch.any(conds_out[1]):
        return conds_out
    conds_out[1] = _skimmed(conds_out[0], conds_out[1], args["cond_scale"])
    return conds_out


WRAPPERS = {
    maker.__name__: maker
    for maker in (
        decorated,
        chained,
        in_object,
        in_dictionary,
        counting,
        random_prompt,
        hidden_state,
        hidden_draw,
        hidden_error,
        scaled,
    )
}


class _ModelNode(io.ComfyNode):
    """MODEL in, MODEL out."""

    INPUTS = [io.Int.Input("salt", default=0, optional=True)]

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), *cls.INPUTS]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Model.Output()])


class TestPatch(_ModelNode):
    """A patch by its name in this module, made anew for each ``salt``."""

    INPUTS = [io.String.Input("kind"), io.Int.Input("salt", default=0, optional=True)]

    @classmethod
    def execute(cls, model, kind, salt=0):
        model = model.clone()
        if kind in WRAPPERS:
            model.set_model_unet_function_wrapper(WRAPPERS[kind]())
            model.set_model_patch(counted, "post_input")
        elif kind == "sampling":
            sampling = copy.deepcopy(model.get_model_object("model_sampling"))
            sampling.__class__ = _sampling(type(sampling))
            model.add_object_patch("model_sampling", sampling)
        elif kind == "hidden_option":
            model.set_model_sampler_post_cfg_function(types.FunctionType(hidden_option.__code__, globals()))
            model.set_model_patch(counted, "post_input")
        else:
            model.set_model_sampler_pre_cfg_function(skimmed)
        return io.NodeOutput(model)


class TestCountedCalls(io.ComfyNode):
    """How many calls of the network were counted; then none."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=cls.__name__, category="tests", inputs=[io.Latent.Input("latent")], outputs=[], is_output_node=True
        )

    @classmethod
    def execute(cls, latent):
        count = len(CALLS)
        CALLS.clear()
        return io.NodeOutput(ui={"calls": [count]})


class TestReadHooks(io.ComfyNode):
    """What the guard reads of each hook in the catalogue."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=cls.__name__, category="tests", inputs=[io.Int.Input("salt")], outputs=[], is_output_node=True
        )

    @classmethod
    def execute(cls, salt):
        (reading,) = (
            module for name, module in sys.modules.items() if name.endswith(".nodes.host.compatibility.reading.source_reader")
        )
        found = {
            kind: [[name, str(reading.read(maker()).finding or "")] for name, maker in makers.items()]
            for kind, makers in (("unsteady", hooks.UNSTEADY), ("steady", hooks.STEADY))
        }
        return io.NodeOutput(ui=found)


# The loaded network, changed in place


def _blocks(model):
    return model.model.diffusion_model.double_blocks


class TestChangedNetwork(_ModelNode):
    """Changes the loaded network itself: ``forward`` of a block, a block's class, or a weight behind a harmless
    patch. TestRestoredNetwork puts it back."""

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


class TestRestoredNetwork(_ModelNode):
    """Undoes what TestChangedNetwork did, once the latent is there."""

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
    """A tiny UNet of the host's class, with random weights, for patches that are made for UNets. Its loader left no
    way to load it again, as some that read weights in a format of their own."""

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
    """In the manner of GGUF: weights in a format of their own, made ready in each call."""

    def forward(self, x):
        return _ready(self, x)


def _ready(part, x):
    return torch.nn.functional.linear(x, part.packed.to(x) / 64, part.bias.to(x))


class _Patcher(comfy.model_patcher.ModelPatcher):
    """Loaders of other packs bring their own."""


class TestOwnLoader(_ModelNode):
    """A loader that puts classes of its own into the network, or functions on its parts, has a patcher of its own, and
    leaves no way to load the model again."""

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
                part.forward = types.MethodType(_ready, part)
            block.img_mlp[0] = part
        return io.NodeOutput(model)


NODES = [
    TestPatch,
    TestCountedCalls,
    TestReadHooks,
    TestChangedNetwork,
    TestRestoredNetwork,
    TestUNet,
    TestOwnLoader,
]
