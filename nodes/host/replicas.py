"""Copies of a MODEL on other devices, made by the host's own deep clone and kept between runs."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import comfy.model_management
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher

_MODELS_KEPT = 2

# By the primary's weights, so that they go when those go; the host moves their weights on and off a device.
_replicas: weakref.WeakKeyDictionary[BaseModel, dict[torch.device, ModelPatcher]] = weakref.WeakKeyDictionary()


def load_replicas(
    primary: ModelPatcher, devices: Sequence[torch.device], noise_shape: Sequence[int]
) -> list[ModelPatcher]:
    """Replicas of ``primary`` on ``devices``, patched as it is and loaded, ready for one run.

    Raises:
        RuntimeError: if the model's loader registered no way to load it again.
    """
    bases = _replicas.pop(primary.model, {})
    _replicas[primary.model] = bases  # last in order: the most recently used
    for oldest in list(_replicas.keys())[:-_MODELS_KEPT]:
        _replicas.pop(oldest, None)
    for device in devices:
        if device not in bases:
            bases[device] = primary.deepclone_multigpu(new_load_device=device)
            bases[device].parent = None  # it would keep the primary alive
    replicas = [_under_patches_of(primary, bases[device]) for device in devices]
    # The deep clone unloads the primary, so it is loaded again with its replicas.
    memory = primary.memory_required([noise_shape[0] * 2, *noise_shape[1:]])
    comfy.model_management.load_models_gpu([primary, *replicas], memory_required=memory)
    return replicas


def _under_patches_of(primary: ModelPatcher, base: ModelPatcher) -> ModelPatcher:
    """The replica's weights with today's patches and options of the primary, for one run.

    Its parent is the replica that is kept: the host goes on tracking the loaded weights by that one when
    this one is gone.
    """
    replica = primary.clone(model_override=base.get_clone_model_override())
    replica.load_device = base.load_device
    replica.hook_backup = base.hook_backup
    replica.remove_additional_models("multigpu")
    replica.parent = base
    return replica
