"""The map in docs/development.md is the tree: nothing is missing there, nothing is there that is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

MAPPED = ("chords_core", "nodes")
ONE_FILE_EACH = "one file"  # of such a folder the map names what a file is, not each file


def _entries(page: str) -> Iterator[tuple[str, str]]:
    """The paths of the map, from the clone's root, with what it says of them; a folder's path ends in a slash."""
    block = re.search(r"^## The map\n.*?^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block, "docs/development.md has no map"
    parents: list[str] = []
    for line in block[1].splitlines():
        found = re.fullmatch(r"( *)(\S+)(?: +(.*))?", line)
        assert found, line
        depth, odd = divmod(len(found[1]), 2)
        assert not odd and depth <= len(parents), line
        del parents[depth:]
        path = "".join(parents) + found[2]
        if path.endswith("/"):
            parents.append(found[2])
        yield path, found[3] or ""


@pytest.fixture(scope="module")
def entries(repo: Path) -> dict[str, str]:
    listed = list(_entries((repo / "docs" / "development.md").read_text(encoding="utf-8")))
    assert len(dict(listed)) == len(listed), "a path is listed twice"
    return dict(listed)


def test_what_the_map_names_is_there_and_it_says_what_it_is(repo: Path, entries: dict[str, str]) -> None:
    for path, said in entries.items():
        assert (repo / path).is_dir() if path.endswith("/") else (repo / path).is_file(), path
        assert said, f"the map does not say what {path} is"


def test_every_module_is_on_the_map(repo: Path, entries: dict[str, str]) -> None:
    open_folders = tuple(path for path, said in entries.items() if path.endswith("/") and ONE_FILE_EACH in said)
    modules = [path.relative_to(repo).as_posix() for name in MAPPED for path in (repo / name).rglob("*.py")]
    named = {module for module in modules if not module.endswith("__init__.py")}
    missing = sorted(module for module in named - set(entries) if not module.startswith(open_folders))
    assert not missing


def test_each_folder_says_what_belongs_there_and_what_does_not(repo: Path) -> None:
    for name in MAPPED:
        for path in (repo / name).rglob("__init__.py"):
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            if path.parent.name in MAPPED:
                continue  # the face of a package: it says what the package is
            assert "Here belong" in said and "Not here" in said, path.relative_to(repo)
