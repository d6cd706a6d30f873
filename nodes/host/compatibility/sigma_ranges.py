"""Patches that act in a part of the schedule only: their code compares the noise level, or what is made of it.

Where such a patch sets in, the prediction jumps from one step to the next and cannot be interpolated. Code that only
computes with the noise level changes smoothly.
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

from .origins import Origin, linked, origin_of, syntax_of

_LEVEL = re.compile(r"sigma|timestep|percent|progress|noise_level|(^|_)steps?($|_)", re.IGNORECASE)
_DEPTH = 4  # calls of functions within functions
_SMALLER_OR_LARGER = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def acts_in_a_part(hook: Callable[..., Any]) -> bool:
    """Whether a hook's code, or that of what it calls, compares the noise level with anything."""
    return any(_compares_levels(node) for node in _trees(hook, _DEPTH, set()))


def _trees(hook: Callable[..., Any], depth: int, seen: set[types.CodeType]) -> Iterator[ast.AST]:
    """The source of a hook and of what it calls by name, in its own files."""
    while hasattr(hook, "func") and not isinstance(hook, types.FunctionType):  # functools.partial
        hook = hook.func
    function = getattr(hook, "__func__", hook)
    if not isinstance(function, types.FunctionType):
        function = getattr(type(hook), "forward", None) or type(hook).__call__
    if not isinstance(function, types.FunctionType) or function.__code__ in seen or not depth:
        return
    seen.add(function.__code__)
    tree = syntax_of(function)
    if tree is None:
        return
    yield tree
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    methods = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_self(node.func.value)
    }
    owner = getattr(hook, "__self__", hook)
    further = [
        *linked(function),
        *(function.__globals__.get(name) for name in called),
        *(getattr(owner, name, None) for name in methods),
    ]
    for other in further:
        target = getattr(other, "__func__", other)
        # What the host itself does in each call is the same with and without the patch.
        if callable(target) and origin_of(target) is not Origin.LIBRARY and not _is_of_the_core(target):
            yield from _trees(other, depth - 1, seen)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_of_the_core(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] == "comfy"


def _compares_levels(tree: ast.AST) -> bool:
    """Whether something is smaller or larger than a noise level, or than what was assigned from one."""
    levels: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if _mentions(node.value, levels):
                levels |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return any(
        isinstance(node, ast.Compare)
        and any(isinstance(operator, _SMALLER_OR_LARGER) for operator in node.ops)
        and any(_mentions(side, levels) for side in (node.left, *node.comparators))
        for node in ast.walk(tree)
    )


def _mentions(node: ast.AST, levels: set[str]) -> bool:
    """Whether an expression names a noise level: a variable, an attribute, a key, or one of ``levels``."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and (part.id in levels or _LEVEL.search(part.id)):
            return True
        if isinstance(part, ast.Attribute) and _LEVEL.search(part.attr):
            return True
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and _LEVEL.search(part.value):
            return True
    return False
