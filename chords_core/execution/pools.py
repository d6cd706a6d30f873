"""Where evaluations run. A pool has numbered lanes; a lane does one evaluation at a time.

The driver submits a evaluation to an idle lane and asks for the next outcome. Pools know nothing of the method.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..checks import check_callable, shown
from ..errors import InvalidInput, LaneStuck
from ..methods.events import Evaluation

Denoise = Callable[[Tensor, float], Tensor]
"""``denoise(x, sigma) -> denoised``, of x's shape, device and dtype."""


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """What a lane came back with: ``denoised``, or the ``error`` it raised; ``seconds`` it took."""

    lane: int
    evaluation: Evaluation
    seconds: float
    denoised: Tensor | None = None
    error: BaseException | None = None


@runtime_checkable
class Pool(Protocol):
    """What the driver needs of a pool."""

    @property
    def lanes(self) -> int:
        """How many lanes there are, numbered from 0."""

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        """Start ``evaluation`` on an idle lane. A lane that is gone answers with an error."""

    def next(self, timeout: float) -> EvaluationResult | None:
        """The next outcome, or None after ``timeout`` seconds without one."""

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        """Wait until no evaluation is under way, and give back what came in, errors too.

        After ``within`` seconds (None: never) give up what is still under way: it must not come out of `next` later.
        """


@runtime_checkable
class Waits(Protocol):
    """A pool that can be waited for without taking anything from it, so that a cancel is seen meanwhile."""

    def wait(self, timeout: float) -> bool:
        """Whether no evaluation is under way any more, at the latest after ``timeout`` seconds."""


def _evaluate(denoise: Denoise, lane: int, evaluation: Evaluation) -> EvaluationResult:
    began = time.perf_counter()
    try:
        denoised = denoise(evaluation.x, evaluation.sigma)
    except BaseException as error:  # a host's interrupt may be no Exception; the driver tells them apart
        return EvaluationResult(lane, evaluation, time.perf_counter() - began, error=error)
    return EvaluationResult(lane, evaluation, time.perf_counter() - began, denoised)


class InlinePool:
    """One lane in the caller's own thread: the plain sequential case, without any thread."""

    def __init__(self, denoise: Denoise) -> None:
        check_callable("denoise", denoise, "x and sigma")
        self._denoise = denoise
        self._task: Evaluation | None = None

    @property
    def lanes(self) -> int:
        return 1

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        self._task = evaluation

    def next(self, timeout: float) -> EvaluationResult | None:
        evaluation, self._task = self._task, None
        return None if evaluation is None else _evaluate(self._denoise, 0, evaluation)

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        self._task = None  # submitted, not begun
        return []


class ThreadPool:
    """One thread a lane, each with a ``denoise`` of its own: one replica of the model a device.

    A lane works in the gradient and inference mode of the thread that submits to it.

    A thread cannot be killed. One that hangs is left alone once `settle` has given it up: `close` does not wait for
    it, what it comes back with is dropped, and the thread, a daemon, ends when its call returns. Until then its
    lane is one of `hung` and answers every evaluation with `LaneStuck`, for its denoiser may not be used twice at once.

    Args:
        denoisers: one a lane.
        lane_context: called with the lane's number in its thread; the lane works inside the context
            manager it returns (to select a device, say).

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        denoisers: Sequence[Denoise],
        lane_context: Callable[[int], AbstractContextManager[object]] = lambda lane: nullcontext(),
    ) -> None:
        _check_denoisers(denoisers)
        check_callable("lane_context", lane_context, "a lane's number")
        self._outcomes: queue.SimpleQueue[EvaluationResult] = queue.SimpleQueue()
        self._busy: set[int] = set()
        self._hung: set[int] = set()
        self._lock = threading.Lock()  # a lane comes back, or is given up
        self._news = threading.Event()  # a lane has come back
        self._closed = False
        self._inboxes: list[queue.SimpleQueue[tuple[Evaluation, bool, bool] | None]] = [
            queue.SimpleQueue() for _ in denoisers
        ]
        self._threads = [
            threading.Thread(
                target=self._work, args=(lane, denoise, lane_context), name=f"chords-lane-{lane}", daemon=True
            )
            for lane, denoise in enumerate(denoisers)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, lane: int, denoise: Denoise, lane_context: Callable[[int], AbstractContextManager[object]]) -> None:
        def in_context(x: Tensor, sigma: float) -> Tensor:
            with lane_context(lane):
                return denoise(x, sigma)

        while (item := self._inboxes[lane].get()) is not None:
            evaluation, inference, grad = item
            with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                outcome = _evaluate(in_context, lane, evaluation)
            with self._lock:
                if lane in self._hung:
                    self._hung.remove(lane)
                else:
                    self._outcomes.put(outcome)
            self._news.set()
            del item, evaluation, outcome  # an idle lane must not keep a latent alive

    @property
    def lanes(self) -> int:
        return len(self._threads)

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        if self._closed:
            raise InvalidInput("pool", "is closed; its lanes have ended")
        self._busy.add(lane)
        if lane in self._hung:
            self._outcomes.put(EvaluationResult(lane, evaluation, 0.0, error=LaneStuck(lane)))
        else:
            self._inboxes[lane].put((evaluation, torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    def next(self, timeout: float) -> EvaluationResult | None:
        return self._take(timeout)

    def wait(self, timeout: float) -> bool:
        self._news.clear()
        if self._outcomes.qsize() < len(self._busy):
            self._news.wait(timeout)
        return self._outcomes.qsize() >= len(self._busy)

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        came: list[EvaluationResult] = []
        end = None if within is None else time.monotonic() + min(within, threading.TIMEOUT_MAX)
        while self._busy:
            outcome = self._take(None if end is None else max(0.0, end - time.monotonic()))
            if outcome is None:
                break
            came.append(outcome)
        with self._lock:
            while (outcome := self._take(0.0)) is not None:  # it came at the last moment
                came.append(outcome)
            self._hung |= self._busy
        self._busy.clear()
        return came

    def _take(self, timeout: float | None) -> EvaluationResult | None:
        try:
            outcome = self._outcomes.get(timeout=timeout)
        except queue.Empty:
            return None
        self._busy.remove(outcome.lane)
        return outcome

    @property
    def hung(self) -> tuple[int, ...]:
        """The lanes still at an evaluation that was given up; also after `close`."""
        with self._lock:
            return tuple(sorted(self._hung))

    def close(self) -> None:
        """End the threads, each after the evaluation it is at; those of `hung` lanes are not waited for. Closing
        again does nothing."""
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


def _check_denoisers(denoisers: Sequence[Denoise]) -> None:
    if not isinstance(denoisers, Sequence) or isinstance(denoisers, str):
        raise InvalidInput("pool", f"a ThreadPool takes a list of denoisers, one a lane, not {shown(denoisers)}")
    if not denoisers:
        raise InvalidInput("pool", "a ThreadPool needs at least one denoiser, one a lane")
    for lane, denoise in enumerate(denoisers):
        if not callable(denoise):
            raise InvalidInput("pool", f"the denoiser of lane {lane} must be a function, not {shown(denoise)}")
