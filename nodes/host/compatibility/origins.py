"""Where code comes from: the host, a library, or a pack of nodes."""

from __future__ import annotations

import functools
import re
import sys
import sysconfig
import types
from enum import Enum
from pathlib import Path
from typing import Any

import comfy.model_management

from .... import chords_core

_HOST = Path(comfy.model_management.__file__).resolve().parent.parent
_HOST_PARTS = ("app", "api_server", "middleware", "utils")
_OURS = Path(__file__).resolve().parents[1], Path(chords_core.__file__).resolve().parent
_STANDARD = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "platstdlib"))


class Origin(Enum):
    """The source of a piece of code."""

    HOST = "the host, or this pack"
    LIBRARY = "an installed library, or Python"
    PACK = "another pack"


@functools.lru_cache(maxsize=4096)
def origin_of_file(name: str) -> Origin:
    """The origin of the file that a code object or a module names."""
    if name.startswith("<frozen"):
        return Origin.LIBRARY
    if name.startswith("<"):  # from exec
        return Origin.PACK
    path = Path(name).resolve()
    if any(path.is_relative_to(folder) for folder in (*_OURS, _OURS[0].parent)):
        return Origin.HOST
    if path.is_relative_to(_HOST):
        first = path.relative_to(_HOST).parts[0]
        if first.startswith("comfy") or first in _HOST_PARTS or first.endswith(".py"):
            return Origin.HOST
    if {"site-packages", "dist-packages"} & set(path.parts):
        return Origin.LIBRARY
    if any(path.is_relative_to(folder) for folder in _STANDARD):
        return Origin.LIBRARY
    return Origin.PACK


def origin_of(value: Any) -> Origin:
    """The origin of a function, of a class, or of the class of an object."""
    code = getattr(value, "__code__", None)
    if isinstance(code, types.CodeType):
        return origin_of_file(code.co_filename)
    kind = value if isinstance(value, type) else type(value)
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file is None:  # a built-in module, or a module that was removed
        return Origin.LIBRARY if module is not None or kind.__module__ == "builtins" else Origin.PACK
    return origin_of_file(file)


def pack_of(value: Any) -> str:
    """The name of the pack of a function or class, as the user knows it: the name of its folder."""
    name = getattr(value, "__module__", None) or type(value).__module__
    return re.split(r"[\\/]", name.partition(".")[0])[-1].replace("_x_", ".")  # the host imports packs by their path
