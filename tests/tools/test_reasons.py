"""What a run tells its user is made of phrases, so that a page can translate it: not of plain text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDERS = ("compatibility", "devices", "ray", "sampling")
PHRASES = ("Phrase", "Advice", "counted_phrase")
TEMPLATES = ("_WITHIN_ALONE", "_TOO_MANY_CORES", "_SENTENCES")  # what phrases are made of
SENTENCE = re.compile(r"[a-z{}()',]+ [a-z{}()',:]+ [a-z{}()',:]+")  # three words

# Texts that no phrase is made of here, by the name of what holds them.
ELSEWHERE = {
    "nodes/host/devices/token_split": "knows nothing of pages: its sentences are in nodes/host/known_sentences.py",
    "nodes/host/ray/worker.py": "runs on another machine, from where errors come as text",
    "nodes/host/ray/model_files.py": "runs on another machine, from where errors come as text",
    "nodes/host/ray/pack_modules.py": "runs on another machine, from where errors come as text",
    "nodes/host/devices/request.py": "raises for the error box of the page, which shows text",
    "nodes/host/devices/timings_file.py": "writes to the log only",
    "nodes/host/compatibility/origins.py": "has names for this code only",
}

ALLOWED = {
    # names
    "torch on {}",
    "torch on mps",
    "ray {} ({} workers)",
    "{}, {} threads a call",
    # parts of lines of the log
    "{} {} s",
    "{} is not used: {}",
    "a call takes {}",
    "lost a lane",
    "a lane is slow",
    # the stream's event of a lane that is back
    "answered after {} s",
}


def _without_phrases(tree: ast.AST) -> Iterator[str]:
    """The sentences in a module that are neither in a phrase nor bad input, logged or documentation."""
    if _is_told_elsewhere(tree):
        return
    if isinstance(tree, ast.JoinedStr):
        text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in tree.values)
        if SENTENCE.search(text):
            yield text
        return
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str) and SENTENCE.search(tree.value):
        yield tree.value
    for child in ast.iter_child_nodes(tree):
        yield from _without_phrases(child)


def _is_told_elsewhere(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        return getattr(node.targets[0], "id", "") in TEMPLATES
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    is_words = name == "split" and isinstance(getattr(node.func, "value", None), ast.Constant)
    return is_words or name in (*PHRASES, "debug", "info", "warning", "exception", "InvalidInput")


def _shapes(folder: Path) -> set[str]:
    """The texts of a folder's code, with {} in the place of values."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
                found.add("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_sentences_for_the_user_are_phrases(repo: Path, folder: Path) -> None:
    found = []
    for path in sorted((repo / "nodes" / "host" / folder).rglob("*.py")):
        name = path.relative_to(repo).as_posix()
        if not name.startswith(tuple(ELSEWHERE)):
            texts = _without_phrases(ast.parse(path.read_text(encoding="utf-8")))
            found += [f"{name}: {text}" for text in texts if text not in ALLOWED]
    assert found == []


def test_a_sentence_without_a_phrase_is_found() -> None:
    code = '''
        """Documentation of a module."""
        def reason(name):
            """Why it is not possible."""
            _log.info("it is not possible: %s", name)
            if name:
                return f"the model is {name} already"
            return Phrase("the model has no name") or "the model has no patch"
        '''
    tree = ast.parse("if True:" + code)
    assert list(_without_phrases(tree)) == ["the model is {} already", "the model has no patch"]


def _known(repo: Path) -> Any:
    code = ast.parse((repo / "nodes" / "host" / "known_sentences.py").read_text(encoding="utf-8"))
    named = (node for node in code.body if isinstance(node, ast.Assign))
    return next(ast.literal_eval(n.value) for n in named if getattr(n.targets[0], "id", "") == "_KNOWN_SENTENCES")


def test_known_sentences_are_those_that_the_code_makes(repo: Path) -> None:
    """A sentence that is changed there, and not here, would be in English on all pages."""
    made = _shapes(repo / "chords_core") | _shapes(repo / "nodes" / "host" / "devices" / "token_split")
    sentences = _known(repo)
    assert len(sentences) > 20
    assert [text for text in sentences if re.sub(r"{\w+}", "{}", text) not in made] == []


@pytest.mark.parametrize("name", ["actors.py", "worker_set.py"])
def test_reasons_why_a_worker_does_not_take_part_are_known(repo: Path, name: str) -> None:
    tree = ast.parse((repo / "chords_core" / "execution" / "ray" / name).read_text(encoding="utf-8"))
    known = {re.sub(r"{\w+}", "{}", text) for text in _known(repo)}
    logged = {"the worker {} reported:\n{}"}
    assert set(_without_phrases(tree)) - known - logged == set()


def test_sentences_of_the_token_split_are_known(repo: Path) -> None:
    """Those of its reasons and errors, apart from the ones that only follow from another error."""
    follows = {"another member of the split call gave up", "the run has ended"}
    known = {re.sub(r"{\w+}", "{}", text) for text in _known(repo)}
    found = set()
    for path in (repo / "nodes" / "host" / "devices" / "token_split").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= set(_without_phrases(tree))
    assert found - known - follows == set()
