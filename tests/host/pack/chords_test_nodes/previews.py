"""VAEs whose decoding waits or fails, and latents of any type."""

import copy
import sys
import threading

import comfy.conds
import server
import torch
from comfy_api.latest import io

from .base import SaltedOutputNode, wait_for_threads


def _wait_for_pictures(prompt):
    """At its end a run waits for quick pictures as long as a busy machine may stand still. With each prompt, since this
    pack may be loaded before the other one."""
    for name, module in list(sys.modules.items()):
        if name.endswith(".nodes.host.streaming.previews"):
            module._FLUSH_SECONDS = 60.0
    return prompt


if hasattr(server.PromptServer, "instance"):  # a worker of a cluster has none
    server.PromptServer.instance.add_on_prompt_handler(_wait_for_pictures)


class _Held:
    """Decodings that wait, for all runs; ``max_waiting``: the largest number that waited at the same time."""

    over = threading.Event()
    lock = threading.Lock()
    waiting = max_waiting = 0


class TestHeldVae(io.ComfyNode):
    """A VAE whose decoding waits until TestHeldVaesGoOn runs, after the given number of calls."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Vae.Input("vae"), io.Int.Input("after_calls", default=0), io.Int.Input("salt", default=0)]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls, vae, after_calls, salt):
        held, calls = copy.copy(vae), 0
        _Held.over.clear()

        def decode(latent, *arguments, **options):
            nonlocal calls
            calls += 1
            if calls > after_calls:
                with _Held.lock:
                    _Held.waiting += 1
                    _Held.max_waiting = max(_Held.max_waiting, _Held.waiting)
                _Held.over.wait(600)
                with _Held.lock:
                    _Held.waiting -= 1
            return vae.decode(latent, *arguments, **options)

        held.decode = decode
        return io.NodeOutput(held)


class TestHeldVaesGoOn(SaltedOutputNode):
    """Lets every decoding continue, waits until the threads of previews have ended, and returns how many waited at
    once."""

    @classmethod
    def execute(cls, salt):
        _Held.over.set()
        wait_for_threads("chords-preview")
        max_waiting, _Held.max_waiting = _Held.max_waiting, 0
        names = [thread.name for thread in threading.enumerate()]
        return io.NodeOutput(ui={"threads": names, "max_waiting": [max_waiting]})


class TestBrokenVae(io.ComfyNode):
    """A VAE whose decoding fails, or returns something that is not a picture."""

    WAYS = ("raises", "exits", "none", "empty", "six channels")

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Vae.Input("vae"), io.Combo.Input("way", options=list(cls.WAYS))]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls, vae, way):
        broken = copy.copy(vae)

        def decode(latent, *arguments, **options):
            if way == "raises":
                raise RuntimeError("this VAE is broken on purpose")
            if way == "exits":
                raise SystemExit("this VAE exits on purpose")
            images = vae.decode(latent, *arguments, **options)
            return {"none": None, "empty": images[:0], "six channels": torch.cat([images, images], -1)}[way]

        broken.decode = decode
        return io.NodeOutput(broken)


class _LittleMemory:
    """The host's patcher where the device has too little free memory, but weights of other models can be moved."""

    decoded = 0

    def __init__(self, patcher):
        self._patcher = patcher

    def get_free_memory(self, device):
        return float("inf")

    def __getattr__(self, name):
        return getattr(self._patcher, name)


class TestVaeInLittleMemory(io.ComfyNode):
    """A VAE that needs more memory than any device has free, but not more than its patcher says it can have."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [io.Vae.Output()]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=[io.Vae.Input("vae")], outputs=outputs)

    @classmethod
    def execute(cls, vae):
        held = copy.copy(vae)

        def decode(latent, *arguments, **options):
            _LittleMemory.decoded += 1
            return vae.decode(latent, *arguments, **options)

        held.patcher, held.decode = _LittleMemory(vae.patcher), decode
        held.memory_used_decode = lambda *_: 1e30
        return io.NodeOutput(held)


class TestDecodedInLittleMemory(SaltedOutputNode):
    """How many pictures VAEs of TestVaeInLittleMemory have decoded."""

    @classmethod
    def execute(cls, salt):
        return io.NodeOutput(ui={"decoded": [_LittleMemory.decoded]})


class TestSaysItsShapes(io.ComfyNode):
    """A model of TestTwoParts with conditionings that hold the shapes of the parts, as models for video and sound have
    them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        conds = [io.Conditioning.Input("positive"), io.Conditioning.Input("negative")]
        outputs = [io.Model.Output(), io.Conditioning.Output("positive"), io.Conditioning.Output("negative")]
        inputs = [io.Model.Input("model"), *conds]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, model, positive, negative):
        model = model.clone()
        by_part = model.model_options["model_function_wrapper"]
        shapes = comfy.conds.CONDConstant([(1, 16, 16, 16), (1, 16, 8)])

        def without_them(apply_model, args):
            args["c"].pop("latent_shapes")
            return by_part(apply_model, args)

        model.set_model_unet_function_wrapper(without_them)
        conds = (
            [[text, {**more, "model_conds": {"latent_shapes": shapes}}] for text, more in side]
            for side in (positive, negative)
        )
        return io.NodeOutput(model, *conds)


class TestLatentOfType(io.ComfyNode):
    """A LATENT of normal random numbers, of the demo model's shape, in the given precision."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.String.Input("dtype")]
        return io.Schema(node_id=cls.__name__, category="tests", inputs=inputs, outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls, dtype):
        samples = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(5))
        return io.NodeOutput({"samples": samples.to(getattr(torch, dtype))})


class TestShowLatent(io.ComfyNode):
    """Shows a LATENT: type, device, shape and sum of each part, and its keys."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=cls.__name__,
            category="tests",
            inputs=[io.Latent.Input("latent")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, latent):
        samples = latent["samples"]
        parts = samples.unbind() if samples.is_nested else [samples]
        shown = [[str(part.dtype), str(part.device), list(part.shape), float(part.double().sum())] for part in parts]
        return io.NodeOutput(ui={"parts": shown, "keys": sorted(latent)})


NODES = [
    TestHeldVae,
    TestHeldVaesGoOn,
    TestBrokenVae,
    TestVaeInLittleMemory,
    TestDecodedInLittleMemory,
    TestSaysItsShapes,
    TestLatentOfType,
    TestShowLatent,
]
