"""Gradients through the host's models.

The host loads and runs models in inference mode, whose tensors can have no graph, and its networks write into their
inputs to save memory. `differentiable` gives loaded networks weights that can be part of a graph, on the same memory,
and puts their own weights back afterwards. Blocks are checkpointed (`checkpointing`), which saves memory. What a
network keeps from call to call is forgotten (`call_memory`). Compiled networks run uncompiled.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .call_memory import forgetful
from .checkpointing import Trained, checkpointed_blocks, copies_saved, keeps_state

# Attributes that the host's streaming of weights leaves in a network and its modules. A newer host may have others,
# which hold objects of its library for streaming, or streams and events of a device.
_STREAMING = (
    *("dynamic_pins", "dynamic_vbars", "dynamic_patchers", "comfy_cast_weights"),
    *("_pin_state", "_pins", "_v", "_v_weight", "_v_bias", "_v_signature", "_prefetch"),
)
_STREAMING_LIBRARY = "comfy_aimdo"
_OF_A_DEVICE = frozenset(("Stream", "ExternalStream", "Event", "CUDAGraph"))


def plain(patcher: ModelPatcher) -> ModelPatcher:
    """The model with all its weights in the device's memory, as gradients need them.

    The host may stream weights to the device while the model runs (its dynamic VRAM). Such a model is loaded again
    without that, if its loader can do so. A small network that no loader can load again (CLIP-Vision) is copied.
    """
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
    """A copy of ``network`` in memory, without what the host keeps in it to stream its weights to the device.

    A copy of those buffers would free their memory a second time, and crash.
    """
    kept: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for attributes in map(vars, network.modules()):
            names = [name for name, value in attributes.items() if name in _STREAMING or _is_of_streaming(value)]
            kept += [(attributes, name, attributes.pop(name)) for name in names]
        return copy.deepcopy(network)
    finally:
        for attributes, name, value in kept:
            attributes[name] = value


def _is_of_streaming(value: Any, depth: int = 3) -> bool:
    """Whether an attribute holds an object of the host's library for streaming, or a stream or an event of a device."""
    if isinstance(value, dict | list | tuple | set):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and any(_is_of_streaming(item, depth - 1) for item in tuple(items))
    kind = type(value)
    library = kind.__module__.partition(".")[0]
    return library == _STREAMING_LIBRARY or (library == "torch" and kind.__name__ in _OF_A_DEVICE)


def _cast_to_model_dtype(network: Any) -> None:
    """Give the weights the precision that the network computes in.

    Streamed weights keep the precision of their file until they are used, and the host leaves it so when it then loads
    the model as a whole.
    """
    for module in network.modules() if isinstance(network, nn.Module) else ():
        for name, weight in module.named_parameters(recurse=False):
            dtype = getattr(module, f"{name}_comfy_model_dtype", None)
            if dtype is not None and weight.dtype != dtype and type(weight) is nn.Parameter:
                module._parameters[name] = nn.Parameter(weight.to(dtype), requires_grad=False)


def reason_against(patcher: ModelPatcher) -> str | None:
    """Why no gradient can be taken through this model, as far as can be seen before it is loaded; None if it can."""
    if patcher.is_dynamic():
        return (
            "its weights are streamed to the device while it runs, and its loader offers no other way to load it; "
            "start ComfyUI with --disable-dynamic-vram"
        )
    if not all(type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point() for weight in _weights(patcher)):
        return "its weights are quantised; use a file in fp16, bf16 or plain fp8"
    return None


def reason_against_loaded(patcher: ModelPatcher) -> str | None:
    """The same for a loaded model: weights that did not fit on the device."""
    if patcher.model.model_lowvram:
        return (
            "it does not fit on the device, so parts of it are moved in and out while it runs; use a smaller one, or "
            "close other programs that use the device's memory"
        )
    return None


def _weights(patcher: ModelPatcher) -> Iterator[Tensor]:
    network = patcher.model
    return network.parameters() if isinstance(network, nn.Module) else iter(())


@contextmanager
def differentiable(networks: Iterable[nn.Module], trained: Trained | None = None) -> Iterator[None]:
    """Within, gradients of ``networks`` with respect to their inputs can be taken, and inference mode is off.

    The networks must be loaded already. Their weights stay in the same memory and need no gradient; nothing may write
    into them. ``trained``: parameters outside the networks that calls of their modules use, and whose gradients can be
    taken too.
    """
    trained = trained or {}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(_training_arithmetic())
        stack.enter_context(_uncompiled())
        memory = {tensor.untyped_storage().data_ptr() for tensors in trained.values() for tensor in tensors}
        for network in networks:
            own = getattr(network, "diffusion_model", None)
            kept = stack.enter_context(forgetful(own)) if isinstance(own, nn.Module) else None
            stack.enter_context(_graph_weights(network, memory))
            if not keeps_state(network):
                stack.enter_context(checkpointed_blocks(network, memory, trained, kept))
        stack.enter_context(copies_saved(memory))
        yield


def normal(tensor: Tensor) -> Tensor:
    """``tensor`` as one that can be part of a graph, on the same memory where that is possible."""
    if not tensor.is_inference():
        return tensor
    if tensor.is_conj() or tensor.is_neg():  # a view that reads the memory in another way; an alias would lose that
        return tensor.clone()
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


@contextmanager
def _training_arithmetic() -> Iterator[None]:
    """Switch the host to operations that have a gradient. This is its own switch, for the whole process."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def runs_uncompiled() -> bool:
    """Whether `differentiable` can make compiled networks run as they are without the compiler (torch 2.6 or newer)."""
    return hasattr(torch.compiler, "set_stance")


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Within, compiled functions run uncompiled, in all threads: compiled code has the weights and the mode of earlier
    calls, and would be compiled again for each kind of gradient."""
    if "torch._dynamo" not in sys.modules or not runs_uncompiled():  # nothing is compiled; the import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _graph_weights(network: nn.Module, memory: set[int]) -> Iterator[None]:
    """Within, the network's parameters and other tensors can be part of a graph.

    Their addresses are added to ``memory``.
    """
    replaced: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
    try:
        for slots in _slots(network):
            for name, tensor in slots.items():
                if isinstance(tensor, Tensor):
                    alias = normal(tensor.data)
                    if isinstance(tensor, nn.Parameter):
                        alias = nn.Parameter(alias, requires_grad=False)
                    slots[name] = alias
                    replaced.append((slots, name, tensor, alias))
                    memory.add(alias.untyped_storage().data_ptr())
        yield
    finally:
        for slots, name, tensor, alias in replaced:
            if slots.get(name) is alias:  # else the host has moved the network and put a tensor of its own there
                slots[name] = tensor


def _slots(network: nn.Module) -> Iterator[dict[str, Any]]:
    """Where a network keeps tensors by name: parameters, buffers, plain attributes, and the attributes of its latent
    format (means and deviations of the channels)."""
    for module in network.modules():
        yield from (module._parameters, module._buffers, vars(module))
    if (latent_format := getattr(network, "latent_format", None)) is not None:
        yield vars(latent_format)
