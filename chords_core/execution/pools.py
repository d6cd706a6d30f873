"""Where evaluations run. A pool has numbered lanes; a lane makes one evaluation at a time.

The driver submits an evaluation to an idle lane and asks for the next result. Pools know nothing of the method.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .._types import Denoise, Pool
from ..checks import check_callable, shown
from ..errors import InvalidInput, LaneStuck
from ..methods.events import Evaluation

Context = Callable[[int], AbstractContextManager[object]]
"""``context(lane)``: what the thread of a lane works in."""


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What a lane came back with: ``denoised`` [the shape of the evaluation's x], or the ``error`` that it raised.

    ``seconds``: how long it took.
    """

    lane: int
    evaluation: Evaluation
    seconds: float
    denoised: Tensor | None = None
    error: BaseException | None = None


@runtime_checkable
class Waits(Protocol):
    """A pool that one can wait for without taking a result from it. So the driver sees a cancel while it waits."""

    def wait(self, timeout: float) -> bool:
        """Wait until no evaluation is under way, or for ``timeout`` seconds; whether none is under way."""


def _evaluate(denoise: Denoise, lane: int, evaluation: Evaluation) -> EvaluationResult:
    began = time.perf_counter()
    try:
        denoised = denoise(evaluation.x, evaluation.sigma)
    except BaseException as error:  # a host's interrupt may be no Exception; the driver tells them apart
        return EvaluationResult(lane, evaluation, time.perf_counter() - began, error=error)
    return EvaluationResult(lane, evaluation, time.perf_counter() - began, denoised)


class InlinePool:
    """One lane in the thread of the caller: sequential, without any other thread."""

    def __init__(self, denoise: Denoise) -> None:
        check_callable("denoise", denoise, "x and sigma")
        self._denoise = denoise
        self._evaluation: Evaluation | None = None

    @property
    def lanes(self) -> int:
        return 1

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def next(self, timeout: float) -> EvaluationResult | None:
        evaluation, self._evaluation = self._evaluation, None
        return None if evaluation is None else _evaluate(self._denoise, 0, evaluation)

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        self._evaluation = None  # it was submitted, but has not begun
        return []


class ThreadPool:
    """One thread a lane, each with a ``denoise`` of its own: one replica of the model on each device.

    A lane works in the gradient and inference mode of the thread that submits to it.

    A thread cannot be killed. After `settle` has given up a thread that hangs, `close` does not wait for it and its
    result is dropped. The thread is a daemon, and ends when its call returns. Until then its lane is in `hung` and
    answers every evaluation with `LaneStuck`, because two threads must not use one denoiser at once.

    Args:
        denoisers: one a lane.
        lane_context: called with the lane's number in the lane's thread, for each evaluation. The lane works inside the
            context manager that it returns, to select a device, for example.
        lane_life: the same for the whole life of a lane's thread, for what is to be freed before it ends, for example.
            It must not raise.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        denoisers: Sequence[Denoise],
        lane_context: Context = lambda lane: nullcontext(),
        lane_life: Context = lambda lane: nullcontext(),
    ) -> None:
        _check_denoisers(denoisers)
        check_callable("lane_context", lane_context, "a lane's number")
        check_callable("lane_life", lane_life, "a lane's number")
        self._results: queue.SimpleQueue[EvaluationResult] = queue.SimpleQueue()
        self._busy: set[int] = set()
        self._hung: set[int] = set()
        self._lock = threading.Lock()  # held while a lane comes back or is given up
        self._came_back = threading.Event()  # set when a lane has come back
        self._closed = False
        self._inboxes: list[queue.SimpleQueue[tuple[Evaluation, bool, bool] | None]] = [
            queue.SimpleQueue() for _ in denoisers
        ]
        self._threads = [
            threading.Thread(
                target=self._live,
                args=(lane, denoise, lane_context, lane_life),
                name=f"chords-lane-{lane}",
                daemon=True,
            )
            for lane, denoise in enumerate(denoisers)
        ]
        for thread in self._threads:
            thread.start()

    def _live(self, lane: int, denoise: Denoise, lane_context: Context, lane_life: Context) -> None:
        with lane_life(lane):
            self._work(lane, denoise, lane_context)

    def _work(self, lane: int, denoise: Denoise, lane_context: Context) -> None:
        def in_context(x: Tensor, sigma: float) -> Tensor:
            with lane_context(lane):
                return denoise(x, sigma)

        while (item := self._inboxes[lane].get()) is not None:
            evaluation, inference, grad = item
            with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                result = _evaluate(in_context, lane, evaluation)
            with self._lock:
                if lane in self._hung:
                    self._hung.remove(lane)
                else:
                    self._results.put(result)
            self._came_back.set()
            del item, evaluation, result  # an idle lane must not keep a latent in memory

    @property
    def lanes(self) -> int:
        return len(self._threads)

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        if self._closed:
            raise InvalidInput("pool", "is closed; its lanes have ended")
        self._busy.add(lane)
        if lane in self._hung:
            self._results.put(EvaluationResult(lane, evaluation, 0.0, error=LaneStuck(lane)))
        else:
            self._inboxes[lane].put((evaluation, torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    def next(self, timeout: float) -> EvaluationResult | None:
        return self._take(timeout)

    def wait(self, timeout: float) -> bool:
        self._came_back.clear()
        if self._results.qsize() < len(self._busy):
            self._came_back.wait(timeout)
        return self._results.qsize() >= len(self._busy)

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        came: list[EvaluationResult] = []
        end = None if within is None else time.monotonic() + min(within, threading.TIMEOUT_MAX)
        while self._busy:
            result = self._take(None if end is None else max(0.0, end - time.monotonic()))
            if result is None:
                break
            came.append(result)
        with self._lock:
            while (result := self._take(0.0)) is not None:  # it came at the last moment
                came.append(result)
            self._hung |= self._busy
        self._busy.clear()
        return came

    def _take(self, timeout: float | None) -> EvaluationResult | None:
        try:
            result = self._results.get(timeout=timeout)
        except queue.Empty:
            return None
        self._busy.remove(result.lane)
        return result

    @property
    def hung(self) -> tuple[int, ...]:
        """The lanes that are still at an evaluation that was given up; also after `close`."""
        with self._lock:
            return tuple(sorted(self._hung))

    def close(self) -> None:
        """End the threads, each after the evaluation that it is at. Does not wait for the threads of `hung` lanes.
        Closing again does nothing."""
        self._closed = True
        for inbox in self._inboxes:
            inbox.put(None)
        hung = self.hung
        for lane, thread in enumerate(self._threads):
            if lane not in hung:
                thread.join()

    def __enter__(self) -> ThreadPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def check_pool(pool: object) -> None:
    """Raise `InvalidInput` unless ``pool`` is a pool with a lane, or None."""
    if pool is None:
        return
    if isinstance(pool, type) or not isinstance(pool, Pool):
        raise InvalidInput("pool", f"must be a pool, such as ThreadPool, or None, not {shown(pool)}")
    if pool.lanes < 1:
        raise InvalidInput("pool", "has no lane")


def clear_frames(error: BaseException | None) -> None:
    """Free the local variables of the frames in which ``error`` was raised. They may hold much device memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _check_denoisers(denoisers: Sequence[Denoise]) -> None:
    if not isinstance(denoisers, Sequence) or isinstance(denoisers, str):
        raise InvalidInput("pool", f"a ThreadPool takes a list of denoisers, one a lane, not {shown(denoisers)}")
    if not denoisers:
        raise InvalidInput("pool", "a ThreadPool needs at least one denoiser, one a lane")
    for lane, denoise in enumerate(denoisers):
        if not callable(denoise):
            raise InvalidInput("pool", f"the denoiser of lane {lane} must be a function, not {shown(denoise)}")
