"""Stand-ins of a newer ComfyUI: modules that only that one has, under the names that they have there.

`install` gives a file of this folder the path and the name of a module of the host. Nothing is written to the host's
folder.
"""

import linecache
import sys
import types
from pathlib import Path

import comfy.model_management

_HERE = Path(__file__).parent
_HOST = Path(comfy.model_management.__file__).resolve().parent.parent


def install(stand_in: str, name: str):
    """The module of the host ``name``, made of the file ``stand_in`` of this folder. It is made once."""
    if name not in sys.modules:
        path = str(_HOST.joinpath(*name.split(".")).with_suffix(".py"))
        source = (_HERE / stand_in).read_text(encoding="utf-8")
        module = types.ModuleType(name)
        module.__file__ = path
        linecache.cache[path] = len(source), None, source.splitlines(keepends=True), path  # it is not on the disk
        exec(compile(source, path, "exec"), vars(module))  # noqa: S102
        sys.modules[name] = module
    return sys.modules[name]
