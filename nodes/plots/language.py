"""The language of a picture: the texts of `locales`, and a font of this machine that has their letters.

Without such a font, pictures are in English, whose font comes with the pack.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ..host.phrases import Phrase

ENGLISH_FONT = Path(__file__).with_name("Aileron-Regular.ttf")
"""Aileron by Sora Sagano (dotcolon.net), CC0, with the reduced set of letters that Pillow has it with."""

_LOCALES = Path(__file__).resolve().parents[2] / "locales"
_SAMPLES = {"ja": "コア呼び出し画像速差", "zh": "核心调用图像速差"}

# The beginnings of file names, the best first, in small letters: fonts of Linux, Windows and macOS.
_NOTO = ("notosanscjk", "sourcehansans")
_FONTS = {
    "ja": (
        *("notosansjp", *_NOTO, "yugothm", "yugothr", "meiryo", "hiraginosans", "ヒラギノ角ゴシック w3", "hiragino"),
        *("ipaexg", "ipagp", "ipag", "takaogothic", "vl-gothic", "msgothic", "droidsansfallback", "wqy-microhei"),
    ),
    "zh": (
        *("notosanssc", *_NOTO, "msyh", "pingfang", "hiragino sans gb", "stheiti", "wqy-microhei", "wqy-zenhei"),
        *("deng", "simhei", "simsun", "droidsansfallback"),
    ),
}


@dataclass(frozen=True, eq=False)
class Language:
    """How texts are drawn.

    Attributes:
        texts: translations by the English text; none for English.
        font_file: has all letters of the language.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    font_file: Path = ENGLISH_FONT

    @property
    def english(self) -> bool:
        """Whether the font has Latin letters only."""
        return self.font_file == ENGLISH_FONT


_ENGLISH = Language()
_current: ContextVar[Language | None] = ContextVar("language", default=None)


def current() -> Language:
    """The language that pictures are drawn in here."""
    return _current.get() or _ENGLISH


@contextmanager
def drawn_in(language: str) -> Iterator[None]:
    """Pictures that are drawn in the block are in this language ("ja", "zh"), if this machine has a font for it. In any
    other language they are in English."""
    font_file = font_for(language)
    chosen = _ENGLISH if font_file is None else Language(_texts(language), font_file)
    token = _current.set(chosen)
    try:
        yield
    finally:
        _current.reset(token)


def translated(text: str) -> str:
    """A phrase in the current language; any other text as it is."""
    if not isinstance(text, Phrase):
        return text
    values = {name: translated(value) if isinstance(value, str) else value for name, value in text.values.items()}
    return current().texts.get(text.template, text.template).format(**values)


def joined(texts: Sequence[str]) -> str:
    """Sentences one after the other, in the current language. Where one ends with a period, nothing else parts them."""
    between = current().texts.get("; ", "; ")
    whole = between.join(map(translated, texts))
    return whole.replace(f".{between}", ". ").replace(f"。{between}", "。")


def font_for(language: str) -> Path | None:
    """The best font for a language on this machine; None if there is none, or if the language has no texts."""
    return _best_font(language) if language in _FONTS else None


@lru_cache(maxsize=8)
def _best_font(language: str) -> Path | None:
    try:
        from matplotlib.font_manager import findSystemFonts
        from matplotlib.ft2font import FT2Font
    except ImportError:
        return None
    paths = (path for path in map(Path, findSystemFonts()) if path.name[0] != ".")
    files = {unicodedata.normalize("NFC", path.name).lower(): path for path in paths}  # macOS takes letters apart
    for beginning in _FONTS[language]:
        for name in sorted(files, key=lambda name: ("regular" not in name, name)):
            if name.startswith(beginning) and _has(FT2Font, files[name], _SAMPLES[language]):
                return files[name]
    return None


def _has(open_font: type, path: Path, letters: str) -> bool:
    """Whether a font can be read, and has all these letters."""
    try:
        font = open_font(str(path))
        return all(font.get_char_index(ord(letter)) for letter in letters)
    except (OSError, RuntimeError, ValueError):
        return False


@lru_cache(maxsize=4)
def _texts(language: str) -> Mapping[str, str]:
    texts = json.loads((_LOCALES / language / "main.json").read_text(encoding="utf-8"))
    found: dict[str, str] = {**texts["chords"], **texts["chords_run"]}
    return found
