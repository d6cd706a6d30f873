"""What a network keeps from one call to the next: it is forgotten while gradients are taken.

Networks of newer families compute some things once and keep them in attributes: the keys and values of a prompt, or the
embeddings of a reference picture. A kept value has no graph, or the graph of an earlier call, so that the gradient with
respect to the prompt would be missing or wrong. A LoRA that is being trained would have no effect on a kept value.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn

from ..compatibility.reading.function_source import syntax_of
from ..compatibility.trial.saved_options import SavedOptions

_OF_EACH_MODULE = frozenset(vars(nn.Module()))
_CACHE = "cache"  # in the names of attributes
_MISSING = object()
_EMPTY = ("dict", "list", "set", "tuple", "OrderedDict", "defaultdict")

Changes = dict[tuple[int, str], tuple[dict[str, Any], Any]]
"""Attributes that have another value than before a call: by the id of the attributes of a module, and by name."""


class CallMemory:
    """The attributes of a network's modules, apart from weights and hooks."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._modules = [vars(module) for module in network.modules()]
        self._written: dict[int, dict[str, Any]] = {}
        self._fills_containers, self._was_called = False, False
        self._before: dict[int, dict[str, Any]] = {}  # of the call that is running
        self._by_blocks: dict[tuple[int, str], Any] = {}  # what blocks have written in it

    @contextmanager
    def forgotten_after_call(self) -> Iterator[None]:
        """Around a call of the network: afterwards, the attributes are what they were."""
        try:
            with self._forgotten(self._modules) as before:
                self._before = before
                yield
        finally:
            self._before, self._by_blocks, self._was_called = {}, {}, True

    @contextmanager
    def as_before_block(self, given: Changes) -> Iterator[None]:
        """Around the second run of a block: it finds what its first run found, without what blocks had kept.

        ``given``: the result of `before_block`.
        """
        with self._forgotten(self._modules if self._fills_containers else self._written.values()):
            for (_, name), (attributes, value) in given.items():
                attributes[name] = value
            yield

    def before_block(self) -> Changes:
        """What the network has written in the running call, except what its blocks have: they may read it."""
        return {key: change for key, change in self._changes() if self._by_blocks.get(key, _MISSING) is not change[1]}

    def after_block(self, given: Changes) -> None:
        """Note what the block has written whose `before_block` is ``given``."""
        for key, (attributes, value) in self._changes():
            if key not in given or given[key][1] is not value:
                self._by_blocks[key] = value
                self._written[key[0]] = attributes

    def undo_block(self, given: Changes) -> None:
        """Take back what blocks have kept, before the same block runs again in this call; ``given``: its
        `before_block`."""
        for key, (attributes, _) in list(self._changes()):
            before = given[key][1] if key in given else self._before[key[0]].get(key[1], _MISSING)
            if before is _MISSING:
                del attributes[key[1]]
            else:
                attributes[key[1]] = before

    def _changes(self) -> Iterator[tuple[tuple[int, str], tuple[dict[str, Any], Any]]]:
        """Attributes that were written in the running call. After the first call, only modules that a call has written
        to are looked at: this is faster."""
        for attributes in list(self._written.values()) if self._was_called else self._modules:
            before = self._before.get(id(attributes))
            if before is None:
                continue
            for name, value in _own(attributes).items():
                if before.get(name, _MISSING) is not value:
                    yield (id(attributes), name), (attributes, value)

    @contextmanager
    def _forgotten(self, of: Iterable[dict[str, Any]]) -> Iterator[dict[int, dict[str, Any]]]:
        modules = list(of)
        before = [_own(attributes) for attributes in modules]
        containers = SavedOptions.of(*before)
        try:
            yield {id(attributes): own for attributes, own in zip(modules, before, strict=True)}
        finally:
            for attributes, own in zip(modules, before, strict=True):
                if _restore(attributes, own):
                    self._written[id(attributes)] = attributes
            self._fills_containers |= bool(containers.changed())
            containers.restore()

    @contextmanager
    def without_caches(self) -> Iterator[None]:
        """Within, attributes that are named as caches, hold tensors, and are empty in a new network are empty.
        Afterwards they are as before. Others, as tables of angles, are needed."""
        kept = [
            (vars(module), name, value)
            for module in self._network.modules()
            for name, value in _own(vars(module)).items()
            if _CACHE in name.lower() and _holds_tensors(value) and _begins_empty(type(module), name)
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
        with memory.forgotten_after_call():
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


def _begins_empty(kind: type, name: str) -> bool:
    """Whether this attribute is empty in a new object of a class, as far as the source of its ``__init__`` tells."""
    begins = [vars(base).get("__init__") for base in kind.__mro__ if base is not nn.Module]
    given = [value for begin in begins if isinstance(begin, types.FunctionType) for value in _given(begin, name)]
    return all(map(_is_empty, given)) if given else getattr(kind, name, _MISSING) is None


def _given(begin: types.FunctionType, name: str) -> Iterator[ast.expr]:
    """What ``begin`` assigns to an attribute of this name."""
    tree = syntax_of(begin)
    for node in () if tree is None else ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = zip(target.elts, node.value.elts, strict=False)
                else:
                    pairs = zip([target], [node.value], strict=True)
                yield from (value for each, value in pairs if isinstance(each, ast.Attribute) and each.attr == name)


def _is_empty(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return isinstance(value.func, ast.Name) and value.func.id in _EMPTY
    if isinstance(value, ast.Dict):
        return not value.keys
    if isinstance(value, ast.List | ast.Tuple):
        return not value.elts
    return isinstance(value, ast.Constant) and value.value is None
