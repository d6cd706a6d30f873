"""Objectives that misbehave, and gradients checked against another implementation."""

import importlib
import sys

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io


def _pack(name: str):
    """A module of the pack under test, which the host has loaded under a name of its own."""
    (found,) = [module for key, module in sys.modules.items() if key.endswith(f".{name}")]
    return found


class _Objective:
    """A wish of pictures; ``kind`` says how it misbehaves."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._calls = 0

    def bind(self, studio):
        def look(scene):
            self._calls += 1
            values = (scene.pictures - 0.2).square().flatten(1).mean(1)
            if self._kind == "detached":
                return values.detach()
            if self._kind == "one value":
                return values.mean()
            if self._kind == "nan" or (self._kind == "nan later" and self._calls == 4):
                return values * float("nan")
            return values

        return look


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
        return io.NodeOutput(_Objective(kind))


class _SmallLatent:
    def bind(self, studio):
        return lambda scene: scene.latent.square().flatten(1).mean(1)


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
    gradients, sdo = _pack("host.gradients"), _pack("host.sdo")
    found = []

    def sampler(wrapped, state, sigmas, extra_args, **_):
        with gradients.differentiable([wrapped.inner_model.inner_model]), torch.enable_grad():
            leaf = x.clone().requires_grad_()
            value = (sdo._Call.of(wrapped, extra_args)(leaf, sigma) * weight.clone()).sum()
            found.extend(torch.autograd.grad(value, leaf))
        return state

    comfy.sample.sample_custom(
        model,
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
    demo = _pack("host.demo")
    with torch.inference_mode(False), torch.enable_grad():
        flow = flow_module.Flow().eval().requires_grad_(False)
        weights = comfy.utils.load_torch_file(str(demo._FLOW))
        flow.load_state_dict({name: value.float() for name, value in weights.items()})
        context = torch.cat((positive[0][0], negative[0][0])).clone()
        leaf = x.clone().requires_grad_()
        wanted, unwanted = flow(leaf.repeat(2, 1, 1, 1), torch.full((2,), sigma), context).chunk(2)
        denoised = leaf - sigma * (unwanted + cfg * (wanted - unwanted))
        return torch.autograd.grad((denoised * weight.clone()).sum(), leaf)[0]


NODES = [TestOddObjective, TestLatentObjective, TestGradient]
