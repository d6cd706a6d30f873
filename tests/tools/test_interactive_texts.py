"""The texts of the interactive page: Japanese and Chinese have all that the page and its scripts say in English."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

TAG = re.compile(r"</?[a-z][^>]*>")
PLACE = re.compile(r"\{(\w+)\}")
JOINED = re.compile(r'"\s*\+\s*"')
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"')


@pytest.fixture(scope="module")
def folder(repo: Path) -> Path:
    return repo / "docs" / "interactive"


@pytest.fixture(scope="module")
def table(folder: Path) -> dict[str, list[str]]:
    text = (folder / "texts.js").read_text(encoding="utf-8")
    found: dict[str, list[str]] = json.loads(text[text.index("CHORDS.TEXTS = ") :].split("=", 1)[1].strip(" \n;"))
    return found


class _Texts(HTMLParser):
    """What the elements with ``data-text`` contain, as the page reads it; and all ``data-label``."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self._depth = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if given.get("data-label"):
            self.found.append(str(given["data-label"]))
        if self._depth:
            self._depth += 1
            self.found[-1] += self.get_starttag_text() or ""
        elif "data-text" in given:
            self._depth = 1
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if self._depth:
            self._depth -= 1
            self.found[-1] += f"</{tag}>" if self._depth else ""

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.found[-1] += data


@pytest.fixture(scope="module")
def in_page(folder: Path) -> list[str]:
    texts = _Texts()
    texts.feed((folder / "index.html").read_text(encoding="utf-8"))
    return [" ".join(html.unescape(text).split()) for text in texts.found]


@pytest.fixture(scope="module")
def in_scripts(folder: Path) -> set[str]:
    """All string literals, joined where they are added."""
    sources = (JOINED.sub("", (folder / f"{name}.js").read_text(encoding="utf-8")) for name in ("page", "figures"))
    return {text for source in sources for text in LITERAL.findall(source)}


def test_each_text_of_the_page_is_in_the_table(table: dict[str, list[str]], in_page: list[str]) -> None:
    assert len(in_page) > 35
    assert set(in_page) <= set(table)


def test_each_text_that_scripts_translate_is_in_the_table(folder: Path, table: dict[str, list[str]]) -> None:
    """tests/web/test_interactive.py sees those that are not named where they are translated."""
    for name in ("page", "figures"):
        source = JOINED.sub("", (folder / f"{name}.js").read_text(encoding="utf-8"))
        named = re.findall(r'translated\(\s*"((?:[^"\\\n]|\\.)*)"', source)
        assert len(named) > 5 and set(named) <= set(table)


def test_the_table_has_no_other_text(table: dict[str, list[str]], in_page: list[str], in_scripts: set[str]) -> None:
    assert set(table) <= set(in_page) | in_scripts


def test_each_translation_has_the_values_and_the_links_of_the_text(table: dict[str, list[str]]) -> None:
    for text, translations in table.items():
        assert len(translations) == 2 and all(translations), text
        for translation in translations:
            assert sorted(PLACE.findall(translation)) == sorted(PLACE.findall(text)), text
            assert sorted(TAG.findall(translation)) == sorted(TAG.findall(text)), text


def test_the_two_languages_use_the_words_of_comfyui(table: dict[str, list[str]]) -> None:
    """KSampler is Kサンプラー and K采样器 there, and a prompt 提示词."""
    for text, (japanese, chinese) in table.items():
        assert "KSampler" not in japanese + chinese, text
        if "KSampler" in text:
            assert "Kサンプラー" in japanese and "K采样器" in chinese, text
