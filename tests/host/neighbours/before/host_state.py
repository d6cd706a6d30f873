"""What of the host a node pack could change by being loaded: kept before, compared afterwards."""

from __future__ import annotations

import os
import sys
import threading
import types
from typing import Any

import torch

HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}
HOST |= {"node_helpers", "nodes", "protocol", "server"}
FUNCTIONS = (types.FunctionType, types.MethodType, staticmethod, classmethod, property)
COLLECTIONS = (list, set, dict)
# Where the host itself writes down each pack that it loads.
REGISTERS = {"NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "EXTENSION_WEB_DIRS", "LOADED_MODULE_DIRS"}

State = dict[str, Any]


def current() -> State:
    """The state by name. It holds what it names, so that nothing else can come to lie at the same address."""
    state: State = {
        "sys.path": list(sys.path),
        "sys.meta_path": list(sys.meta_path),
        "os.environ": dict(os.environ),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
    }
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in HOST and isinstance(module, types.ModuleType):
            for key, value in list(vars(module).items()):
                if not key.startswith("__"):
                    _add(state, f"{name}.{key}", value, name)
    return state


def changes(before: State, now: State) -> list[str]:
    """What is not as it was; what is new in modules that were not there before does not count."""
    modules = {name.rpartition(".")[0] for name in before}
    found = [name for name, value in before.items() if name not in now or not _same(value, now[name])]
    found += [name for name in now if name not in before and name.rpartition(".")[0] in modules]
    return sorted(name for name in found if not isinstance(now.get(name), types.ModuleType))


def _add(state: State, name: str, value: Any, module: str) -> None:
    state[name] = value
    code = getattr(value, "__code__", None)
    if code is not None:
        state[f"{name}()"] = code
    if type(value) in COLLECTIONS:
        state[f"{name}[]"] = _kept(value, name.rpartition(".")[2] in REGISTERS)
    if isinstance(value, type) and value.__module__ == module:
        for key, attribute in list(vars(value).items()):
            if isinstance(attribute, FUNCTIONS) or type(attribute) in COLLECTIONS:
                _add(state, f"{name}.{key}", attribute, module)


def _kept(value: Any, register: bool) -> Any:
    return _Register(value) if register else value.copy()


class _Register(dict):
    """A register of the host's: another entry is no change, another value for an old one is."""


def _same(value: Any, now: Any) -> bool:
    if isinstance(value, _Register):
        return all(key in now and now[key] is entry for key, entry in value.items())
    if type(value) in (*COLLECTIONS, tuple, str):
        try:
            return value is now or (type(value) is type(now) and bool(value == now))
        except (RuntimeError, ValueError):  # of tensors and arrays
            return len(value) == len(now)
    return value is now
