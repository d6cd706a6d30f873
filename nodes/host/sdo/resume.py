"""The results of cancelled runs, kept until the next run of their node takes them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

_MAX_NODES = 4

_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class RunInputs:
    """What a run depends on. The host gives a node the same objects again while nothing before it changes.

    ``models``: weak references to the models and the objective; ``objects``: conditionings and other inputs that are
    compared by identity; ``initial``: LATENT samples; ``options``: the rest, compared by value.
    """

    models: tuple[weakref.ref[Any] | None, ...]
    objects: tuple[Any, ...]
    initial: Tensor
    options: Any

    @staticmethod
    def of(models: tuple[Any, ...], objects: tuple[Any, ...], initial: Tensor, options: Any) -> RunInputs:
        """From the node's own inputs, as they came; a model may be None."""
        return RunInputs(tuple(m if m is None else weakref.ref(m) for m in models), objects, initial, options)

    def same_as(self, other: RunInputs) -> bool:
        """Whether a run of ``other`` would do the same."""
        return (
            self.options == other.options
            and len(self.objects) == len(other.objects)
            and all(_same(a, b) for a, b in zip(self.models, other.models, strict=True))
            and all(a is b for a, b in zip(self.objects, other.objects, strict=True))
            and torch.equal(self.initial, other.initial)
        )


def _same(a: weakref.ref[Any] | None, b: weakref.ref[Any] | None) -> bool:
    return a is b if a is None or b is None else a() is not None and a() is b()


class CancelledRuns(Generic[_Result]):
    """The last cancelled run of each of the newest few nodes of a kind."""

    def __init__(self) -> None:
        self._by_node: dict[str, tuple[RunInputs, _Result]] = {}

    def put(self, inputs: RunInputs, result: _Result) -> None:
        """Keep the result of the executing node's cancelled run."""
        node = _executing_node()
        self._by_node.pop(node, None)
        self._by_node[node] = inputs, result
        while len(self._by_node) > _MAX_NODES:
            self._by_node.pop(next(iter(self._by_node)))

    def get(self, inputs: RunInputs) -> _Result | None:
        """The result of the executing node's last cancelled run, if it had the same inputs."""
        kept = self._by_node.get(_executing_node())
        return kept[1] if kept is not None and kept[0].same_as(inputs) else None

    def forget(self) -> None:
        """Drop the executing node's result."""
        self._by_node.pop(_executing_node(), None)


def _executing_node() -> str:
    context = get_executing_context()
    return "" if context is None else context.node_id
