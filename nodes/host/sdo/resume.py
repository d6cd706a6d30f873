"""What cancelled searches had found, until the next run of their node takes it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from comfy_execution.utils import get_executing_context
from torch import Tensor

from .sampler_function import Best, Settings

_KEPT = 4  # nodes


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a search depends on. The host hands a node the same objects again while nothing before it changes.

    ``models``: the models and the objective, which are not kept alive; ``prompts``: conditionings, which are.
    """

    models: tuple[weakref.ref[Any] | None, ...]
    prompts: tuple[Any, ...]
    start: Tensor
    settings: Settings

    @staticmethod
    def of(models: tuple[Any, ...], prompts: tuple[Any, ...], start: Tensor, settings: Settings) -> Inputs:
        """From the node's own inputs, as they came; a model may be None."""
        return Inputs(tuple(m if m is None else weakref.ref(m) for m in models), prompts, start, settings)

    def same_as(self, other: Inputs) -> bool:
        """Whether a search of ``other`` would do the same."""
        return (
            self.settings == other.settings
            and all(_same(a, b) for a, b in zip(self.models, other.models, strict=True))
            and all(a is b for a, b in zip(self.prompts, other.prompts, strict=True))
            and torch.equal(self.start, other.start)
        )


def _same(a: weakref.ref[Any] | None, b: weakref.ref[Any] | None) -> bool:
    return a is b if a is None or b is None else a() is not None and a() is b()


class Left:
    """By node; of the newest few."""

    def __init__(self) -> None:
        self._by_node: dict[str, tuple[Inputs, Best]] = {}

    def put(self, inputs: Inputs, best: Best) -> None:
        """Keep what the executing node's search had found."""
        node = _node()
        self._by_node.pop(node, None)
        self._by_node[node] = inputs, best
        while len(self._by_node) > _KEPT:
            self._by_node.pop(next(iter(self._by_node)))

    def get(self, inputs: Inputs) -> Best | None:
        """What the executing node's last search left, if it was of the same inputs."""
        left = self._by_node.get(_node())
        return left[1] if left is not None and left[0].same_as(inputs) else None

    def forget(self) -> None:
        """What the executing node's last search left."""
        self._by_node.pop(_node(), None)


LEFT = Left()


def _node() -> str:
    context = get_executing_context()
    return "" if context is None else context.node_id
