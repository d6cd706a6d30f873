"""Opens lanes, here or on a cluster, after two checks: copies equal the model, and patches of packs pass a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import LaneTimeouts, Pool
from ..devices.controlnets import RunControls
from ..devices.lanes import Group, inline_denoiser, open_pool
from ..devices.replicas import forget_copies
from ..devices.sharing import Sharing
from ..phrases import Phrase
from .network_structure import reason_against_copies
from .reasons import subject_of_trial
from .trial.rounds import TrialLanes
from .trial.trial import run_trial
from .trial.verdicts import known_verdict


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
    every_step: bool = True,
    controls: RunControls | None = None,
) -> tuple[Pool, Phrase | None]:
    """Open the lanes of a run, if the checks pass.

    Args:
        stack, model, extra_args, groups, copies, in_this_thread, sharings, controls: see `open_pool`.
        x: the start of the run, for a trial.
        sigmas: [N + 1], its schedule.
        cancelled: whether the prompt was cancelled.
        timeouts: how long a lane may take.
        every_step: whether each step is called, in order, if there is one core.

    Returns:
        The pool of `open_pool` and None. Or, if a check fails, a pool of one core that calls the model as the host
        does, and the reason.
    """
    guider = model.inner_model
    patcher = guider.model_patcher

    def open_lanes(stack: ExitStack, in_use: list[dict[str, Any]] | None = None) -> Pool:
        return open_pool(stack, model, extra_args, groups, copies, in_this_thread, sharings, in_use, controls)

    reason = reason_against_copies(patcher, copies)
    if reason is not None:
        forget_copies(patcher)
        return _open_one_core(stack, model, extra_args), reason
    # A token split keeps the order of the calls: what takes part in them was looked at by `reason_against_tokens`.
    sides_apart = any(sharing is not None and sharing.splits_guidance for sharing in sharings)
    is_host_call = in_this_thread and every_step and not sides_apart
    subject = None if is_host_call else subject_of_trial(guider, extra_args["model_options"])
    verdict = None if subject is None else known_verdict(subject, groups)
    if verdict is not None and verdict.reason is not None:
        return _open_one_core(stack, model, extra_args), verdict.reason
    if subject is None or verdict is not None:
        return open_lanes(stack), None
    in_use = [extra_args["model_options"], guider.model_options]
    in_use += [each.model_options for each in (patcher, *copies.values())]
    with ExitStack() as trial:
        pool = open_lanes(trial, in_use=in_use)
        own = model if controls is None else controls.in_model(model, (patcher.load_device,), copies)
        lanes = _trial_lanes(own, extra_args, groups, in_use)
        pool, reason = run_trial(subject, pool, lanes, groups, x, sigmas, cancelled, timeouts)
        if reason is None:
            stack.push(trial.pop_all())
            return pool, None
    return _open_one_core(stack, model, extra_args), reason


def _open_one_core(stack: ExitStack, model: Any, extra_args: dict[str, Any]) -> Pool:
    group = (model.inner_model.model_patcher.load_device,)
    return open_pool(stack, model, extra_args, [group], {}, in_this_thread=True)


def _trial_lanes(
    model: Any, extra_args: dict[str, Any], groups: Sequence[Group], in_use: Sequence[dict[str, Any]]
) -> TrialLanes:
    """The lanes of a trial on this machine; ``in_use``: the model options that they use."""
    devices = tuple(group[0] for group in groups)
    own = model.inner_model.model_patcher.load_device
    is_shared = any(len(group) > 1 for group in groups)
    return TrialLanes(
        devices,
        primary=devices.index(own) if own in devices else None,
        options=in_use,
        dtype=_computed_in(model.inner_model.inner_model),
        shared=is_shared,
        # The result of a patch may depend on how many items a call has, and two devices share the items.
        host_call=inline_denoiser(model, extra_args) if is_shared else None,
    )


def try_workers(
    pool: Pool,
    model: Any,
    extra_args: dict[str, Any],
    x: Tensor,
    sigmas: Tensor,
    cancelled: Callable[[], bool],
    timeouts: LaneTimeouts,
) -> tuple[Pool, Phrase | None]:
    """The pool of a cluster's workers for a run, and the reason for one core if patches of packs fail there.

    The trial compares the workers with each other, and one of them with the model on this machine.
    """
    guider = model.inner_model
    subject = subject_of_trial(guider, extra_args["model_options"])
    workers = tuple(f"worker {lane}" for lane in range(pool.lanes))
    verdict = None if subject is None else known_verdict(subject, workers)
    if subject is None or verdict is not None:
        return pool, None if verdict is None else verdict.reason
    lanes = TrialLanes(
        (guider.model_patcher.load_device,) * pool.lanes,
        primary=None,
        options=[],
        dtype=_computed_in(guider.inner_model),
        shared=False,
        host_call=inline_denoiser(model, extra_args),
    )
    return run_trial(subject, pool, lanes, workers, x, sigmas, cancelled, timeouts)


def _computed_in(model: Any) -> torch.dtype:
    """The type that a BaseModel computes in."""
    dtype: torch.dtype | None = model.manual_cast_dtype or model.get_dtype()
    return dtype if dtype is not None and dtype.is_floating_point else torch.float16  # quantised weights
