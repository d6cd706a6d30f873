"""Where code comes from: the host, a library, or a pack of nodes.

The host's code is trusted if a version that this pack was run with has it: `host_files.txt` lists these files. Nodes of
a newer host are read and tried as those of packs are, and so are new files of the host's core.
"""

from __future__ import annotations

import functools
import hashlib
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
_OF_THE_HOST = "ComfyUI's "
_LISTED = Path(__file__).with_name("host_files.txt")
_STANDARD = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "platstdlib"))


class Origin(Enum):
    """The source of a piece of code."""

    HOST = "the host, or this pack"
    NEW_HOST = "the host, in a file that is not in the versions that this pack was run with"
    LIBRARY = "an installed library, or Python"
    PACK = "another pack"


FOREIGN = frozenset((Origin.PACK, Origin.NEW_HOST))
"""The origins of code that is read and tried, because it may keep state."""


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
        if first in ("comfy", "comfy_api", "comfy_extras"):
            digests = _host_files().get(path.relative_to(_HOST).as_posix())
            # The core is named only: what it does around a call, it does without a patch as well.
            is_known = digests is not None if first != "comfy_extras" else _has_digest(path, digests)
            return Origin.HOST if is_known else Origin.NEW_HOST
        if first.startswith("comfy") or first in _HOST_PARTS or first.endswith(".py"):
            return Origin.HOST
    if {"site-packages", "dist-packages"} & set(path.parts):
        return Origin.LIBRARY
    if any(path.is_relative_to(folder) for folder in _STANDARD):
        return Origin.LIBRARY
    return Origin.PACK


@functools.cache
def _host_files() -> dict[str, frozenset[str]]:
    """The files of the versions of the host that this pack was run with: the digests of their contents, by path."""
    lines = (line.split() for line in _LISTED.read_text(encoding="utf-8").splitlines())
    return {path: frozenset(digests) for path, *digests in lines}


def _has_digest(path: Path, digests: frozenset[str] | None) -> bool:
    """Whether a file has one of these contents. The ends of lines make no difference."""
    if not digests:
        return False
    try:
        content = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest()[: len(next(iter(digests)))] in digests


@functools.lru_cache(maxsize=256)
def _is_changed(name: str) -> bool:
    path = Path(name).resolve()
    if origin_of_file(name) is not Origin.HOST or not path.is_relative_to(_HOST):
        return False
    digests = _host_files().get(path.relative_to(_HOST).as_posix())
    return digests is not None and not _has_digest(path, digests)


def is_changed(function: types.FunctionType) -> bool:
    """Whether a function is in a file of the host's core that has another content than in the versions that this pack
    was run with."""
    return _is_changed(function.__code__.co_filename)


def origin_of(value: Any) -> Origin:
    """The origin of a function, of a class, or of the class of an object."""
    file = _file_of(value)
    if file is not None:
        return origin_of_file(file)
    kind = value if isinstance(value, type) else type(value)  # of a built-in module, or a module that was removed
    is_library = kind.__module__ in sys.modules or kind.__module__ == "builtins"
    return Origin.LIBRARY if is_library else Origin.PACK


def _file_of(value: Any) -> str | None:
    code = getattr(value, "__code__", None)
    if isinstance(code, types.CodeType):
        return code.co_filename
    kind = value if isinstance(value, type) else type(value)
    return getattr(sys.modules.get(kind.__module__), "__file__", None)


def pack_of(value: Any) -> str:
    """The name of the pack of a function or class, as the user knows it: the name of its folder. For code of the host:
    the name of its file."""
    file = _file_of(value)
    if file is not None and origin_of_file(file) in (Origin.HOST, Origin.NEW_HOST):
        return f"{_OF_THE_HOST}{Path(file).stem}"
    name = getattr(value, "__module__", None) or type(value).__module__
    return re.split(r"[\\/]", name.partition(".")[0])[-1].replace("_x_", ".")  # the host imports packs by their path


def is_of_host(pack: str) -> bool:
    """Whether `pack_of` gave this name to code of the host."""
    return pack.startswith(_OF_THE_HOST)
