"""Tensors within the host's nested inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with ``function`` applied to every tensor in it. Containers and conditions are rebuilt, everything else
    is shared."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: mapped(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [mapped(item, function) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if hasattr(value, "_copy_with"):  # a comfy.conds condition
        return value._copy_with(mapped(value.cond, function))
    return value
