"""A pack that is loaded before ours, and gets in the way as packs do: a ``nodes`` package of its own, its folder at the
front of sys.path, packages there with the names of ours. Last, it notes the state of the host."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import host_state  # found in this folder

from .nodes import NODE_CLASS_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS"]

host_state.BEFORE = host_state.current()
host_state.MODULES = set(sys.modules)
