"""One word a thing: docs/glossary.md says which, and nothing in the project uses a word that it rules out."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

LATIN = re.compile(r"[ -~]+")


def _tables(page: str) -> tuple[list[list[str]], list[list[str]]]:
    """The rows of the two tables: words, and words that are not used."""
    tables: list[list[list[str]]] = []
    for line in page.splitlines():
        if re.match(r"\|-+", line):
            tables.append([])
        elif line.startswith("| ") and tables:
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif line.startswith("## "):
            continue
    words, not_used = ([row for row in table if row[0] not in ("word", "not")] for table in tables)
    return words, not_used


@pytest.fixture(scope="module")
def tables(repo: Path) -> tuple[list[list[str]], list[list[str]]]:
    return _tables((repo / "docs" / "glossary.md").read_text(encoding="utf-8"))


def _texts(repo: Path) -> Iterator[tuple[Path, str]]:
    """Every text of the project, but the glossary itself, the changelog, and what other projects wrote."""
    listed = subprocess.run(["git", "ls-files"], cwd=repo, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = repo / name
        if path.suffix in {".py", ".md", ".js", ".toml"} or name.startswith("locales/"):
            if name not in {"docs/glossary.md", "tests/tools/test_glossary.py", "CHANGELOG.md"} and path.exists():
                yield path, path.read_text(encoding="utf-8")


def _pattern(word: str) -> re.Pattern[str]:
    """The word in running text: whole for Latin letters, which may be broken across lines or be part of a name."""
    if not LATIN.fullmatch(word):
        return re.compile(re.escape(word))
    parts = r"\s+".join(re.escape(part) for part in word.split())
    return re.compile(rf"(?<![A-Za-z]){parts}(?![a-z])", re.IGNORECASE)


def test_the_tables_are_read(tables: tuple[list[list[str]], list[list[str]]]) -> None:
    words, not_used = tables
    assert {"core", "lane", "result", "round", "window", "draft", "objective"} <= {row[0] for row in words}
    assert all(len(row) == 4 for row in words) and all(len(row) == 2 for row in not_used) and len(not_used) > 15


@pytest.mark.parametrize(
    ("word", "text"),
    [("sooner", "it ends Sooner."), ("as a rule", "as a\nrule it"), ("crew", "self._crew = 1"), ("望み", "その望みを")],
)
def test_a_word_is_found(word: str, text: str) -> None:
    assert _pattern(word).search(text)


@pytest.mark.parametrize(("word", "text"), [("wish", "Wishart"), ("put out", "output"), ("crew", "screws")])
def test_other_words_are_not(word: str, text: str) -> None:
    assert not _pattern(word).search(text)


def test_no_text_has_a_word_that_is_not_used(repo: Path, tables: tuple[list[list[str]], list[list[str]]]) -> None:
    patterns = {row[0]: _pattern(row[0]) for row in tables[1]}
    found = [
        f"{path.relative_to(repo)}:{text.count(chr(10), 0, match.start()) + 1}: {word}"
        for path, text in _texts(repo)
        for word, pattern in patterns.items()
        for match in pattern.finditer(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("language", "column"), [("ja", 2), ("zh", 3)])
def test_the_other_languages_use_the_words(
    repo: Path, tables: tuple[list[list[str]], list[list[str]]], language: str, column: int
) -> None:
    """Each word of the glossary that has a translation occurs in that language's texts."""
    folder = repo / "locales" / language
    texts = [json.dumps(json.loads(path.read_text("utf-8")), ensure_ascii=False) for path in folder.glob("*.json")]
    texts += [path.read_text(encoding="utf-8") for path in (repo / "web" / "docs").rglob(f"{language}.md")]
    whole = "\n".join(texts)
    missing = [row[column] for row in tables[0] if row[column] != "-" and row[column] not in whole]
    assert not missing
