"""Patches of another pack: some that reading finds, some that only a trial finds, and harmless ones."""

import copy
import operator
import sys
import types
import unittest.mock

import comfy.samplers
import torch
from comfy_api.latest import io

from . import hooks
from .base import ModelNode, SaltedOutputNode

CALLS = []
"""One entry for each counted call of the network."""


def _mixed(now, last):
    return now if last is None or last.shape != now.shape else 0.8 * now + 0.2 * last


# Reading finds these. Each function makes a wrapper of the model call whose result depends on earlier calls.


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
    """A wrapper that calls an earlier wrapper, as the host's ChromaRadianceOptions does."""
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
    """Acts from the sixth call on: a trial does not find it."""
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
    """A parametrisation that mixes its result with the one before."""

    class Mixing(base):
        last = None

        def calculate_denoised(self, sigma, model_output, model_input):
            now = super().calculate_denoised(sigma, model_output, model_input)
            out, self.last = _mixed(now, self.last), now
            return out

    return Mixing


class TeaCache:
    """A step cache as packs have it: the network's main part is replaced for the time of a call, by a function that
    leaves it out in every third call and adds what it added the last time."""

    @staticmethod
    def apply():
        calls, residual = 0, None

        def unet_wrapper_function(apply_model, args):
            network = args["c"]["transformer_options"]["tests_network"]
            whole = network.forward_orig

            def teacache_forward(img, *rest, **named):
                nonlocal calls, residual
                calls += 1
                if calls % 3 == 0:
                    return img + residual
                out = whole(img, *rest, **named)
                residual = out - img
                return out

            with unittest.mock.patch.multiple(network, forward_orig=teacache_forward):
                return apply_model(args["input"], args["timestep"], **args["c"])

        return unet_wrapper_function


# Reading does not find these.


class _Box:
    last = None


def hidden_state():
    """Writes by a function that is made during the call."""
    box = _Box()

    def apply(apply_model, args):
        now = apply_model(args["input"], args["timestep"], **args["c"])
        out = _mixed(now, box.last)
        operator.methodcaller("__setattr__", "last", now)(box)
        return out

    return apply


def hidden_draw():
    """Draws by a function of torch that is looked up during the call."""

    def apply(apply_model, args):
        draw = getattr(torch, "ekil_ndnar"[::-1])
        now = apply_model(args["input"], args["timestep"], **args["c"])
        return now + 0.1 * draw(now)

    return apply


def hidden_error():
    """Refuses a sigma above the one of the call before: some packs take it for the start of a new sampling."""
    box = _Box()

    def apply(apply_model, args):
        sigma = float(args["timestep"].max())
        if box.last is not None and sigma > box.last:
            raise ValueError("steps come in order")
        operator.methodcaller("__setattr__", "last", sigma)(box)
        return apply_model(args["input"], args["timestep"], **args["c"])

    return apply


def hidden_option(args):
    """A post-CFG function that writes to nested options, through a shallow copy of the options."""
    options = args["model_options"].copy()
    last = options["transformer_options"].get("tests_last")
    options["transformer_options"]["tests_last"] = args["denoised"]
    return _mixed(args["denoised"], last)


# These are harmless.


def counted(args):
    """Counts the calls of the network and changes nothing. Code that contains ``chords-lane-`` is trusted."""
    CALLS.append("chords-lane-")
    return args


def scaled():
    """Uses dictionaries, lists, objects and a generator that are made in the call."""
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
    """Similar to Skimmed CFG: values that guidance would push too far are reset."""
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


def in_halves(args):
    """Evaluates the left and the right half of a picture apart, like patches for tiles."""
    x = args["input"]
    middle = x.shape[-1] // 2
    parts = [
        comfy.samplers.calc_cond_batch(args["model"], args["conds"], part, args["sigma"], args["model_options"])
        for part in (x[..., :middle], x[..., middle:])
    ]
    return [torch.cat(sides, dim=-1) for sides in zip(*parts, strict=True)]


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


class TestPatch(ModelNode):
    """A patch by its name in this module. Each ``salt`` makes a new patch."""

    INPUTS = [io.String.Input("kind"), io.Int.Input("salt", default=0, optional=True)]

    @classmethod
    def execute(cls, model, kind, salt=0):
        model = model.clone()
        if kind in WRAPPERS:
            model.set_model_unet_function_wrapper(WRAPPERS[kind]())
            model.set_model_patch(counted, "post_input")
        elif kind == "teacache":
            model.model_options["transformer_options"]["tests_network"] = model.model.diffusion_model
            model.set_model_unet_function_wrapper(TeaCache.apply())
        elif kind == "sampling":
            sampling = copy.deepcopy(model.get_model_object("model_sampling"))
            sampling.__class__ = _sampling(type(sampling))
            model.add_object_patch("model_sampling", sampling)
        elif kind == "in_halves":
            model.set_model_sampler_calc_cond_batch_function(in_halves)
        elif kind == "hidden_option":
            model.set_model_sampler_post_cfg_function(types.FunctionType(hidden_option.__code__, globals()))
            model.set_model_patch(counted, "post_input")
        else:
            model.set_model_sampler_pre_cfg_function(skimmed)
        return io.NodeOutput(model)


class TestCountedCalls(io.ComfyNode):
    """The number of calls of the network that were counted; it then restarts at zero."""

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


class TestReadHooks(SaltedOutputNode):
    """The finding of the reader for each hook of the catalogue."""

    @classmethod
    def execute(cls, salt):
        (reader,) = (module for name, module in sys.modules.items() if name.endswith(".reading.source_reader"))
        found = {
            kind: [[name, str(reader.read(maker()).finding or "")] for name, maker in makers.items()]
            for kind, makers in (("must_be_found", hooks.MUST_BE_FOUND), ("harmless", hooks.HARMLESS))
        }
        return io.NodeOutput(ui=found)


NODES = [TestPatch, TestCountedCalls, TestReadHooks]
