"""What a network keeps from one call to the next: it is forgotten while gradients are taken.

Networks of newer families compute some things once and keep them in attributes: the keys and values of a prompt, or the
embeddings of a reference picture. A kept value has no graph, or the graph of an earlier call, so that the gradient with
respect to the prompt would be missing or wrong. A LoRA that is being trained would have no effect on a kept value.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn

from ..compatibility.trial.saved_options import SavedOptions

_OF_EACH_MODULE = frozenset(vars(nn.Module()))
_CACHE = "cache"  # in the names of attributes
_MISSING = object()


class CallMemory:
    """The attributes of a network's modules, apart from weights and hooks."""

    def __init__(self, network: nn.Module) -> None:
        self._modules = [vars(module) for module in network.modules()]
        self._written: dict[int, dict[str, Any]] = {}

    @contextmanager
    def forgotten(self, only_written: bool = False) -> Iterator[None]:
        """Afterwards, the attributes are what they were.

        ``only_written``: look only at modules to which an earlier call has written. This is faster.
        """
        modules = list(self._written.values()) if only_written else self._modules
        before = [_own(attributes) for attributes in modules]
        containers = SavedOptions.of(*before)
        try:
            yield
        finally:
            for attributes, own in zip(modules, before, strict=True):
                if _restore(attributes, own):
                    self._written[id(attributes)] = attributes
            if containers.changed():
                self._written = {id(attributes): attributes for attributes in self._modules}
            containers.restore()

    @contextmanager
    def without_caches(self) -> Iterator[None]:
        """Within, attributes that are named as caches and hold tensors are empty. Afterwards they are as before."""
        kept = [
            (attributes, name, value)
            for attributes in self._modules
            for name, value in _own(attributes).items()
            if _CACHE in name.lower() and _holds_tensors(value)
        ]
        try:
            for attributes, name, value in kept:
                attributes[name] = type(value)() if type(value) in (dict, list, set) else None
            yield
        finally:
            for attributes, name, value in kept:
                attributes[name] = value


@contextmanager
def forgetful(network: nn.Module) -> Iterator[CallMemory]:
    """Within, each call of ``network`` finds it as if there had been no call before."""
    memory = CallMemory(network)
    attributes = vars(network)
    before, forward = attributes.get("forward", _MISSING), network.forward

    def called(*args: Any, **kwargs: Any) -> Any:
        with memory.forgotten():
            return forward(*args, **kwargs)

    with memory.without_caches():
        attributes["forward"] = called
        try:
            yield memory
        finally:
            if before is _MISSING:
                attributes.pop("forward", None)
            else:
                attributes["forward"] = before


def _own(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name not in _OF_EACH_MODULE and name != "forward"}


def _restore(attributes: dict[str, Any], own: dict[str, Any]) -> bool:
    """Give a module its attributes back; returns whether they had changed."""
    added = [name for name in _own(attributes) if name not in own]
    changed = [name for name, value in own.items() if attributes.get(name, _MISSING) is not value]
    for name in added:
        del attributes[name]
    attributes.update((name, own[name]) for name in changed)
    return bool(added or changed)


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter)
    if isinstance(value, dict):
        return any(map(_holds_tensors, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(_holds_tensors, value))
    return is_dataclass(value) and any(map(_holds_tensors, vars(value).values()))
