"""Reads the code of a patch of another pack, and the code that it calls: does the patch keep state between calls?

The reader follows the source as a call would run it: through decorators, closures, bound objects, partial functions,
default values, ``forward`` of modules, and functions that are called by name. It does not read functions of libraries,
nor those of the host that this pack was run with (`origins`). A value is *kept* if it outlives the call (it is
enclosed, global, or an attribute of a kept object), *given* if it is an argument of the call, and otherwise made in the
call. A patch keeps state if it writes to a kept value, or to an attribute of a given one. It is random if it draws from
a generator that is not made in the call.

Reading cannot find everything. `trial` tries the patches.
"""

from __future__ import annotations

import dis
import functools
import logging
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from torch import nn

from ...phrases import Phrase, shortened
from ..hooks import functions_set_on
from ..origins import FOREIGN, is_changed, origin_of, pack_of
from .expression_evaluator import CHANCE, STATE
from .function_source import callables_in, functions_held_by, syntax_of
from .known_calls import LANES
from .known_values import MADE, Instance, Nested, Scope, Value, attribute_of
from .statement_walker import StatementWalker

_MAX_CODE = 100  # characters of code in a message
_MAX_DEPTH = 12  # calls within calls
_MAX_FUNCTIONS = 400  # of one patch: the code of a larger patch is not read to its end


@dataclass(frozen=True)
class Finding:
    """Why a patch is not the same in every call: it keeps state or draws random numbers.

    ``code``: the code that does so, or what it does, in ``function`` of ``pack``.
    """

    kind: str
    code: str
    function: str
    pack: str

    def __str__(self) -> str:
        return self.about("").lstrip()

    def about(self, name: str) -> Phrase:
        """The finding as a sentence about the patch of this name."""
        values = {"name": name, "code": shortened(self.code, _MAX_CODE), "function": self.function, "pack": self.pack}
        if self.kind == CHANCE:
            return Phrase("{name} draws random numbers in each call ({code}, in {function} of {pack})", **values)
        return Phrase("{name} keeps state from call to call ({code}, in {function} of {pack})", **values)


@dataclass(frozen=True)
class Reading:
    """The result of reading a patch.

    ``packs``: the packs whose code takes part. That code may do more than reading finds.
    """

    finding: Finding | None
    packs: frozenset[str]


def read(hook: Callable[..., Any]) -> Reading:
    """Read the code of ``hook``. Reading never fails: code that cannot be read is left to the trial."""
    own = _function_of(hook)
    reader = _Reader(own.__code__ if own is not None and is_changed(own) else None)
    try:
        reader.enter(hook, [], {}, 0)
    except Exception as error:
        logging.getLogger("chords").debug("CHORDS: the code of %r could not be read: %r", hook, error)
        reader.foreign.setdefault(id(hook), pack_of(getattr(hook, "__func__", hook)))
    findings = [finding for code, finding in reader.findings if code not in reader.for_lanes]
    packs = frozenset(pack for code, pack in reader.foreign.items() if code not in reader.for_lanes)
    return Reading(findings[0] if findings else None, packs)


@dataclass(eq=False)
class _Reader:
    """Follows calls.

    Attributes:
        findings: what is not the same in every call, with the code object where it is.
        foreign: the name of the pack, by the code of packs that was followed.
        for_lanes: code that is written for the lanes of this pack: it contains their name.
        hook: the code of the hook itself, if it is in a changed file of the host's core. It is read. The core that it
            calls is not: the host calls that without the hook as well.
    """

    hook: types.CodeType | None = None
    findings: list[tuple[Any, Finding]] = field(default_factory=list)
    foreign: dict[Any, str] = field(default_factory=dict)
    for_lanes: set[Any] = field(default_factory=set)
    _seen: set[Any] = field(default_factory=set)

    def enter(self, call: Any, values: list[Value], named: dict[str, Value], depth: int) -> Value:
        """Follow a call of ``call`` with these arguments. An argument that is missing counts as given."""
        if depth > _MAX_DEPTH or len(self._seen) > _MAX_FUNCTIONS:
            return MADE
        if isinstance(call, functools.partial):
            bound = [Value(kept=True, obj=value) for value in call.args]
            keywords = {name: Value(kept=True, obj=value) for name, value in call.keywords.items()}
            return self.enter(call.func, [*bound, *values], {**keywords, **named}, depth + 1)
        if isinstance(call, types.MethodType):
            if origin_of(call.__func__) not in FOREIGN:
                self._enter_held(call.__self__, depth)
            return self.enter(call.__func__, [Value(kept=True, obj=call.__self__), *values], named, depth)
        if isinstance(call, types.FunctionType):
            return self._enter_function(call, values, named, depth)
        if isinstance(call, Nested):
            if not self._is_new(call.node, values, named):
                return MADE
            return StatementWalker(self, call.scope.inner(call.node), depth + 1).run(call.node, values, named)
        if isinstance(call, type):
            return self._enter_class(call, values, named, depth)
        return self._enter_object(call, values, named, depth)

    def _enter_class(self, kind: type, values: list[Value], named: dict[str, Value], depth: int) -> Value:
        """Follow the making of an object."""
        begin = attribute_of(kind, "__init__") if origin_of(kind) in FOREIGN else None
        if isinstance(begin, types.FunctionType) and syntax_of(begin) is not None:  # a dataclass has no source
            self.enter(begin, [Value(obj=Instance(kind)), *values], named, depth + 1)
        return Value(obj=Instance(kind))

    def _enter_object(self, call: Any, values: list[Value], named: dict[str, Value], depth: int) -> Value:
        """Follow the call of an object that is neither a function nor a class."""
        is_foreign = origin_of(call) in FOREIGN
        if callable(wrapped := getattr(call, "__wrapped__", None)):  # such as a cache of functools
            self.enter(wrapped, values, named, depth + 1)
        if isinstance(call, nn.Module):
            self._enter_parts(call, depth)
        method = "forward" if isinstance(call, nn.Module) else "__call__"
        is_hook = self.hook is not None and getattr(_function_of(call), "__code__", None) is self.hook
        if not is_foreign and not is_hook and method not in getattr(call, "__dict__", {}):
            self._enter_held(call, depth)
            return MADE
        found = attribute_of(call, method)
        if isinstance(found, types.FunctionType | types.MethodType):
            return self.enter(found, values, named, depth + 1)
        if is_foreign:
            self.foreign[type(call)] = pack_of(type(call))
        return MADE

    def _enter_parts(self, network: nn.Module, depth: int) -> None:
        """Follow the parts of a network that belong to a pack, and functions that are set on its parts."""
        for part in network.modules():
            for _, function in functions_set_on(part):
                self.enter(function, [], {}, depth + 1)
            if part is not network and origin_of(part) in FOREIGN:
                self.enter(attribute_of(part, "forward"), [], {}, depth + 1)

    def _enter_held(self, owner: Any, depth: int) -> None:
        """Follow the callables of packs that an object of the host or of a library holds."""
        if isinstance(owner, nn.Module | ModelPatcher | CFGGuider | type):
            return
        for held in callables_in(dict(getattr(owner, "__dict__", {}))):
            if origin_of(getattr(held, "__func__", held)) in FOREIGN:
                self.enter(held, [], {}, depth + 1)

    def _enter_function(
        self, function: types.FunctionType, values: list[Value], named: dict[str, Value], depth: int
    ) -> Value:
        code = function.__code__
        if origin_of(function) not in FOREIGN and code is not self.hook:
            if id(function) not in self._seen:
                self._seen.add(id(function))
                for other in functions_held_by(function):
                    self.enter(other, [], {}, depth + 1)
            return MADE
        if not self._is_new(function, values, named):
            return MADE
        self.foreign[code] = pack_of(function)
        if _names_lanes(code):
            self.for_lanes.add(code)
        node = syntax_of(function)
        if node is None:
            if writes_outside(code, frozenset(code.co_freevars)):
                self.note(function, Phrase("writes to what outlives the call"))
            for other in functions_held_by(function):
                self.enter(other, [], {}, depth + 1)
            return MADE
        return StatementWalker(self, Scope(function), depth).run(node, values, named)

    def _is_new(self, called: Any, values: list[Value], named: dict[str, Value]) -> bool:
        """Whether this was not followed yet with such arguments. The object of a bound method is an argument."""
        key = id(called), *(value.key for value in values), *((name, value.key) for name, value in named.items())
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new

    def note(self, function: types.FunctionType, code: str, kind: str = STATE) -> None:
        """Note something in ``function`` that is not the same in every call."""
        finding = Finding(kind, code, function.__qualname__.rpartition("<locals>.")[2], pack_of(function))
        self.findings.append((function.__code__, finding))


def _function_of(hook: Callable[..., Any]) -> types.FunctionType | None:
    """The function that a call of the hook runs first."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    if not isinstance(hook, types.FunctionType | types.MethodType):
        hook = attribute_of(hook, "forward" if isinstance(hook, nn.Module) else "__call__")
    function = getattr(hook, "__func__", hook)
    return function if isinstance(function, types.FunctionType) else None


def _names_lanes(code: types.CodeType) -> bool:
    return any(isinstance(const, str) and const.startswith(LANES) for const in code.co_consts)


def writes_outside(code: types.CodeType, outer: frozenset[str]) -> bool:
    """Whether bytecode writes to an attribute, a global, or one of the enclosed variables ``outer``."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_ATTR", "STORE_GLOBAL"):
            return True
        if instruction.opname == "STORE_DEREF" and instruction.argval in outer:
            return True
    nested = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return any(writes_outside(inner, outer & frozenset(inner.co_freevars)) for inner in nested)
