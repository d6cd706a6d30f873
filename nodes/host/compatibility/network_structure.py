"""Whether the copies of a network have the structure of the loaded one: packs may have changed that in place."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..phrases import Phrase
from .hooks import functions_set_on


def reason_against_copies(primary: ModelPatcher, copies: Mapping[torch.device, ModelPatcher]) -> Phrase | None:
    """Why a copy cannot replace the model, with the part that differs; None if all copies can."""
    for device, other in copies.items():
        part = first_difference(primary.model, other.model)
        if part is not None:
            return Phrase(
                "a node changed the loaded network in place, and the copy on {device} does not have that: {part}",
                device=str(device),
                part=part,
            )
    return None


def first_difference(ours: nn.Module, theirs: nn.Module) -> Phrase | None:
    """The first difference between two networks: parts, classes, names and shapes of parameters, and functions that are
    set on a part. None if there is none."""
    others = dict(theirs.named_modules())
    own = {id(part) for part in ours.modules()}
    for path, part in ours.named_modules():
        other = others.pop(path, None)
        if other is None:
            return Phrase("the part {path} ({kind})", path=path, kind=type(part).__name__)
        if type(part) is not type(other) and _name(type(part)) != _name(type(other)):
            return Phrase("the class {kind} of {path}", kind=type(part).__name__, path=path)
        if part._parameters.keys() != other._parameters.keys() or not all(
            map(_same_shape, part._parameters.values(), (other._parameters[name] for name in part._parameters))
        ):
            return Phrase("the parameters of {path}", path=path or type(part).__name__)
        set_here, set_there = dict(functions_set_on(part)), dict(functions_set_on(other))
        for name in sorted(set_here.keys() | set_there.keys()):
            if not _same(set_here.get(name), set_there.get(name), part, other, own):
                return Phrase("the function {name} of {path}", name=name, path=path or type(part).__name__)
    return Phrase("the additional part {path}", path=next(iter(others))) if others else None


def _same_shape(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else one.shape == other.shape


def _name(kind: type) -> tuple[str, str]:
    return kind.__module__, kind.__qualname__  # a pack that was loaded again has the class twice


def _same(one: Any, other: Any, part: nn.Module, other_part: nn.Module, own: set[int]) -> bool:
    """Whether a function does in ``other_part`` what another one does in ``part``.

    ``own``: the ids of all parts of the network of ``part``.
    """
    if isinstance(one, types.MethodType) and isinstance(other, types.MethodType):
        # It is bound to the copy's own part, or to an object that is not a part of our network.
        is_independent = one.__self__ is not other.__self__ or id(one.__self__) not in own
        return _same(one.__func__, other.__func__, part, other_part, own) and is_independent
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        held = (*other.args, *other.keywords.values())
        return _same(one.func, other.func, part, other_part, own) and not any(id(value) in own for value in held)
    if isinstance(one, types.FunctionType) and isinstance(other, types.FunctionType):
        return one.__code__ is other.__code__ and not any(id(value) in own for value in _enclosed(other))
    return one is other or (one is not None and other is not None and _name(type(one)) == _name(type(other)))


def _enclosed(function: types.FunctionType) -> list[Any]:
    """The values that a function encloses, and the objects of the methods among them."""
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not set yet
            continue
    return values + [value.__self__ for value in values if isinstance(value, types.MethodType)]
