"""The results of cancelled searches, kept until the next run of their node takes them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from .options import OptimizerOptions
from .sampler_function import SearchResult

_MAX_NODES = 4


@dataclass(frozen=True, eq=False)
class SearchInputs:
    """What a search depends on. The host gives a node the same objects again while nothing before it changes.

    ``models``: weak references to the models and the objective; ``prompts``: conditionings; ``initial``: LATENT
    samples; ``options``: the rest.
    """

    models: tuple[weakref.ref[Any] | None, ...]
    prompts: tuple[Any, ...]
    initial: Tensor
    options: OptimizerOptions

    @staticmethod
    def of(
        models: tuple[Any, ...], prompts: tuple[Any, ...], initial: Tensor, options: OptimizerOptions
    ) -> SearchInputs:
        """From the node's own inputs, as they came; a model may be None."""
        return SearchInputs(tuple(m if m is None else weakref.ref(m) for m in models), prompts, initial, options)

    def same_as(self, other: SearchInputs) -> bool:
        """Whether a search of ``other`` would do the same."""
        return (
            self.options == other.options
            and all(_same(a, b) for a, b in zip(self.models, other.models, strict=True))
            and all(a is b for a, b in zip(self.prompts, other.prompts, strict=True))
            and torch.equal(self.initial, other.initial)
        )


def _same(a: weakref.ref[Any] | None, b: weakref.ref[Any] | None) -> bool:
    return a is b if a is None or b is None else a() is not None and a() is b()


class CancelledSearches:
    """The last cancelled search of each of the newest few nodes."""

    def __init__(self) -> None:
        self._by_node: dict[str, tuple[SearchInputs, SearchResult]] = {}

    def put(self, inputs: SearchInputs, result: SearchResult) -> None:
        """Keep the result of the executing node's cancelled search."""
        node = _executing_node()
        self._by_node.pop(node, None)
        self._by_node[node] = inputs, result
        while len(self._by_node) > _MAX_NODES:
            self._by_node.pop(next(iter(self._by_node)))

    def get(self, inputs: SearchInputs) -> SearchResult | None:
        """The result of the executing node's last cancelled search, if it had the same inputs."""
        kept = self._by_node.get(_executing_node())
        return kept[1] if kept is not None and kept[0].same_as(inputs) else None

    def forget(self) -> None:
        """Drop the executing node's result."""
        self._by_node.pop(_executing_node(), None)


CANCELLED_SEARCHES = CancelledSearches()


def _executing_node() -> str:
    context = get_executing_context()
    return "" if context is None else context.node_id
