"""A pack that is loaded after ours, with a ``nodes`` package of its own: it notes what ours has changed of the host."""

import json
import os
import sys

import host_state  # of the pack that was loaded first

from .nodes import NODE_CLASS_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS"]

found = {
    "changes": host_state.changes(host_state.BEFORE, host_state.current()),
    "modules": sorted(
        set(sys.modules) - host_state.MODULES - {name for name in sys.modules if name.startswith(__name__)}
    ),
}
with open(os.environ["CHORDS_TEST_STATE"], "w", encoding="utf-8") as file:
    json.dump(found, file)
