"""Hooks as packs write them, for the tests of `nodes/host/compatibility/reading`.

They keep state or draw random numbers in each way that Python code can, or they only look similar. A new hook belongs
in the module of its theme.
"""

from . import calls, draws, harmless, objects, tensors, variables
from .catalogue import HARMLESS, MUST_BE_FOUND

__all__ = ["HARMLESS", "MUST_BE_FOUND", "calls", "draws", "harmless", "objects", "tensors", "variables"]
