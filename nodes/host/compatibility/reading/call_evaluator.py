"""What a call within a function gives, and whether it draws random numbers or changes what outlives the call."""

from __future__ import annotations

import ast
import functools
import types
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ...phrases import Phrase
from .expression_evaluator import CHANCE, ExpressionEvaluator
from .known_calls import (
    ADVANCES,
    CHANGES_CONTAINER,
    CHANGES_FIRST,
    HARMLESS_IN_PLACE,
    MOVES,
    PASSES_ELEMENTS,
    draws,
    has_no_result,
    is_unseeded,
)
from .known_values import CONTAINERS, KEPT, MADE, UNKNOWN, Instance, Value, is_followed


@dataclass(frozen=True, eq=False)
class _Call:
    """A call in the source.

    ``called``: the object that is called; ``name``: its name in the source; ``base``: the object of a method;
    ``values``, ``named``: the arguments.
    """

    node: ast.Call
    called: Any
    name: str
    base: Value
    values: list[Value]
    named: dict[str, Value]

    @property
    def first(self) -> Value:
        """The first positional argument."""
        return self.values[0] if self.values else MADE

    @property
    def source(self) -> str:
        """What is called, as it is written in the source."""
        return ast.unparse(self.node.func)


class CallEvaluator(ExpressionEvaluator):
    """Evaluates calls as well."""

    def _eval_Call(self, node: ast.Call) -> Value:
        function, base = node.func, MADE
        if isinstance(function, ast.Attribute):
            base = self._eval_without_following(function.value)
            called = self._attribute(function).obj
        else:
            called = self._eval_without_following(function).obj
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if has_no_result(called):
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
        call = _Call(node, called, name, base, values, named)
        self._note_draw(call)
        if is_followed(called):
            return self._followed(call)
        change = _change(call)
        if change is not None:
            self._note(change)
        return self._result(call)

    def _note_draw(self, call: _Call) -> None:
        """Note a draw from a generator that is not made and seeded in the call of the patch."""
        generator = call.named.get("generator")
        is_local = generator is not None and not generator.kept and not generator.given
        if is_local and not _is_none(call.node, "generator"):
            return  # made in the call, so that it draws the same numbers in every call
        is_without_seed = is_unseeded(call.called) and not call.node.args and not call.node.keywords
        if draws(call.called, call.name, call.base.obj, call.base.kept) or is_without_seed:
            self._note(call.source, CHANCE)

    def _followed(self, call: _Call) -> Value:
        """The result of a call whose code is read."""
        called = call.called
        bound = [call.base] if isinstance(call.base.obj, Instance) and isinstance(called, types.FunctionType) else []
        value = self._reader.enter(called, [*bound, *call.values], call.named, self._depth + 1)
        if isinstance(called, types.FunctionType) and not called.__closure__:
            if called.__code__ in self._reader.for_lanes:  # a function that returns on which lane this is
                self._reader.for_lanes.add(self._scope.function.__code__)
        return value

    def _result(self, call: _Call) -> Value:
        """The result of a call whose code is not read."""
        called, values = call.called, call.values
        for argument in (*values, *call.named.values()):
            self._follow(argument)  # the function may call its arguments
        if _is_one_of(called, (enumerate, zip, reversed, iter, filter)):
            return replace(functools.reduce(Value.__or__, values, MADE), obj=UNKNOWN)
        if called is next and values:
            if values[0].kept:
                self._note(Phrase("advances {code}", code=ast.unparse(call.node.args[0])))
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
            return self._result_of_getattr(call)
        if called is super:
            return self._result_of_super()
        if call.name in PASSES_ELEMENTS and isinstance(call.node.func, ast.Attribute):
            if call.name not in ("get", "setdefault", "pop"):
                return replace(call.base, obj=UNKNOWN)
            arguments = call.node.args
            key = arguments[0].value if arguments and isinstance(arguments[0], ast.Constant) else UNKNOWN
            return self._element(call.base, key)
        return MADE

    def _result_of_getattr(self, call: _Call) -> Value:
        arguments, values = call.node.args, call.values
        if len(arguments) > 1 and isinstance(arguments[1], ast.Constant) and isinstance(arguments[1].value, str):
            value = self._attribute(ast.Attribute(arguments[0], arguments[1].value))
            return value | values[2] if len(values) > 2 else value
        return replace(values[0], obj=UNKNOWN) if values else MADE

    def _result_of_super(self) -> Value:
        owner, instance = self._scope["__class__"], next(iter(self._scope.names.values()), MADE)
        if isinstance(owner.obj, type) and isinstance(instance.obj, owner.obj):
            return replace(instance, obj=super(owner.obj, instance.obj))
        return replace(instance, obj=UNKNOWN)


def _change(call: _Call) -> Phrase | None:
    """What a call changes that outlives the call of the patch, in words; None if nothing."""
    called, name, base, first = call.called, call.name, call.base, call.first
    owner = getattr(called, "__self__", None)
    is_first_kept = first.kept or (first.given and _is_one_of(called, (setattr, delattr, object.__setattr__)))
    is_in_place = isinstance(base.obj, types.ModuleType) and name.endswith("_") and not name.startswith("__")
    if (_is_one_of(called, CHANGES_FIRST) or is_in_place) and is_first_kept:
        return Phrase("writes to what outlives the call, by {code}", code=call.source)
    if isinstance(owner, CONTAINERS) and not base.kept and _is_changing(_name_of(called, name), owner):
        return Phrase("changes what outlives the call, by {code}", code=call.source)
    if getattr(called, "__module__", None) == "unittest.mock":
        return Phrase("replaces parts of other objects for a time, by {code}", code=call.source)
    if base.kept and name in ADVANCES:
        return Phrase("advances {code}", code=call.source)
    if isinstance(called, types.FunctionType) and called.__module__ == "torch.nn.init" and is_first_kept:
        return Phrase("writes to {code}", code=ast.unparse(call.node.args[0]))
    if isinstance(base.obj, type) and name in CHANGES_CONTAINER and first.kept:
        return Phrase("changes {code}", code=ast.unparse(call.node.args[0]))
    if "out" in call.named and call.named["out"].kept:
        return Phrase("writes to what outlives the call, by {code}", code="out=")
    if base.kept and isinstance(call.node.func, ast.Attribute) and _is_changing(name, base.obj):
        return Phrase("changes {code}", code=ast.unparse(call.node.func.value))
    return None


def _name_of(called: Any, name: str) -> str:
    found = getattr(called, "__name__", name)
    return found if isinstance(found, str) else name


def _is_one_of(called: Any, functions: tuple[Any, ...]) -> bool:
    return any(called is function for function in functions)


def _is_changing(name: str, obj: Any) -> bool:
    """Whether a method of this name changes its object."""
    if isinstance(obj, types.ModuleType):
        return False
    if isinstance(obj, nn.Module):
        return name in MOVES
    if obj is not UNKNOWN and not isinstance(obj, CONTAINERS) and not hasattr(obj, "put"):
        return False
    is_in_place = name.endswith("_") and not name.startswith("_") and name not in HARMLESS_IN_PLACE
    return is_in_place or name in CHANGES_CONTAINER


def _is_none(node: ast.Call, name: str) -> bool:
    words = [word.value for word in node.keywords if word.arg == name]
    return bool(words) and isinstance(words[0], ast.Constant) and words[0].value is None
