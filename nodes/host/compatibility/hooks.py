"""Where patches take part in a model call: in the model options, the guider, functions of weights, and the network."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy.samplers import CFGGuider
from torch import nn

from ..phrases import Phrase
from .origins import FOREIGN, Origin, origin_of

# Hooks that run around a whole sampling, not around each call.
_NOT_PER_CALL = frozenset(
    (
        WrappersMP.OUTER_SAMPLE,
        WrappersMP.PREPARE_SAMPLING,
        WrappersMP.SAMPLER_SAMPLE,
        *(value for name, value in vars(CallbacksMP).items() if name.startswith("ON_") and name != "ON_PREPARE_STATE"),
    )
)
_GUIDER_METHODS = ("__call__", "outer_predict_noise", "predict_noise")
_SAMPLING_METHODS = ("calculate_input", "calculate_denoised", "percent_to_sigma", "sigma", "timestep")
_AROUND_THE_NETWORK = frozenset(("wrappers", "callbacks"))
_BETWEEN_BLOCKS = frozenset(("double_block", "noise_refiner"))  # in a split call one device alone runs these
_TORCH_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


@dataclass(frozen=True, eq=False)
class Hook:
    """A function that takes part in each model call, and a name for it that the user may recognise."""

    name: Phrase
    call: Callable[..., Any]


def hooks_in_options(model_options: dict[str, Any]) -> Iterator[Hook]:
    """All callables in the nested options that run in a call."""
    for path, found in _callables(model_options, ""):
        kind = getattr(found, "__qualname__", type(found).__name__)
        yield Hook(Phrase("the model patch {kind} ({path})", kind=kind, path=path), found)


def hooks_within_blocks(model_options: dict[str, Any]) -> Iterator[Hook]:
    """Of `hooks_in_options`, those that run within the network, except those between its blocks."""
    options = model_options.get("transformer_options", {})
    patches = {name: found for name, found in options.get("patches", {}).items() if name not in _BETWEEN_BLOCKS}
    others = {name: found for name, found in options.items() if name not in _AROUND_THE_NETWORK}
    return hooks_in_options({"transformer_options": {**others, "patches": patches}})


def hook_around_network(model_options: dict[str, Any]) -> Iterator[Hook]:
    """Of `hooks_in_options`, the one that calls the network in the host's place."""
    return hooks_in_options(
        {name: model_options[name] for name in ("model_function_wrapper",) if name in model_options}
    )


def hooks_around_call(guider: Any) -> Iterator[Hook]:
    """The hooks outside the options: methods of a guider of another pack, functions of weights, replaced parts of the
    model, and changes of the network."""
    for name in _GUIDER_METHODS:
        method = getattr(guider, name, None)
        if not isinstance(method, types.MethodType):
            continue
        origin = origin_of(method.__func__)
        # The host's guider is the call itself, also where a newer host has it in another file.
        is_own = origin is Origin.NEW_HOST and method.__func__ is getattr(CFGGuider, name, None)
        if origin in FOREIGN and not is_own:
            yield Hook(Phrase("the guider {guider}", guider=type(guider).__name__), method)
    yield from hooks_of_model(guider.model_patcher)


def hooks_of_model(patcher: Any) -> Iterator[Hook]:
    """Of `hooks_around_call`, those of the model itself."""
    for name, functions in patcher.weight_wrapper_patches.items():
        for function in functions:
            yield Hook(Phrase("the patch of the weight {weight}", weight=name), function)
    for name, patch in patcher.object_patches.items():
        for method in _SAMPLING_METHODS:
            function = getattr(type(patch), method, None)
            if isinstance(function, types.FunctionType) and origin_of(function) in FOREIGN:
                yield Hook(Phrase("the part {part} of the model", part=name), types.MethodType(function, patch))
    yield from hooks_in_network(patcher.model)


def hooks_in_network(model: nn.Module) -> Iterator[Hook]:
    """Functions of packs that are set on parts of a loaded network, or on the host's classes of these parts."""
    classes: dict[type, nn.Module] = {}
    for path, part in model.named_modules():
        for kind in type(part).__mro__:
            classes.setdefault(kind, part)
        for name, found in functions_set_on(part):
            if origin_of(getattr(found, "__func__", found)) in FOREIGN:
                place = f"{path}.{name}"
                yield Hook(Phrase("the function {function} that was set on the network", function=place), found)
    for kind, part in classes.items():
        if origin_of(kind) in (Origin.HOST, Origin.NEW_HOST):
            for name, function in vars(kind).items():
                if isinstance(function, types.FunctionType) and origin_of(function) is Origin.PACK:
                    place = f"{kind.__name__}.{name}"
                    description = Phrase("the function {function} that replaces the host's", function=place)
                    yield Hook(description, types.MethodType(function, part))


def functions_set_on(part: nn.Module) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions that are set on this part of a network itself, not on its class, including the hooks of torch."""
    attributes = vars(part)
    for name in _TORCH_HOOKS:
        if hooks := attributes.get(name):
            yield from ((name, hook) for hook in hooks.values())
    for name, value in attributes.items():
        # Attributes of torch begin with an underscore. They are skipped: a network has thousands of parts.
        if name[0] != "_" and callable(value) and not isinstance(value, type) and not _is_of_class(value, part, name):
            yield name, value


def _is_of_class(value: Any, part: nn.Module, name: str) -> bool:
    """Whether this is the method of the class: the host sets it on the part when it removes a patch."""
    own = inspect.getattr_static(type(part), name, None)
    return isinstance(value, types.MethodType) and value.__self__ is part and value.__func__ is own


def _callables(options: Any, path: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    if isinstance(options, dict):
        for key, value in options.items():
            if key not in _NOT_PER_CALL:
                yield from _callables(value, f"{path}.{key}" if path else str(key))
    elif isinstance(options, list | tuple | set):
        for value in options:
            yield from _callables(value, path)
    elif callable(options) and not isinstance(options, type):
        yield path, options
