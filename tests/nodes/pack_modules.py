"""The pack's modules that need no host, imported without its entry, which needs one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

REPO = Path(__file__).resolve().parents[2]
NAME = "chords_pack"


def module(name: str) -> ModuleType:
    """The module ``name`` of the pack, such as "nodes.host.sampling.placement"."""
    for package, folder in {NAME: REPO, f"{NAME}.nodes": REPO / "nodes"}.items():
        if package not in sys.modules:
            sys.modules[package] = ModuleType(package)
            sys.modules[package].__path__ = [str(folder)]
    return importlib.import_module(f"{NAME}.{name}")
