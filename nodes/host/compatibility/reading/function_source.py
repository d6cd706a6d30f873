"""The source of a function as a syntax tree, and the functions that a function holds."""

from __future__ import annotations

import ast
import functools
import linecache
import types
from collections.abc import Callable, Iterator
from typing import Any

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def syntax_of(function: types.FunctionType) -> FunctionNode | None:
    """The source of a function as a syntax tree; None if there is no source, or if it is ambiguous."""
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
    """The functions of a file by their first line, which is the line of the first decorator."""
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


def functions_held_by(function: types.FunctionType) -> Iterator[Callable[..., Any]]:
    """The callables that a decorated or nested function may call: what it wraps and what it encloses."""
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
    """``value`` itself if it is callable, or the callables in a container, ``depth`` containers deep."""
    if isinstance(value, dict | list | tuple | set):
        for item in tuple(value.values() if isinstance(value, dict) else value) if depth else ():
            yield from callables_in(item, depth - 1)
    elif callable(value) and not isinstance(value, type):
        yield value
