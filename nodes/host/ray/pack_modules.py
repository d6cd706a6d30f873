"""Modules of node packs, found on a worker's machine. The host names such a module after the path of its file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ....chords_core.execution.ray.actor import WrongSetup


class PackModules:
    """Finds modules of node packs on this machine by their names on the sender's machine, which are paths there.

    Args:
        sender_host: the ComfyUI folder on the sender's machine.
        host: the ComfyUI folder on this machine.
    """

    def __init__(self, sender_host: str, host: str) -> None:
        self._sender_host, self._host = sender_host.replace("\\", "/"), host

    def __call__(self, name: str) -> ModuleType:
        """The module.

        Raises:
            WrongSetup: if this machine lacks the node pack; names its path.
        """
        if name in sys.modules:
            return sys.modules[name]
        root = name
        while root and root not in sys.modules:
            if (file := self._file(root)) is not None:
                _execute(root, file)
                break
            root = root.rpartition(".")[0]
        if not root:
            raise WrongSetup(f"this machine lacks the node pack {self._place(name)}; install it there too")
        return importlib.import_module(name)

    def _file(self, name: str) -> Path | None:
        """The file of a module, or the ``__init__.py`` of a package."""
        module, folder = Path(self._place(name) + ".py"), Path(self._place(name.replace("_x_", "."))) / "__init__.py"
        return next((file for file in (module, folder) if file.is_file()), None)

    def _place(self, name: str) -> str:
        path = name.replace("\\", "/")
        return self._host + path[len(self._sender_host) :] if path.startswith(self._sender_host) else path


def is_named_by_path(module: str | None) -> bool:
    """Whether the name of a module is a path, as the host names the modules of node packs."""
    return module is not None and ("/" in module or "\\" in module)


def can_be_named(item: Any) -> bool:
    """Whether a class or function can be found by its name in such a module. A closure cannot."""
    if not is_named_by_path(item.__module__):
        return False
    found: Any = sys.modules.get(item.__module__)
    for name in item.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is item


def _execute(name: str, file: Path) -> None:
    """Load a module as the host loads a node pack."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
