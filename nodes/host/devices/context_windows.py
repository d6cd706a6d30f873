"""Context windows on lanes: the host's handler writes down the step of the call that it cuts into windows."""

from __future__ import annotations

import copy
from typing import Any

HANDLER = "context_handler"
"""Where the host has the handler in its model options."""


def with_own_handler(options: dict[str, Any]) -> dict[str, Any]:
    """Model options whose handler of context windows is a copy, as calls at other steps are made at the same time."""
    handler = options.get(HANDLER)
    return options if handler is None else {**options, HANDLER: copy.copy(handler)}
