"""Reads the code of a patch of another pack, and of what it calls: does it keep anything from call to call?

The source is followed as a call would run it: through decorators, closures, bound objects, partial functions, default
values, ``forward`` of modules, and the functions that it calls by name. Functions of the host and of libraries are
not read. A value is *kept* if it outlives the call (it is enclosed, global, or an attribute of a kept object), *given*
if it came with the call, and else made in it. A patch keeps state if it writes to something kept, or to an attribute
of something given. It has chance in it if it draws from a generator that is not made in the call.

Reading misses things: `proof` has the rest.
"""

from __future__ import annotations

import dis
import functools
import logging
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from torch import nn

from .hooks import set_on
from .known_calls import (
    LANES,
)
from .origins import Origin, callables_in, linked, origin_of, pack_of, syntax_of
from .source_walker import STATE, Walk
from .values import MADE, Instance, Nested, Scope, Value, attribute_of

_LONGEST = 100  # letters of code in a message
_DEPTH = 12  # calls within calls
_FUNCTIONS = 400  # of one patch: what is larger is left to the proof


@dataclass(frozen=True)
class Finding:
    """Why a patch is not the same in every call: it keeps state, or there is chance in it; by what code, of which
    pack."""

    kind: str
    code: str
    function: str
    pack: str

    def __str__(self) -> str:
        code = textwrap.shorten(self.code, _LONGEST, placeholder="...")
        return f"{self.kind} ({code}, in {self.function} of {self.pack})"


@dataclass(frozen=True)
class Reading:
    """What was read of a patch.

    ``packs``: other packs whose code takes part, so that there may be more to it than was read.
    """

    finding: Finding | None
    packs: frozenset[str]


def read(hook: Callable[..., Any]) -> Reading:
    """What the code of ``hook`` says. Reading never fails: what it cannot read is left to the trial."""
    reader = _Reader()
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
    """Follows calls. ``foreign``: the code of packs that was met, and the pack's name."""

    findings: list[tuple[Any, Finding]] = field(default_factory=list)
    foreign: dict[Any, str] = field(default_factory=dict)
    for_lanes: set[Any] = field(default_factory=set)  # written for this pack's lanes, as they know them by name
    _seen: set[Any] = field(default_factory=set)

    def enter(self, call: Any, values: list[Value], named: dict[str, Value], depth: int) -> Value:
        """Follow a call of ``call`` with these arguments; an argument that is left out is given."""
        if depth > _DEPTH or len(self._seen) > _FUNCTIONS:
            return MADE
        if isinstance(call, functools.partial):
            bound = [Value(kept=True, obj=value) for value in call.args]
            keywords = {name: Value(kept=True, obj=value) for name, value in call.keywords.items()}
            return self.enter(call.func, [*bound, *values], {**keywords, **named}, depth + 1)
        if isinstance(call, types.MethodType):
            if origin_of(call.__func__) is not Origin.PACK:
                self._enter_held(call.__self__, depth)
            return self.enter(call.__func__, [Value(kept=True, obj=call.__self__), *values], named, depth)
        if isinstance(call, types.FunctionType):
            return self._enter_function(call, values, named, depth)
        if isinstance(call, Nested):
            if not self._is_new(call.node, values, named):
                return MADE
            return Walk(self, call.scope.inner(call.node), depth + 1).run(call.node, values, named)
        if isinstance(call, type):
            begin = attribute_of(call, "__init__") if origin_of(call) is Origin.PACK else None
            if isinstance(begin, types.FunctionType) and syntax_of(begin) is not None:  # a dataclass has no source
                self.enter(begin, [Value(obj=Instance(call)), *values], named, depth + 1)
            return Value(obj=Instance(call))
        foreign = origin_of(call) is Origin.PACK
        if callable(wrapped := getattr(call, "__wrapped__", None)):  # a cache of functools, say
            self.enter(wrapped, values, named, depth + 1)
        if isinstance(call, nn.Module):
            self._enter_parts(call, depth)
        method = "forward" if isinstance(call, nn.Module) else "__call__"
        if not foreign and method not in getattr(call, "__dict__", {}):
            self._enter_held(call, depth)
            return MADE
        found = attribute_of(call, method)
        if isinstance(found, types.FunctionType | types.MethodType):
            return self.enter(found, values, named, depth + 1)
        if foreign:
            self.foreign[type(call)] = pack_of(type(call))
        return MADE

    def _enter_parts(self, network: nn.Module, depth: int) -> None:
        """Follow the parts of a network that are a pack's, and functions that are set on its parts."""
        for part in network.modules():
            for _, function in set_on(part):
                self.enter(function, [], {}, depth + 1)
            if part is not network and origin_of(part) is Origin.PACK:
                self.enter(attribute_of(part, "forward"), [], {}, depth + 1)

    def _enter_held(self, owner: Any, depth: int) -> None:
        """Follow what an object of the host's, or of a library's, holds of a pack."""
        if isinstance(owner, nn.Module | ModelPatcher | CFGGuider | type):
            return
        for held in callables_in(dict(getattr(owner, "__dict__", {}))):
            if origin_of(getattr(held, "__func__", held)) is Origin.PACK:
                self.enter(held, [], {}, depth + 1)

    def _enter_function(
        self, function: types.FunctionType, values: list[Value], named: dict[str, Value], depth: int
    ) -> Value:
        code = function.__code__
        if origin_of(function) is not Origin.PACK:
            if id(function) not in self._seen:
                self._seen.add(id(function))
                for other in linked(function):
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
                self.note(function, "writes to what outlives the call")
            for other in linked(function):
                self.enter(other, [], {}, depth + 1)
            return MADE
        return Walk(self, Scope.of(function), depth).run(node, values, named)

    def _is_new(self, called: Any, values: list[Value], named: dict[str, Value]) -> bool:
        """Whether this was not followed yet with such arguments. The object of a bound method is one of them."""
        key = id(called), *(value.key for value in values), *((name, value.key) for name, value in named.items())
        new = key not in self._seen
        self._seen.add(key)
        return new

    def note(self, function: types.FunctionType, code: str, kind: str = STATE) -> None:
        """Something in ``function`` that is not the same in every call."""
        finding = Finding(kind, code, function.__qualname__.rpartition("<locals>.")[2], pack_of(function))
        self.findings.append((function.__code__, finding))


def _names_lanes(code: types.CodeType) -> bool:
    return any(isinstance(const, str) and const.startswith(LANES) for const in code.co_consts)


def writes_outside(code: types.CodeType, outer: frozenset[str]) -> bool:
    """Whether bytecode writes to an attribute, a global, or one of the ``outer`` variables, which it encloses."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_ATTR", "STORE_GLOBAL"):
            return True
        if instruction.opname == "STORE_DEREF" and instruction.argval in outer:
            return True
    nested = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return any(writes_outside(inner, outer & frozenset(inner.co_freevars)) for inner in nested)
