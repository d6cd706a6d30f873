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

from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

_CONDS = {
    "control": "a ControlNet keeps state between calls",
    "gligen": "GLIGEN brings networks of its own, which are on one device",
    "hooks": "conditioning hooks change the model's weights as sampling goes on",
}
_TELLING_NAMES = {"cache": "keeps results from step to step", "compile": "is compiled for one device"}
# Hooks that run around a whole sampling, not around a call.
_NOT_PER_CALL = frozenset(
    (
        WrappersMP.OUTER_SAMPLE,
        WrappersMP.PREPARE_SAMPLING,
        WrappersMP.SAMPLER_SAMPLE,
        *(value for name, value in vars(CallbacksMP).items() if name.startswith("ON_") and name != "ON_PREPARE_STATE"),
    )
)


def reason_for_one_core(guider: Any, model_options: dict[str, Any]) -> str | None:
    """Why this guider must see its steps in order on one device, or None if it need not."""
    return _reason_in_conds(guider) or _reason_in_model(guider, model_options) or _reason_in_hooks(model_options)


def reason_for_every_step(guider: Any, model_options: dict[str, Any]) -> str | None:
    """Why the prediction may jump from one step to the next, so that it cannot be interpolated; None if it does not."""
    for conds in guider.conds.values():
        if any(cond.get(end) is not None for cond in conds or () for end in ("timestep_start", "timestep_end")):
            return "a prompt holds for a part of the steps only"
    if model_options.get("denoise_mask_function") is not None:
        return "the mask changes from step to step"
    return None


def reason_against_repeats(guider: Any, model_options: dict[str, Any]) -> str | None:
    """Why this guider's model must not be evaluated again and again at one step of the schedule, or None if it may."""
    if any(cond.get("hooks") is not None for conds in guider.conds.values() for cond in conds or ()):
        return _CONDS["hooks"]
    if model_options.get("context_handler") is not None:
        return "context windows follow the step order"
    if guider.model_patcher.injections:
        return "a patch is injected into the loaded model"
    return next(_stateful(model_options), None)


def _reason_in_conds(guider: Any) -> str | None:
    for conds in guider.conds.values():
        for cond in conds or ():
            for key, reason in _CONDS.items():
                if cond.get(key) is not None:
                    return reason
    return None


def _reason_in_model(guider: Any, model_options: dict[str, Any]) -> str | None:
    """What a copy of the model on another device would lack or share."""
    patcher = guider.model_patcher
    name = type(guider).__name__
    if any(_is_model(value) for key, value in vars(guider).items() if key not in ("model_patcher", "inner_model")):
        return f"the guider {name} uses a second model"
    if keeps_state(type(guider).predict_noise):
        return f"the guider {name} keeps state from call to call"
    if model_options.get("context_handler") is not None:
        return "context windows follow the step order"
    if "multigpu_clones" in model_options:
        return "ComfyUI's own multi-GPU node already spreads each call over the devices"
    if patcher.injections:
        return "a patch is injected into the loaded model, and a copy of the model would lack it"
    if patcher.model_patches_models() or patcher.get_nested_additional_models():
        return "a patch of the model uses a model of its own"
    for key, patch in patcher.object_patches.items():
        if callable(patch) and key != "model_sampling":
            return f"the part {key} of the model is replaced, by something that belongs to one device"
    return None


def _is_model(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_model, value))
    if isinstance(value, dict):
        return any(map(_is_model, value.values()))
    return isinstance(value, ModelPatcher | BaseModel)


def _reason_in_hooks(model_options: dict[str, Any]) -> str | None:
    for name, hook in _hooks(model_options):
        if hasattr(hook, "to"):
            return f"the model patch {name} holds tensors on one device"
    return next(_stateful(model_options), None)


def _stateful(model_options: dict[str, Any]) -> Iterator[str]:
    """Of each hook that is not the same at every call, what it is."""
    for name, hook in _hooks(model_options):
        for word, reason in _TELLING_NAMES.items():
            if word in name.lower():
                yield f"{name} {reason}"
        if keeps_state(hook):
            yield f"the model patch {name} keeps state from call to call"


def keeps_state(hook: Callable[..., Any]) -> bool:
    """Whether a hook's own code writes to anything that outlives the call: an attribute, a global or a
    variable of an enclosing function. It sees the hook's code, not that of what it calls, and not what is
    put into a list or dict."""
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
    """Every callable in the nested model options that runs in a call, with a name a user may recognise."""
    if isinstance(options, dict):
        for key, value in options.items():
            if key not in _NOT_PER_CALL:
                yield from _hooks(value, f"{path}.{key}" if path else str(key))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _hooks(value, path)
    elif callable(options) and not isinstance(options, type):
        kind = getattr(options, "__qualname__", type(options).__name__)
        yield f"{kind} ({path})", options
