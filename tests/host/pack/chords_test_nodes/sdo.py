"""Objectives that misbehave, and gradients checked against another implementation."""

import ctypes
import gc
import importlib
import os
import sys
import threading

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io


def _pack(name: str):
    """A module of the pack under test, which the host has loaded under a name of its own."""
    (found,) = [module for key, module in sys.modules.items() if key.endswith(f".{name}")]
    return found


class _OddObjective:
    """An objective of pictures; ``kind`` says how it misbehaves."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._calls = 0

    def bind(self, context):
        def bound(sample):
            self._calls += 1
            values = (sample.pictures - 0.2).square().flatten(1).mean(1)
            if self._kind == "detached":
                return values.detach()
            if self._kind == "one value":
                return values.mean()
            if self._kind == "nan" or (self._kind == "nan later" and self._calls == 5):
                return values * float("nan")
            return values

        return bound


class TestOddObjective(io.ComfyNode):
    """An SDO_OBJECTIVE: dark pictures, or one that misbehaves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        kinds = ["good", "detached", "one value", "nan", "nan later"]
        return io.Schema(
            node_id="TestOddObjective",
            category="tests",
            inputs=[io.Combo.Input("kind", options=kinds)],
            outputs=[io.Custom("SDO_OBJECTIVE").Output()],
        )

    @classmethod
    def execute(cls, kind):
        return io.NodeOutput(_OddObjective(kind))


class _SmallLatent:
    def bind(self, context):
        return lambda sample: sample.latent.square().flatten(1).mean(1)


class TestLatentObjective(io.ComfyNode):
    """An SDO_OBJECTIVE of the latent alone: small values."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [io.Custom("SDO_OBJECTIVE").Output()]
        return io.Schema(node_id="TestLatentObjective", category="tests", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls):
        return io.NodeOutput(_SmallLatent())


class TestGradient(io.ComfyNode):
    """The gradient of a guided evaluation by the pack, and by the demo's own network in plain PyTorch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            io.Model.Input("model"),
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            io.Float.Input("cfg"),
            io.Float.Input("sigma"),
        ]
        return io.Schema(node_id="TestGradient", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, model, positive, negative, cfg, sigma):
        generator = torch.Generator().manual_seed(0)
        x, weight = (torch.randn(1, 16, 16, 16, generator=generator) for _ in range(2))
        ours = _by_the_pack(model, positive, negative, cfg, sigma, x, weight)
        theirs = _by_the_network(positive, negative, cfg, sigma, x, weight)
        return io.NodeOutput(ui={"error": [float((ours - theirs).norm() / theirs.norm())]})


def _by_the_pack(model, positive, negative, cfg, sigma, x, weight):
    autograd, model_call = _pack("nodes.host.sdo.autograd"), _pack("nodes.host.sdo.model_call")
    found = []

    def sampler(wrapped, state, sigmas, extra_args, **_):
        with autograd.differentiable([wrapped.inner_model.inner_model]), torch.enable_grad():
            leaf = x.to(state.device, copy=True).requires_grad_()
            value = (
                model_call.DifferentiableModelCall.of(wrapped, extra_args)(leaf, sigma)
                * weight.to(state.device, copy=True)
            ).sum()
            found.append(torch.autograd.grad(value, leaf)[0].cpu())
        return state

    comfy.sample.sample_custom(
        autograd.plain(model),
        torch.zeros_like(x),
        cfg,
        comfy.samplers.KSAMPLER(sampler),
        torch.tensor([sigma, 0.0]),
        positive,
        negative,
        torch.zeros_like(x),
        disable_pbar=True,
        seed=0,
    )
    return found[0]


def _by_the_network(positive, negative, cfg, sigma, x, weight):
    flow_module = importlib.import_module(".flow", _pack("demo.prompts").__package__)
    demo = _pack("nodes.host.demo")
    with torch.inference_mode(False), torch.enable_grad():
        flow = flow_module.Flow().eval().requires_grad_(False)
        weights = comfy.utils.load_torch_file(str(demo._FLOW))
        flow.load_state_dict({name: value.float() for name, value in weights.items()})
        context = torch.cat((positive[0][0], negative[0][0])).clone()
        leaf = x.clone().requires_grad_()
        wanted, unwanted = flow(leaf.repeat(2, 1, 1, 1), torch.full((2,), sigma), context).chunk(2)
        denoised = leaf - sigma * (unwanted + cfg * (wanted - unwanted))
        return torch.autograd.grad((denoised * weight.clone()).sum(), leaf)[0]


class _PassesAList(torch.nn.Module):
    """Blocks as in a video's VAE: each reads from a list and writes into it."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(_Part() for _ in range(3))

    def forward(self, x, options):
        cache = []
        for number, block in enumerate(self.blocks):
            options["block"] = number
            x = block(x, cache, options)
        return x


class _NotesItsBlock(torch.nn.Module):
    """Blocks that read their own number in shared options, and that write into their input."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(_Part() for _ in range(3))

    def forward(self, x, options):
        for number, block in enumerate(self.blocks):
            options["block"] = number
            x = block(x * 1, None, options)
        return x


class _TensorsInContainers(torch.nn.Module):
    """Blocks whose arguments and results are tensors in dicts and lists."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(_Wrapped() for _ in range(3))

    def forward(self, x, options):
        state = {"x": x}
        for block in self.blocks:
            state = block(state)
        return state["x"]


class _Wrapped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = torch.nn.Linear(8, 8)

    def forward(self, state):
        return {"x": torch.tanh(self.part(state["x"]))}


class _Part(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = torch.nn.Linear(8, 8)

    def forward(self, x, cache, options):
        x += torch.tanh(self.part(x)) * (1 + options["block"])
        if cache is not None:
            x = x + cache.pop(0) if cache else x
            cache.append(x)
        return x


class TestBlocks(io.ComfyNode):
    """Gradients of networks whose blocks share things: by the pack, against plain autograd."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Int.Input("salt")]
        return io.Schema(node_id="TestBlocks", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, salt):
        errors = {kind.__name__: cls._error(kind) for kind in (_PassesAList, _NotesItsBlock, _TensorsInContainers)}
        return io.NodeOutput(ui={"errors": [errors]})

    @classmethod
    def _error(cls, kind):
        torch.manual_seed(0)
        network = kind()  # in inference mode, as the host's loaders make theirs
        weights = list(network.parameters())
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.randn(2, 8)
            plain = kind()
            plain.load_state_dict({name: value.clone() for name, value in network.state_dict().items()})
            leaf = x.clone().requires_grad_()
            # Without writing into inputs, plain autograd is the truth; with it, it must not be a leaf.
            (wanted,) = torch.autograd.grad(_cloning(plain, leaf).square().sum(), leaf)
        with _pack("nodes.host.sdo.autograd").differentiable([network]), torch.enable_grad():
            leaf = x.clone().requires_grad_()
            (found,) = torch.autograd.grad(network(leaf * 1, {}).square().sum(), leaf)
        assert all(a is b for a, b in zip(weights, network.parameters(), strict=True))
        assert not any("forward" in vars(module) for module in network.modules())
        return float((found - wanted).norm() / wanted.norm())


def _cloning(network, leaf):
    """The network's value with everything saved for the backward pass copied, which writing cannot spoil."""
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        return network(leaf * 1, {})


class TestOtherPatch(io.ComfyNode):
    """A MODEL with a post-CFG function that changes what it gives, by ``scale``."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.Float.Input("scale"), io.Boolean.Input("detach", default=False)]
        return io.Schema(node_id="TestOtherPatch", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, scale, detach=False):
        model = model.clone()

        def scaled(args):
            denoised = args["denoised"].detach() if detach else args["denoised"]
            return denoised * scale

        model.set_model_sampler_post_cfg_function(scaled)
        return io.NodeOutput(model)


class TestCancelsStockSampling(io.ComfyNode):
    """A MODEL that cancels the prompt, once, when it is called in inference mode, as stock samplers do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.Int.Input("salt")]
        return io.Schema(
            node_id="TestCancelsStockSampling", category="tests", inputs=inputs, outputs=[io.Model.Output()]
        )

    @classmethod
    def execute(cls, model, salt):
        model = model.clone()
        once = threading.Semaphore(1)  # a list would be state that the pack refuses

        def called(apply_model, args):
            if torch.is_inference_mode_enabled() and once.acquire(blocking=False):
                comfy.model_management.interrupt_current_processing()
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(called)
        return io.NodeOutput(model)


class TestQuantised(io.ComfyNode):
    """A MODEL with an integer weight, as packs for quantised files have them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model")]
        return io.Schema(node_id="TestQuantised", category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model):
        network = model.model.diffusion_model
        network.quantised = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
        return io.NodeOutput(model)


class _Freed:
    """A buffer of the host's streaming: a copy of it would be freed twice."""

    def __deepcopy__(self, memo):
        raise AssertionError("copied")


_OfANewerHost = type("Graph", (_Freed,), {"__module__": "comfy_aimdo.graphs"})
"""An object of the host's library for streaming, in an attribute that ComfyUI 0.30 does not have."""


class TestStreamedCopy(io.ComfyNode):
    """A copy of a network whose weights are streamed: what it has of the streaming, and what the network keeps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="TestStreamedCopy", category="tests", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls):
        network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
        network.dynamic_pins, network[0]._pin_state = {"cuda": _Freed()}, {"weights": _Freed()}
        network[0].graphs_of_a_newer_host = [{"thread": _OfANewerHost()}]
        copied = _pack("nodes.host.sdo.autograd").copied(network)
        same = all(map(torch.equal, copied.parameters(), network.parameters()))
        apart = all(a is not b for a, b in zip(copied.parameters(), network.parameters(), strict=True))
        places = (0, "_pin_state"), (0, "graphs_of_a_newer_host")
        kept = hasattr(network, "dynamic_pins") and all(hasattr(network[at], name) for at, name in places)
        copied_too = hasattr(copied, "dynamic_pins") or any(hasattr(copied[at], name) for at, name in places)
        return io.NodeOutput(ui={"found": [same, apart, kept, copied_too]})


class TestResidentMemory(io.ComfyNode):
    """The memory that the server holds, in bytes, after the allocator has given free pages back (Linux)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Int.Input("salt")]
        return io.Schema(node_id="TestResidentMemory", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, salt):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return io.NodeOutput(ui={"bytes": [pages * os.sysconf("SC_PAGESIZE")]})


NODES = [
    TestResidentMemory,
    TestStreamedCopy,
    TestBlocks,
    TestOtherPatch,
    TestCancelsStockSampling,
    TestQuantised,
    TestOddObjective,
    TestLatentObjective,
    TestGradient,
]
