"""Pictures in the user's language: with a font that the machine has for it; in English without one."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib import font_manager


@pytest.fixture
def language(node_module: Callable[[str], ModuleType]) -> Any:
    module = node_module("plots.language")
    module._best_font.cache_clear()
    yield module
    module._best_font.cache_clear()


@pytest.fixture
def phrases(node_module: Callable[[str], ModuleType]) -> ModuleType:
    return node_module("host.phrases")


@pytest.fixture
def fonts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the fonts of the machine."""
    return lambda *files: monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(map(str, files)))


def _japanese(phrases: ModuleType) -> Any:
    return phrases.Phrase("{calls} of {steps} calls", calls=11, steps=20)


@pytest.mark.parametrize("name", ["ja", "zh", "fr", ""])
def test_without_a_font_it_is_english(
    language: ModuleType, phrases: ModuleType, fonts: Any, tmp_path: Path, name: str
) -> None:
    """A font with the right name that cannot be read, and one that has Latin letters only, are none."""
    broken = tmp_path / "NotoSansCJK-Regular.ttc"
    broken.write_bytes(b"no font")
    latin = tmp_path / "NotoSansJP-Regular.ttf"
    latin.write_bytes(language.ENGLISH_FONT.read_bytes())
    fonts(broken, latin, tmp_path / "gone" / "msyh.ttc")
    with language.drawn_in(name):
        assert language.current().english
        assert language.translated(_japanese(phrases)) == "11 of 20 calls"


def test_with_a_font_it_is_translated_and_english_again_afterwards(
    language: ModuleType, phrases: ModuleType, fonts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The values of a phrase are translated too; other text stays as it is."""
    monkeypatch.setattr(language, "_has", lambda *_: True)
    best, other = tmp_path / "NotoSansCJK-Regular.ttc", tmp_path / "wqy-microhei.ttc"
    fonts(other, best)
    steps = phrases.counted_phrase(20, "1 step", "{count} steps")
    nested = phrases.Phrase("a schedule of {counted_steps} leaves no room for more cores", counted_steps=steps)
    with language.drawn_in("ja"):
        assert language.current().font_file == best
        assert language.translated(_japanese(phrases)) == "呼び出し11/20回"
        assert "20ステップ" in language.translated(nested)
        assert language.translated("cuda:0") == "cuda:0"
        assert language.joined([_japanese(phrases), "cuda:0"]) == "呼び出し11/20回。cuda:0"
    assert language.translated(_japanese(phrases)) == "11 of 20 calls"


@pytest.mark.parametrize("name", ["en", "ja", "zh"])
def test_sentences_with_a_period_have_no_other_sign_between_them(
    language: ModuleType, phrases: ModuleType, fonts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(language, "_has", lambda *_: True)
    fonts(tmp_path / "NotoSansCJK-Regular.ttc")
    reasons = [
        phrases.Phrase("{name} looked {factor}x as fast, but its runs overlap.", name="2 cores", factor="1.3"),
        phrases.Phrase("Each was timed once: more repeats show whether it is chance."),
    ]
    with language.drawn_in(name):
        first, last = map(language.translated, reasons)
        assert language.joined(reasons) == first + (" " if name == "en" else "") + last


def test_the_names_of_fonts_may_have_their_letters_taken_apart(
    language: ModuleType, fonts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As file systems of macOS have them."""
    monkeypatch.setattr(language, "_has", lambda *_: True)
    hiragino = tmp_path / unicodedata.normalize("NFD", "ヒラギノ角ゴシック W3.ttc")
    fonts(hiragino)
    assert language.font_for("ja") == hiragino


def test_lines_of_letters_without_spaces_break_anywhere_but_before_a_closing_sign(
    node_module: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing = node_module("plots.drawing")
    monkeypatch.setattr(drawing, "text_width", lambda text, size: 10.0 * len(text))
    assert drawing.wrap("あいうえお。かきく on cpu", 15, 60, 9) == ["あいうえお。", "かきく on", "cpu"]
    assert drawing.wrap("あいうえおか。く", 15, 60, 9) == ["あいうえお", "か。く"]
    assert drawing.wrap("one  two\nthree", 15, 80, 9) == ["one two", "three"]


@pytest.mark.parametrize("name", ["ja", "zh"])
def test_a_comparison_has_room_for_its_words(
    node_module: Callable[[str], ModuleType], language: ModuleType, written: Any, name: str
) -> None:
    if language.font_for(name) is None:
        pytest.skip(f"THIS MACHINE HAS NO FONT FOR {name}: pictures in it were not drawn")
    comparison, advice = node_module("plots.comparison"), node_module("recommendation")
    entries = (
        advice.Entry("KSampler", (9.0, 10.0), 9.0, 0.0, 40.0),
        advice.Entry("4 cores, CHORDS, first result", (4.0, 4.2), 1.0, 0.01, 40.0),
    )
    verdict = advice.verdict_of(entries)
    with language.drawn_in(name):
        told = comparison.Comparison("a model", entries, verdict.place, verdict.headline, verdict.advice, ())
        comparison.draw_comparison(told)
    written.check()
