"""Lanes on a Ray cluster for the sampler. The workers are kept from run to run."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

import comfy.model_management
from torch import Tensor

from ....chords_core import RayPool, RayWorkers
from ....chords_core.execution.ray.errors import NoWorker
from ..devices.request import DeviceRequest
from ..known_sentences import phrase_of, phrase_of_workers
from ..phrases import Phrase, in_turn, message_of
from .allowed_addresses import reason_against
from .serialization import NotShippable, model_payload, run_payload
from .worker import setup_here, worker_factory


class NotAllowed(NoWorker):
    """The owner of this server does not allow the cluster."""


_kept: dict[tuple[str, int], RayWorkers] = {}  # at most one entry: a machine has memory for the models of one


def cluster_lanes(request: DeviceRequest) -> int:
    """How many lanes the cluster has for this request. Starts Ray, or connects to it, at the first call.

    Raises:
        NotAllowed: if the owner of this server does not allow the cluster.
        NoWorker: if the connection to it is lost.
        WorkersUnavailable: if Ray is not installed, or cannot be started or reached.
    """
    if (reason := reason_against(request.ray_address)) is not None:
        raise NotAllowed(reason)
    return _workers(request).lanes


def open_cluster_pool(
    stack: ExitStack, request: DeviceRequest, model: Any, extra_args: dict[str, Any], x: Tensor, count: int
) -> tuple[RayPool | None, list[Phrase]]:
    """A pool of at most ``count`` Ray workers for one run, closed by ``stack``; None if no worker can take part. Also
    returns notes for the user: the reason, or which workers are missing.

    Raises:
        WorkersUnavailable: if the cluster or a worker's machine is not set up as it has to be; names the machine.
    """
    patcher = model.inner_model.model_patcher
    try:
        payload = model_payload(patcher)
        run = run_payload(patcher, model, extra_args, x)
        pool = _workers(request).open(run, count, payload)
    except NotShippable as problem:
        return None, [Phrase("Ray's workers cannot be used: {problem}", problem=message_of(problem))]
    except NoWorker as problem:
        return None, [no_worker(problem)]
    stack.enter_context(pool)
    if not pool.left_out:
        return pool, []
    left_out = in_turn([phrase_of(each) for each in pool.left_out])
    return pool, [Phrase("not all Ray workers are available ({left_out})", left_out=left_out)]


def no_worker(problem: NoWorker) -> Phrase:
    """The note for the user about a run without any worker."""
    why = phrase_of_workers(message_of(problem))
    return Phrase("no Ray worker is available, so the run was done here ({problem})", problem=why)


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
