"""What a card says in another language, as a page puts it together (`web/node_text.js`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import locales

THREE_WORDS = re.compile(r"\b[a-z]+'?[a-z]* [a-z]+'?[a-z]* [a-z]+")
OF_OTHERS = ("error", "message", "code")  # values that are texts of others, such as an exception's


def english_in(card: Mapping[str, Any], language: str) -> list[str]:
    """The sentences of a card that stay English on a page in this language."""
    translations = locales.read_texts(language, "main")["chords_run"]
    texts = [text for part in ("title", "detail", "advice") for text in card[part]]
    return [left for text in texts for left in _english(text, translations)]


def _english(text: Any, translations: Mapping[str, str]) -> Iterator[str]:
    if isinstance(text, str):
        if THREE_WORDS.search(text):
            yield text
        return
    if not isinstance(text, list):
        return  # a number
    template, values = text
    if template not in translations:
        yield template
    for name, value in values.items():
        if name not in OF_OTHERS or isinstance(value, list):
            yield from _english(value, translations)


def card_of(run: Any) -> dict[str, Any]:
    """The last card that the nodes of a run showed."""
    card: dict[str, Any] = run.of_kind("chords_text")[-1]["card"]
    return card
