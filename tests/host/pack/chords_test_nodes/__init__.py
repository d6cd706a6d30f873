"""Nodes only the live tests load: models that are slow, that fail on a lane, or that cannot be copied.

A lane is known by its thread's name; the host's own thread is not a lane.
"""

import importlib
import random
import sys
import threading
import time

import comfy.clip_vision
import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import torch
from comfy_api.latest import ComfyExtension, io

from . import compat, foreign, gpu, memory, previews, schedules, sdo


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
    """Calls on the lanes of the list raise, from the given call of the lane on; those of ``no_memory`` what the host
    raises when a device has none left."""

    INPUTS = [
        io.String.Input("lanes", default="1"),
        io.Int.Input("from_call", default=0),
        io.String.Input("no_memory", default="", optional=True),
    ]

    @classmethod
    def execute(cls, model, lanes, from_call, no_memory=""):
        model = model.clone()
        failing = {int(lane) for lane in lanes.split(",")}
        calls = dict.fromkeys(failing, 0)

        def failing_there(apply_model, args):
            lane = _lane()
            if lane in failing:
                calls[lane] += 1
                if calls[lane] > from_call:
                    no_room = str(lane) in no_memory.split(",")
                    error = comfy.model_management.OOM_EXCEPTION if no_room else RuntimeError
                    raise error(f"lane {lane} is broken on purpose")
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(failing_there)
        return io.NodeOutput(model)


class _Hang:
    """Calls that hang, the same for all runs."""

    over = threading.Event()

    @staticmethod
    def patience(**seconds):
        """With lanes that do not answer; the sampler's own without arguments."""
        (sampler,) = (module for name, module in sys.modules.items() if name.endswith(".nodes.host.sampling.sampler"))
        sampler.LANE_TIMEOUTS = type(sampler.LANE_TIMEOUTS)(**seconds)


class TestHangingLane(_ModelNode):
    """One call on each lane of the list, after the given number of calls there, hangs until TestHangIsOver runs. Lanes
    have a second to answer, and three the first time."""

    INPUTS = [io.String.Input("lanes", default="1"), io.Int.Input("after_calls", default=0)]

    @classmethod
    def execute(cls, model, lanes, after_calls):
        model = model.clone()
        calls = dict.fromkeys((int(lane) for lane in lanes.split(",")), 0)
        _Hang.over.clear()
        _Hang.patience(floor=1.0, first=3.0)

        def hanging_there(apply_model, args):
            lane = _lane()
            if lane in calls:
                calls[lane] += 1
                if calls[lane] == after_calls + 1:
                    _Hang.over.wait(600)
            return apply_model(args["input"], args["timestep"], **args["c"])

        model.set_model_unet_function_wrapper(hanging_there)
        return io.NodeOutput(model)


class TestHangIsOver(io.ComfyNode):
    """Lets every call go on, waits until the threads of the lanes have ended, and gives the usual patience back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.__name__, category="tests", inputs=[io.Int.Input("salt")], outputs=[], is_output_node=True
        )

    @classmethod
    def execute(cls, salt):
        _Hang.over.set()
        _Hang.patience()
        for thread in threading.enumerate():
            if thread.name.startswith("chords-lane-"):
                thread.join(60)
        names = [thread.name for thread in threading.enumerate()]
        return io.NodeOutput(ui={"threads": names})


class TestNoFactory(_ModelNode):
    """A model of a loader that registered no way to load it again."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.cached_patcher_init = None
        return io.NodeOutput(model)


class _Uncopyable(torch.nn.Module):
    """A part of a network that cannot be copied, such as weights in a format of their own."""

    def __deepcopy__(self, memo):
        raise TypeError("this weight has a format of its own")


class TestUncopyable(_ModelNode):
    """A model that can be neither loaded again nor copied."""

    @classmethod
    def execute(cls, model):
        model = model.clone()
        model.cached_patcher_init = None
        model.model.diffusion_model.uncopyable = _Uncopyable()
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


# Models for objectives: the host's own classes, tiny, with random weights.


def _randomised(network, seed):
    """Every weight random, near what training would leave: activations stay near one."""
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

    ``projection`` scales the part that takes the text into the space of pictures: at 0 it is as in checkpoints of SD1,
    which come without it; -1 turns every embedding round.
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


class TestObjective(io.ComfyNode):
    """Takes an objective and tells its kind."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Custom("SDO_OBJECTIVE").Input("objective")]
        return io.Schema(node_id="TestObjective", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, objective):
        return io.NodeOutput(ui={"kind": [type(objective).__name__]})


class TestSlope(io.ComfyNode):
    """An objective at a latent, and along its gradient there: the slope it should have, and the one measured."""

    STEP = 0.02

    @classmethod
    def define_schema(cls):
        inputs = [io.Custom("SDO_OBJECTIVE").Input("objective"), io.Vae.Input("vae"), io.Latent.Input("latent")]
        return io.Schema(node_id="TestSlope", category="tests", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, objective, vae, latent):
        pack = type(objective).__module__.rpartition(".")[0]  # its name is the path it was loaded from
        models = sys.modules[f"{pack}.context"]
        context = models.ObjectiveContext(objective, vae, latent["samples"].shape)
        comfy.model_management.load_models_gpu(context.patchers)
        bound = objective.bind(context)

        def value(latent):
            return bound(models.DecodedSample(latent, context.decode))

        with sys.modules[f"{pack}.autograd"].differentiable([patcher.model for patcher in context.patchers]):
            here = latent["samples"].clone().requires_grad_()
            values = value(here)
            (gradient,) = torch.autograd.grad(values.sum(), here)
            direction = gradient / gradient.norm()
            with torch.no_grad():
                ahead, behind = (value(here + side * cls.STEP * direction) for side in (1, -1))
        measured = float((ahead - behind).sum()) / (2 * cls.STEP)
        return io.NodeOutput(ui={"values": values.tolist(), "slope": [float(gradient.norm())], "measured": [measured]})


class TestNodes(ComfyExtension):
    async def get_node_list(self):
        return [
            TestRandomDelay,
            TestSleepingModel,
            TestFailingLane,
            TestHangingLane,
            TestHangIsOver,
            TestNoFactory,
            TestUncopyable,
            TestSecondModel,
            TestTensorPatch,
            TestReplacedPart,
            TestReloadSamplers,
            TestWrappedSampler,
            TestThreads,
            TestTinyClipVision,
            TestTinyClip,
            TestImage,
            TestMask,
            TestObjective,
            TestSlope,
            *sdo.NODES,
            *compat.NODES,
            *foreign.NODES,
            *memory.NODES,
            *gpu.NODES,
            *schedules.NODES,
            *previews.NODES,
        ]


async def comfy_entrypoint():
    return TestNodes()
