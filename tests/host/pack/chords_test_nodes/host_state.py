"""Stand-ins for what newer hosts do: attributes that a run sets on the model, and state that they keep by thread."""

import functools
import importlib
import threading

import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.samplers import CFGGuider
from comfy_api.latest import io

from .base import ModelNode, SaltedOutputNode, lane_number, wait_for_threads

_SHIFT = torch.tensor([0.25])


class _Plan:
    """What a host may keep for a run, and a copy of the model cannot be given."""

    loudness = 1.5


class TwoPartModel(comfy.model_base.Flux):
    """A model of picture and sound. It finds out about the run by attributes of itself and of its network, which the
    host sets; without them its calls give another result."""

    latent_shapes = None
    run_plan = None
    shift: dict | None = None

    def apply_model(self, x, t, *args, **conds):
        if self.latent_shapes is None:
            return 0.5 * x
        picture, sound = comfy.utils.unpack_latents(x, self.latent_shapes)
        picture = super().apply_model(picture, t, *args, **conds) * getattr(self.diffusion_model, "run_scale", 1.0)
        sound = 0.5 * sound + 0.5 * picture.mean((2, 3))[..., None]
        if self.shift is not None:
            sound = sound + self.shift["by"].to(sound)
        if self.run_plan is not None:
            sound = sound * self.run_plan.loudness
        return comfy.utils.pack_latents([picture, sound])[0]


def two_part_model(path):
    """A loader, as `ModelPatcher.cached_patcher_init` names it."""
    patcher = comfy.sd.load_diffusion_model(path)
    patcher.model.__class__ = TwoPartModel
    patcher.cached_patcher_init = (two_part_model, (path,))
    return patcher


class TestTwoPartModel(io.ComfyNode):
    """Loads a `TwoPartModel`. ``reload``: whether it can be loaded again; else its copies are made in memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.String.Input("name"), io.Boolean.Input("reload", default=True, optional=True)]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, name, reload=True):
        patcher = two_part_model(folder_paths.get_full_path_or_raise("diffusion_models", name))
        if not reload:
            patcher.cached_patcher_init = None
        return io.NodeOutput(patcher)


class TestSetsAttributes(SaltedOutputNode):
    """From now on the host sets attributes on the model for each run. ``what``: "values", "object", or "nothing"."""

    original = CFGGuider.inner_sample

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = super().define_schema()
        schema.inputs = [*schema.inputs, io.String.Input("what")]
        return schema

    @classmethod
    def execute(cls, salt, what):
        original = TestSetsAttributes.original

        def inner_sample(guider, *args, latent_shapes=None, **kwargs):
            model = guider.inner_model
            model.latent_shapes = latent_shapes
            model.shift = {"by": _SHIFT.clone() * len(latent_shapes[0])}
            model.diffusion_model.run_scale = 1.25
            if what == "object":
                model.run_plan = _Plan()
            try:
                return original(guider, *args, latent_shapes=latent_shapes, **kwargs)
            finally:
                for part, name in ((model, "shift"), (model, "run_plan"), (model.diffusion_model, "run_scale")):
                    vars(part).pop(name, None)  # the shapes stay until the next run

        CFGGuider.inner_sample = original if what == "nothing" else inner_sample
        return io.NodeOutput(ui={"what": [what]})


class _ByThread:
    """What the host keeps for each thread that calls a model: a graph of allocations, and queues of weights.

    ``made``: the kinds of threads that have made one. ``wrong``: threads that found what belongs to a dead one.
    """

    lock = threading.Lock()
    graphs: dict[int, threading.Thread] = {}
    queues: dict[int, threading.Thread] = {}
    made: set[str] = set()
    wrong: list[str] = []
    originals: dict = {}

    @classmethod
    def make(cls, kind):
        """As a call of a model does."""
        thread = threading.current_thread()
        with cls.lock:
            cls.made.add(kind)
            for kept in (cls.graphs, cls.queues):
                if kept.setdefault(threading.get_ident(), thread) is not thread:
                    cls.wrong.append(thread.name)

    @classmethod
    def left(cls):
        """The names of threads that have something and are not the host's own, which calls the nodes."""
        with cls.lock:
            kept = [*cls.graphs.values(), *cls.queues.values()]
        return sorted(thread.name for thread in kept if thread is not threading.current_thread())


class TestKeepsByThread(SaltedOutputNode):
    """With ``on``, the host keeps state by thread from now on. Without, it is as before, and the node returns what was
    kept, by which threads it was made, and which found that of a dead thread."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        schema = super().define_schema()
        schema.inputs = [*schema.inputs, io.Boolean.Input("on")]
        return schema

    @classmethod
    def execute(cls, salt, on):
        prefetch = importlib.import_module("comfy.model_prefetch")  # which older hosts do not have
        model, vae = comfy.model_base.BaseModel, comfy.sd.VAE
        if on:
            _ByThread.originals = {
                (prefetch, "PREFETCH_QUEUES"): prefetch.PREFETCH_QUEUES,
                (prefetch, "cleanup_prefetch_queues"): prefetch.cleanup_prefetch_queues,
                (model, "apply_model"): model.apply_model,
                (vae, "decode"): vae.decode,
            }
            prefetch.PREFETCH_QUEUES = _ByThread.queues
            prefetch.cleanup_prefetch_queues = lambda: _ByThread.queues.pop(threading.get_ident(), None)
            prefetch.cleanup_malloc_graph = lambda: _ByThread.graphs.pop(threading.get_ident(), None)
            # No functions: those of a pack on a class of the host would be read.
            model.apply_model = functools.partialmethod(_making, model.apply_model)
            vae.decode = functools.partialmethod(_making, vae.decode)
            return io.NodeOutput()
        for (owner, name), original in _ByThread.originals.items():
            setattr(owner, name, original)
        vars(prefetch).pop("cleanup_malloc_graph", None)
        wait_for_threads("chords-")
        found = {"left": _ByThread.left(), "made": sorted(_ByThread.made), "wrong": _ByThread.wrong}
        for kept in (_ByThread.graphs, _ByThread.queues, _ByThread.made):
            kept.clear()
        _ByThread.wrong, _ByThread.originals = [], {}
        return io.NodeOutput(ui=found)


def _making(owner, original, *args, **kwargs):
    name = threading.current_thread().name
    _ByThread.make("lane" if name.startswith("chords-lane-") else name.strip("0123456789 -"))
    return original(owner, *args, **kwargs)


class TestEndsBadly(ModelNode):
    """The third call on a lane is the last one of the run: it fails on every lane, or the prompt is cancelled."""

    INPUTS = [io.String.Input("how"), io.Int.Input("salt")]

    @classmethod
    def execute(cls, model, how, salt):
        model = model.clone()
        calls = 0

        def ends(apply_model, args):
            nonlocal calls
            result = apply_model(args["input"], args["timestep"], **args["c"])
            calls += lane_number() is not None
            if calls >= 3 and how == "cancel":
                comfy.model_management.interrupt_current_processing()
            elif calls >= 3:
                raise RuntimeError("broken on purpose")
            return result

        model.set_model_unet_function_wrapper(ends)
        return io.NodeOutput(model)


NODES = [TestTwoPartModel, TestSetsAttributes, TestKeepsByThread, TestEndsBadly]
