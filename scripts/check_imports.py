"""Checks the direction of imports: nodes -> nodes/host -> chords_core, and ComfyUI's internals only in nodes/host.

    python scripts/check_imports.py [folder]

It prints every violation, and exits with 1 if there is one. It reads the source only, and imports nothing of the pack.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
COMFY_INTERNALS = frozenset(
    "alembic_db api_server app comfy comfy_api_nodes comfy_config comfy_execution comfy_extras "
    "comfyui_version cuda_malloc execution folder_paths latent_preview main middleware node_helpers "
    "protocol server utils".split()
)
COMFY_PUBLIC = frozenset({"comfy_api"})
COMFY = COMFY_INTERNALS | COMFY_PUBLIC
OURS = frozenset({"nodes", "chords_core", "demo", "scripts", "benchmarks", "tests"})
INSIDE_FUNCTIONS = frozenset({"safetensors", "ray", "matplotlib", "numpy", "PIL"})
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
STDLIB = frozenset(sys.stdlib_module_names)


@dataclass(frozen=True)
class Import:
    """An imported module. A module of the clone has its absolute name within the clone.

    Attributes:
        own: whether it is a module of the clone: a relative import, or one of the clone's packages.
    """

    module: str
    line: int
    in_function: bool
    own: bool

    @property
    def top(self) -> str:
        """The first part of the name."""
        return self.module.split(".")[0]


@dataclass(frozen=True)
class Violation:
    """An import against the direction."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


Rule = Callable[[Import], str | None]
"""The message for an import that is not allowed; None for one that is."""


def check(root: Path = REPO) -> list[Violation]:
    """All violations in the pack's own packages under `root`."""
    found: list[Violation] = []
    for folder in ("chords_core", "nodes", "demo"):
        for path in sorted((root / folder).rglob("*.py")):
            found += check_file(path, root)
    return found


def check_file(path: Path, root: Path = REPO) -> list[Violation]:
    """The violations in one file."""
    relative = path.relative_to(root)
    judge = _judge(relative)
    shown = relative.as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=shown)
    verdicts = ((item.line, judge(item)) for item in imports(tree, relative))
    return [Violation(shown, line, message) for line, message in verdicts if message]


def imports(tree: ast.AST, path: Path) -> Iterator[Import]:
    """Every import in a file. `from a import b` counts as a.b: b may be a module."""
    package = path.parts[:-1]
    for node, in_function in _walk(tree, False):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield _absolute(name.name, node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for name in node.names:
                yield _absolute(f"{node.module}.{name.name}", node.lineno, in_function)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            for name in node.names:
                parts = [*base, *(node.module or "").split("."), name.name]
                yield Import(".".join(part for part in parts if part), node.lineno, in_function, True)
        elif isinstance(node, ast.Call) and (module := _dynamic(node)):
            yield _absolute(module, node.lineno, in_function)


def _absolute(name: str, line: int, in_function: bool) -> Import:
    """An import by an absolute name. Here `nodes` is ComfyUI's module of that name, not our package."""
    own = name.split(".")[0] in OURS - {"nodes"}
    return Import(name, line, in_function, own)


def _walk(node: ast.AST, in_function: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below, each with whether it is in a function. Blocks for type checkers are skipped."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            for other in child.orelse:
                yield other, in_function
                yield from _walk(other, in_function)
            continue
        yield child, in_function
        yield from _walk(child, in_function or isinstance(child, FUNCTIONS))


def _dynamic(call: ast.Call) -> str | None:
    """The name in importlib.import_module("...") or __import__("..."), if it is a literal."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in ("import_module", "__import__") or not call.args:
        return None
    first = call.args[0]
    value = first.value if isinstance(first, ast.Constant) else None
    return value if isinstance(value, str) and not value.startswith(".") else None


def _judge(path: Path) -> Rule:
    """The rule for the folder of a file."""
    parts = path.parts
    if parts[0] == "chords_core":
        return _judge_core
    if parts[0] == "demo":
        return _judge_demo
    return _judge_host if parts[:2] == ("nodes", "host") else _judge_nodes


def _judge_core(item: Import) -> str | None:
    """chords_core: itself, torch and the standard library; a few more inside functions."""
    if item.own:
        return None if item.top == "chords_core" else f"chords_core must not import {item.module}"
    if item.top == "torch" or item.top in STDLIB:
        return None
    if item.top in INSIDE_FUNCTIONS:
        return None if item.in_function else f"chords_core may import {item.top} inside functions only"
    return f"chords_core imports torch and the standard library only, not {item.module}"


def _judge_demo(item: Import) -> str | None:
    """demo: itself, torch, numpy and the standard library."""
    if item.own:
        return None if item.top == "demo" else f"demo must not import {item.module}"
    if item.top in {"torch", "numpy"} or item.top in STDLIB:
        return None
    return f"demo imports torch, numpy and the standard library only, not {item.module}"


def _judge_host(item: Import) -> str | None:
    """nodes/host: any module of ComfyUI, and chords_core, but nothing else of nodes/."""
    if not item.own or item.top in {"chords_core", "demo"} or item.module.startswith("nodes.host"):
        return None
    return f"nodes/host must not import {item.module}: imports run from nodes to nodes/host"


def _judge_nodes(item: Import) -> str | None:
    """nodes/*.py: ComfyUI's public node API, nodes/host, chords_core and demo; no internals."""
    if item.own:
        allowed = item.top in {"nodes", "chords_core", "demo"}
        return None if allowed else f"nodes must not import {item.module}"
    if item.top in COMFY_INTERNALS or item.top == "nodes":
        return f"only nodes/host may import ComfyUI's {item.module}"
    return None


def main(arguments: list[str]) -> int:
    """Run the command, and return the exit status."""
    root = Path(arguments[0]).resolve() if arguments else REPO
    violations = check(root)
    for violation in violations:
        print(violation)
    print(f"import direction: {len(violations)} violation(s)" if violations else "import direction: fine")
    return 1 if violations else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
