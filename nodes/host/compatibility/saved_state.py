"""What a trial of patches may change and has to put back: options, generators, and what the patches hold."""

from __future__ import annotations

import functools
import operator
import random
import types
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from .origins import Origin, origin_of

_MOST_OBJECTS = 10_000
_MOST_BYTES = 2**28  # of tensors that are copied
_EMPTY = object()


@dataclass(frozen=True, eq=False)
class Generators:
    """Where the generators stand that a process has."""

    states: dict[str, Any]

    @classmethod
    def now(cls, devices: Iterable[torch.device]) -> Generators:
        """Those of Python, numpy and torch, the latter's also on these devices."""
        states: dict[str, Any] = {
            "Python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        }
        for device in devices:
            if device.type in ("cuda", "xpu"):
                states[f"torch on {device}"] = getattr(torch, device.type).get_rng_state(device)
            elif device.type == "mps":
                states["torch on mps"] = torch.mps.get_rng_state()
        return cls(states)

    def moved(self, now: Generators) -> list[str]:
        """The names of those that stand elsewhere now."""
        return [name for name, state in self.states.items() if not _equal(state, now.states[name])]

    def restore(self) -> None:
        """Put all back."""
        for name, state in self.states.items():
            if name == "Python":
                random.setstate(state)
            elif name == "numpy":
                np.random.set_state(state)
            elif name == "torch":
                torch.set_rng_state(state)
            elif name == "torch on mps":
                torch.mps.set_rng_state(state)
            else:
                device = torch.device(name.rpartition(" ")[2])
                getattr(torch, device.type).set_rng_state(state, device)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple):
        return all(map(_equal, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


@dataclass(frozen=True, eq=False)
class Options:
    """Nested options as they were: every dictionary and list in them, and its content; by its id."""

    content: dict[int, tuple[Any, Any]]

    @classmethod
    def of(cls, *options: dict[str, Any]) -> Options:
        content: dict[int, tuple[Any, Any]] = {}
        waiting: list[Any] = list(options)
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict | list) and id(value) not in content:
                content[id(value)] = value, value.copy()
                waiting += value.values() if isinstance(value, dict) else value
        return cls(content)

    def changed(self) -> list[str]:
        """The keys that were added or removed, or whose value is another one."""
        keys: list[str] = []
        for now, before in self.content.values():
            if isinstance(now, dict):
                keys += [
                    str(key) for key in {**before, **now} if key not in now or now[key] is not before.get(key, now)
                ]
            elif len(now) != len(before):
                keys.append("an entry of a list")
        return list(dict.fromkeys(keys))

    def restore(self) -> None:
        """Put all back."""
        for now, before in self.content.values():
            _refill(now, before)


def _refill(now: Any, before: Any) -> None:
    """Give a container its content back, in place; not touched if it has it, for others may be at work on it."""
    same_size = len(now) == len(before)
    if isinstance(now, dict):
        if same_size and all(key in now and now[key] is value for key, value in before.items()):
            return
    elif isinstance(now, set | bytearray):
        if now == before:
            return
    elif same_size and all(map(operator.is_, now, before)):
        return
    now.clear()
    (now.update if isinstance(now, dict | set) else now.extend)(before)


class Held:
    """What patches hold from call to call, as far as it can be found: what they enclose, attributes of their objects,
    containers, tensors, generators, globals and class attributes of packs. What is the host's, or a library's, is
    left alone."""

    def __init__(self, hooks: Iterable[Callable[..., Any]]) -> None:
        self._restores: list[Callable[[], object]] = []
        self._seen: dict[int, Any] = {}  # objects by id, kept alive so that no id comes twice
        self._bytes = 0
        waiting: list[Any] = list(hooks)
        while waiting and len(self._seen) < _MOST_OBJECTS:
            value = waiting.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                try:
                    waiting += self._look(value)
                except Exception:  # it cannot be copied, or looked into
                    continue

    def restore(self) -> None:
        """Put all back."""
        for restore in self._restores:
            restore()

    def _look(self, value: Any) -> list[Any]:
        """Remember what ``value`` holds; returns what to look at next."""
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, functools.partial):
            return [value.func, *value.args, *value.keywords.values()]
        if isinstance(value, types.FunctionType):
            return self._look_at_function(value)
        if isinstance(value, torch.Tensor):
            if not isinstance(value, nn.Parameter) and (total := self._bytes + value.nbytes) <= _MOST_BYTES:
                self._bytes = total
                self._restores.append(functools.partial(_copy_changed, value, value.clone(), torch.equal, value.copy_))
            return []
        if isinstance(value, dict | list | set | deque | bytearray):
            self._restores.append(functools.partial(_refill, value, value.copy()))
            return list(value.values() if isinstance(value, dict) else value)
        if isinstance(value, np.ndarray):
            self._restores.append(
                functools.partial(
                    _copy_changed, value, value.copy(), np.array_equal, functools.partial(np.copyto, value)
                )
            )
            return []
        if (restore := _restore_generator(value)) is not None:
            self._restores.append(restore)
            return []
        if isinstance(value, tuple):
            return list(value)
        if origin_of(value) is not Origin.PACK:
            return []
        return self._look_at_class(value) if isinstance(value, type) else self._look_at_object(value)

    def _look_at_function(self, function: types.FunctionType) -> list[Any]:
        found: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        found.append(getattr(function, "__wrapped__", None))
        for cell in function.__closure__ or ():
            content = _content(cell)
            self._restores.append(functools.partial(_fill, cell, content))
            found.append(content)
        if origin_of(function) is Origin.PACK:
            space = function.__globals__
            names = [name for name in _global_names(function.__code__) if name in space]
            self._restores.append(functools.partial(_set_changed, space.get, space.__setitem__, _picked(space, names)))
            found += [space[name] for name in names]
        return found

    def _look_at_class(self, kind: type) -> list[Any]:
        own = {name: value for name, value in vars(kind).items() if not name.startswith("__")}
        methods = types.FunctionType | property | staticmethod | classmethod
        data = {name: value for name, value in own.items() if not isinstance(value, methods)}
        self._restores.append(functools.partial(_set_changed, vars(kind).get, functools.partial(setattr, kind), data))
        return [getattr(value, "__func__", value) for value in own.values()]

    def _look_at_object(self, value: Any) -> list[Any]:
        held = getattr(value, "__dict__", None)
        if not isinstance(held, dict):
            return [type(value)]
        self._restores.append(functools.partial(_refill, held, held.copy()))
        return [*held.values(), type(value)]


def _copy_changed(now: Any, before: Any, equal: Callable[[Any, Any], bool], put: Callable[[Any], object]) -> None:
    if not equal(now, before):
        put(before)


def _picked(space: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: space[name] for name in names}


def _set_changed(get: Callable[[str], Any], put: Callable[[str, Any], None], before: dict[str, Any]) -> None:
    for name, value in before.items():
        if get(name) is not value:
            put(name, value)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return _EMPTY


def _fill(cell: types.CellType, content: Any) -> None:
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
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None
