"""What is known of a value while code is read, and which objects names and attributes refer to.

See `source_reader` for the words *kept* and *given*.
"""

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

from ..hooks import functions_set_on
from ..origins import FOREIGN, origin_of
from .function_source import FunctionNode

UNKNOWN: Any = type("_Unknown", (), {"__repr__": lambda self: "unknown"})()
_BUILT_IN_CONTAINERS = (dict, list, set, bytearray, deque, OrderedDict, defaultdict, Counter)
CONTAINERS = (MutableMapping, MutableSequence, MutableSet, deque, torch.Tensor, np.ndarray)


@dataclass(frozen=True, eq=False)
class Value:
    """What is known of a value.

    Attributes:
        kept: whether it outlives the call.
        given: whether it is, or belongs to, an argument of the call.
        obj: the object itself, where it is known.
    """

    kept: bool = False
    given: bool = False
    obj: Any = UNKNOWN

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for values that make no difference to a function that gets them as an argument."""
        known = self.obj.kind if isinstance(self.obj, Instance) else self.obj if self.kept else UNKNOWN
        return self.kept, self.given, id(known)

    def __or__(self, other: Value) -> Value:
        same = self.obj if self.obj is other.obj else UNKNOWN
        return Value(self.kept or other.kept, self.given or other.given, same)


MADE, GIVEN, KEPT = Value(), Value(given=True), Value(kept=True)


@dataclass(frozen=True)
class Instance:
    """Represents an object that the call makes."""

    kind: type


@dataclass(frozen=True, eq=False)
class Nested:
    """Represents a function that is defined within the call."""

    node: FunctionNode
    scope: Scope


@dataclass(frozen=True, eq=False)
class Scope:
    """Where names are looked up: in the call, then in the variables that ``function`` encloses, then in its module."""

    function: types.FunctionType
    names: dict[str, Value] = field(default_factory=dict)
    outer: Scope | None = None
    outside: frozenset[str] = frozenset()  # names that are declared global or nonlocal

    def inner(self, node: FunctionNode) -> Scope:
        """The scope of a function that is defined in this one."""
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

    def holds(self, name: str) -> bool:
        """Whether a name that a nested function declares nonlocal is a variable of the call."""
        return name in self.names or (self.outer is not None and self.outer.holds(name))

    def set_nonlocal(self, name: str, value: Value) -> None:
        """Set such a variable."""
        if name in self.names:
            self.names[name] = self.names[name] | value
        elif self.outer is not None:
            self.outer.set_nonlocal(name, value)


def attribute_of(obj: Any, name: str) -> Any:
    """An attribute, found without running code of the object. Functions are bound to it."""
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
    if isinstance(found, types.GetSetDescriptorType):  # such as an attribute of a tensor
        return UNKNOWN
    if isinstance(found, types.MethodDescriptorType) and type(obj) in _BUILT_IN_CONTAINERS:
        return getattr(obj, name)
    if isinstance(found, types.MemberDescriptorType) and not isinstance(obj, type | Instance):
        return getattr(obj, name, UNKNOWN)
    return found


def is_followed(called: Any) -> bool:
    """Whether the reader follows a call of this into its code."""
    if isinstance(called, Nested | functools.partial):
        return True
    if called is UNKNOWN or isinstance(called, Instance):
        return False
    if callable(wrapped := getattr(called, "__wrapped__", None)) and is_followed(wrapped):
        return True
    if isinstance(called, types.FunctionType | types.MethodType | type):
        return origin_of(getattr(called, "__func__", called)) in FOREIGN
    if isinstance(called, nn.Module):
        return any(origin_of(part) in FOREIGN or any(functions_set_on(part)) for part in called.modules())
    return callable(called) and origin_of(called) in FOREIGN
