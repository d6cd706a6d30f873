"""Guidance split: two devices evaluate the two sides of a guided step, with the host's own code for several GPUs."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from comfy.model_management import processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.multigpu import MultiGPUThreadPool
from comfy.patcher_extension import WrappersMP, get_all_wrappers
from comfy.samplers import CFGGuider

from ....chords_core import LaneTimeouts
from ..interrupts import check_interrupt, passed_on
from ..phrases import Phrase
from .thread_state import ended_on_failure, thread_life

LANE_TIMEOUTS = LaneTimeouts()  # for a device that does not answer, as for a lane

_POLL_SECONDS = 0.02  # a cancel is seen after at most so long
_STOP_SECONDS = 1.0  # the time that devices have to stop after a cancel

Answer = tuple[Any, BaseException | None]


def is_guided(guider: Any, model_options: dict[str, Any]) -> bool:
    """Whether each step evaluates a positive and a negative side, which the host's own code then combines."""
    if not isinstance(guider, CFGGuider) or type(guider).predict_noise is not CFGGuider.predict_noise:
        return False
    if math.isclose(guider.cfg, 1.0) and not model_options.get("disable_cfg1_optimization", False):
        return False
    if "sampler_calc_cond_batch_function" in model_options:
        return False
    if get_all_wrappers(WrappersMP.CALC_COND_BATCH, model_options, is_model_options=True):
        return False
    return all(guider.conds.get(side) for side in ("positive", "negative"))


def spread_over(stack: ExitStack, options: dict[str, Any], patchers: Mapping[torch.device, ModelPatcher]) -> None:
    """Make the calls of a lane with these model options share their two sides among devices, until ``stack`` closes.

    ``patchers``: the model on each device, the lane's own device first; loaded and prepared for the run.
    """
    threads = CfgSplitThreadPool(list(patchers))
    stack.callback(threads.close)
    for device in patchers:
        if device.type == "cpu":  # as in a lane
            threads.submit(device, torch.set_num_threads, 1)
            threads.get_result(device)
    options["multigpu_clones"] = dict(patchers)
    options["multigpu_thread_pool"] = threads


class CfgSplitThreadPool(MultiGPUThreadPool):
    """The host's threads, one a device, with timeouts, and with no thread left at the end.

    After an error or a cancel the pool waits for the other devices too. It gives a device up that does not come back;
    the device is then among `stuck_devices` until it does.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        super().__init__(devices)
        self._began: dict[torch.device, float] = {}  # devices at work, and since when
        self._slowest: float | None = None
        self._cancelled_at: float | None = None

    def _worker_loop(self, *args: Any) -> None:
        with thread_life():
            super()._worker_loop(*args)

    def submit(self, device: torch.device, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Start ``fn`` in the thread of ``device``."""
        self._began[device] = time.monotonic()
        super().submit(device, passed_on()(ended_on_failure()(fn)), *args, **kwargs)

    def get_result(self, device: torch.device) -> Answer:
        """The result or the error of ``device``. A cancel of the prompt raises."""
        result, error = self._wait_for(device)
        if error is not None:
            self._settle()
        return result, error

    def close(self) -> None:
        """End the threads, except those that are stuck."""
        self._settle()
        for work in self._work_queues.values():
            work.put(None)
        for device, thread in zip(self._work_queues, self._workers, strict=True):
            if device not in self._began:
                thread.join()
        if self._began:
            _stuck.append(self)

    def stuck(self) -> set[torch.device]:
        """The devices that were given up and have not come back."""
        for device in [device for device in self._began if not self._result_queues[device].empty()]:
            del self._began[device]
        return set(self._began)

    def _wait_for(self, device: torch.device) -> Answer:
        began = self._began[device]
        while True:
            try:
                answer: Answer = self._result_queues[device].get(timeout=_POLL_SECONDS)
            except queue.Empty:
                waited = time.monotonic() - began
                if waited > self._timeout:
                    return None, TimeoutError(_no_answer(device, waited))
                if processing_interrupted():
                    self._settle()
                    check_interrupt()
                continue
            del self._began[device]
            self._slowest = max(self._slowest or 0.0, time.monotonic() - began)
            return answer

    def _settle(self) -> None:
        """Take the answers of the devices at work, as far as they come in time; after a cancel that is a moment."""
        for device in list(self._began):
            while device in self._began:
                left = self._left(device)
                try:
                    self._result_queues[device].get(timeout=max(0.0, min(left, _POLL_SECONDS)))
                    del self._began[device]
                except queue.Empty:
                    if left <= 0:
                        break

    def _left(self, device: torch.device) -> float:
        """The seconds that a device at work still has."""
        now = time.monotonic()
        if self._cancelled_at is None and processing_interrupted():
            self._cancelled_at = now
        left = self._began[device] + self._timeout - now
        return left if self._cancelled_at is None else min(left, self._cancelled_at + _STOP_SECONDS - now)

    @property
    def _timeout(self) -> float:
        """The seconds that a device has for a call."""
        return LANE_TIMEOUTS.of_first(0.0) if self._slowest is None else LANE_TIMEOUTS.of_next(self._slowest, 0.0)


_stuck: list[CfgSplitThreadPool] = []


def stuck_devices() -> set[torch.device]:
    """The devices that are still at work for a run that has given them up."""
    _stuck[:] = [threads for threads in _stuck if threads.stuck()]
    return {device for threads in _stuck for device in threads.stuck()}


def _no_answer(device: torch.device, seconds: float) -> Phrase:
    return Phrase("{device} has not answered for {seconds} s", device=str(device), seconds=f"{seconds:.0f}")
