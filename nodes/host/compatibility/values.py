"""What is known of a value while code is read (`reading`), and where names and attributes lead."""

from __future__ import annotations

import builtins
import functools
import inspect
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import MutableMapping, MutableSequence, MutableSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from .hooks import set_on
from .origins import FunctionNode, Origin, origin_of

UNKNOWN: Any = type("_Unknown", (), {"__repr__": lambda self: "unknown"})()
_PLAIN = (dict, list, set, bytearray, deque, OrderedDict, defaultdict, Counter)
CONTAINERS = (MutableMapping, MutableSequence, MutableSet, deque, torch.Tensor, np.ndarray)


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of a value: see the module. ``obj``: the object itself, where it is known."""

    kept: bool = False
    given: bool = False
    obj: Any = UNKNOWN

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for what makes no difference to a function that it is handed to."""
        known = self.obj.kind if isinstance(self.obj, Instance) else self.obj if self.kept else UNKNOWN
        return self.kept, self.given, id(known)

    def __or__(self, other: Value) -> Value:
        same = self.obj if self.obj is other.obj else UNKNOWN
        return Value(self.kept or other.kept, self.given or other.given, same)


MADE, GIVEN, KEPT = Value(), Value(given=True), Value(kept=True)


@dataclass(frozen=True)
class Instance:
    """Stands for an object that the call makes."""

    kind: type


@dataclass(frozen=True, eq=False)
class Nested:
    """Stands for a function that is defined within the call."""

    node: FunctionNode
    scope: Scope


@dataclass(frozen=True, eq=False)
class Scope:
    """Where names are looked up: in the call, then in what ``function`` encloses, then in its module."""

    function: types.FunctionType
    names: dict[str, Value] = field(default_factory=dict)
    outer: Scope | None = None
    outside: frozenset[str] = frozenset()  # declared global, or nonlocal

    @classmethod
    def of(cls, function: types.FunctionType) -> Scope:
        return cls(function)

    def inner(self, node: FunctionNode) -> Scope:
        """Of a function that is defined within."""
        return Scope(self.function, {}, self)

    def __getitem__(self, name: str) -> Value:
        if name in self.names:
            return self.names[name]
        if self.outer is not None:
            return self.outer[name]
        code = self.function.__code__
        if name in code.co_freevars:
            cell = (self.function.__closure__ or ())[code.co_freevars.index(name)]
            try:
                return Value(kept=True, obj=cell.cell_contents)
            except ValueError:
                return KEPT
        for space in (self.function.__globals__, vars(builtins)):
            if name in space:
                return Value(kept=True, obj=space[name])
        return MADE

    def owner(self, name: str) -> bool:
        """Whether a name that a nested function declares nonlocal is one of the call."""
        return name in self.names or (self.outer is not None and self.outer.owner(name))

    def set_outer(self, name: str, value: Value) -> None:
        """Set such a name."""
        if name in self.names:
            self.names[name] = self.names[name] | value
        elif self.outer is not None:
            self.outer.set_outer(name, value)


def attribute_of(obj: Any, name: str) -> Any:
    """An attribute without running any code of the object's; functions are bound."""
    if obj is UNKNOWN or isinstance(obj, Nested):
        return UNKNOWN
    if isinstance(obj, types.ModuleType):
        return vars(obj).get(name, UNKNOWN)
    if isinstance(obj, super):
        return getattr(obj, name, UNKNOWN)
    if isinstance(obj, nn.Module):
        for place in ("_modules", "_parameters", "_buffers"):
            if name in vars(obj).get(place, {}):
                return vars(obj)[place][name]
    where = obj.kind if isinstance(obj, Instance) else obj
    found = inspect.getattr_static(where, name, UNKNOWN)
    if isinstance(found, staticmethod):
        return found.__func__
    if isinstance(found, classmethod):
        return types.MethodType(found.__func__, where if isinstance(where, type) else type(where))
    if isinstance(found, types.FunctionType) and not isinstance(obj, type | Instance):
        return found if name in getattr(obj, "__dict__", {}) else types.MethodType(found, obj)
    if isinstance(found, types.GetSetDescriptorType):  # of a tensor, say
        return UNKNOWN
    if isinstance(found, types.MethodDescriptorType) and type(obj) in _PLAIN:
        return getattr(obj, name)
    if isinstance(found, types.MemberDescriptorType) and not isinstance(obj, type | Instance):
        return getattr(obj, name, UNKNOWN)
    return found


def is_read(called: Any) -> bool:
    """Whether a call of this is followed."""
    if isinstance(called, Nested | functools.partial):
        return True
    if called is UNKNOWN or isinstance(called, Instance):
        return False
    if callable(wrapped := getattr(called, "__wrapped__", None)) and is_read(wrapped):
        return True
    if isinstance(called, types.FunctionType | types.MethodType | type):
        return origin_of(getattr(called, "__func__", called)) is Origin.PACK
    if isinstance(called, nn.Module):
        return any(origin_of(part) is Origin.PACK or any(set_on(part)) for part in called.modules())
    return callable(called) and origin_of(called) is Origin.PACK
