"""What takes part in a call beside the model, and what each lane can have a copy of: the reasons where it cannot.

`devices` makes the copies: `bypass_lora`, `gligen_copies`, `context_windows`; weight hooks are part of a model's copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.context_windows
import comfy.gligen
import comfy.hooks
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..devices.bypass_lora import manager_of
from ..devices.context_windows import HANDLER
from ..phrases import Phrase
from .origins import Origin, origin_of

GLIGEN = Phrase("GLIGEN has networks of its own, which are on one device")
HOOKS = Phrase("conditioning hooks change the model's weights while it samples")
_KEYFRAMES = Phrase("conditioning hooks with keyframes: the host remembers the keyframe from step to step")
_OTHER_HOOKS = Phrase("conditioning hooks that change more than weights")
_FURTHER_MODEL = Phrase("a prompt has a model of its own, which is on one device")
_OTHER_WINDOWS = Phrase("context windows of another pack may need the steps in order")

_STILL_SCHEDULES = frozenset(
    (comfy.context_windows.ContextSchedules.STATIC_STANDARD, comfy.context_windows.ContextSchedules.BATCHED)
)
"""Schedules of context windows that are the same at each step. The others move the windows from step to step."""


def reason_in_conds(guider: Any) -> Phrase | None:
    """Why not each lane can have what the prompts of this guider bring; None if it can."""
    for cond in _conds_of(guider):
        reason = _reason_against_gligen(cond.get("gligen")) or _reason_against_hooks(cond.get("hooks"))
        if reason is not None:
            return reason
        if cond.get("additional_models") is not None:
            return _FURTHER_MODEL
    return None


def models_with_copies(guider: Any) -> frozenset[int]:
    """The ids of the models that a guider has with its prompts, and that each lane gets a copy of."""
    gligens = (cond.get("gligen") for cond in _conds_of(guider))
    return frozenset(id(gligen[1]) for gligen in gligens if gligen is not None)


def reason_in_injections(patcher: ModelPatcher) -> Phrase | None:
    """Why a copy of the model cannot have what is injected into the loaded one; None if it can: LoRAs in bypass mode
    of the host are injected again."""
    for injection in (each for injections in patcher.injections.values() for each in injections):
        manager = manager_of(injection)
        if manager is None or not all(_is_copied(adapter) for adapter, _ in manager.adapters.values()):
            return Phrase("a patch is injected into the loaded model, and a copy of the model would not have it")
    return None


def reason_in_windows(model_options: dict[str, Any]) -> Phrase | None:
    """Why not each lane can have the context windows of a run; None if it can, or if there are none."""
    handler = model_options.get(HANDLER)
    if handler is None:
        return None
    functions = (getattr(handler, name, None) for name in ("context_schedule", "fuse_method"))
    from_host = all(origin_of(getattr(each, "func", None)) is Origin.HOST for each in functions)
    known = type(handler) is comfy.context_windows.IndexListContextHandler and not getattr(handler, "callbacks", None)
    return None if known and from_host else _OTHER_WINDOWS


def reason_for_every_window(model_options: dict[str, Any]) -> Phrase | None:
    """Why every step must be called because of context windows; None if steps may be left out."""
    handler = model_options.get(HANDLER)
    schedule = getattr(handler, "context_schedule", None)  # handlers of packs may have none
    if handler is None or getattr(schedule, "name", None) in _STILL_SCHEDULES:
        return None
    return Phrase("context windows move from step to step, and every step is called")


def reason_against_sides(guider: Any, model_options: dict[str, Any]) -> Phrase | None:
    """Why two devices cannot evaluate the sides of a guided call; None if they can.

    The host's own code for several devices hands the patches of one device to the other one.
    """
    if model_options.get(HANDLER) is not None:
        return Phrase("each side consists of context windows")
    return reason_against_one_for_all(guider)


def reason_against_one_for_all(guider: Any) -> Phrase | None:
    """Why what the prompts of this guider bring to one device's model cannot serve another one; None if it can."""
    for cond in _conds_of(guider):
        if cond.get("hooks") is not None:
            return HOOKS
        if cond.get("gligen") is not None:
            return GLIGEN
    return None


def reason_against_repeated_parts(guider: Any, model_options: dict[str, Any]) -> Phrase | None:
    """Why calls must not be repeated, nor be part of a graph, because of what takes part beside the model; None if they
    may."""
    if any(cond.get("hooks") is not None for cond in _conds_of(guider)):
        return HOOKS
    if model_options.get(HANDLER) is not None:
        return Phrase("context windows take the steps in order")
    return Phrase("a patch is injected into the loaded model") if guider.model_patcher.injections else None


def reason_against_injected_shares(patcher: ModelPatcher) -> Phrase | None:
    """Why devices cannot compute shares of the layers of this model; None if they can."""
    if not patcher.injections:
        return None
    return Phrase("a patch is injected into the loaded model, into layers that would be shared")


def reasons_against_rows(guider: Any, model_options: dict[str, Any]) -> Iterator[Phrase]:
    """Why rows of one call cannot have different sigmas, because of what takes part beside the model."""
    if model_options.get(HANDLER) is not None:
        yield Phrase("context windows take one sigma for all rows of a call")
    if any(cond.get("hooks") is not None for cond in _conds_of(guider)):
        yield HOOKS


def _conds_of(guider: Any) -> Iterator[dict[str, Any]]:
    for conds in guider.conds.values():
        yield from conds or ()


def _reason_against_gligen(gligen: Any) -> Phrase | None:
    if gligen is None:
        return None
    patcher = gligen[1]
    known = type(getattr(patcher, "model", None)) is comfy.gligen.Gligen
    return None if known and not patcher.is_dynamic() and not patcher.patches else GLIGEN


def _reason_against_hooks(hooks: Any) -> Phrase | None:
    """Each replica has weights of its own, so that a call may change them. What remains is state of the hooks."""
    for hook in () if hooks is None else hooks.hooks:
        if type(hook) is not comfy.hooks.WeightHook:
            return _OTHER_HOOKS
        if not hook.hook_keyframe.is_empty():
            return _KEYFRAMES
    return None


def _is_copied(adapter: Any) -> bool:
    """Whether a shallow copy of an adapter shares nothing that changes: those of the host for pictures, not for
    training, hold a tuple of tensors."""
    return origin_of(type(adapter)) is Origin.HOST and not isinstance(adapter, nn.Module)
