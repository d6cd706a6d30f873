"""What a run tells its user in words: in the log, and as text on the running node."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..node_text import show_text

_log = logging.getLogger("chords")


class Announcer:
    """The message of one run, which changes as more becomes known.

    Args:
        shown: also show it on the running node.

    Attributes:
        message: the newest message, with all notes.
    """

    def __init__(self, shown: bool = True) -> None:
        self.message = ""
        self._shown = shown
        self._notes: list[str] = []

    def note(self, notes: Iterable[str]) -> None:
        """Add each of these notes to every later message, once."""
        self._notes += [note for note in dict.fromkeys(notes) if note not in self._notes]

    def say(self, message: str) -> None:
        """Show what is done, and the notes."""
        self.message = "; ".join((message, *(note for note in self._notes if note not in message)))
        _log.info("CHORDS: %s", self.message)
        if self._shown:
            show_text(self.message)
