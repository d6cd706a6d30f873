"""Models that cannot be copied, patches that belong to one device, and samplers of other packs."""

import importlib

import comfy.k_diffusion.sampling
import comfy.samplers
import torch
from comfy_api.latest import io

from .base import ModelNode


class TestNoFactory(ModelNode):
    """A model whose loader has registered no function to load it again."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.cached_patcher_init = None
        return io.NodeOutput(model)


class _Uncopyable(torch.nn.Module):
    """A part of a network that cannot be copied, such as weights in a format of their own."""

    def __deepcopy__(self, memo):
        raise TypeError("this weight has a format of its own")


class TestUncopyable(ModelNode):
    """A model that can be neither loaded again nor copied."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.cached_patcher_init = None
        model.model.diffusion_model.uncopyable = _Uncopyable()
        return io.NodeOutput(model)


class _WithModel:
    """A patch with a model of its own."""

    def __init__(self, model):
        self._model = model

    def models(self):
        return [self._model]

    def __call__(self, args):
        return args


class TestSecondModel(ModelNode):
    """A patch with a model of its own."""

    @classmethod
    def execute(cls, model):
        patched = model.clone()
        patched.set_model_patch(_WithModel(model.clone()), "post_input")
        return io.NodeOutput(patched)


class _WithTensor:
    """A patch that holds a tensor and moves it in place."""

    def __init__(self):
        self.scale = torch.ones(1)

    def to(self, device):
        self.scale = self.scale.to(device)
        return self

    def __call__(self, args):
        return args


class TestTensorPatch(ModelNode):
    """A patch with a tensor on one device."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.set_model_patch(_WithTensor(), "post_input")
        return io.NodeOutput(model)


class TestReplacedPart(ModelNode):
    """A method of the loaded network is replaced by a method that is bound to this network."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.add_object_patch("diffusion_model.forward", model.model.diffusion_model.forward)
        return io.NodeOutput(model)


class TestReloadSamplers(ModelNode):
    """Reloads the host's sampler functions, as some packs do."""

    @classmethod
    def execute(cls, model):
        importlib.reload(comfy.k_diffusion.sampling)
        return io.NodeOutput(model)


class TestWrappedSampler(io.ComfyNode):
    """A sampler that calls another sampler with a wrapped model, as detail enhancers do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs, outputs = [io.Sampler.Input("sampler")], [io.Sampler.Output()]
        return io.Schema(node_id="TestWrappedSampler", category="tests", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, sampler):
        def wrapped(model, x, sigmas, **kwargs):
            def slightly_off(x, sigma, **extra_args):
                return model(x, sigma * 0.99, **extra_args)

            slightly_off.inner_model, slightly_off.sigmas = model.inner_model, sigmas
            return sampler.sampler_function(slightly_off, x, sigmas, **kwargs)

        return io.NodeOutput(comfy.samplers.KSAMPLER(wrapped))


NODES = [
    TestNoFactory,
    TestReloadSamplers,
    TestReplacedPart,
    TestSecondModel,
    TestTensorPatch,
    TestUncopyable,
    TestWrappedSampler,
]
