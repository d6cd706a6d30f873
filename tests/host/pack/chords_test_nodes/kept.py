"""Networks that keep something of a prompt from call to call, in each way that newer families do; compiled models."""

import sys

import torch
from comfy_api.latest import io
from comfy_api.torch_helpers import set_torch_compile_wrapper

from .base import ModelNode, SaltedOutputNode

WIDTH, STEP = 6, 1e-4
COMPILED_CALLS = []
"""For each call of compiled code, whether it was one of the host's, which are in inference mode."""
_COUNTED = "chords_tests"


class _Block(torch.nn.Module):
    """Attends to the prompt. ``by``: where the prompt's keys are kept."""

    def __init__(self, by, number):
        super().__init__()
        self.by, self.number = by, number
        self.key, self.mix = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self._keys, self.scale = None, 1.0

    def keys(self, prompt, network):
        if self.by.startswith("block"):  # keys and values of the prompt, as of the first call
            if self._keys is None:
                self._keys = torch.tanh(self.key(prompt))
            return self._keys
        if self.by == "network, by blocks":  # the first block keeps it for the others, and for all later calls
            if network.shared is None:
                network.shared = torch.tanh(network.blocks[0].key(prompt))
            return network.shared
        return torch.tanh(self.key(prompt))

    def forward(self, x, prompt, network):
        x = x + self.scale * torch.tanh(self.mix(x)) * self.keys(prompt, network[0]).mean(1, keepdim=True)
        return [x] if self.by == "block that returns a list" else x


class _Network(torch.nn.Module):
    """``by``: what is kept between calls. A prompt that is equal by its values is taken as known."""

    def __init__(self, by):
        super().__init__()
        self.by = by
        self.embed = torch.nn.Linear(WIDTH, WIDTH)
        self.blocks = torch.nn.ModuleList(_Block(by, number) for number in range(3))
        self.shared, self._prompt_cache, self.entries_cache = None, None, []
        self.by_prompt = {}
        self.table_cache = torch.linspace(1, 2, WIDTH).double()  # as of angles: not of a prompt

    def embedded(self, prompt):
        if self.by == "attribute":
            if self._prompt_cache is None or not torch.equal(self._prompt_cache[0], prompt):
                self._prompt_cache = prompt.detach().clone(), torch.tanh(self.embed(prompt))
            return self._prompt_cache[1]
        if self.by == "list":
            for entry in self.entries_cache:
                if torch.equal(entry["prompt"], prompt):
                    return entry["embedded"]
            self.entries_cache = [{"prompt": prompt.detach().clone(), "embedded": torch.tanh(self.embed(prompt))}]
            return self.entries_cache[0]["embedded"]
        if self.by == "dictionary":  # changed in place
            name = tuple(prompt.detach().flatten().tolist())
            if name not in self.by_prompt:
                self.by_prompt[name] = torch.tanh(self.embed(prompt))
            return self.by_prompt[name]
        if self.by == "new attribute":
            if not hasattr(self, "kept"):
                self.kept = torch.tanh(self.embed(prompt))
            return self.kept
        return torch.tanh(self.embed(prompt))

    def forward(self, x, prompt):
        prompt = self.embedded(prompt)
        for block in self.blocks:
            if self.by == "no memory: set on parts":
                block.scale = 1.0 + x.shape[0]
            found = block(x, prompt, (self,))
            x = found[0] if isinstance(found, list) else found
        return x * self.table_cache if self.by == "no memory: a table" else x


class _Model(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.diffusion_model = _Network(by)


WAYS = (
    "nothing",
    "attribute",
    "list",
    "dictionary",
    "new attribute",
    "block",
    "network, by blocks",
    "block that returns a list",
)
OTHERS = ("no memory: set on parts", "no memory: a table")
"""Attributes that each call needs: it sets them for its blocks, or they are there from the beginning."""


def kept_of(module):
    """What the module keeps of a prompt: names, and the objects by id."""
    own = {name: value for name, value in vars(module).items() if name not in vars(torch.nn.Module())}
    return {name: len(value) if isinstance(value, dict) else id(value) for name, value in own.items()}


def _module(name):
    (found,) = [module for key, module in sys.modules.items() if key.endswith(f".{name}")]
    return found


class TestKeptPrompt(SaltedOutputNode):
    """The gradient with respect to the prompt by the pack, against finite differences of a network without memory.

    A normal call comes first, in inference mode, and fills the caches. Where a cache is not named as one, it is empty.
    """

    @classmethod
    def execute(cls, salt):
        return io.NodeOutput(ui={"found": [{by: cls._found(by) for by in (*WAYS, *OTHERS)}]})

    @classmethod
    def _found(cls, by):
        torch.manual_seed(0)
        model, plain = _Model(by).double(), _Model(by if by in OTHERS else "nothing").double()
        if by == "network, by blocks":
            for block in plain.diffusion_model.blocks[1:]:
                block.key = plain.diffusion_model.blocks[0].key
        plain.load_state_dict(model.state_dict(), strict=False)
        if by == "network, by blocks":
            plain.diffusion_model.blocks[0].key.load_state_dict(model.diffusion_model.blocks[0].key.state_dict())
        network = model.diffusion_model
        with torch.inference_mode():
            x, prompt = torch.randn(2, WIDTH).double(), torch.randn(2, 3, WIDTH).double()
            if by in ("attribute", "list"):
                network(x, prompt)
        before = [kept_of(module) for module in model.modules()]
        with _module("nodes.host.sdo.autograd").differentiable([model]), torch.enable_grad():
            x, prompt = x.clone(), prompt.clone()
            errors = []
            for prompt_now in (prompt, prompt, prompt + 1):
                leaf = prompt_now.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(network(x, leaf).square().sum(), leaf, allow_unused=True)
                if gradient is None:
                    errors.append(1.0)
                    continue
                direction = gradient / gradient.norm()
                with torch.no_grad():
                    ends = [
                        plain.diffusion_model(x, prompt_now + side * STEP * direction).square().sum()
                        for side in (1, -1)
                    ]
                measured = (ends[0] - ends[1]) / (2 * STEP)
                errors.append(float((gradient.norm() - measured).abs() / measured.abs()))
        # The weights are aliases within, and buffers of the module's own are there before and after.
        same = [kept_of(module) for module in model.modules()] == before
        return {"errors": errors, "same": same}


def _registered():
    """The name of a compiler that counts calls of its code."""
    import torch._dynamo as dynamo

    if _COUNTED not in dynamo.list_backends(exclude_tags=()):
        dynamo.register_backend(_counted_backend, name=_COUNTED)
    return _COUNTED


def _counted_backend(graph, inputs):
    def run(*args):
        COMPILED_CALLS.append(torch.is_inference_mode_enabled())
        return graph.forward(*args)

    return run


class TestCompiled(ModelNode):
    """A compiled MODEL, by the host's own function or by blocks, as packs do. It counts calls of compiled code."""

    INPUTS = [io.String.Input("by"), io.Int.Input("salt", default=0, optional=True)]

    @classmethod
    def execute(cls, model, by, salt=0):
        model = model.clone()
        if by == "host":
            set_torch_compile_wrapper(model, backend=_registered())
        else:
            for number in range(len(model.model.diffusion_model.double_blocks)):
                name = f"diffusion_model.double_blocks.{number}"
                model.add_object_patch(name, torch.compile(model.get_model_object(name), backend=_registered()))
        return io.NodeOutput(model)


class TestCompiledCalls(SaltedOutputNode):
    """The numbers of calls of compiled code by the pack, and by the host; they then restart at zero."""

    @classmethod
    def execute(cls, salt):
        found = [COMPILED_CALLS.count(False), COMPILED_CALLS.count(True)]
        COMPILED_CALLS.clear()
        return io.NodeOutput(ui={"calls": found})


NODES = [TestKeptPrompt, TestCompiled, TestCompiledCalls]
