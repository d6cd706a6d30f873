"""Gradients through the host's models.

The host loads and runs models in inference mode, whose tensors can have no graph, and its networks write into their
inputs to save memory. `differentiable` lends loaded networks weights that can take part in a graph, on the same memory,
and gives them back as they were. Blocks are checkpointed, so that the graph of one evaluation takes the memory of one
block beside the states between the blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

# Attributes that the host's streaming of weights leaves in a network and its modules.
_STREAMING = (
    *("dynamic_pins", "dynamic_vbars", "dynamic_patchers", "comfy_cast_weights"),
    *("_pin_state", "_pins", "_v", "_v_weight", "_v_bias", "_v_signature", "_prefetch"),
)
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def plain(patcher: ModelPatcher) -> ModelPatcher:
    """The model with all its weights in the device's memory, as gradients need them: loaded anew where the host
    streams them to the device while the model runs (its dynamic VRAM) and knows how to load it, or a copy of a small
    network (CLIP-Vision), which no loader knows how to load again."""
    if not patcher.is_dynamic():
        return patcher
    if patcher.cached_patcher_init is not None:
        whole = patcher.clone(disable_dynamic=True)
    elif isinstance(patcher.model, BaseModel):
        return patcher
    else:
        whole = ModelPatcher(copied(patcher.model), patcher.load_device, patcher.offload_device)
    _cast_to_model_dtype(whole.model)
    return whole


def copied(network: nn.Module) -> nn.Module:
    """A copy of ``network`` in memory, without what the host keeps in it to stream its weights to the device: a copy
    of its buffers would free them a second time, and crash."""
    kept: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for attributes in map(vars, network.modules()):
            kept += [(attributes, name, attributes.pop(name)) for name in _STREAMING if name in attributes]
        return copy.deepcopy(network)
    finally:
        for attributes, name, value in kept:
            attributes[name] = value


def _cast_to_model_dtype(network: Any) -> None:
    """Weights in the precision the network computes in: what is streamed stays as it is in the file until it is used,
    and what the host loads whole after that stays so too."""
    for module in network.modules() if isinstance(network, nn.Module) else ():
        for name, weight in module.named_parameters(recurse=False):
            dtype = getattr(module, f"{name}_comfy_model_dtype", None)
            if dtype is not None and weight.dtype != dtype and type(weight) is nn.Parameter:
                module._parameters[name] = nn.Parameter(weight.to(dtype), requires_grad=False)


def reason_against(patcher: ModelPatcher) -> str | None:
    """Why no gradient can be taken through this model, as far as shows before it is loaded; None if it can."""
    if patcher.is_dynamic():
        return (
            "its weights are streamed to the device while it runs, and its loader left no way to load it otherwise; "
            "start ComfyUI with --disable-dynamic-vram"
        )
    if not all(type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point() for weight in _weights(patcher)):
        return "its weights are quantised; take a file in fp16, bf16 or plain fp8"
    return None


def reason_against_loaded(patcher: ModelPatcher) -> str | None:
    """The same for what only loading shows: weights that did not fit on the device."""
    if patcher.model.model_lowvram:
        return (
            "it does not fit on the device, so that parts of it are moved in and out while it runs; take a smaller "
            "one, or close what else uses the device's memory"
        )
    return None


def _weights(patcher: ModelPatcher) -> Iterator[Tensor]:
    network = patcher.model
    return network.parameters() if isinstance(network, nn.Module) else iter(())


@contextmanager
def differentiable(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Within, gradients of ``networks`` with respect to their inputs can be taken, outside inference mode.

    They are to be loaded already. Their weights are the same memory, need no gradient, and are not to be written.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_training_arithmetic())
        memory: set[int] = set()
        for network in networks:
            stack.enter_context(_lent_weights(network, memory))
            if not _remembers(network):
                stack.enter_context(_checkpointed_blocks(network, memory))
        stack.enter_context(_copies_saved(memory))
        yield


def normal(tensor: Tensor) -> Tensor:
    """``tensor`` as one that can be part of a graph, on the same memory."""
    if not tensor.is_inference():
        return tensor
    if tensor.is_conj() or tensor.is_neg():  # views that say how to read the memory, which the alias would not
        return tensor.clone()
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


@contextmanager
def _training_arithmetic() -> Iterator[None]:
    """The host's own way to ask for operations that have a gradient: a switch for the whole process."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


@contextmanager
def _lent_weights(network: nn.Module, memory: set[int]) -> Iterator[None]:
    """Parameters and other tensors that can be part of a graph. ``memory`` gets where they are."""
    lent: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
    try:
        for slots in _slots(network):
            for name, tensor in slots.items():
                if isinstance(tensor, Tensor):
                    alias = normal(tensor.data)
                    if isinstance(tensor, nn.Parameter):
                        alias = nn.Parameter(alias, requires_grad=False)
                    slots[name] = alias
                    lent.append((slots, name, tensor, alias))
                    memory.add(alias.untyped_storage().data_ptr())
        yield
    finally:
        for slots, name, tensor, alias in lent:
            if slots.get(name) is alias:  # else the host has moved the network meanwhile, and put its own there
                slots[name] = tensor


def _slots(network: nn.Module) -> Iterator[dict[str, Any]]:
    """Where a network keeps tensors by name: as parameters, as buffers, as plain attributes, and those of its latents'
    format (means and deviations of the channels)."""
    for module in network.modules():
        yield from (module._parameters, module._buffers, vars(module))
    if (latent_format := getattr(network, "latent_format", None)) is not None:
        yield vars(latent_format)


def _copies_saved(memory: set[int]) -> saved_tensors_hooks:
    """What is saved for the backward pass is copied, for the host's networks overwrite it; their weights are not."""

    def pack(tensor: Tensor) -> Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in memory else tensor.clone()

    return saved_tensors_hooks(pack, lambda tensor: tensor)


def _remembers(network: nn.Module) -> bool:
    """Whether a network keeps something from one frame to the next in its modules, as a video's VAE may."""
    return any(hasattr(module, "temporal_cache_state") for module in network.modules())


@contextmanager
def _checkpointed_blocks(network: nn.Module, memory: set[int]) -> Iterator[None]:
    """Blocks (items of a list of modules) keep their inputs alone, and run a second time in the backward pass."""
    outermost = _Outermost()
    blocks = [block for block in _blocks(network) if "forward" not in vars(block)]
    try:
        for block in blocks:
            block.forward = _checkpointed(block.forward, memory, outermost)
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The items of all lists of modules that have parts and a forward of their own."""
    lists = (module for module in network.modules() if isinstance(module, _CONTAINERS))
    items = (item for container in lists for item in container.children())
    return [item for item in items if not isinstance(item, _CONTAINERS) and any(True for _ in item.children())]


class _Outermost:
    """Whether a checkpointed block is running, whose parts then need no checkpoints of their own."""

    def __init__(self) -> None:
        self.inside = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False


def _checkpointed(forward: Callable[..., Any], memory: set[int], outermost: _Outermost) -> Callable[..., Any]:
    """``forward`` that keeps its arguments and, in the backward pass, runs again on them as they were.

    Only what it can tell apart is checkpointed: tensors, and settings that go with them. Where lists are handed round
    (the caches of a video's VAE) or tensors that take part in the graph are put away in containers, or come back in
    some, ``forward`` keeps its graph.
    """
    plain_calls = False

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        nonlocal plain_calls
        names, values = tuple(kwargs), (*args, *kwargs.values())
        if plain_calls or outermost.inside or not torch.is_grad_enabled() or not all(map(_is_setting, values)):
            return forward(*args, **kwargs)
        places = tuple(place for place, value in enumerate(values) if isinstance(value, Tensor))
        before = _snapshot(values)  # the host notes in its options which block is at work

        def run(*tensors: Tensor, again: bool) -> Any:
            given = list(_snapshot(before) if again else values)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor.clone()  # it may be written to
            with outermost():
                return forward(*given[: len(args)], **dict(zip(names, given[len(args) :], strict=True)))

        try:
            return _Block.apply(run, memory, *(values[place] for place in places))
        except _NoTensors:
            plain_calls = True
            given = _snapshot(before)
            return forward(*given[: len(args)], **dict(zip(names, given[len(args) :], strict=True)))

    return checkpointed


def _is_setting(value: Any) -> bool:
    """Whether an argument is a tensor or holds none that takes part in the graph, and is no list that is written to."""
    return isinstance(value, Tensor) or not (isinstance(value, list) or _holds_graph(value))


def _holds_graph(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, dict):
        return any(map(_holds_graph, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_graph, value))
    return is_dataclass(value) and any(map(_holds_graph, vars(value).values()))


def _snapshot(value: Any) -> Any:
    """``value`` with its containers copied, and what they hold as it is."""
    if isinstance(value, dict):
        return {key: _snapshot(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_snapshot(item) for item in value]
    return tuple(map(_snapshot, value)) if type(value) is tuple else value


class _NoTensors(TypeError):
    """A block returned something else than a tensor or a tuple of tensors and None."""


class _Block(torch.autograd.Function):
    """``run(*tensors)`` without a graph, which the backward pass makes. It returns a tensor, or a tuple of them."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], memory: set[int], *tensors: Tensor) -> Any:
        ctx.run, ctx.memory = run, memory
        ctx.save_for_backward(*tensors)
        found = run(*tensors, again=False)
        parts = found if type(found) is tuple else (found,)
        if not all(part is None or isinstance(part, Tensor) for part in parts):
            raise _NoTensors
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        leaves = [t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad(), _copies_saved(ctx.memory):
            found = ctx.run(*leaves, again=True)
            outputs = found if isinstance(found, tuple) else (found,)
            # Of outputs that have a graph, those that the loss depends on.
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output is not None and output.requires_grad
            ]
            inputs = [leaf for leaf in leaves if leaf.requires_grad]
            found_gradients = iter(
                torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
                if pairs
                else [None] * len(inputs)
            )
        return (None, None, *(next(found_gradients) if leaf.requires_grad else None for leaf in leaves))
