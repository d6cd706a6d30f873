"""Gradients through the host's models.

The host loads and runs models in inference mode, whose tensors can have no graph, and its networks write into their
inputs to save memory. `differentiable` lends loaded networks weights that can take part in a graph, on the same memory,
and gives them back as they were. Blocks are checkpointed, so that the graph of one evaluation takes the memory of one
block beside the states between the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def plain(patcher: ModelPatcher) -> ModelPatcher:
    """The model with all its weights in the device's memory, as gradients need them: loaded anew where the host
    streams them to the device while the model runs (its dynamic VRAM) and knows how to load it."""
    if patcher.is_dynamic() and patcher.cached_patcher_init is not None:
        return patcher.clone(disable_dynamic=True)
    return patcher


def reason_against(patcher: ModelPatcher) -> str | None:
    """Why no gradient can be taken through this model, as far as shows before it is loaded; None if it can."""
    if patcher.is_dynamic():
        return (
            "its weights are streamed to the device while it runs, and its loader left no way to load it otherwise; "
            "start ComfyUI with --disable-dynamic-vram"
        )
    if any(isinstance(weight, QuantizedTensor) for weight in patcher.model.parameters()):
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
            stack.enter_context(_checkpointed_blocks(network, memory))
        stack.enter_context(_copies_saved(memory))
        yield


def normal(tensor: Tensor) -> Tensor:
    """``tensor`` as one that can be part of a graph, on the same memory."""
    if not tensor.is_inference():
        return tensor
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
    lent: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for slots in _slots(network):
            for name, tensor in slots.items():
                if isinstance(tensor, Tensor):
                    lent.append((slots, name, tensor))
                    alias = normal(tensor.data)
                    weight = isinstance(tensor, nn.Parameter)
                    slots[name] = nn.Parameter(alias, requires_grad=False) if weight else alias
                    memory.add(alias.untyped_storage().data_ptr())
        yield
    finally:
        for slots, name, tensor in lent:
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
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if outermost.inside or not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        names = tuple(kwargs)
        values = (*args, *kwargs.values())
        places = tuple(place for place, value in enumerate(values) if isinstance(value, Tensor))

        def run(*tensors: Tensor) -> Any:
            given = list(values)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor.clone()  # it may be written to
            with outermost():
                return forward(*given[: len(args)], **dict(zip(names, given[len(args) :], strict=True)))

        return _Block.apply(run, memory, *(values[place] for place in places))

    return checkpointed


class _Block(torch.autograd.Function):
    """``run(*tensors)`` without a graph, which the backward pass makes. It returns a tensor, or a tuple of them."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], memory: set[int], *tensors: Tensor) -> Any:
        ctx.run, ctx.memory = run, memory
        ctx.save_for_backward(*tensors)
        return run(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        leaves = [t.detach().requires_grad_(w) for t, w in zip(ctx.saved_tensors, wanted, strict=True)]
        with torch.enable_grad(), _copies_saved(ctx.memory):
            found = ctx.run(*leaves)
            outputs = found if isinstance(found, tuple) else (found,)
            # Of outputs that have a graph, those that the loss depends on.
            pairs = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None and o.requires_grad]
            inputs = [leaf for leaf in leaves if leaf.requires_grad]
            found_gradients = iter(
                torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
                if pairs
                else [None] * len(inputs)
            )
        return (None, None, *(next(found_gradients) if leaf.requires_grad else None for leaf in leaves))
