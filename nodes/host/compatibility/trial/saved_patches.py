"""The state that patches hold between calls, to restore it after a trial."""

from __future__ import annotations

import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..origins import FOREIGN, origin_of
from .saved_options import refill

_MAX_OBJECTS = 10_000
_MAX_BYTES = 2**28  # of tensors that are copied
_EMPTY = object()
_METHOD_TYPES = (types.FunctionType, property, staticmethod, classmethod)


class SavedPatches:
    """The state that patches hold between calls, as far as it can be found.

    That is: enclosed variables, attributes of objects, containers, tensors, generators, globals, and class attributes
    of packs. Objects of the host and of libraries are left out.
    """

    def __init__(self, hooks: Iterable[Callable[..., Any]]) -> None:
        self._restores: list[Callable[[], object]] = []
        self._seen: dict[int, Any] = {}  # objects by id; they stay alive, so that no id is used twice
        self._bytes = 0
        waiting: list[Any] = list(hooks)
        while waiting and len(self._seen) < _MAX_OBJECTS:
            value = waiting.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                try:
                    waiting += self._save(value)
                except Exception:  # it cannot be copied or inspected
                    continue

    def restore(self) -> None:
        """Restore the saved state."""
        for restore in self._restores:
            restore()

    def _save(self, value: Any) -> list[Any]:
        """Save the state of ``value``, and return the objects that it holds."""
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, functools.partial):
            return [value.func, *value.args, *value.keywords.values()]
        if isinstance(value, types.FunctionType):
            return self._save_function(value)
        if isinstance(value, torch.Tensor):
            if not isinstance(value, nn.Parameter) and (total := self._bytes + value.nbytes) <= _MAX_BYTES:
                self._bytes = total
                restore = functools.partial(_copy_if_changed, value, value.clone(), torch.equal, value.copy_)
                self._restores.append(restore)
            return []
        if isinstance(value, dict | list | set | deque | bytearray):
            self._restores.append(functools.partial(refill, value, value.copy()))
            return list(value.values() if isinstance(value, dict) else value)
        if isinstance(value, np.ndarray):
            put = functools.partial(np.copyto, value)
            self._restores.append(functools.partial(_copy_if_changed, value, value.copy(), np.array_equal, put))
            return []
        if (restore_generator := _restore_generator(value)) is not None:
            self._restores.append(restore_generator)
            return []
        if isinstance(value, tuple):
            return list(value)
        if origin_of(value) not in FOREIGN:
            return []
        return self._save_class(value) if isinstance(value, type) else self._save_object(value)

    def _save_function(self, function: types.FunctionType) -> list[Any]:
        found: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        found.append(getattr(function, "__wrapped__", None))
        for cell in function.__closure__ or ():
            content = _content(cell)
            self._restores.append(functools.partial(_fill_cell, cell, content))
            found.append(content)
        if origin_of(function) in FOREIGN:
            space = function.__globals__
            used = {name: space[name] for name in _global_names(function.__code__) if name in space}
            self._restores.append(functools.partial(_set_if_changed, space.get, space.__setitem__, used))
            found += used.values()
        return found

    def _save_class(self, kind: type) -> list[Any]:
        own = {name: value for name, value in vars(kind).items() if not name.startswith("__")}
        data = {name: value for name, value in own.items() if not isinstance(value, _METHOD_TYPES)}
        put = functools.partial(setattr, kind)
        self._restores.append(functools.partial(_set_if_changed, vars(kind).get, put, data))
        return [getattr(value, "__func__", value) for value in own.values()]

    def _save_object(self, value: Any) -> list[Any]:
        held = getattr(value, "__dict__", None)
        if not isinstance(held, dict):
            return [type(value)]
        self._restores.append(functools.partial(refill, held, held.copy()))
        return [*held.values(), type(value)]


def _copy_if_changed(now: Any, before: Any, equal: Callable[[Any, Any], bool], put: Callable[[Any], object]) -> None:
    if not equal(now, before):
        put(before)


def _set_if_changed(get: Callable[[str], Any], put: Callable[[str, Any], None], before: dict[str, Any]) -> None:
    for name, value in before.items():
        if get(name) is not value:
            put(name, value)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return _EMPTY


def _fill_cell(cell: types.CellType, content: Any) -> None:
    if _content(cell) is content:
        return
    if content is _EMPTY:
        del cell.cell_contents
    else:
        cell.cell_contents = content


def _global_names(code: types.CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*map(_global_names, inner))


def _restore_generator(value: Any) -> Callable[[], object] | None:
    """What restores a generator to its present state; None if ``value`` is not a generator."""
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None
