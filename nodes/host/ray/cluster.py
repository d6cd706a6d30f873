"""Lanes on a Ray cluster, for the sampler: workers kept from run to run, and what a run sends them."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

import comfy.model_management
from torch import Tensor

from ....chords_core import ModelPayload, RayPool, RayWorkers
from ....chords_core.execution.ray.errors import NoWorker
from ..devices.request import DeviceRequest
from .allowed_addresses import reason_against
from .serialization import NotShippable, model_parcel, run_parcel
from .worker import setup_here, worker_factory

_kept: dict[tuple[str, int], RayWorkers] = {}  # at most one set: a machine has room for one


def cluster_lanes(request: DeviceRequest) -> int:
    """How many lanes the cluster has for this request. Starts or reaches Ray if that was not done yet.

    Raises:
        NoWorker: if the owner of this server does not allow the cluster, or if it was there and is lost.
        WorkersUnavailable: if Ray is not installed, or cannot be started or reached.
    """
    if (reason := reason_against(request.ray_address)) is not None:
        raise NoWorker(reason)
    return _workers(request).lanes


def open_cluster_pool(
    stack: ExitStack, request: DeviceRequest, model: Any, extra_args: dict[str, Any], x: Tensor, count: int
) -> tuple[RayPool | None, list[str]]:
    """A pool of at most ``count`` Ray workers for one run, closed by ``stack``, or None if there is none for it; with
    it what the user should know: why not, or which workers are missing.

    Raises:
        WorkersUnavailable: if the cluster or a worker's machine is not set up as it has to be, naming the machine.
    """
    patcher = model.inner_model.model_patcher
    try:
        key, weights = model_parcel(patcher)
        run = run_parcel(patcher, model, extra_args, x)
        pool = _workers(request).open(run, count, ModelPayload(key, weights))
    except NotShippable as problem:
        return None, [f"Ray's workers cannot be used: {problem}"]
    except NoWorker as problem:
        return None, [no_worker(problem)]
    stack.enter_context(pool)
    return pool, [f"not all Ray workers could be had ({'; '.join(pool.left_out)})"] if pool.left_out else []


def no_worker(problem: NoWorker) -> str:
    """What the user is told of a run that had none."""
    return f"no Ray worker could be had, so it was done here ({problem})"


def _workers(request: DeviceRequest) -> RayWorkers:
    wanted = request.ray_address, request.ray_workers
    for other in [key for key in _kept if key != wanted]:
        _kept.pop(other).close()
    if wanted not in _kept:
        logging.getLogger("chords").info("CHORDS: starting Ray's workers (%s)", request.ray_address)
        on_cpu = comfy.model_management.get_torch_device().type == "cpu"
        _kept[wanted] = RayWorkers(
            worker_factory(setup_here()),
            request.ray_address,
            request.ray_workers,
            local_gpus=not on_cpu,
            cancelled=_interrupted,
        )
    return _kept[wanted]


def _interrupted() -> bool:
    comfy.model_management.throw_exception_if_processing_interrupted()
    return False
