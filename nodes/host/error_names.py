"""The core's errors in ComfyUI's error box, which shows a type's module before its name, except for Python's own."""

from __future__ import annotations

from ...chords_core import Cancelled, InvalidInput, LaneFaulty, LaneStuck, NonFiniteDenoised, WorkersUnavailable


def show_by_name() -> None:
    """Make the box show these errors by their names alone."""
    for kind in (Cancelled, InvalidInput, LaneFaulty, LaneStuck, NonFiniteDenoised, WorkersUnavailable):
        for shown in (kind, *kind.__subclasses__()):
            shown.__module__ = "builtins"
