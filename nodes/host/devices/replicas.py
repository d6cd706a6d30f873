"""Copies of a MODEL on other devices. The host's own deep clone makes them where it can. They are kept between runs."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..phrases import Phrase, message_of
from .bypass_lora import injections_on
from .controlnets import RunControls
from .gligen_copies import forget_gligen, gligen_models
from .run_state import RunState

Copies = dict[torch.device, ModelPatcher]

_MAX_MODELS = 2  # of which copies are kept

# By the model's own weights: when these are freed, the copies are too. The host moves weights on and off a device.
_bases: weakref.WeakKeyDictionary[BaseModel, Copies] = weakref.WeakKeyDictionary()


def copies_on(
    guider: Any, devices: Sequence[torch.device], x: Tensor, controls: RunControls | None = None
) -> tuple[Copies, Phrase | None]:
    """The guider's model on each of ``devices`` except its own, with its patches and loaded, for one run. The networks
    of its ``controls`` are loaded as well.

    Returns no copy and the reason if the weights cannot be copied or do not fit, or if the run has set something on the
    model that a copy cannot be given. The model itself is loaded either way.
    """
    primary = guider.model_patcher
    others = [device for device in devices if device != primary.load_device]
    if not others:
        return {}, None
    # With the conditioning, as the host does it: reference latents can need more memory than the picture.
    memory, minimum = comfy.sampler_helpers.estimate_memory(primary, x.shape, guider.conds)
    further = list(getattr(guider, "loaded_models", ()))  # ControlNets, for example; loading must not push them out
    copies: Copies = {}
    problem: Phrase | None = None
    try:
        bases = _bases_of(primary, others)
        state = RunState.of(primary)
        problem = next(filter(None, (state.reason_against(bases[device].model) for device in others)), None)
        if problem is not None:
            logging.getLogger("chords").warning("CHORDS: %s", problem)
            _load([primary, *further], memory, minimum)
            return {}, problem
        copies = {device: _under_patches_of(primary, bases[device]) for device in others}
        networks = () if controls is None else controls.networks()
        parts = dict.fromkeys((*further, *networks, *gligen_models(guider.conds, others)))
        _load([primary, *copies.values(), *parts], memory, minimum)
    except Exception as error:
        problem = Phrase("the model could not be copied to other devices ({error})", error=message_of(error))
        logging.getLogger("chords").warning("CHORDS: %s", problem)
        copies = {}
        _bases.pop(primary.model, None)  # copies that do not fit
        forget_gligen(guider.conds)
        if controls is not None:
            controls.forget_networks()
        _load([primary, *further, *gligen_models(guider.conds, ())], memory, minimum)  # copying may have unloaded them
    return copies, problem


def prepare_copies(stack: ExitStack, primary: ModelPatcher, copies: Copies) -> Phrase | None:
    """Make loaded copies ready for calls until ``stack`` closes. They get what the host has injected into the primary's
    network, and what the run has set on its model.

    Returns why that failed, if it did: then no copy can be used, and all are as before.
    """
    try:
        with ExitStack() as prepared:
            state = RunState.of(primary)
            for device, replica in copies.items():
                replica.injections = injections_on(replica, primary)
                prepared.callback(_eject, replica)
                replica.inject_model()
                prepared.callback(replica.cleanup)
                replica.pre_run()
                prepared.enter_context(state.set_on(replica.model, device))
            stack.push(prepared.pop_all())
    except Exception as error:
        problem = Phrase("the copies of the model could not be prepared ({error})", error=message_of(error))
        logging.getLogger("chords").warning("CHORDS: %s", problem)
        return problem
    return None


def short_of_memory(primary: ModelPatcher, copies: Copies) -> list[torch.device]:
    """Devices with too little memory for the whole model: its weights are moved in and out during a run."""
    loaded = ((primary.load_device, primary), *copies.items())
    return [device for device, patcher in loaded if patcher.model.model_lowvram]


def forget_copies(primary: ModelPatcher) -> None:
    """Drop copies that were made in memory and do not equal the model any more, so that a new one is made."""
    if primary.cached_patcher_init is None:
        _bases.pop(primary.model, None)


def _load(models: list[ModelPatcher], memory: float, minimum: float) -> None:
    comfy.model_management.load_models_gpu(models, memory_required=memory, minimum_memory_required=minimum)


def _bases_of(primary: ModelPatcher, devices: Sequence[torch.device]) -> Copies:
    """The copies that are kept between runs. Missing ones are made."""
    bases = _bases.pop(primary.model, {})
    _bases[primary.model] = bases  # last in order: the most recently used
    for oldest in list(_bases.keys())[:-_MAX_MODELS]:
        _bases.pop(oldest, None)
    for device in devices:
        if device not in bases:
            base = _copy_on(device, primary)
            # These could keep the primary alive, and each run brings its own.
            base.parent = None
            base.model_options = {"transformer_options": {}}
            base.wrappers, base.callbacks = {}, {}
            _without_state(base)
            base.hook_patches = {}
            bases[device] = base
    return bases


def _copy_on(device: torch.device, primary: ModelPatcher) -> ModelPatcher:
    """The model loaded once more, for ``device``. If its loader left no way to do that, it is copied in memory.

    Raises:
        RuntimeError: if neither is possible.
    """
    if primary.cached_patcher_init is not None:
        return _loaded_again(device, primary)
    if primary.is_dynamic():
        raise RuntimeError(
            Phrase("its weights are streamed to the device, and its loader left no way to load it again")
        )
    comfy.model_management.unload_model_and_clones(primary)  # this takes its patches off
    model = copy.copy(primary.model)
    # Not a deep copy of everything: the model's configuration cannot be copied.
    for parts in ("_modules", "_parameters", "_buffers"):
        model.__dict__[parts] = {name: copy.deepcopy(part) for name, part in vars(primary.model)[parts].items()}
    model.current_patcher = None  # each run sets the copy's own
    base = primary.clone(model_override=(model, ({}, {}, {}, set())))
    base.hook_backup = {}  # otherwise shared with the primary
    base.load_device = device
    base.remove_additional_models("multigpu")
    return base


def _loaded_again(device: torch.device, primary: ModelPatcher) -> ModelPatcher:
    """The model, loaded from its files for ``device``."""
    streams = comfy.model_patcher.CoreModelPatcher is not ModelPatcher
    if primary.is_dynamic() or not streams or not primary.hook_patches:
        return primary.deepclone_multigpu(new_load_device=device)
    # The loader would give weights to be streamed, but hooks of a prompt change weights in place. For them the host
    # takes a model that is not streamed, and so the copy is none either. Hosts that cannot make one raise.
    comfy.model_management.unload_model_and_clones(primary)
    base = primary.clone(force_deepcopy=True)
    base.hook_backup = {}
    base.load_device = device
    base.remove_additional_models("multigpu")
    return base


def _under_patches_of(primary: ModelPatcher, base: ModelPatcher) -> ModelPatcher:
    """The copy's weights with the current patches and options of the primary, for one run.

    Its parent is the copy that is kept. So the host still knows the loaded weights when this object is gone.
    """
    replica = primary.clone(model_override=base.get_clone_model_override())
    replica.load_device = base.load_device
    replica.hook_backup = base.hook_backup
    _without_state(replica)
    if primary.hook_patches and _are_same_patches(primary.patches, base.patches):
        # Hooks of a prompt give the primary another uuid in each run, with which the host loads all weights again.
        replica.patches_uuid = base.patches_uuid
    base.patches, base.patches_uuid = replica.patches, replica.patches_uuid
    replica.remove_additional_models("multigpu")
    # A module among the patches (for example a model_sampling) has buffers, which loading moves to the device.
    replica.object_patches = {
        name: copy.deepcopy(patch) if isinstance(patch, nn.Module) else patch
        for name, patch in primary.object_patches.items()
    }
    replica.parent = base
    return replica


def _eject(replica: ModelPatcher) -> None:
    """Take off all that is injected into a copy, which is kept. After an injection that failed the host does not."""
    replica.is_injected = replica.is_injected or bool(replica.injections)
    replica.eject_model()


def _without_state(patcher: ModelPatcher) -> None:
    """Take off what a clone of the primary has of the state of the primary's network: this network is another one."""
    patcher.injections, patcher.is_injected = {}, False
    patcher.current_hooks, patcher.cached_hook_patches = None, {}


def _are_same_patches(ours: dict[str, list[Any]], theirs: dict[str, list[Any]]) -> bool:
    """Whether two sets of weight patches consist of the same entries. A clone of a patcher has those of its origin."""
    return ours.keys() == theirs.keys() and all(
        len(ours[key]) == len(theirs[key])
        and all(one is other for one, other in zip(ours[key], theirs[key], strict=True))
        for key in ours
    )
