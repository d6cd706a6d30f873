"""Where code comes from: the host, a library, or a pack of nodes; and its source as a syntax tree."""

from __future__ import annotations

import ast
import functools
import linecache
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import comfy.model_management

from .... import chords_core

_HOST = Path(comfy.model_management.__file__).resolve().parent.parent
_HOST_PARTS = ("app", "api_server", "middleware", "utils")
_OURS = Path(__file__).resolve().parents[1], Path(chords_core.__file__).resolve().parent
_STANDARD = tuple(Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "platstdlib"))

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Origin(Enum):
    """Who wrote a piece of code."""

    HOST = "the host, or this pack"
    LIBRARY = "an installed library, or Python"
    PACK = "another pack"


@functools.lru_cache(maxsize=4096)
def origin_of_file(name: str) -> Origin:
    """Who wrote the file that a code object or a module names."""
    if name.startswith("<frozen"):
        return Origin.LIBRARY
    if name.startswith("<"):  # made by exec
        return Origin.PACK
    path = Path(name).resolve()
    if any(path.is_relative_to(folder) for folder in (*_OURS, _OURS[0].parent)):
        return Origin.HOST
    if path.is_relative_to(_HOST):
        first = path.relative_to(_HOST).parts[0]
        if first.startswith("comfy") or first in _HOST_PARTS or first.endswith(".py"):
            return Origin.HOST
    if {"site-packages", "dist-packages"} & set(path.parts):
        return Origin.LIBRARY
    if any(path.is_relative_to(folder) for folder in _STANDARD):
        return Origin.LIBRARY
    return Origin.PACK


def origin_of(value: Any) -> Origin:
    """Who wrote a function, a class, or the class of an object."""
    code = getattr(value, "__code__", None)
    if isinstance(code, types.CodeType):
        return origin_of_file(code.co_filename)
    kind = value if isinstance(value, type) else type(value)
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file is None:  # built in, or of a module that is gone
        return Origin.LIBRARY if module is not None or kind.__module__ == "builtins" else Origin.PACK
    return origin_of_file(file)


def pack_of(value: Any) -> str:
    """The name of the pack that a function or class belongs to, as the user knows it: that of its folder."""
    name = getattr(value, "__module__", None) or type(value).__module__
    return re.split(r"[\\/]", name.partition(".")[0])[-1].replace("_x_", ".")  # the host imports packs by their path


def syntax_of(function: types.FunctionType) -> FunctionNode | None:
    """The function's source as a syntax tree; None if there is none, or it cannot be told which it is."""
    code = function.__code__
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    found = [
        node
        for node in _functions_of(code.co_filename).get(code.co_firstlineno, ())
        if _name_of(node) == code.co_name and _arguments_of(node) == arguments
    ]
    return found[0] if len({ast.dump(node) for node in found}) == 1 else None


def _functions_of(filename: str) -> dict[int, list[FunctionNode]]:
    lines = linecache.getlines(filename)
    return _parsed("".join(lines)) if lines else {}


@functools.lru_cache(maxsize=64)
def _parsed(source: str) -> dict[int, list[FunctionNode]]:
    """The functions in a file by the line where they begin, which is that of the first decorator."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return {}
    functions: dict[int, list[FunctionNode]] = {}
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
            line = min([node.lineno, *(decorator.lineno for decorator in decorators)])
            functions.setdefault(line, []).append(node)
    return functions


def _name_of(node: FunctionNode) -> str:
    return "<lambda>" if isinstance(node, ast.Lambda) else node.name


def _arguments_of(node: FunctionNode) -> tuple[str, ...]:
    given = node.args
    return tuple(argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs))


def linked(function: types.FunctionType) -> Iterator[Callable[..., Any]]:
    """What a decorated or enclosed function may call that belongs to another: what it wraps and what it encloses."""
    wrapped = getattr(function, "__wrapped__", None)
    if callable(wrapped):
        yield wrapped
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not set yet
            continue
        yield from callables_in(content)


def callables_in(value: Any, depth: int = 2) -> Iterator[Callable[..., Any]]:
    """``value`` itself, or what can be called in a container."""
    if isinstance(value, dict | list | tuple | set):
        for item in tuple(value.values() if isinstance(value, dict) else value) if depth else ():
            yield from callables_in(item, depth - 1)
    elif callable(value) and not isinstance(value, type):
        yield value
