"""The reasons why the ControlNets of a run need one core, every step, or calls of one row.

A ControlNet is copied for each lane, where its class is the host's own and known. Its result then depends on the call
only. Packs have classes of their own with weights by step, masks and caches, and change methods of the host's classes:
these run on one core.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator, Mapping
from typing import Any

import comfy.controlnet
from comfy.controlnet import T2IAdapter
from torch import Tensor, nn

from ..devices.controlnets import Conds, chain_of, controls_in, network_of, pictures_of
from ..phrases import Phrase
from .hooks import hooks_in_network
from .origins import Origin, origin_of, pack_of

_KNOWN = ("ControlNet", "ControlNetSD35", "QwenFunControlNet", "T2IAdapter")
_NOT_COPIED = {"ControlLora": Phrase("a control LoRA makes its network of the model's own weights in each run")}

_OUTSIDE_OF_CALLS = frozenset(
    (
        *("__init__", "set_cond_hint", "set_previous_controlnet", "set_extra_arg", "copy", "copy_to", "cleanup"),
        *("get_models", "get_models_only_self", "get_extra_hooks", "inference_memory_requirements"),
        *("deepclone_multigpu", "get_instance_for_device"),
    )
)
"""Methods that take no part in a lane's call, and that no lane's instance is made by."""

_PATCHED = ("patches", "object_patches", "weight_wrapper_patches", "injections", "hook_patches")


def reason_in_controls(conds: Conds) -> Phrase | None:
    """Why lanes cannot have ControlNets of their own like those of these prompts; None if they can."""
    return next((reason for control in controls_in(conds) for reason in _reasons_in(control)), None)


def reason_for_range(conds: Conds, sigmas: Tensor) -> Phrase | None:
    """Why every step of this schedule [N + 1] is called: a ControlNet begins or ends within it; None if none does."""
    for control in controls_in(conds):
        if len({is_active(control, float(sigma)) for sigma in sigmas[:-1]}) > 1:
            return Phrase("a ControlNet applies to a part of the steps only, and every step is called")
    return None


def is_active(control: Any, sigma: float) -> bool:
    """Whether a ControlNet of a run acts at this sigma, as the host decides it."""
    start_and_end = getattr(control, "timestep_range", None)
    if start_and_end is None:
        return True
    start, end = start_and_end
    return bool(end <= sigma <= start)


def reasons_against_control_rows(cond: dict[str, Any], batch: int) -> Iterator[Phrase]:
    """Why the ControlNets of a prompt cannot be part of a call of several rows. ``batch``: the items of a latent.

    The host decides by the first row whether a ControlNet acts. It repeats pictures for the whole batch, so that each
    row gets its own only if there is one, or one for each item of the latent.
    """
    for control in chain_of(cond.get("control")):
        if tuple(control.timestep_percent_range) != (0.0, 1.0):
            yield Phrase("a ControlNet applies to a part of the steps only")
        pictures = pictures_of(control)
        if pictures != 1 and (pictures != batch or isinstance(control, T2IAdapter)):
            yield Phrase("a ControlNet has another number of pictures than the latent")


def _reasons_in(control: Any) -> Iterator[Phrase]:
    kind = type(control)
    if origin_of(kind) is Origin.PACK:
        yield Phrase(
            "the ControlNet {kind} has code of the pack {pack}, which may keep state between calls",
            kind=kind.__name__,
            pack=pack_of(kind),
        )
        return
    if kind.__name__ in _NOT_COPIED:
        yield _NOT_COPIED[kind.__name__]
    elif kind not in [getattr(comfy.controlnet, name, None) for name in _KNOWN]:
        yield Phrase("ControlNets of the kind {kind} are not copied for several lanes", kind=kind.__name__)
    yield from _reasons_in_code(control)
    network = network_of(control)
    if network is not None:
        yield from _reasons_in_network(control, network)


def _reasons_in_code(control: Any) -> Iterator[Phrase]:
    """Functions of packs in the place of those of the host's class, and of the functions beside it."""
    for space in (*map(vars, type(control).__mro__), vars(comfy.controlnet)):
        for name, function in _functions_of_packs(space):
            yield Phrase("the pack {pack} replaces {name} of the host's ControlNets", pack=pack_of(function), name=name)
    for name, function in _functions_of_packs(vars(control)):
        yield Phrase("the pack {pack} replaces {name} of a ControlNet", pack=pack_of(function), name=name)


def _functions_of_packs(space: Mapping[str, Any]) -> Iterator[tuple[str, types.FunctionType]]:
    """The functions of packs in a namespace that take part in calls."""
    for name, value in space.items():
        while isinstance(value, functools.partial):
            value = value.func
        function = getattr(value, "__func__", value)
        if name not in _OUTSIDE_OF_CALLS and isinstance(function, types.FunctionType):
            if origin_of(function) is Origin.PACK:
                yield name, function


def _reasons_in_network(control: Any, network: nn.Module) -> Iterator[Phrase]:
    """What a copy of the network would lack, or what may keep state in it."""
    patcher = getattr(control, "control_model_wrapped", None)
    if patcher is None or any(getattr(patcher, name, None) for name in _PATCHED):
        yield Phrase("the network of a ControlNet has patches")
    elif patcher.model is not network or any(map(_is_compiled, network.modules())):
        yield Phrase("the network of a ControlNet is compiled for one device")
    for part in network.modules():
        if origin_of(type(part)) is Origin.PACK:
            yield Phrase("the network of a ControlNet has parts of the pack {pack}", pack=pack_of(type(part)))
            return
    for hook in hooks_in_network(network):
        yield Phrase("{name} of a ControlNet may keep state between calls", name=hook.name)


def _is_compiled(part: nn.Module) -> bool:
    """In place, by ``nn.Module.compile``; a copy would not be."""
    return getattr(part, "_compiled_call_impl", None) is not None
