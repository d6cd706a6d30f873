"""One word a thing: docs/glossary.md says which, and nothing in the project uses a word that it rules out."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import locales

LATIN = re.compile(r"[ -~]+")


class Tables(NamedTuple):
    """The rows of the page's tables: words, ComfyUI's own words, and words that are not used."""

    words: list[list[str]]
    of_comfyui: list[list[str]]
    not_used: list[list[str]]


def _tables(page: str) -> Tables:
    tables: list[list[list[str]]] = []
    before: str | None = None
    for line in page.splitlines():
        if re.match(r"\|-+", line):
            tables.append([])
        elif line.startswith("| ") and before is not None and before.startswith("|"):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return Tables(*tables)


@pytest.fixture(scope="module")
def tables(repo: Path) -> Tables:
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


def test_the_tables_are_read(tables: Tables) -> None:
    words, of_comfyui, not_used = tables
    assert {"core", "lane", "result", "round", "window", "draft", "objective"} <= {row[0] for row in words}
    assert [row[0] for row in of_comfyui][:3] == ["KSampler", "KSampler (Advanced)", "KSamplerSelect"]
    assert [{len(row) for row in table} for table in tables] == [{4}, {3}, {2}] and len(not_used) > 15


@pytest.mark.parametrize(
    ("word", "text"),
    [("sooner", "it ends Sooner."), ("as a rule", "as a\nrule it"), ("crew", "self._crew = 1"), ("望み", "その望みを")],
)
def test_a_word_is_found(word: str, text: str) -> None:
    assert _pattern(word).search(text)


@pytest.mark.parametrize(("word", "text"), [("wish", "Wishart"), ("put out", "output"), ("crew", "screws")])
def test_other_words_are_not(word: str, text: str) -> None:
    assert not _pattern(word).search(text)


def test_no_text_has_a_word_that_is_not_used(repo: Path, tables: Tables) -> None:
    patterns = {row[0]: _pattern(row[0]) for row in tables.not_used}
    found = [
        f"{path.relative_to(repo)}:{text.count(chr(10), 0, match.start()) + 1}: {word}"
        for path, text in _texts(repo)
        for word, pattern in patterns.items()
        for match in pattern.finditer(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("language", "column"), [("ja", 2), ("zh", 3)])
def test_the_other_languages_use_the_words(repo: Path, tables: Tables, language: str, column: int) -> None:
    """Each word of the glossary that has a translation occurs in that language's texts."""
    whole = "\n".join(_translations(repo, language).values())
    missing = [row[column] for row in tables.words if row[column] != "-" and row[column] not in whole]
    missing += [row[column - 1] for row in tables.of_comfyui if row[column - 1] not in whole]
    assert not missing


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_what_comfyui_has_a_word_for_has_that_word(repo: Path, tables: Tables, language: str) -> None:
    """The English names of its nodes occur in code only."""
    names = [row[0].removesuffix(" (Advanced)") for row in tables.of_comfyui if row[0][0].isupper()]
    pattern = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, names))})")
    found = {
        where: pattern.findall(re.sub(r"`[^`]*`", "", text)) for where, text in _translations(repo, language).items()
    }
    assert {where: names for where, names in found.items() if names} == {}


@pytest.mark.parametrize(("language", "column"), [("ja", 1), ("zh", 2)])
def test_comfyuis_words_are_those_of_its_frontend(tables: Tables, language: str, column: int) -> None:
    """Of the frontend that the host asks for."""
    package = importlib.util.find_spec("comfyui_frontend_package")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no frontend is installed: run python scripts/test.py --setup-only")
    (folder,) = package.submodule_search_locations
    files = Path(folder, "static", "assets").glob("nodeDefs-*.js")
    whole = "\n".join(path.read_text(encoding="utf-8") for path in files)
    words = [row[column] for row in tables.of_comfyui]
    assert [word for word in words if not re.search(rf"[\"'`]{re.escape(word)}[\"'`]", whole)] == []


def _translations(repo: Path, language: str) -> dict[str, str]:
    """The texts in a language by where they are: of nodes, of the panel, and of the help pages."""
    texts = {}
    for file in ("nodeDefs", "main"):
        path = repo / "locales" / language / f"{file}.json"
        leaves = locales.leaves(json.loads(path.read_text(encoding="utf-8")))
        texts |= {f"{file} {where}": text for where, text in leaves}
    for path in (repo / "web" / "docs").rglob(f"{language}.md"):
        texts[f"{path.parent.name} {path.name}"] = path.read_text(encoding="utf-8")
    return texts
