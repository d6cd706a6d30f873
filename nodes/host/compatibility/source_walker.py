"""Follows the source of one function: what it writes to, draws from and calls. See `reading`."""

from __future__ import annotations

import ast
import functools
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from torch import nn

from .known_calls import (
    ADVANCES,
    CHANGES_CONTAINER,
    CHANGES_FIRST,
    HARMLESS_IN_PLACE,
    LANES,
    MOVES,
    OPERATORS,
    PASSES_ELEMENTS,
    TENSOR_PARTS,
    draws,
    has_no_result,
    is_unseeded,
)
from .origins import FunctionNode, callables_in
from .values import CONTAINERS, GIVEN, KEPT, MADE, UNKNOWN, Instance, Nested, Scope, Value, attribute_of, is_read

STATE = "keeps state from call to call"
CHANCE = "draws random numbers in each call"

_OPTIONS = "model_options"  # outlive the call, wherever they turn up


class Reader(Protocol):
    """What follows a call, and takes notes."""

    for_lanes: set[Any]

    def enter(self, call: Any, values: list[Value], named: dict[str, Value], depth: int) -> Value: ...

    def note(self, function: types.FunctionType, code: str, kind: str) -> None: ...


class Walk(ast.NodeVisitor):
    """One pass through a function's source, in the order of its lines, with what is known of each name."""

    def __init__(self, reader: Reader, scope: Scope, depth: int) -> None:
        self._reader, self._scope, self._depth = reader, scope, depth
        self._returned: Value | None = None

    def run(self, node: FunctionNode, values: list[Value], named: dict[str, Value]) -> Value:
        """The function's result for these arguments."""
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
            # A default that can change is one object for all calls.
            mutable = isinstance(defaults.get(name), CONTAINERS) or hasattr(defaults.get(name), "__dict__")
            names[name] = Value(kept=mutable, given=True, obj=defaults[name] if mutable else UNKNOWN)
        names |= dict(zip(positional, values, strict=False)) | {k: v for k, v in named.items() if k in names}
        if _OPTIONS in names:
            names[_OPTIONS] = names[_OPTIONS] | KEPT
        for extra in (given.vararg, given.kwarg):
            if extra is not None:
                names[extra.arg] = GIVEN

    def _run(self, body: list[Any]) -> None:
        for statement in body:
            self.visit(statement)

    # Statements

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
            for each, of in zip(target.elts, [self._eval(item) for item in value.elts], strict=True):
                self._write(each, of)
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
            self._note(f"changes {node.target.id} in place")
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
            self._note(f"advances {ast.unparse(node.iter)}")
        for _ in range(2):  # what the first turn leaves, the second one sees
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

    def _define(self, node: FunctionNode) -> Value:
        value = Value(obj=Nested(node, self._scope))
        if not isinstance(node, ast.Lambda):
            self._scope.names[node.name] = value
        self._reader.enter(value.obj, [], {}, self._depth)
        return value

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

    def _write(self, target: ast.expr, value: Value) -> None:
        """``target`` gets ``value``: a note if what it belongs to outlives the call."""
        if isinstance(target, ast.Name):
            self._write_name(target.id, value)
        elif isinstance(target, ast.Attribute):
            base = self._eval(target.value)
            if base.kept or base.given:
                self._note(f"writes to {ast.unparse(target)}")
        elif isinstance(target, ast.Subscript):
            self._eval(target.slice)
            if self._eval(target.value).kept:
                self._note(f"writes to {ast.unparse(target)}")
        elif isinstance(target, ast.Starred):
            self._write(target.value, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for each in target.elts:
                self._write(each, replace(value, obj=UNKNOWN))

    def _write_name(self, name: str, value: Value) -> None:
        if name not in self._scope.outside:
            self._scope.names[name] = value
        elif self._scope.outer is not None and self._scope.outer.owner(name):
            self._scope.outer.set_outer(name, value)
        else:
            self._note(f"writes to {name}")

    # Expressions

    def _eval(self, node: ast.expr) -> Value:
        evaluate = getattr(self, f"_eval_{type(node).__name__}", None)
        if evaluate is not None:
            value: Value = evaluate(node)
            return value
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self._eval(child)
        return MADE

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

    def _eval_without_following(self, node: ast.expr) -> Value:
        if isinstance(node, ast.Name):
            return self._scope[node.id]
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        return self._eval(node)

    def _eval_BinOp(self, node: ast.BinOp) -> Value:
        for value, side in ((self._eval(node.left), ""), (self._eval(node.right), "r")):
            self._operate(value, f"__{side}{OPERATORS[type(node.op)]}__")
        return MADE

    def _operate(self, value: Value, *methods: str) -> None:
        """Follow what an operator calls of an object of a pack's."""
        for method in methods:
            if isinstance(found := attribute_of(value.obj, method), types.FunctionType | types.MethodType):
                bound = [value] if isinstance(value.obj, Instance) else []
                self._reader.enter(found, bound, {}, self._depth + 1)

    def _eval_Subscript(self, node: ast.Subscript) -> Value:
        base, key = self._eval_without_following(node.value), self._eval(node.slice).obj
        self._operate(base, "__getitem__")
        if isinstance(node.slice, ast.Constant):
            key = node.slice.value
        return self._element(base, key if isinstance(key, str | int) else UNKNOWN)

    def _element(self, base: Value, key: Any) -> Value:
        found = UNKNOWN
        if key is not UNKNOWN and type(base.obj) in (dict, list, tuple):
            try:
                found = base.obj[key]
            except (LookupError, TypeError):
                found = UNKNOWN
        elif key is UNKNOWN and isinstance(base.obj, dict | list | tuple):
            self._follow(base)
        return Value(base.kept or (base.given and key == _OPTIONS), base.given, found)

    def _elements(self, node: ast.expr) -> Value:
        """What a loop over this takes, one by one."""
        if isinstance(node, ast.Tuple | ast.List):
            return functools.reduce(Value.__or__, map(self._eval, node.elts), MADE)
        value = self._eval(node)
        return replace(value, obj=UNKNOWN)

    def _eval_IfExp(self, node: ast.IfExp) -> Value:
        self._eval(node.test)
        return self._eval(node.body) | self._eval(node.orelse)

    def _eval_BoolOp(self, node: ast.BoolOp) -> Value:
        return functools.reduce(Value.__or__, map(self._eval, node.values))

    def _eval_NamedExpr(self, node: ast.NamedExpr) -> Value:
        value = self._eval(node.value)
        self._write(node.target, value)
        return value

    def _eval_Await(self, node: ast.Await) -> Value:
        return self._eval(node.value)

    _eval_Starred = _eval_Await

    def _eval_Lambda(self, node: ast.Lambda) -> Value:
        return self._define(node)

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

    def _write_local(self, target: ast.expr, value: Value) -> None:
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                self._scope.names[name.id] = value

    def _eval_Call(self, node: ast.Call) -> Value:
        of, base = node.func, MADE
        if isinstance(of, ast.Attribute):
            base = self._eval_without_following(of.value)
            called = self._attribute(of).obj
        else:
            called = self._eval_without_following(of).obj
        name = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")
        if has_no_result(called, name):
            return MADE
        values = [self._eval(argument) for argument in node.args]
        named = {word.arg: self._eval(word.value) for word in node.keywords if word.arg is not None}
        while isinstance(called, functools.partial):
            values = [*(Value(kept=True, obj=value) for value in called.args), *values]
            named = {key: Value(kept=True, obj=value) for key, value in called.keywords.items()} | named
            called = called.func
            name = getattr(called, "__name__", name)
        for word in node.keywords:
            if word.arg is None:
                self._eval(word.value)
        self._draw(node, called, name, base, named)
        read = is_read(called)
        if not read:
            self._change(node, called, name, base, values, named)
        return self._result(node, called, name, base, values, named)

    def _draw(self, node: ast.Call, called: Any, name: str, base: Value, named: dict[str, Value]) -> None:
        generator = named.get("generator")
        if generator is not None and not generator.kept and not generator.given and not _is_none(node, "generator"):
            return  # made in the call, so that it draws the same in every call
        if draws(called, name, base.obj, base.kept) or (is_unseeded(called) and not node.args and not node.keywords):
            self._note(ast.unparse(node.func), CHANCE)

    def _change(
        self, node: ast.Call, called: Any, name: str, base: Value, values: list[Value], named: dict[str, Value]
    ) -> None:
        """A note if the call changes something that outlives it."""
        first = values[0] if values else MADE
        owner = getattr(called, "__self__", None)
        kept_first = first.kept or (first.given and _one_of(called, (setattr, delattr, object.__setattr__)))
        in_module = isinstance(base.obj, types.ModuleType) and name.endswith("_") and not name.startswith("__")
        if (_one_of(called, CHANGES_FIRST) or in_module) and kept_first:
            self._note(f"writes to what outlives the call, by {ast.unparse(node.func)}")
        elif isinstance(owner, CONTAINERS) and not base.kept and _changes(_name_of(called, name), owner):
            self._note(f"changes what outlives the call, by {ast.unparse(node.func)}")
        elif getattr(called, "__module__", None) == "unittest.mock":
            self._note(f"replaces parts of others for a while, by {ast.unparse(node.func)}")
        elif base.kept and name in ADVANCES:
            self._note(f"advances {ast.unparse(node.func)}")
        elif isinstance(called, types.FunctionType) and called.__module__ == "torch.nn.init" and kept_first:
            self._note(f"writes to {ast.unparse(node.args[0])}")
        elif isinstance(base.obj, type) and name in CHANGES_CONTAINER and first.kept:
            self._note(f"changes {ast.unparse(node.args[0])}")
        elif "out" in named and named["out"].kept:
            self._note("writes to what outlives the call, by out=")
        elif base.kept and isinstance(node.func, ast.Attribute) and _changes(name, base.obj):
            self._note(f"changes {ast.unparse(node.func.value)}")

    def _result(
        self, node: ast.Call, called: Any, name: str, base: Value, values: list[Value], named: dict[str, Value]
    ) -> Value:
        for argument in (*values, *named.values()):
            if not is_read(called):
                self._follow(argument)  # handed to a function that is not read, which may call it
        if _one_of(called, (enumerate, zip, reversed, iter, filter)):
            return replace(functools.reduce(Value.__or__, values, MADE), obj=UNKNOWN)
        if called is next and values:
            if values[0].kept:
                self._note(f"advances {ast.unparse(node.args[0])}")
            return replace(values[0], obj=UNKNOWN)
        if called is type and len(values) == 1:
            obj = values[0].obj
            kind = obj.kind if isinstance(obj, Instance) else UNKNOWN if obj is UNKNOWN else type(obj)
            return Value(kept=True, obj=kind)
        if called is vars and values:
            return replace(values[0], kept=values[0].kept or values[0].given, obj=UNKNOWN)
        if called is globals:
            return KEPT
        if called is getattr:
            return self._looked_up(node, values)
        if called is super:
            return self._parent()
        if name in PASSES_ELEMENTS and isinstance(node.func, ast.Attribute) and not is_read(called):
            key = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else UNKNOWN
            return self._element(base, key) if name in ("get", "setdefault", "pop") else replace(base, obj=UNKNOWN)
        if called is UNKNOWN:
            return MADE
        bound = [base] if isinstance(base.obj, Instance) and isinstance(called, types.FunctionType) else []
        if not is_read(called):
            return MADE
        value = self._reader.enter(called, [*bound, *values], named, self._depth + 1)
        if isinstance(called, types.FunctionType) and not called.__closure__:
            if called.__code__ in self._reader.for_lanes:  # a function that tells on which lane this is
                self._reader.for_lanes.add(self._scope.function.__code__)
        return value

    def _looked_up(self, node: ast.Call, values: list[Value]) -> Value:
        if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) and isinstance(node.args[1].value, str):
            value = self._attribute(ast.Attribute(node.args[0], node.args[1].value))
            return value | values[2] if len(values) > 2 else value
        return replace(values[0], obj=UNKNOWN) if values else MADE

    def _parent(self) -> Value:
        """``super()``."""
        owner, instance = self._scope["__class__"], next(iter(self._scope.names.values()), MADE)
        if isinstance(owner.obj, type) and isinstance(instance.obj, owner.obj):
            return replace(instance, obj=super(owner.obj, instance.obj))
        return replace(instance, obj=UNKNOWN)

    def _follow(self, value: Value) -> None:
        """A function that is named, not called here: something may call it."""
        if value.obj is UNKNOWN or isinstance(value.obj, type | Instance):
            return
        for found in callables_in(value.obj):
            if is_read(found):
                self._reader.enter(found, [], {}, self._depth + 1)
            elif draws(found, getattr(found, "__name__", ""), None, True):
                self._note(getattr(found, "__name__", "a generator"), CHANCE)

    def _note(self, code: str, kind: str = STATE) -> None:
        self._reader.note(self._scope.function, code, kind)


def _name_of(called: Any, name: str) -> str:
    found = getattr(called, "__name__", name)
    return found if isinstance(found, str) else name


def _one_of(called: Any, functions: tuple[Any, ...]) -> bool:
    return any(called is function for function in functions)


def _changes(name: str, obj: Any) -> bool:
    """Whether a method of this name changes its object."""
    if isinstance(obj, types.ModuleType):
        return False
    if isinstance(obj, nn.Module):
        return name in MOVES
    if obj is not UNKNOWN and not isinstance(obj, CONTAINERS) and not hasattr(obj, "put"):
        return False
    in_place = name.endswith("_") and not name.startswith("_") and name not in HARMLESS_IN_PLACE
    return in_place or name in CHANGES_CONTAINER


def _is_none(node: ast.Call, name: str) -> bool:
    words = [word.value for word in node.keywords if word.arg == name]
    return bool(words) and isinstance(words[0], ast.Constant) and words[0].value is None


def _own(body: list[Any]) -> Iterator[ast.AST]:
    """The nodes of a body without those of functions and classes within it."""
    for node in body:
        yield node
        if not isinstance(node, FunctionNode | ast.ClassDef):
            yield from _own(list(ast.iter_child_nodes(node)))


def _declared_outside(body: list[Any]) -> frozenset[str]:
    return frozenset(name for node in _own(body) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names)


def _assigned(body: list[Any]) -> set[str]:
    names = {node.id for node in _own(body) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    return names | {node.name for node in _own(body) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
