"""Compiled models (torch.compile): a run uses the device that the model is compiled for, and no other one.

A copy on another device would be compiled again, which takes longer than many pictures. And torch keeps only some
compiled versions of a class of networks: with one a device and size it drops some, and compiles in the middle of runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import nn

from ..phrases import Phrase
from .hooks import functions_set_on, hooks_in_options

_HOST_MODULE = "comfy_api.torch_helpers"


def is_host_wrapper(function: Callable[..., Any]) -> bool:
    """Whether a function is the host's own, which puts compiled parts into the network for a call."""
    return (getattr(function, "__module__", None) or "").startswith(_HOST_MODULE)


def is_compiled(value: Any) -> bool:
    """Whether torch has compiled a module or a function. Says so without an import of the compiler."""
    if isinstance(value, nn.Module):  # a network has thousands: no look-up that fails
        by_method = getattr(value, "_compiled_call_impl", None) is not None
        return by_method or (type(value).__name__ == "OptimizedModule" and hasattr(value, "_orig_mod"))
    function = getattr(value, "__func__", value)
    # What torch.compiler.disable gives has the original, too: it is never compiled.
    return hasattr(function, "_torchdynamo_orig_callable") and not getattr(function, "_torchdynamo_disable", False)


def reason_for_one_device(patcher: ModelPatcher, model_options: dict[str, Any]) -> Phrase | None:
    """Why the calls of this model belong to its own device; None if copies of it can make them as well."""
    if not _is_compiled_model(patcher, model_options):
        return None
    return Phrase(
        "the model is compiled (torch.compile) for {device}, and a copy on each further device would have to be "
        "compiled, too; without the node that compiles it, all devices can be used",
        device=str(patcher.load_device),
    )


def _is_compiled_model(patcher: ModelPatcher, model_options: dict[str, Any]) -> bool:
    if any(is_host_wrapper(hook.call) or is_compiled(hook.call) for hook in hooks_in_options(model_options)):
        return True
    if any(map(is_compiled, patcher.object_patches.values())):
        return True
    return any(
        is_compiled(part) or any(is_compiled(function) for _, function in functions_set_on(part))
        for part in patcher.model.modules()
    )
