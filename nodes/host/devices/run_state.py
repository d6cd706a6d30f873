"""What a run has set on the model itself: its copies, here and on other machines, need that too.

Newer hosts set attributes of the model for a run, such as the shapes of a latent's parts, and the model reads them in
its calls. Which attributes that are is not known in advance. So whenever lanes are opened, the model is compared with
each copy, which is as its loader made it.
"""

from __future__ import annotations

import ast
import copy
import dis
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..phrases import Phrase
from ..tree import mapped

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

Key = tuple[str, str]
"""The path of a part within the model, and the name of an attribute of it."""

_NETWORK = "diffusion_model"
_OF_LOADING = ("comfy.model_patcher", "comfy.model_management", "comfy.model_prefetch")
"""Modules that set attributes of a model while they load it. Those are about one copy and its device."""

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype)
_MISSING = object()


@dataclass(frozen=True, eq=False)
class RunState:
    """The attributes of a model, and of its network, that a run may have set.

    Attributes:
        values: those that a copy can be given: numbers, texts, tensors, and containers of these. Of the network those
            without tensors: a tensor there is a table that the network makes for itself, as is what it notes with it.
        objects: names of other attributes that the model's own code uses, with the class of each.
        others: the attributes that are not in ``values``. What a copy has there is its own.
    """

    values: Mapping[Key, Any]
    objects: Mapping[str, str]
    others: frozenset[Key] = frozenset()

    @classmethod
    def of(cls, patcher: ModelPatcher) -> RunState:
        """The state of a patcher's model. What the patcher itself replaces, it replaces in copies, too."""
        model, replaced = patcher.model, set(patcher.object_patches)
        kind: Any = type(model)
        found = {(path, name): value for path, part in _parts(model) for name, value in vars(part).items()}
        attributes = {
            (path, name): value
            for (path, name), value in found.items()
            if name not in _names_of_loading() and (f"{path}.{name}" if path else name) not in replaced
        }
        tables = {(_NETWORK, name) for name in _names_of_tables(getattr(model, _NETWORK, None))}
        values = {
            key: value
            for key, value in attributes.items()
            if key not in tables and _is_plain(value, with_tensors=not key[0])
        }
        objects = {
            name: type(value).__name__
            for (path, name), value in attributes.items()
            if not path and (path, name) not in values and not callable(value) and name in _names_used_by(kind)
        }
        return cls(values, objects, frozenset(found.keys() - values.keys()))

    def reason_against(self, other: nn.Module) -> Phrase | None:
        """Why a copy of the model cannot be given this state; None if it can."""
        for name, kind in self.objects.items():
            if _is_plain(vars(other).get(name), with_tensors=True):  # missing, or what stands for nothing
                return Phrase(
                    "{name} ({kind}) is set on the model for this run, and a copy of the model does not have it",
                    name=name,
                    kind=kind,
                )
        return None

    @contextmanager
    def set_on(self, other: nn.Module, device: torch.device) -> Iterator[None]:
        """Give a loaded copy of the model this state, with tensors on ``device``; afterwards it is as before."""
        parts = dict(_parts(other))
        before: dict[Key, Any] = {}
        try:
            for path, name in self._differences(parts):
                own = vars(parts[path])
                before[path, name] = own.get(name, _MISSING)
                if (path, name) in self.values:
                    setattr(parts[path], name, _copied(self.values[path, name], device))
                else:
                    delattr(parts[path], name)
            yield
        finally:
            for (path, name), value in before.items():
                if value is not _MISSING:
                    setattr(parts[path], name, value)
                elif name in vars(parts[path]):
                    delattr(parts[path], name)

    def _differences(self, parts: Mapping[str, nn.Module]) -> list[Key]:
        """The attributes that a copy lacks, has with another value, or has from an earlier run."""
        wanted = [
            (path, name)
            for (path, name), value in self.values.items()
            if path in parts and not _same(value, vars(parts[path]).get(name, _MISSING))
        ]
        left = [
            (path, name)
            for path, part in parts.items()
            for name, value in vars(part).items()
            if (path, name) not in self.values
            and (path, name) not in self.others
            and name not in _names_of_loading()
            and _is_plain(value, with_tensors=not path)
        ]
        return wanted + left


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    network = getattr(model, _NETWORK, None)
    return [("", model), *([(_NETWORK, network)] if isinstance(network, nn.Module) else [])]


@functools.cache
def _names_of_loading() -> frozenset[str]:
    """Attributes that belong to torch, and those that the host sets while it loads a model."""
    names = set(vars(nn.Module()))
    for module in filter(None, map(sys.modules.get, _OF_LOADING)):
        try:
            tree = ast.parse(inspect.getsource(module))
        except (OSError, TypeError, SyntaxError):
            continue
        names |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del) and _is_model(node.value)
        }
    return frozenset(names)


def _is_model(node: ast.expr) -> bool:
    """Whether an expression is called ``model``, as in ``self.model``."""
    return (isinstance(node, ast.Attribute) and node.attr == "model") or (
        isinstance(node, ast.Name) and node.id == "model"
    )


@functools.lru_cache(maxsize=16)
def _names_used_by(kind: type) -> frozenset[str]:
    """The names and texts in the code of a model's classes."""
    found: set[str] = set()
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for member in vars(base).values():
            code = getattr(inspect.unwrap(member) if callable(member) else member, "__code__", None)
            if isinstance(code, CodeType):
                found |= _names_in(code)
    return frozenset(found)


def _names_of_tables(network: Any) -> set[str]:
    """What a network writes where it writes a table, such as the length that the table is for."""
    if not isinstance(network, nn.Module):
        return set()
    kind: Any = type(network)
    tables = {name for name, value in vars(network).items() if _has_tensors(value)}
    return {name for written in _written_together(kind) if not tables.isdisjoint(written) for name in written}


@functools.lru_cache(maxsize=16)
def _written_together(kind: type) -> tuple[frozenset[str], ...]:
    """The attributes that each method of a network's classes writes, without those of its loading."""
    methods = (
        inspect.unwrap(member)
        for base in kind.__mro__[: kind.__mro__.index(nn.Module)]
        for name, member in vars(base).items()
        if isinstance(member, FunctionType) and name != "__init__"
    )
    return tuple(
        frozenset(step.argval for step in dis.get_instructions(method) if step.opname == "STORE_ATTR")
        for method in methods
        if isinstance(method, FunctionType)
    )


def _names_in(code: CodeType) -> set[str]:
    found = {*code.co_names, *(text for text in code.co_consts if isinstance(text, str))}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _names_in(inner)
    return found


def _is_plain(value: Any, with_tensors: bool) -> bool:
    """Whether a value is data only, so that a copy can have one of its own."""
    if isinstance(value, _PLAIN):
        return True
    if isinstance(value, Tensor) or _is_nested(value):
        return with_tensors and not isinstance(value, nn.Parameter)
    if isinstance(value, dict):
        return all(_is_plain(item, with_tensors) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(item, with_tensors) for item in value)
    return False


def _has_tensors(value: Any) -> bool:
    """Whether a value is data with tensors."""
    return _is_plain(value, with_tensors=True) and not _is_plain(value, with_tensors=False)


def _is_nested(value: Any) -> bool:
    """Whether a value is the host's tensor of several parts."""
    return type(value).__name__ == "NestedTensor" and isinstance(vars(value).get("tensors"), list)


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other.to(one.device))
    if _is_nested(one):
        return _same(one.tensors, other.tensors)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _copied(value: Any, device: torch.device) -> Any:
    """A value of its own, with tensors on ``device``."""
    if _is_nested(value):
        nested = copy.copy(value)
        nested.tensors = [tensor.to(device, copy=True) for tensor in value.tensors]
        return nested
    if _is_plain(value, with_tensors=False):
        return copy.deepcopy(value)
    return mapped(value, lambda tensor: tensor.to(device, copy=True))
