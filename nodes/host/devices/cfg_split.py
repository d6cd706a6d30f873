"""Guidance split: two devices evaluate the two sides of a guided step, by the host's own means for several GPUs."""

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

SIDES = 2

LANE_TIMEOUTS = LaneTimeouts()  # with a device that does not answer, as with a lane

_POLL_SECONDS = 0.02  # how long a cancel may go unseen
_STOP_SECONDS = 1.0  # that devices have to stop after a cancel


def is_guided(guider: Any, model_options: dict[str, Any]) -> bool:
    """Whether each step evaluates a positive and a negative side, that the host's own code puts together."""
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
    """Have a lane's calls with these model options share their sides among the devices, until ``stack`` closes.

    ``patchers``: the model on each device, the lane's own first; loaded and prepared for the run.
    """
    devices = Devices(list(patchers))
    stack.callback(devices.close)
    for device in patchers:
        if device.type == "cpu":  # as in a lane
            devices.submit(device, torch.set_num_threads, 1)
            devices.get_result(device)
    options["multigpu_clones"] = dict(patchers)
    options["multigpu_thread_pool"] = devices


class Devices(MultiGPUThreadPool):
    """The host's threads, one a device, but waited for with patience, and with nothing left over.

    After an error or a cancel the other devices are waited for as well. One that does not come back is given up: then
    it is among `stuck_devices` until it does.
    """

    def __init__(self, devices: list[torch.device]) -> None:
        super().__init__(devices)
        self._asked: dict[torch.device, float] = {}  # devices at work, and since when
        self._slowest: float | None = None
        self._cancelled_at: float | None = None

    def submit(self, device: torch.device, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._asked[device] = time.monotonic()
        super().submit(device, passed_on()(fn), *args, **kwargs)

    def get_result(self, device: torch.device) -> tuple[Any, BaseException | None]:
        """What ``device`` came back with: a result, or an error. A cancel of the prompt raises."""
        result, error = self._wait_for(device)
        if error is not None:
            self._settle()
        return result, error

    def close(self) -> None:
        """End the threads, but for those that are stuck."""
        self._settle()
        for work in self._work_queues.values():
            work.put(None)
        for device, thread in zip(self._work_queues, self._workers, strict=True):
            if device not in self._asked:
                thread.join()
        if self._asked:
            _stuck.append(self)

    def stuck(self) -> set[torch.device]:
        """The devices that were given up and have not come back."""
        for device in [device for device in self._asked if not self._result_queues[device].empty()]:
            del self._asked[device]
        return set(self._asked)

    def _wait_for(self, device: torch.device) -> tuple[Any, BaseException | None]:
        began = self._asked[device]
        while True:
            try:
                result = self._result_queues[device].get(timeout=_POLL_SECONDS)
            except queue.Empty:
                waited = time.monotonic() - began
                if waited > self._patience:
                    return None, TimeoutError(f"{device} has not answered for {waited:.0f} s")
                if processing_interrupted():
                    self._settle()
                    check_interrupt()
                continue
            del self._asked[device]
            self._slowest = max(self._slowest or 0.0, time.monotonic() - began)
            return result

    def _settle(self) -> None:
        """Take what the devices at work come back with, as far as they do in time: after a cancel, in a moment."""
        for device in list(self._asked):
            while device in self._asked:
                left = self._left(device)
                try:
                    self._result_queues[device].get(timeout=max(0.0, min(left, _POLL_SECONDS)))
                    del self._asked[device]
                except queue.Empty:
                    if left <= 0:
                        break

    def _left(self, device: torch.device) -> float:
        """The seconds that a device at work still has."""
        now = time.monotonic()
        if self._cancelled_at is None and processing_interrupted():
            self._cancelled_at = now
        left = self._asked[device] + self._patience - now
        return left if self._cancelled_at is None else min(left, self._cancelled_at + _STOP_SECONDS - now)

    @property
    def _patience(self) -> float:
        return LANE_TIMEOUTS.of_first(0.0) if self._slowest is None else LANE_TIMEOUTS.of_next(self._slowest, 0.0)


_stuck: list[Devices] = []


def stuck_devices() -> set[torch.device]:
    """Devices at work for a run that has given them up."""
    _stuck[:] = [devices for devices in _stuck if devices.stuck()]
    return {device for devices in _stuck for device in devices.stuck()}
