"""The host's model call, on inputs that can be part of a graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

from ....chords_core import InvalidInput
from ..tree import mapped
from .autograd import normal


@dataclass(frozen=True, eq=False)
class DifferentiableModelCall:
    """What a sampler function calls as its model: ``call(x [B, ...], sigma) -> denoised [B, ...]``."""

    model: Any
    guider: Any
    arguments: dict[str, Any]

    @staticmethod
    def of(model: Any, extra_args: dict[str, Any]) -> DifferentiableModelCall:
        """From what the host gives a sampler function; the host's objects do not change."""
        guider = copy.copy(model.inner_model)
        guider.conds = mapped(guider.conds, _usable)
        sampler_model = copy.copy(model)
        sampler_model.inner_model = guider
        for name in ("sigmas", "latent_image", "noise"):
            setattr(sampler_model, name, mapped(getattr(model, name), _usable))
        options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        options["transformer_options"] = mapped(options["transformer_options"], normal)
        return DifferentiableModelCall(sampler_model, guider, {**extra_args, "model_options": options})

    def with_conds(self, conds: dict[str, Any]) -> DifferentiableModelCall:
        """The same call for other conditionings, as the host has processed them: "positive" and "negative"."""
        guider, model = copy.copy(self.guider), copy.copy(self.model)
        guider.conds, model.inner_model = mapped(conds, _usable), guider
        return DifferentiableModelCall(model, guider, self.arguments)

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.model(x, x.new_full((len(x),), sigma), **self.arguments)


def conditioned_call(
    call: DifferentiableModelCall, prompt: Tensor, items: int
) -> tuple[Callable[[Tensor, float, Tensor], Tensor], Tensor]:
    """``call`` as a function of the positive prompt's embedding too, and that embedding [items, T, D].

    ``prompt``: the embedding [1, T, D] in the host's conditioning.

    Raises:
        InvalidInput: if the model does not take the embedding as it is.
    """
    prompt = normal(prompt).clone()
    (entry,) = call.guider.conds["positive"]
    key = _key_of(prompt, entry["model_conds"])

    def conditioned(x: Tensor, sigma: float, condition: Tensor) -> Tensor:
        conds = entry["model_conds"]
        varied = {**entry, "model_conds": {**conds, key: conds[key]._copy_with(condition)}}
        call.guider.conds = {**call.guider.conds, "positive": [varied]}
        return call(x, sigma)

    return conditioned, prompt.to(entry["model_conds"][key].cond).expand(items, *prompt.shape[1:]).clone()


def _usable(tensor: Tensor) -> Tensor:
    """A tensor that autograd can save."""
    return tensor.clone() if tensor.is_inference() else tensor


def _key_of(prompt: Tensor, model_conds: dict[str, Any]) -> str:
    """The key of the model's argument that is the prompt's embedding."""
    for key, cond in model_conds.items():
        given = getattr(cond, "cond", None)
        if isinstance(given, Tensor) and given.shape == prompt.shape and torch.equal(given.to(prompt), prompt):
            return key
    raise InvalidInput(
        "positive", "this model does not take the prompt's embedding as it is; optimise the initial noise instead"
    )
