"""GLIGEN's networks on the devices of lanes: copies in memory, kept as long as the loaded GLIGEN model is."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

Conds = dict[str, list[dict[str, Any]] | None]

_kept: weakref.WeakKeyDictionary[nn.Module, dict[torch.device, ModelPatcher]] = weakref.WeakKeyDictionary()


def gligen_models(conds: Conds, devices: Sequence[torch.device]) -> list[ModelPatcher]:
    """All GLIGEN models that lanes on ``devices`` and the model's own need: those of the prompts, and their copies.
    Missing copies are made, which unloads the model that is copied."""
    found = list(dict.fromkeys(_in_conds(conds)))
    return [*found, *(_copy_on(device, patcher) for patcher in found for device in devices)]


def with_copies(moved: Conds, conds: Conds, device: torch.device) -> Conds:
    """Conds that were ``moved`` to a device, with the copy of GLIGEN there.

    The embeddings of its texts stay where they are in the given ``conds``: the host joins them on the CPU, with others.
    """
    return {
        side: items and [_with_copy(item, given, device) for item, given in zip(items, conds[side] or (), strict=True)]
        for side, items in moved.items()
    }


def forget_gligen(conds: Conds) -> None:
    """Drop the copies of these prompts' GLIGEN models, because they do not fit in memory."""
    for patcher in _in_conds(conds):
        _kept.pop(patcher.model, None)


def _in_conds(conds: Conds) -> Iterator[ModelPatcher]:
    for items in conds.values():
        for cond in items or ():
            if cond.get("gligen") is not None:
                yield cond["gligen"][1]


def _with_copy(moved: dict[str, Any], given: dict[str, Any], device: torch.device) -> dict[str, Any]:
    gligen = given.get("gligen")
    if gligen is None:
        return moved
    kind, patcher, *rest = gligen
    return {**moved, "gligen": (kind, _copy_on(device, patcher), *rest)}


def _copy_on(device: torch.device, patcher: ModelPatcher) -> ModelPatcher:
    copies = _kept.setdefault(patcher.model, {})
    if device not in copies:
        comfy.model_management.unload_model_and_clones(patcher)  # this takes its weights off their device
        copies[device] = ModelPatcher(copy.deepcopy(patcher.model), device, patcher.offload_device)
    return copies[device]
