"""The reasons why the rows of one model call must not have different sigmas.

The host gives a call one sigma for each item of its batch. But where it decides by the sigma, as for prompts of a part
of the steps, it takes the first one for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import comfy.conds
from comfy.samplers import CFGGuider
from torch import Tensor

from ..phrases import Phrase
from ..tree import mapped
from .compiled import reason_for_one_device
from .controlnets import reasons_against_control_rows
from .hooks import hooks_around_call, hooks_in_options
from .lane_parts import reasons_against_rows
from .origins import Origin, origin_of
from .reading.one_sigma import takes_one_sigma
from .reasons import reason_for_one_core, subject_of_trial

_CONDS = (
    comfy.conds.CONDRegular,
    comfy.conds.CONDNoiseShape,
    comfy.conds.CONDCrossAttn,
    comfy.conds.CONDList,
    comfy.conds.CONDConstant,
)

_OF_THE_LATENT = {
    "latent_shapes": Phrase("the latent has several parts"),
    "num_video_frames": Phrase("the items of the latent are the frames of one video"),
}
"""Conditions that describe the latent as a whole, so that rows cannot be put into one."""

_AROUND_GUIDANCE = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")

_ROW_BY_ROW = frozenset(
    (
        ("nodes_cfg", "cfg_norm"),
        ("nodes_cfg", "cfg_norm_pre"),
        ("nodes_cfg", "cfg_zero_star"),
        ("nodes_fresca", "custom_cfg_function"),
        ("nodes_eps", "epsilon_scaling_function"),
        ("nodes_model_advanced", "rescale_cfg"),
        ("nodes_pag", "post_cfg_function"),
        ("nodes_tcfg", "tangential_damping_cfg"),
    )
)
"""The host's functions around guidance that compute each item of a batch for itself, by file and name. Others take a
norm or a mean over all items, or the place of an item in the batch. A trial may not find that, for its error is small
while two rows are much alike."""


def reason_against_rows(guider: Any, model_options: dict[str, Any], batch: int) -> Phrase | None:
    """Why this guider cannot evaluate states of several sigmas in one call; None if it can.

    Args:
        guider: the host's, in a run.
        model_options: of the run.
        batch: the items of a latent.
    """
    reason = next(_reasons_in_conds(guider, batch), None) or next(reasons_against_rows(guider, model_options), None)
    if reason is not None:
        return reason
    if reason_for_one_device(guider.model_patcher, model_options) is not None:
        return Phrase("a compiled model would be compiled again for each number of rows")
    if model_options.get("denoise_mask_function") is not None:
        return Phrase("the mask changes from step to step")
    if model_options.get("model_function_wrapper") is not None:
        return Phrase("a patch around the network takes its calls one by one")
    reason = next(_reasons_around_guidance(guider, model_options), None)
    if reason is not None:
        return reason
    reason = reason_for_one_core(guider, model_options)
    if reason is not None:
        return reason
    subject = subject_of_trial(guider, model_options)
    if subject is not None:
        packs = ", ".join(subject.packs)
        return Phrase("a patch of {packs} may take one sigma for all rows of a call", packs=packs)
    for hook in (*hooks_in_options(model_options), *hooks_around_call(guider)):
        if takes_one_sigma(hook.call):
            return Phrase("{name} takes one sigma for all rows of a call", name=hook.name)
    return None


def _reasons_around_guidance(guider: Any, model_options: dict[str, Any]) -> Iterator[Phrase]:
    """Guiders and patches that may make one thing of all items of a batch."""
    if getattr(guider.predict_noise, "__func__", None) is not CFGGuider.predict_noise:
        name = type(guider).__name__
        yield Phrase("the guider {guider} combines the model's answers in its own way", guider=name)
    if model_options.get("sampler_calc_cond_batch_function") is not None:
        yield Phrase("a patch evaluates the prompts in its own way")
    for name in _AROUND_GUIDANCE:
        found = model_options.get(name) or ()
        for function in found if isinstance(found, list | tuple) else (found,):
            if not _is_row_by_row(function):
                kind = getattr(function, "__qualname__", type(function).__name__)
                yield Phrase("the model patch {kind} ({path}) may mix the rows of a call", kind=kind, path=name)


def _is_row_by_row(function: Callable[..., Any]) -> bool:
    """Whether a function around guidance is known to compute each item of a batch for itself."""
    code = getattr(function, "__code__", None)
    if code is None or origin_of(function) is not Origin.HOST:
        return False
    return (Path(code.co_filename).stem, code.co_name) in _ROW_BY_ROW


def _reasons_in_conds(guider: Any, batch: int) -> Iterator[Phrase]:
    for cond in (cond for conds in guider.conds.values() for cond in conds or ()):
        if cond.get("timestep_start") is not None or cond.get("timestep_end") is not None:
            yield Phrase("a prompt applies to a part of the steps only")
        yield from reasons_against_control_rows(cond, batch)
        for name, value in cond.get("model_conds", {}).items():
            if name in _OF_THE_LATENT:
                yield _OF_THE_LATENT[name]
            if type(value) not in _CONDS:
                yield Phrase("the condition {condition} is of an unknown kind", condition=name)
            elif isinstance(value, comfy.conds.CONDConstant):
                if any(tensor.numel() > 1 for tensor in _tensors(value.cond)):
                    yield Phrase("the condition {condition} belongs to the latent as a whole", condition=name)
            elif any(tensor.shape[:1] not in ((1,), (batch,)) for tensor in _tensors(value.cond)):
                yield Phrase("the condition {condition} has another number of items than the latent", condition=name)
        mask = cond.get("mask")
        if mask is not None and mask.shape[:1] not in ((1,), (batch,)):
            yield Phrase("a mask has another number of items than the latent")


def _tensors(value: Any) -> list[Tensor]:
    """All tensors within a condition's value."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, keep)
    return found
