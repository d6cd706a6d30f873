"""What the expressions of a function give, and what they write to, in terms of `known_values`.

One layer of the reading of a function: `call_evaluator` adds calls, and `statement_walker` adds statements.
"""

from __future__ import annotations

import ast
import functools
import types
from dataclasses import replace
from typing import Any, Protocol

from ...phrases import Phrase
from .function_source import FunctionNode, callables_in
from .known_calls import LANES, OPERATORS, TENSOR_PARTS, draws
from .known_values import MADE, UNKNOWN, Instance, Nested, Scope, Value, attribute_of, is_followed

STATE = "state"
CHANCE = "chance"

OPTIONS = "model_options"
"""The name of the model options, which outlive the call wherever they appear."""


class Reader(Protocol):
    """Follows calls, and collects what is found in their code."""

    for_lanes: set[Any]

    def enter(self, call: Any, values: list[Value], named: dict[str, Value], depth: int) -> Value: ...

    def note(self, function: types.FunctionType, code: str, kind: str) -> None: ...


class ExpressionEvaluator:
    """Evaluates the expressions of one function, with the known value of each name.

    ``_eval_X`` handles the nodes of class X of the syntax tree.

    Args:
        reader: follows the calls.
        scope: where names are looked up.
        depth: how many calls deep this function is.
    """

    def __init__(self, reader: Reader, scope: Scope, depth: int) -> None:
        self._reader, self._scope, self._depth = reader, scope, depth

    def _eval(self, node: ast.expr) -> Value:
        evaluate = getattr(self, f"_eval_{type(node).__name__}", None)
        if evaluate is not None:
            value: Value = evaluate(node)
            return value
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._eval(child)
        return MADE

    def _note(self, code: str, kind: str = STATE) -> None:
        self._reader.note(self._scope.function, code, kind)

    # Functions that an expression names

    def _follow(self, value: Value) -> None:
        """Follow a function that is named here, though not called: other code may call it."""
        if value.obj is UNKNOWN or isinstance(value.obj, type | Instance):
            return
        for found in callables_in(value.obj):
            if is_followed(found):
                self._reader.enter(found, [], {}, self._depth + 1)
            elif draws(found, getattr(found, "__name__", ""), None, True):
                self._note(getattr(found, "__name__", Phrase("a generator")), CHANCE)

    def _operate(self, value: Value, *methods: str) -> None:
        """Follow the methods that an operator calls of an object of a pack."""
        for method in methods:
            if isinstance(found := attribute_of(value.obj, method), types.FunctionType | types.MethodType):
                bound = [value] if isinstance(value.obj, Instance) else []
                self._reader.enter(found, bound, {}, self._depth + 1)

    def _define(self, node: FunctionNode) -> Value:
        """Define a nested function, and follow it."""
        value = Value(obj=Nested(node, self._scope))
        if not isinstance(node, ast.Lambda):
            self._scope.names[node.name] = value
        self._reader.enter(value.obj, [], {}, self._depth)
        return value

    def _eval_Lambda(self, node: ast.Lambda) -> Value:
        return self._define(node)

    # Assignments

    def _write(self, target: ast.expr, value: Value) -> None:
        """Assign ``value`` to ``target``. It is noted if the object that it changes outlives the call."""
        if isinstance(target, ast.Name):
            self._write_name(target.id, value)
        elif isinstance(target, ast.Attribute):
            base = self._eval(target.value)
            if base.kept or base.given:
                self._note(Phrase("writes to {code}", code=ast.unparse(target)))
        elif isinstance(target, ast.Subscript):
            self._eval(target.slice)
            if self._eval(target.value).kept:
                self._note(Phrase("writes to {code}", code=ast.unparse(target)))
        elif isinstance(target, ast.Starred):
            self._write(target.value, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for each in target.elts:
                self._write(each, replace(value, obj=UNKNOWN))

    def _write_name(self, name: str, value: Value) -> None:
        if name not in self._scope.outside:
            self._scope.names[name] = value
        elif self._scope.outer is not None and self._scope.outer.holds(name):
            self._scope.outer.set_nonlocal(name, value)
        else:
            self._note(Phrase("writes to {code}", code=name))

    def _write_local(self, target: ast.expr, value: Value) -> None:
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                self._scope.names[name.id] = value

    def _eval_NamedExpr(self, node: ast.NamedExpr) -> Value:
        value = self._eval(node.value)
        self._write(node.target, value)
        return value

    # Names, attributes and elements

    def _eval_Constant(self, node: ast.Constant) -> Value:
        if isinstance(node.value, str) and node.value.startswith(LANES):
            self._reader.for_lanes.add(self._scope.function.__code__)
        return MADE

    def _eval_Name(self, node: ast.Name) -> Value:
        value = self._scope[node.id]
        self._follow(value)
        return value

    def _eval_Attribute(self, node: ast.Attribute) -> Value:
        value = self._attribute(node)
        self._follow(value)
        return value

    def _eval_without_following(self, node: ast.expr) -> Value:
        if isinstance(node, ast.Name):
            return self._scope[node.id]
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        return self._eval(node)

    def _attribute(self, node: ast.Attribute) -> Value:
        base = self._eval_without_following(node.value)
        if isinstance(base.obj, types.FunctionType) and node.attr in ("__get__", "__call__"):
            self._follow(base)
        found = attribute_of(base.obj, node.attr)
        if isinstance(found, property | functools.cached_property):
            getter = found.fget if isinstance(found, property) else found.func
            return self._reader.enter(getter, [base], {}, self._depth + 1)
        if found is UNKNOWN:
            self._operate(base, "__getattr__")
        elif not isinstance(found, types.FunctionType | type):
            self._operate(Value(kept=True, obj=found), "__get__")
        if base.kept or (base.given and node.attr not in TENSOR_PARTS):
            return Value(kept=True, obj=found)
        return replace(base, obj=found)

    def _eval_Subscript(self, node: ast.Subscript) -> Value:
        base, key = self._eval_without_following(node.value), self._eval(node.slice).obj
        self._operate(base, "__getitem__")
        if isinstance(node.slice, ast.Constant):
            key = node.slice.value
        return self._element(base, key if isinstance(key, str | int) else UNKNOWN)

    def _element(self, base: Value, key: Any) -> Value:
        """The element of a container at ``key``, which may be unknown."""
        found = UNKNOWN
        if key is not UNKNOWN and type(base.obj) in (dict, list, tuple):
            try:
                found = base.obj[key]
            except (LookupError, TypeError):
                found = UNKNOWN
        elif key is UNKNOWN and isinstance(base.obj, dict | list | tuple):
            self._follow(base)
        return Value(base.kept or (base.given and key == OPTIONS), base.given, found)

    def _elements(self, node: ast.expr) -> Value:
        """What any element is that a loop over ``node`` gives."""
        if isinstance(node, ast.Tuple | ast.List):
            return functools.reduce(Value.__or__, map(self._eval, node.elts), MADE)
        value = self._eval(node)
        return replace(value, obj=UNKNOWN)

    # Other expressions

    def _eval_BinOp(self, node: ast.BinOp) -> Value:
        for value, side in ((self._eval(node.left), ""), (self._eval(node.right), "r")):
            self._operate(value, f"__{side}{OPERATORS[type(node.op)]}__")
        return MADE

    def _eval_IfExp(self, node: ast.IfExp) -> Value:
        self._eval(node.test)
        return self._eval(node.body) | self._eval(node.orelse)

    def _eval_BoolOp(self, node: ast.BoolOp) -> Value:
        return functools.reduce(Value.__or__, map(self._eval, node.values))

    def _eval_Await(self, node: ast.Await | ast.Starred) -> Value:
        return self._eval(node.value)

    _eval_Starred = _eval_Await

    def _eval_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> Value:
        before = dict(self._scope.names)
        for generator in node.generators:
            self._write_local(generator.target, self._elements(generator.iter))
            for test in generator.ifs:
                self._eval(test)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self._eval(part)
        self._scope.names.clear()
        self._scope.names.update(before)
        return MADE

    _eval_SetComp = _eval_GeneratorExp = _eval_DictComp = _eval_ListComp
