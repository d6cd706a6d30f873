"""Records and states that hold tensors compare and hash by identity. By value, both would raise."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from chords_core import Accepted, Evaluated, Evaluation, EvaluationResult, Hit

PACKAGES = ("chords_core", "nodes")
NO_VALUE = {"Tensor", "Any", "Image", "ndarray", "dict", "list", "set", "Mapping", "MutableMapping"}
"""Types without a value to compare or to hash by. Any may be a tensor."""


@dataclass(frozen=True)
class _Class:
    """A class as it is written: ``by_value``: it compares its fields; ``names``: all that their types mention."""

    place: str
    by_value: bool
    names: frozenset[str]


def _decorator(node: ast.ClassDef) -> ast.expr | None:
    """The dataclass decorator of a class."""
    for found in node.decorator_list:
        function = found.func if isinstance(found, ast.Call) else found
        if isinstance(function, ast.Name) and function.id == "dataclass":
            return found
    return None


def _by_value(node: ast.ClassDef) -> bool:
    if any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases):
        return True
    found = _decorator(node)
    if found is None:
        return False
    options = {item.arg: item.value for item in found.keywords} if isinstance(found, ast.Call) else {}
    return not (isinstance(options.get("eq"), ast.Constant) and options["eq"].value is False)


def _classes(repo: Path) -> dict[str, _Class]:
    """Every class of the packages by its name."""
    found: dict[str, _Class] = {}
    for path in sorted(path for package in PACKAGES for path in (repo / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            fields = [item.annotation for item in node.body if isinstance(item, ast.AnnAssign)]
            names = {part.id for field in fields for part in ast.walk(field) if isinstance(part, ast.Name)}
            place = f"{path.relative_to(repo).as_posix()}:{node.lineno}"
            key = node.name if node.name not in found else place
            found[key] = _Class(f"{place} {node.name}", _by_value(node), frozenset(names))
    return found


def _without_value(classes: dict[str, _Class]) -> list[str]:
    """The classes that compare by value and hold a type without a value, directly or in a field that compares by
    value."""
    bare: set[str] = set()
    while True:
        more = {
            name
            for name, found in classes.items()
            if found.by_value and name not in bare and found.names & (NO_VALUE | bare)
        }
        if not more:
            return sorted(classes[name].place for name in bare)
        bare |= more


def test_what_holds_a_tensor_is_compared_by_identity(repo: Path) -> None:
    classes = _classes(repo)
    assert sum(found.by_value for found in classes.values()) > 20
    assert "Tensor" in classes["Hit"].names and not classes["Hit"].by_value
    assert not _without_value(classes)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: Evaluation(1, 0, 1, x, 1.0),
        lambda x: EvaluationResult(0, Evaluation(1, 0, 1, x, 1.0), 0.1, x),
        lambda x: Evaluated(1, 0, 1, 0, 0.1, x, x),
        lambda x: Hit(1, 1, x),
        lambda x: Accepted(Hit(1, 1, x)),
    ],
)
def test_records_go_into_sets_and_lists(make) -> None:
    x = torch.zeros(2, 3)
    one, other = make(x), make(x)
    assert one == one and one != other
    assert len({one, other, one}) == 2
    assert [one, other].index(other) == 1
