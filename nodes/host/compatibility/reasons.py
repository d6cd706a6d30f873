"""The reasons why a model must be called at one sigma after another, in the order of the steps.

Cores work at different sigmas at the same time. A patch that keeps state from one call to the next (a step cache, a
keyframe) would mix them, so that such graphs run one core. In doubt, the answer is one core. The code of other packs is
read (`reading`), and what reading cannot find is tried (`trial`).
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..devices.controlnets import controls_in
from ..devices.token_split import reason_against
from ..known_sentences import phrase_of
from ..phrases import Phrase
from .compiled import is_compiled, is_host_wrapper, reason_for_one_device
from .controlnets import reason_for_range, reason_in_controls
from .hooks import (
    Hook,
    hook_around_network,
    hooks_around_call,
    hooks_in_options,
    hooks_of_model,
    hooks_within_blocks,
)
from .lane_parts import (
    models_with_copies,
    reason_against_injected_shares,
    reason_against_one_for_all,
    reason_against_repeated_parts,
    reason_for_every_window,
    reason_in_conds,
    reason_in_injections,
    reason_in_windows,
)
from .new_setting import new_setting
from .origins import FOREIGN, Origin, is_of_host, origin_of, pack_of
from .reading.source_reader import Reading, read, writes_outside
from .trial.verdicts import TrialSubject, known_reason

_MULTIGPU_NODE = Phrase("ComfyUI's own multi-GPU node already splits each call between the devices")
_KNOWN_MODELS = ("model_patcher", "inner_model", "loaded_models")
"""Attributes of a guider: the model itself, and what the host has loaded for the prompts, which have their reasons."""


def _keeps_results(name: Phrase) -> Phrase:
    return Phrase("{name} keeps results from step to step", name=name)


def _is_compiled(name: Phrase) -> Phrase:
    return Phrase("{name} is compiled for one device", name=name)


_COMPILED = "compile"
_NAME_REASONS = {"cache": _keeps_results, _COMPILED: _is_compiled}
_STEP_CACHE = re.compile(
    r"(easy|lazy|tea|mag|step|taylor|(fb|first|f|d)?_?block)[_ -]?cache|first_block_cache|cache[_-]?dit|wave_?speed",
    re.IGNORECASE,
)
"""The names of patches that leave out model calls, or blocks, by results of the step before."""
_CACHES = {name.lower(): name for name in ("EasyCache", "LazyCache", "TeaCache", "MagCache")}


@dataclass(frozen=True, eq=False)
class _ReadHook:
    """A hook, and the result of reading its code."""

    hook: Hook
    reading: Reading

    @property
    def packs(self) -> frozenset[str]:
        """The packs whose code takes part; an installed library counts as a pack."""
        function = _function(self.hook.call)
        library = isinstance(function, types.FunctionType) and origin_of(function) is Origin.LIBRARY
        return self.reading.packs or (frozenset({pack_of(function)}) if library else frozenset())


def reason_for_one_core(guider: Any, model_options: dict[str, Any]) -> Phrase | None:
    """Why this guider needs its steps in order on one device; None if it does not."""
    reason = _reason_in_parts(guider) or _reason_in_model(guider, model_options)
    if reason is not None:
        return reason
    hooks = _read_hooks(guider, model_options)
    return _reason_in_hooks(hooks) or _reason_from_trial(guider, hooks)


def subject_of_trial(guider: Any, model_options: dict[str, Any]) -> TrialSubject | None:
    """The patches of other packs that take part in a call and must be tried; None if there are none."""
    return _subject(guider, _read_hooks(guider, model_options))


def _subject(guider: Any, hooks: Sequence[_ReadHook]) -> TrialSubject | None:
    foreign = [each for each in hooks if each.packs]
    patcher = guider.model_patcher
    networks = (patcher.model, getattr(patcher.model, "diffusion_model", None))
    packs = {pack_of(type(network)) for network in networks if origin_of(type(network)) in FOREIGN}
    packs = packs.union(*(each.packs for each in foreign))
    if not packs:
        return None
    calls = tuple(each.hook for each in foreign)
    controlled = next(controls_in(guider.conds), None) is not None
    return TrialSubject(tuple(sorted(packs)), calls, patcher.model, patcher.patches_uuid, type(guider), controlled)


def reason_for_every_step(guider: Any, sigmas: Tensor) -> Phrase | None:
    """Why no step may be left out, nor be called from a state that is only near; None if it may. ``sigmas``: [N + 1].

    Where a prompt ends, a picture changes its direction, and how it does so depends on small differences before. On
    the demo model a tolerance of 1 % then gave 6 to 31 % in one picture of four (docs/tried.md). A ControlNet that
    begins or ends is decided likewise. Patches that act in a part of the steps, guidance that ends, and masks that
    change are measured and called for.
    """
    for conds in guider.conds.values():
        if any(cond.get(end) is not None for cond in conds or () for end in ("timestep_start", "timestep_end")):
            return Phrase("a prompt applies to a part of the steps only, and every step is called")
    return reason_for_range(guider.conds, sigmas) or reason_for_every_window(guider.model_options)


def step_cache(guider: Any, model_options: dict[str, Any]) -> str | None:
    """The name of the step cache that is the only reason for one core: without it, the run itself could leave out
    calls. None if there is no such cache, or another reason too."""
    if _reason_in_parts(guider) or _reason_in_model(guider, model_options):
        return None
    stateful = [each for each in _read_hooks(guider, model_options) if next(_stateful([each]), None) is not None]
    names = [_name_of_cache(each) for each in stateful]
    return names[0] if names and None not in names else None


def _name_of_cache(each: _ReadHook) -> str | None:
    """The name of the step cache that a hook belongs to, as far as names tell."""
    finding = each.reading.finding
    texts = (each.hook.name, *((finding.pack, finding.function) if finding is not None else ()))
    named = next(filter(None, map(_STEP_CACHE.search, texts)), None)
    return None if named is None else _CACHES.get(named[0].lower(), Phrase("the step cache"))


def reason_against_repeats(guider: Any, model_options: dict[str, Any], uncompiled: bool = False) -> Phrase | None:
    """Why the model of this guider must not be called several times at one step of the schedule; None if it may.

    SDO calls it so. ``uncompiled``: compiled functions will run without the compiler.
    """
    reason = reason_against_repeated_parts(guider, model_options)
    if reason is not None:
        return reason
    for each in _read_hooks(guider, model_options):
        if is_host_wrapper(each.hook.call) and not uncompiled:
            return _is_compiled(each.hook.name)
        if (reason := next(_stateful([each], uncompiled), None)) is not None:
            cache = _name_of_cache(each)
            return reason if cache is None else Phrase("{reason}; remove {cache}", reason=reason, cache=cache)
    return None


def reason_against_tokens(guider: Any, model_options: dict[str, Any]) -> Phrase | None:
    """Why devices cannot share the calls of this guider's model by tokens, or None if they can.

    The calls keep their order, and each is made once. So only that matters which takes part in the network's own
    computation, or what copies of the model would lack. A wrapper that keeps state may change the network of one device
    for a call, as step caches do.
    """
    patcher = guider.model_patcher
    network = getattr(patcher.model, "diffusion_model", None)
    reason = reason_for_one_device(patcher, model_options)
    if reason is None and network is not None:
        problem = reason_against(network, model_options.get("transformer_options", {}))
        reason = None if problem is None else phrase_of(problem)
    reason = reason or reason_against_one_for_all(guider)
    if reason is not None:
        return reason
    if "multigpu_clones" in model_options:
        return _MULTIGPU_NODE
    reason = reason_against_injected_shares(patcher) or _reason_in_copies(patcher)
    if reason is not None:
        return reason
    hooks = (*hooks_within_blocks(model_options), *hook_around_network(model_options), *hooks_of_model(patcher))
    within = [_ReadHook(hook, read(hook.call)) for hook in hooks]
    reason = _reason_in_hooks(within) or next(_new_in_host(within), None)
    return reason or _reason_from_trial(guider, _read_hooks(guider, model_options))


def _reason_in_parts(guider: Any) -> Phrase | None:
    """What the prompts bring that lanes cannot have copies of."""
    return reason_in_conds(guider) or reason_in_controls(guider.conds)


def _reason_in_model(guider: Any, model_options: dict[str, Any]) -> Phrase | None:
    """What a copy of the model on another device would not have, or would share."""
    patcher = guider.model_patcher
    name = type(guider).__name__
    known = models_with_copies(guider)
    held = (value for key, value in vars(guider).items() if key not in _KNOWN_MODELS)
    if any(_is_model(value, known) for value in held):
        return Phrase("the guider {guider} uses a second model", guider=name)
    if _host_keeps_state(type(guider).predict_noise):
        return Phrase("the guider {guider} keeps state from call to call", guider=name)
    if "multigpu_clones" in model_options:
        return _MULTIGPU_NODE
    return reason_in_windows(model_options) or _reason_in_copies(patcher)


def _reason_in_copies(patcher: ModelPatcher) -> Phrase | None:
    """What copies of the model would lack or share. A compiled part is none of it: such a model gets no copies."""
    reason = reason_in_injections(patcher)
    if reason is not None:
        return reason
    if patcher.model_patches_models() or patcher.get_nested_additional_models():
        return Phrase("a patch of the model uses a model of its own")
    for key, patch in patcher.object_patches.items():
        if callable(patch) and key != "model_sampling" and not is_compiled(patch):
            return Phrase("the part {part} of the model is replaced by an object that belongs to one device", part=key)
    if (setting := new_setting(patcher)) is not None:
        return Phrase("this version of ComfyUI may keep state because of the option {option}", option=setting)
    return None


def _is_model(value: Any, known: frozenset[int]) -> bool:
    """Whether there is a model in a value, apart from those with a ``known`` id."""
    if isinstance(value, list | tuple):
        return any(_is_model(each, known) for each in value)
    if isinstance(value, dict):
        return any(_is_model(each, known) for each in value.values())
    return isinstance(value, ModelPatcher | BaseModel) and id(value) not in known


def _read_hooks(guider: Any, model_options: dict[str, Any]) -> list[_ReadHook]:
    return [_ReadHook(hook, read(hook.call)) for hook in (*hooks_in_options(model_options), *hooks_around_call(guider))]


def _reason_in_hooks(hooks: Sequence[_ReadHook]) -> Phrase | None:
    for each in hooks:
        if hasattr(each.hook.call, "to"):
            return Phrase("{name} holds tensors on one device", name=each.hook.name)
    return next(_stateful(hooks), None)


def _reason_from_trial(guider: Any, hooks: Sequence[_ReadHook]) -> Phrase | None:
    subject = _subject(guider, hooks)
    return None if subject is None else known_reason(subject)


def _stateful(hooks: Sequence[_ReadHook], uncompiled: bool = False) -> Iterator[Phrase]:
    """What is not the same in every call, for each such hook."""
    for each in hooks:
        name = each.hook.name
        for word, reason in _NAME_REASONS.items():
            compiled = is_host_wrapper(each.hook.call) or (uncompiled and word == _COMPILED)
            if word in name.lower() and not compiled:
                yield reason(name)
        if _host_keeps_state(each.hook.call):
            yield Phrase("{name} keeps state from call to call", name=name)
        if each.reading.finding is not None:
            yield each.reading.finding.about(name)


def _new_in_host(hooks: Sequence[_ReadHook]) -> Iterator[Phrase]:
    """Code of a newer host within the network: it may need all tokens, and keep state where reading does not see it."""
    for each in hooks:
        if new := sorted(filter(is_of_host, each.packs)):
            yield Phrase("{name} is part of {pack}, which this pack was not run with", name=each.hook.name, pack=new[0])


def _host_keeps_state(hook: Callable[..., Any]) -> bool:
    """Whether a hook of the host writes to an attribute, a global, or a variable of an enclosing function.

    Functions that the hook calls are not read, and containers that it changes are not found. This is enough: the nodes
    of the host are known.
    """
    function = _function(hook)
    code = getattr(function, "__code__", None)
    if code is None or origin_of(function) is not Origin.HOST:
        return False
    return writes_outside(code, frozenset(code.co_freevars))


def _function(hook: Callable[..., Any]) -> Any:
    while isinstance(hook, functools.partial):
        hook = hook.func
    function = getattr(hook, "__func__", hook)
    return function if isinstance(function, types.FunctionType) else type(hook).__call__
