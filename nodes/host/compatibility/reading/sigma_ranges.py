"""Finds patches that act in a part of the steps only: their code compares the sigma, or a value made from it.

Where such a patch begins to act, the prediction jumps from one step to the next and cannot be interpolated. The result
of code that only computes with the sigma changes smoothly.
"""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

from ..origins import Origin, origin_of
from .function_source import functions_held_by, syntax_of

_SIGMA_NAME = re.compile(r"sigma|timestep|percent|progress|noise_level|(^|_)steps?($|_)", re.IGNORECASE)
_MAX_DEPTH = 4  # calls within calls
_ORDER_COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def acts_in_a_part(hook: Callable[..., Any]) -> bool:
    """Whether the code of a hook, or code that it calls, compares the sigma with anything."""
    return any(_compares_sigmas(tree) for tree in _trees(hook, _MAX_DEPTH, set()))


def _trees(hook: Callable[..., Any], depth: int, seen: set[types.CodeType]) -> Iterator[ast.AST]:
    """The syntax trees of a hook and of the functions that it calls by name, without libraries and the host's core."""
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
    further: list[Any] = [
        *functions_held_by(function),
        *(function.__globals__.get(name) for name in called),
        *(getattr(owner, name, None) for name in methods),
    ]
    for other in further:
        target = getattr(other, "__func__", other)
        # The host's core does the same with and without the patch.
        if callable(target) and origin_of(target) is not Origin.LIBRARY and not _is_in_core(target):
            yield from _trees(other, depth - 1, seen)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _is_in_core(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).partition(".")[0] == "comfy"


def _compares_sigmas(tree: ast.AST) -> bool:
    """Whether an order comparison has a sigma on one side, or a name that was assigned from one."""
    sigmas: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if _mentions(node.value, sigmas):
                sigmas |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return any(
        isinstance(node, ast.Compare)
        and any(isinstance(operator, _ORDER_COMPARISONS) for operator in node.ops)
        and any(_mentions(side, sigmas) for side in (node.left, *node.comparators))
        for node in ast.walk(tree)
    )


def _mentions(node: ast.AST, sigmas: set[str]) -> bool:
    """Whether an expression names a sigma: by a variable, an attribute, a key, or one of the names ``sigmas``."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and (part.id in sigmas or _SIGMA_NAME.search(part.id)):
            return True
        if isinstance(part, ast.Attribute) and _SIGMA_NAME.search(part.attr):
            return True
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and _SIGMA_NAME.search(part.value):
            return True
    return False
