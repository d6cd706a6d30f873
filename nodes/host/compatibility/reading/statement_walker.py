"""Follows the statements of one function in their order: what it writes to, draws from and calls.

Each branch and each loop is followed; nothing is run. See `source_reader`.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...phrases import Phrase
from .call_evaluator import CallEvaluator
from .expression_evaluator import OPTIONS, Reader
from .function_source import FunctionNode
from .known_calls import OPERATORS
from .known_values import CONTAINERS, GIVEN, KEPT, MADE, UNKNOWN, Scope, Value


class StatementWalker(CallEvaluator, ast.NodeVisitor):
    """One pass through the source of a function, in the order of its lines."""

    def __init__(self, reader: Reader, scope: Scope, depth: int) -> None:
        super().__init__(reader, scope, depth)
        self._returned: Value | None = None

    def run(self, node: FunctionNode, values: list[Value], named: dict[str, Value]) -> Value:
        """The result of the function for these arguments."""
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        outside = _declared_outside(body)
        self._scope = replace(self._scope, names={}, outside=outside)
        for name in _assigned(body) - outside:
            self._scope.names[name] = MADE
        self._bind(node, values, named)
        if isinstance(node, ast.Lambda):
            return self._eval(node.body)
        self._run(body)
        return self._returned or MADE

    def _bind(self, node: FunctionNode, values: list[Value], named: dict[str, Value]) -> None:
        given, names = node.args, self._scope.names
        positional = [argument.arg for argument in (*given.posonlyargs, *given.args)]
        function = self._scope.function if self._scope.outer is None else None
        defaults: dict[str, Any] = {}
        if function is not None:
            from_end = function.__defaults__ or ()
            defaults = dict(zip(positional[len(positional) - len(from_end) :], from_end, strict=True))
            defaults |= function.__kwdefaults__ or {}
        for name in (*positional, *(argument.arg for argument in given.kwonlyargs)):
            # A mutable default is one object for all calls.
            is_mutable = isinstance(defaults.get(name), CONTAINERS) or hasattr(defaults.get(name), "__dict__")
            names[name] = Value(kept=is_mutable, given=True, obj=defaults[name] if is_mutable else UNKNOWN)
        names |= dict(zip(positional, values, strict=False)) | {k: v for k, v in named.items() if k in names}
        if OPTIONS in names:
            names[OPTIONS] = names[OPTIONS] | KEPT
        for extra in (given.vararg, given.kwarg):
            if extra is not None:
                names[extra.arg] = GIVEN

    def _run(self, body: list[Any]) -> None:
        for statement in body:
            self.visit(statement)

    def visit_Expr(self, node: ast.Expr) -> None:
        self._eval(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None:
            value = self._eval(node.value)
            self._returned = value if self._returned is None else self._returned | value

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assign(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assign(node.target, node.value)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        sides = (ast.Tuple, ast.List)
        if isinstance(target, sides) and isinstance(value, sides) and len(target.elts) == len(value.elts):
            for each, part in zip(target.elts, [self._eval(item) for item in value.elts], strict=True):
                self._write(each, part)
        else:
            self._write(target, self._eval(value))

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        value = self._eval(node.value)
        if not isinstance(node.target, ast.Name):
            self._write(node.target, value)
            return
        before = self._scope[node.target.id]
        self._operate(before, f"__i{OPERATORS[type(node.op)]}__", f"__{OPERATORS[type(node.op)]}__")
        if before.kept and isinstance(before.obj, CONTAINERS):
            self._note(Phrase("changes {code} in place", code=node.target.id))
        self._write(node.target, MADE if before.kept else before)

    def visit_Delete(self, node: ast.Delete) -> None:
        for target in node.targets:
            if not isinstance(target, ast.Name):
                self._write(target, MADE)

    def visit_If(self, node: ast.If) -> None:
        self._eval(node.test)
        self._branches(node.body, node.orelse)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        elements = self._elements(node.iter)
        if elements.kept and isinstance(self._eval_without_following(node.iter).obj, Iterator):
            self._note(Phrase("advances {code}", code=ast.unparse(node.iter)))
        for _ in range(2):  # the second time with the values that the first time leaves
            self._write(node.target, elements)
            self._branches(node.body, [])
        self._run(node.orelse)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        for _ in range(2):
            self._eval(node.test)
            self._branches(node.body, [])
        self._run(node.orelse)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            value = self._eval(item.context_expr)
            self._operate(value, "__enter__", "__exit__")
            if item.optional_vars is not None:
                self._write(item.optional_vars, value)
        self._run(node.body)

    visit_AsyncWith = visit_With

    def visit_Try(self, node: Any) -> None:
        self._branches(node.body, [])
        for handler in node.handlers:
            self._branches(handler.body, [])
        self._run(node.orelse)
        self._run(node.finalbody)

    visit_TryStar = visit_Try

    def visit_Match(self, node: Any) -> None:
        self._eval(node.subject)
        for case in node.cases:
            self._branches(case.body, [])

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            self._eval(decorator)
        self._define(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            if isinstance(statement, FunctionNode):
                self._define(statement)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            self._import(alias.asname or name, sys.modules.get(name, UNKNOWN))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        package = self._scope.function.__globals__.get("__package__") or ""
        base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        module = sys.modules.get(".".join([*base, *([node.module] if node.module else [])]))
        for alias in node.names:
            self._import(alias.asname or alias.name, vars(module).get(alias.name, UNKNOWN) if module else UNKNOWN)

    def _import(self, name: str, found: Any) -> None:
        self._scope.names[name] = Value(kept=True, obj=found)

    def _branches(self, *bodies: list[Any]) -> None:
        before, after = dict(self._scope.names), []
        for body in bodies:
            self._scope.names.clear()
            self._scope.names.update(before)
            self._run(body)
            after.append(dict(self._scope.names))
        for name in set().union(*after):
            values = [names[name] for names in after if name in names]
            self._scope.names[name] = functools.reduce(Value.__or__, values)


def _nodes_of(body: list[Any]) -> Iterator[ast.AST]:
    """The nodes of a body, without those of nested functions and classes."""
    for node in body:
        yield node
        if not isinstance(node, FunctionNode | ast.ClassDef):
            yield from _nodes_of(list(ast.iter_child_nodes(node)))


def _declared_outside(body: list[Any]) -> frozenset[str]:
    declarations = (node for node in _nodes_of(body) if isinstance(node, ast.Global | ast.Nonlocal))
    return frozenset(name for node in declarations for name in node.names)


def _assigned(body: list[Any]) -> set[str]:
    names = {node.id for node in _nodes_of(body) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    return names | {node.name for node in _nodes_of(body) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
