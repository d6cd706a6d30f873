"""Finds patches that take one sigma for all items of a call, or that act in a part of the steps only.

ComfyUI gives a patch a sigma for each item of a batch, usually all the same. So many patches read the first one, and
decide by it. In a call whose rows have different sigmas they would be wrong for all rows but the first.
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
_TO_NUMBERS = frozenset(("item", "tolist", "max", "min", "mean", "amax", "amin"))
"""Methods that make one value, or Python numbers, of the sigmas of a batch."""


def takes_one_sigma(hook: Callable[..., Any]) -> bool:
    """Whether the code of a hook, or code that it calls, compares the sigma with anything, or makes one value of it."""
    return any(_takes_one(tree) for tree in _trees(hook, _MAX_DEPTH, set()))


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


def _takes_one(tree: ast.AST) -> bool:
    """Whether a comparison, an index, or a conversion to a number has a sigma in it, or a name assigned from one."""
    sigmas: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if _mentions(node.value, sigmas):
                sigmas |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return any(_mentions(part, sigmas) for node in ast.walk(tree) for part in _made_one(node))


def _made_one(node: ast.AST) -> list[ast.expr]:
    """The expressions of which this part of a tree takes one value."""
    if isinstance(node, ast.Compare):
        takes_no_value = all(isinstance(operator, ast.Is | ast.IsNot | ast.In | ast.NotIn) for operator in node.ops)
        return [] if takes_no_value else [node.left, *node.comparators]
    if isinstance(node, ast.Subscript):
        whole = isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, int)
        return [node.value] if whole and not _is_shape(node.value) else []
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in ("float", "int"):
            return list(node.args)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _TO_NUMBERS:
            return [node.func.value]
    return []


def _is_shape(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "shape"


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
