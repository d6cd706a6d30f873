"""Blocks of the host's networks that keep only their inputs, and run a second time in the backward pass.

The graph of one evaluation then takes the memory of one block, beside the states between the blocks. Parameters that
are trained within a block get their gradients too. Blocks before the first of them keep nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..devices.thread_state import end_thread_state
from .call_memory import CallMemory

Trained = Mapping[nn.Module, Sequence[Tensor]]
"""The parameters that are trained, by the module whose calls use them."""

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def copies_saved(memory: set[int]) -> saved_tensors_hooks:
    """Copy what is saved for the backward pass, because the host's networks overwrite it.

    ``memory``: where the networks' weights are; those are not copied.
    """

    def pack(tensor: Tensor) -> Tensor:
        return tensor if tensor.untyped_storage().data_ptr() in memory else tensor.clone()

    return saved_tensors_hooks(pack, lambda tensor: tensor)


def keeps_state(network: nn.Module) -> bool:
    """Whether the network's modules keep something from one frame to the next, as the VAE of a video may."""
    return any(hasattr(module, "temporal_cache_state") for module in network.modules())


@contextmanager
def checkpointed_blocks(
    network: nn.Module, memory: set[int], trained: Trained, kept: CallMemory | None = None
) -> Iterator[None]:
    """Within, the blocks of ``network`` (the items of its lists of modules) are checkpointed.

    ``memory``: as in `copies_saved`; ``kept``: what the network keeps from call to call.
    """
    outermost = _Outermost()
    blocks = [block for block in _blocks(network) if "forward" not in vars(block)]
    try:
        for block in blocks:
            parameters = [parameter for module in block.modules() for parameter in trained.get(module, ())]
            block.forward = _checkpointed(block.forward, memory, outermost, parameters, kept)
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The items of all lists of modules that have parts and a forward of their own."""
    lists = (module for module in network.modules() if isinstance(module, _CONTAINERS))
    items = (item for container in lists for item in container.children())
    blocks = (getattr(item, "_orig_mod", item) for item in items)  # that of a compiled block
    return [item for item in blocks if not isinstance(item, _CONTAINERS) and any(True for _ in item.children())]


class _Outermost:
    """Whether a checkpointed block is running. Its parts need no checkpoints of their own then."""

    def __init__(self) -> None:
        self.inside = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self.inside = True
        try:
            yield
        finally:
            self.inside = False


def _checkpointed(
    forward: Callable[..., Any],
    memory: set[int],
    outermost: _Outermost,
    parameters: Sequence[Tensor],
    kept: CallMemory | None,
) -> Callable[..., Any]:
    """``forward`` that keeps its arguments, and runs again on them in the backward pass.

    Only calls whose arguments can be told apart are checkpointed: tensors, and settings that go with them. ``forward``
    keeps its graph where lists are passed from block to block (the caches of a video's VAE), and where tensors that
    take part in the graph are in containers, as arguments or as results. ``parameters``: that are trained within.
    """
    plain_calls = False

    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        nonlocal plain_calls
        names, values = tuple(kwargs), (*args, *kwargs.values())
        if plain_calls or outermost.inside or not torch.is_grad_enabled() or not all(map(_is_setting, values)):
            return forward(*args, **kwargs)
        places = tuple(place for place, value in enumerate(values) if isinstance(value, Tensor))
        found = {} if kept is None else kept.before_block()
        before = _snapshot(values)  # the host writes into its options which block is running

        def call(given: list[Any]) -> Any:
            return forward(*given[: len(args)], **dict(zip(names, given[len(args) :], strict=True)))

        def run(*tensors: Tensor, again: bool) -> Any:
            given = list(_snapshot(before) if again else values)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor.clone()  # the block may write into it
            # A second run must not find what blocks have kept in the first one, which has no graph, nor leave anything.
            as_before = kept.as_before_block(found) if again and kept is not None else nullcontext()
            with outermost(), as_before:
                result = call(given)
            if not again and kept is not None:
                kept.after_block(found)
            return result

        try:
            return _Block.apply(run, memory, len(places), *(values[place] for place in places), *parameters)
        except _NoTensors:
            plain_calls = True
            if kept is not None:
                kept.undo_block(found)
            return call(list(_snapshot(before)))

    return checkpointed


def _is_setting(value: Any) -> bool:
    """Whether an argument is a tensor, or holds no tensor of the graph and is no list that a block may write into."""
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
    """``value`` with its containers copied; what they hold is the same."""
    if isinstance(value, dict):
        return {key: _snapshot(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_snapshot(item) for item in value]
    return tuple(map(_snapshot, value)) if type(value) is tuple else value


@contextmanager
def _ended_in_other_threads(own: int) -> Iterator[None]:
    """Leave nothing of the host's in another thread than ``own``: on a GPU the backward pass runs in threads of torch,
    which live on."""
    try:
        yield
    finally:
        if threading.get_ident() != own:
            end_thread_state()


class _NoTensors(TypeError):
    """A block returned something else than a tensor, or a tuple of tensors and None."""


class _Block(torch.autograd.Function):
    """``run(*tensors)`` without a graph; the backward pass makes the graph. It returns a tensor or a tuple of them.

    ``values``: ``count`` tensors that are the arguments of ``run``, then the parameters that ``run`` uses. The
    parameters must not change before the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Any], memory: set[int], count: int, *values: Tensor) -> Any:
        ctx.run, ctx.memory, ctx.parameters, ctx.thread = run, memory, values[count:], threading.get_ident()
        ctx.save_for_backward(*values[:count])
        found = run(*values[:count], again=False)
        parts = found if type(found) is tuple else (found,)
        if not all(part is None or isinstance(part, Tensor) for part in parts):
            raise _NoTensors
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        needed, tensors = ctx.needs_input_grad[3:], ctx.saved_tensors
        copies = [t.detach().requires_grad_(needs) for t, needs in zip(tensors, needed, strict=False)]
        with torch.enable_grad(), copies_saved(ctx.memory), _ended_in_other_threads(ctx.thread):
            found = ctx.run(*copies, again=True)
            outputs = found if isinstance(found, tuple) else (found,)
            # The outputs that have a graph and that the loss depends on.
            pairs = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output is not None and output.requires_grad
            ]
            leaves = [leaf for leaf, needs in zip((*copies, *ctx.parameters), needed, strict=True) if needs]
            found_gradients = iter(
                torch.autograd.grad([o for o, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True)
                if pairs
                else [None] * len(leaves)
            )
        return (None, None, None, *(next(found_gradients) if needs else None for needs in needed))
