"""English sentences that a page can show in the user's language. Needs nothing."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class Phrase(str):
    """A sentence in English, which remembers what it was made of.

    Pages translate the ``template`` (`locales/*/main.json` has the translations) and put the values into it.

    Args:
        template: the sentence, with a {placeholder} for each value.
        values: numbers, names, and other phrases.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Phrase:
        phrase = super().__new__(cls, template.format(**values))
        phrase.template, phrase.values = template, values
        return phrase

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.template,), self.values


class Advice(Phrase):
    """A phrase that says what the user can change, and what for."""


@dataclass(frozen=True)
class Card:
    """What a node shows of its run.

    Attributes:
        title: what is gained, in a few words.
        detail: how, where and why.
        advice: what the user can change.
    """

    title: tuple[str, ...]
    detail: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    @staticmethod
    def of_text(text: str) -> Card:
        """The card of a text: what comes before its first colon is the title."""
        if isinstance(text, Phrase):
            return Card((text,))
        title, _, detail = text.partition(": ")
        return Card((title,), (detail,) if detail else ())

    def encoded(self) -> dict[str, list[Any]]:
        """The card as JSON. A phrase is a list of its template and its values, other text is a string."""
        return {name: [_encoded(text) for text in getattr(self, name)] for name in ("title", "detail", "advice")}


def _encoded(value: Any) -> Any:
    if isinstance(value, Phrase):
        return [value.template, {name: _encoded(each) for name, each in value.values.items()}]
    # The name of a function of another pack may be anything, and JSON has neither NaN nor infinity.
    is_json = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_json else str(value)


def in_turn(texts: Sequence[str]) -> str:
    """Sentences one after the other; one of them as it is. ``str.join`` would make plain text of phrases."""
    whole, *others = texts
    for other in others:
        whole = Phrase("{one}; {other}", one=whole, other=other)
    return whole


def listed(names: Sequence[str]) -> str:
    """Names, some of which may be phrases, with commas between; one of them as it is."""
    whole, *others = names
    for other in others:
        whole = Phrase("{one}, {other}", one=whole, other=other)
    return whole


def shortened(text: str, most: int) -> str:
    """A text on one line, cut at a space if it has more than ``most`` characters. Of a phrase, its value is cut."""
    if not isinstance(text, Phrase):
        return textwrap.shorten(text, most, placeholder="...")
    room = most - (len(text) - sum(map(len, text.values.values())))
    cut = {name: textwrap.shorten(value, room, placeholder="...") for name, value in text.values.items()}
    return Phrase(text.template, **cut)


def message_of(error: BaseException) -> str:
    """What an error says: the phrase that it was raised with, which ``str`` makes plain text of, or else its text, or
    the name of its type if it has none."""
    if len(error.args) == 1 and isinstance(error.args[0], Phrase):
        return error.args[0]
    return str(error) or type(error).__name__


def counted_phrase(number: int, one: str, many: str) -> Phrase:
    """The phrase ``one`` for 1, else ``many`` with its {count}."""
    return Phrase(one if number == 1 else many, **({} if number == 1 else {"count": number}))
