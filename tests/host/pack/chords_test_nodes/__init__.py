"""Nodes only the live tests load: models that are slow, that fail on a lane, or that cannot be copied.

A lane is known by its thread's name; the host's own thread is not a lane.
"""

import importlib
import random
import threading
import time

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
import torch
from comfy_api.latest import ComfyExtension, io


def _lane() -> int | None:
    name = threading.current_thread().name
    return int(name.rsplit("-", 1)[1]) if name.startswith("chords-lane-") else None


class _ModelNode(io.ComfyNode):
    """MODEL in, MODEL out."""

    INPUTS: list[io.Input] = []

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), *cls.INPUTS]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Model.Output()])


class TestRandomDelay(_ModelNode):
    """Every call takes up to 20 ms longer, differently each time."""

    INPUTS = [io.Int.Input("salt", default=0)]

    @classmethod
    def execute(cls, model, salt):
        model = model.clone()
        chance = random.Random(salt)

        def delayed(apply_model, args):
            time.sleep(chance.random() * 0.02)
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(delayed)
        return io.NodeOutput(model)


class TestSleepingModel(_ModelNode):
    """Every call takes the given time and no processor: a stand-in for a model on a device of its own."""

    INPUTS = [io.Float.Input("milliseconds", default=20.0)]

    @classmethod
    def execute(cls, model, milliseconds):
        model = model.clone()

        def asleep(apply_model, args):
            time.sleep(milliseconds / 1000)
            return 0.5 * args["input"]

        model.set_model_unet_function_wrapper(asleep)
        return io.NodeOutput(model)


class TestFailingLane(_ModelNode):
    """Calls on the lanes of the list raise, from the given call of the lane on."""

    INPUTS = [io.String.Input("lanes", default="1"), io.Int.Input("from_call", default=0)]

    @classmethod
    def execute(cls, model, lanes, from_call):
        model = model.clone()
        failing = {int(lane) for lane in lanes.split(",")}
        calls = dict.fromkeys(failing, 0)

        def failing_there(apply_model, args):
            lane = _lane()
            if lane in failing:
                calls[lane] += 1
                if calls[lane] > from_call:
                    raise RuntimeError(f"lane {lane} is broken on purpose")
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(failing_there)
        return io.NodeOutput(model)


class TestNoFactory(_ModelNode):
    """A model of a loader that registered no way to load it again."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.cached_patcher_init = None
        return io.NodeOutput(model)


class _WithModel:
    """A patch of the kind that carries a model of its own."""

    def __init__(self, model):
        self._model = model

    def models(self):
        return [self._model]

    def __call__(self, args):
        return args


class _WithTensor:
    """A patch that holds a tensor and moves it in place."""

    def __init__(self):
        self.scale = torch.ones(1)

    def to(self, device):
        self.scale = self.scale.to(device)
        return self

    def __call__(self, args):
        return args


class TestSecondModel(_ModelNode):
    """A patch with a model of its own."""

    @classmethod
    def execute(cls, model):
        patched = model.clone()
        patched.set_model_patch(_WithModel(model.clone()), "post_input")
        return io.NodeOutput(patched)


class TestTensorPatch(_ModelNode):
    """A patch with a tensor on one device."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.set_model_patch(_WithTensor(), "post_input")
        return io.NodeOutput(model)


class TestReplacedPart(_ModelNode):
    """A method of the loaded network replaced by one bound to it."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.add_object_patch("diffusion_model.forward", model.model.diffusion_model.forward)
        return io.NodeOutput(model)


class TestReloadSamplers(_ModelNode):
    """Reloads the host's sampler functions, as some packs do."""

    @classmethod
    def execute(cls, model):
        importlib.reload(comfy.k_diffusion.sampling)
        return io.NodeOutput(model)


class TestWrappedSampler(io.ComfyNode):
    """A sampler that hands another one a model of its own making, as detail enhancers do."""

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


class TestThreads(io.ComfyNode):
    """What a run might leave behind in the host: threads, their intra-op setting, patchers in use."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestThreads", category="tests", inputs=[io.Int.Input("salt")], outputs=[], is_output_node=True
        )

    @classmethod
    def execute(cls, salt):
        loaded = comfy.model_management.loaded_models()
        in_use = sum(getattr(patcher.model, "current_patcher", None) is not None for patcher in loaded)
        names = [thread.name for thread in threading.enumerate()]
        return io.NodeOutput(ui={"threads": names, "intra_op": [torch.get_num_threads()], "current_patchers": [in_use]})


class TestNodes(ComfyExtension):
    async def get_node_list(self):
        return [
            TestRandomDelay,
            TestSleepingModel,
            TestFailingLane,
            TestNoFactory,
            TestSecondModel,
            TestTensorPatch,
            TestReplacedPart,
            TestReloadSamplers,
            TestWrappedSampler,
            TestThreads,
        ]


async def comfy_entrypoint():
    return TestNodes()
