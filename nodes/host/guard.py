"""What keeps a model from being evaluated at several noise levels at once, out of step order.

Cores work at different sigmas at the same time. A patch that remembers something from one call to the next
(a step cache, a keyframe) would mix them up, so such graphs run one core. Where this module cannot tell, it
errs on the side of one core.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_base
import comfy.model_patcher

_CONDS = {
    "control": "a ControlNet keeps state between calls",
    "gligen": "GLIGEN keeps state between calls",
    "hooks": "conditioning hooks change the model's weights as sampling goes on",
}
_CACHE_WORDS = ("cache", "spectrum")


def reason_for_one_core(guider: Any, model_options: dict[str, Any]) -> str | None:
    """Why this guider must see its steps in order, or None if it need not."""
    for conds in guider.conds.values():
        for cond in conds or ():
            for key, reason in _CONDS.items():
                if cond.get(key) is not None:
                    return reason
    if model_options.get("context_handler") is not None:
        return "context windows follow the step order"
    for name, value in vars(guider).items():
        if name not in ("model_patcher", "inner_model") and isinstance(
            value, comfy.model_patcher.ModelPatcher | comfy.model_base.BaseModel
        ):
            return f"the guider {type(guider).__name__} uses a second model"
    for name, hook in _hooks(model_options):
        if any(word in name.lower() for word in _CACHE_WORDS):
            return f"{name} keeps results from step to step"
        if keeps_state(hook):
            return f"the model patch {name} keeps state from call to call"
    return None


def keeps_state(hook: Callable[..., Any]) -> bool:
    """Whether a hook's own code writes to anything that outlives the call: an attribute, a global or a
    variable of an enclosing function. It sees the hook's code, not that of what it calls."""
    code = _code(hook)
    return code is not None and _writes_outside(code, frozenset(code.co_freevars))


def _writes_outside(code: types.CodeType, outer: frozenset[str]) -> bool:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_ATTR", "STORE_GLOBAL"):
            return True
        if instruction.opname == "STORE_DEREF" and instruction.argval in outer:
            return True
    nested = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return any(_writes_outside(inner, outer & frozenset(inner.co_freevars)) for inner in nested)


def _code(hook: Callable[..., Any]) -> types.CodeType | None:
    while isinstance(hook, functools.partial):
        hook = hook.func
    function = getattr(hook, "__func__", hook)
    if not isinstance(function, types.FunctionType):
        function = type(hook).__call__
    return getattr(function, "__code__", None)


def _hooks(options: Any, path: str = "") -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every callable in the nested model options, with a name a user may recognise."""
    if isinstance(options, dict):
        for key, value in options.items():
            if not (isinstance(key, str) and key.startswith("multigpu")):
                yield from _hooks(value, f"{path}.{key}" if path else str(key))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _hooks(value, path)
    elif callable(options) and not isinstance(options, type):
        kind = getattr(options, "__qualname__", type(options).__name__)
        yield f"{kind} ({path})", options
