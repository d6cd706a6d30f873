"""What a run tells its user in words: in the log, and as text on the running node."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from ..monitoring.fallbacks import Fallback, Fallbacks
from ..node_text import show_text
from ..phrases import Card, Phrase, in_turn

_log = logging.getLogger("chords")


class Announcer:
    """The message of one run, which changes as more becomes known.

    Args:
        shown: also show it on the running node.

    Attributes:
        message: the newest message, with all notes.
        fallbacks: the classes of the reasons in it.
    """

    def __init__(self, shown: bool = True) -> None:
        self.message = ""
        self.fallbacks = Fallbacks()
        self._shown = shown
        self._notes: list[Phrase] = []
        self._card: Card | None = None

    @property
    def card(self) -> Card | None:
        """The newest message as the node shows it."""
        return self._card

    @property
    def notes(self) -> tuple[Phrase, ...]:
        """The notes so far."""
        return tuple(self._notes)

    def note(self, notes: Iterable[Phrase], fallback: Fallback | None = None) -> None:
        """Add each of these notes to every later message, once. ``fallback``: the class of reasons that they are."""
        for note in notes:
            if note not in self._notes:
                self._notes.append(note)
            if fallback is not None:
                self.fallbacks.known(fallback, note)

    def say(self, message: str, card: Card | None = None) -> None:
        """Show what is done, and the notes. ``card``: the same for the node; without one, it shows the message."""
        self._card = card
        self.message = message
        self.add(())

    def add(self, sentences: Iterable[Phrase]) -> None:
        """Show the newest message with more sentences, and with the notes that have come since then."""
        added = (*(note for note in self._notes if note not in self.message), *sentences)
        self.message = in_turn((self.message, *added))
        if self._card is not None:
            self._card = replace(self._card, detail=(*self._card.detail, *added))
        _log.info("CHORDS: %s", self.message)
        if self._shown:
            show_text(self.message, self._card)
