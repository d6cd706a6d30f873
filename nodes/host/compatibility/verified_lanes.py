"""Lanes, here or on a cluster, whose copies are as the model is, and where patches of other packs were tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import LaneTimeouts, Pool
from ..devices.lanes import Group, inline_denoiser, open_pool
from ..devices.replicas import forget_copies
from ..devices.sharing import Sharing
from .network_structure import unlike
from .reasons import subject_of_trial
from .trial import Lanes, known, tried


def open_tried_pool(
    stack: ExitStack,
    model: Any,
    extra_args: dict[str, Any],
    groups: Sequence[Group],
    copies: Mapping[torch.device, ModelPatcher],
    in_this_thread: bool,
    sharings: Sequence[Sharing | None],
    *,
    x: Tensor,
    sigmas: Tensor,
    cancelled: Callable[[], bool],
    timeouts: LaneTimeouts,
) -> tuple[Pool, str | None]:
    """What `open_pool` opens, or, with the reason, a pool for one core that calls the model as the host does.

    ``x``, ``sigmas``: the run's start and schedule, for a trial; ``cancelled``, ``timeouts``: as in a run.
    """
    guider = model.inner_model
    reason = unlike(guider.model_patcher, copies)
    if reason is not None:
        forget_copies(guider.model_patcher)
        return _alone(stack, model, extra_args), reason
    devices = tuple(device for group in groups for device in group)
    own = guider.model_patcher.load_device
    # A token split keeps the order of the calls: what takes part in them was looked at by `reason_against_tokens`.
    alone = in_this_thread and all(sharing is None or not sharing.splits_guidance for sharing in sharings)
    subject = None if alone else subject_of_trial(guider, extra_args["model_options"])
    verdict = None if subject is None else known(subject, groups)
    if verdict is not None and verdict.reason is not None:
        return _alone(stack, model, extra_args), verdict.reason
    if subject is None or verdict is not None:
        return open_pool(stack, model, extra_args, groups, copies, in_this_thread, sharings), None
    patchers = (guider.model_patcher, *copies.values())
    in_use = [extra_args["model_options"], guider.model_options, *(patcher.model_options for patcher in patchers)]
    with ExitStack() as trial:
        pool = open_pool(trial, model, extra_args, groups, copies, in_this_thread, sharings, in_use)
        firsts = tuple(group[0] for group in groups)
        shared = len(devices) > len(groups)
        lanes = Lanes(
            firsts,
            firsts.index(own) if own in firsts else None,
            in_use,
            _computed_in(guider.inner_model),
            shared,
            # A patch may depend on how many items a call has, so that it minds that they are shared out.
            inline_denoiser(model, extra_args) if shared else None,
        )
        pool, reason = tried(subject, pool, lanes, groups, x, sigmas, cancelled, timeouts)
        if reason is None:
            stack.push(trial.pop_all())
            return pool, None
    return _alone(stack, model, extra_args), reason


def try_workers(
    pool: Pool,
    model: Any,
    extra_args: dict[str, Any],
    x: Tensor,
    sigmas: Tensor,
    cancelled: Callable[[], bool],
    timeouts: LaneTimeouts,
) -> tuple[Pool, str | None]:
    """The pool of a cluster's workers for a run, and the reason for one core if patches of other packs failed there.

    Workers are compared with each other, and one of them with the model here.
    """
    guider = model.inner_model
    subject = subject_of_trial(guider, extra_args["model_options"])
    workers = tuple(f"worker {lane}" for lane in range(pool.lanes))
    verdict = None if subject is None else known(subject, workers)
    if subject is None or verdict is not None:
        return pool, None if verdict is None else verdict.reason
    lanes = Lanes(
        (guider.model_patcher.load_device,) * pool.lanes,
        primary=None,
        options=[],
        dtype=_computed_in(guider.inner_model),
        shared=False,
        own=inline_denoiser(model, extra_args),
    )
    return tried(subject, pool, lanes, workers, x, sigmas, cancelled, timeouts)


def _computed_in(model: Any) -> torch.dtype:
    """The type that a BaseModel computes in."""
    dtype = model.manual_cast_dtype or model.get_dtype()
    return dtype if dtype is not None and dtype.is_floating_point else torch.float16  # quantised weights


def _alone(stack: ExitStack, model: Any, extra_args: dict[str, Any]) -> Pool:
    group = (model.inner_model.model_patcher.load_device,)
    return open_pool(stack, model, extra_args, [group], {}, in_this_thread=True)
