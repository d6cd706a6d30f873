"""LoRA in bypass mode on copies of a model: the host puts functions on the layers of the loaded network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection

try:  # hosts before it came have no such injections
    from comfy.weight_adapter.bypass import BypassForwardHook, BypassInjectionManager
except ImportError:
    BypassForwardHook = BypassInjectionManager = None


def manager_of(injection: PatcherInjection) -> Any | None:
    """The host's manager of LoRAs in bypass mode that made this injection; None if something else made it."""
    if BypassInjectionManager is None:
        return None
    found = {_enclosed_manager(function) for function in (injection.inject, injection.eject)}
    return found.pop() if len(found) == 1 else None


def injections_on(replica: ModelPatcher, primary: ModelPatcher) -> dict[str, list[PatcherInjection]]:
    """The LoRAs in bypass mode of the ``primary`` for the layers of its ``replica``, with weights on that device.

    Injections that are no LoRAs are left out: `compatibility.lane_parts` has said that such a model has no replicas.
    """
    return {
        key: [
            again
            for manager in map(manager_of, injections)
            if manager is not None
            for again in _injections_again(manager, replica)
        ]
        for key, injections in primary.injections.items()
    }


def _injections_again(manager: Any, replica: ModelPatcher) -> list[PatcherInjection]:
    """The injections of a manager for another network of the same structure."""
    own = BypassInjectionManager()
    for key, (adapter, strength) in manager.adapters.items():
        own.add_adapter(key, copy.copy(adapter), strength)  # a hook writes to its adapter, and moves the weights
    return [
        PatcherInjection(inject=_on_own_device(injection.inject, own, replica.load_device), eject=injection.eject)
        for injection in own.create_injections(replica.model)
    ]


def _on_own_device(inject: Callable[[Any], None], manager: Any, device: torch.device) -> Callable[[Any], None]:
    """``inject``, with the weights on ``device``. The host puts them on the current device of the thread."""

    def inject_there(patcher: Any) -> None:
        inject(patcher)
        for hook in manager.hooks:
            hook._move_adapter_weights_to_device(device)

    return inject_there


def _enclosed_manager(function: Callable[..., Any]) -> Any | None:
    """The manager that a function of the host's module encloses."""
    if getattr(function, "__module__", None) != BypassInjectionManager.__module__:
        return None
    cells = getattr(function, "__closure__", None) or ()
    held = [cell.cell_contents for cell in cells]
    return next((value for value in held if type(value) is BypassInjectionManager), None)
