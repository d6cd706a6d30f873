"""Copies of a MODEL on other devices, made by the host's own deep clone where it can, and kept between runs."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.sampler_helpers
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

Copies = dict[torch.device, ModelPatcher]

_MODELS_KEPT = 2

# By the primary's weights, so that they go when those go; the host moves their weights on and off a device.
_bases: weakref.WeakKeyDictionary[BaseModel, Copies] = weakref.WeakKeyDictionary()


def copies_on(guider: Any, devices: Sequence[torch.device], x: Tensor) -> tuple[Copies, str | None]:
    """The guider's model on each of ``devices`` but its own, patched as it is and loaded, for one run.

    Returns no copy and the reason where there can be none: weights that cannot be copied, or no room. The primary is
    loaded either way.
    """
    primary = guider.model_patcher
    others = [device for device in devices if device != primary.load_device]
    if not others:
        return {}, None
    # With the conditioning, as the host does it: reference latents can take more than the picture.
    memory, least = comfy.sampler_helpers.estimate_memory(primary, x.shape, guider.conds)
    copies: Copies = {}
    problem = None
    try:
        bases = _bases_of(primary, others)
        copies = {device: _under_patches_of(primary, bases[device]) for device in others}
        _load([primary, *copies.values()], memory, least)
    except Exception as error:
        problem = f"the model could not be copied to other devices ({error})"
        logging.getLogger("chords").warning("CHORDS: %s", problem)
        copies = {}
        _bases.pop(primary.model, None)  # copies there is no room for
        _load([primary], memory, least)  # the deep clone may have unloaded it
    return copies, problem


def short_of_memory(primary: ModelPatcher, copies: Copies) -> list[torch.device]:
    """Devices with too little memory for the whole model, whose weights come and go while it runs."""
    loaded = ((primary.load_device, primary), *copies.items())
    return [device for device, patcher in loaded if patcher.model.model_lowvram]


def forget_copies(primary: ModelPatcher) -> None:
    """Let go of copies that are not as the model is any more, where a new one may be: one that was made in memory."""
    if primary.cached_patcher_init is None:
        _bases.pop(primary.model, None)


def _load(models: list[ModelPatcher], memory: float, least: float) -> None:
    comfy.model_management.load_models_gpu(models, memory_required=memory, minimum_memory_required=least)


def _bases_of(primary: ModelPatcher, devices: Sequence[torch.device]) -> Copies:
    """The copies that are kept, made where there are none yet."""
    bases = _bases.pop(primary.model, {})
    _bases[primary.model] = bases  # last in order: the most recently used
    for oldest in list(_bases.keys())[:-_MODELS_KEPT]:
        _bases.pop(oldest, None)
    for device in devices:
        if device not in bases:
            base = _copy_on(device, primary)
            # What could keep the primary alive; each run brings its own.
            base.parent = None
            base.model_options = {"transformer_options": {}}
            base.wrappers, base.callbacks = {}, {}
            bases[device] = base
    return bases


def _copy_on(device: torch.device, primary: ModelPatcher) -> ModelPatcher:
    """The model loaded once more for ``device``; one whose loader left no way to do that is copied in memory.

    Raises:
        RuntimeError: if neither can be done.
    """
    if primary.cached_patcher_init is not None:
        return primary.deepclone_multigpu(new_load_device=device)
    if primary.is_dynamic():
        raise RuntimeError("its weights are streamed to the device, and its loader left no way to load it again")
    comfy.model_management.unload_model_and_clones(primary)  # which takes its patches off
    model = copy.copy(primary.model)
    # A copy of the whole would copy the model's configuration, which cannot be copied.
    for parts in ("_modules", "_parameters", "_buffers"):
        model.__dict__[parts] = {name: copy.deepcopy(part) for name, part in vars(primary.model)[parts].items()}
    model.current_patcher = None  # the copy's own is set for each run
    base = primary.clone(model_override=(model, ({}, {}, {}, set())))
    base.hook_backup = {}  # else shared with the primary
    base.load_device = device
    base.remove_additional_models("multigpu")
    return base


def _under_patches_of(primary: ModelPatcher, base: ModelPatcher) -> ModelPatcher:
    """The copy's weights with today's patches and options of the primary, for one run.

    Its parent is the copy that is kept: the host goes on tracking the loaded weights by that one when this
    one is gone.
    """
    replica = primary.clone(model_override=base.get_clone_model_override())
    replica.load_device = base.load_device
    replica.hook_backup = base.hook_backup
    replica.remove_additional_models("multigpu")
    # A patched-in module (a model_sampling, say) has buffers, which loading moves to the device.
    replica.object_patches = {
        name: copy.deepcopy(patch) if isinstance(patch, nn.Module) else patch
        for name, patch in primary.object_patches.items()
    }
    replica.parent = base
    return replica
