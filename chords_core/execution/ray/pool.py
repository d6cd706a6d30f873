"""The lanes of one run on a Ray cluster, as a `chords_core.execution.pools.Pool`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...errors import WorkersUnavailable
from ...methods.events import Evaluation
from ..pools import EvaluationResult
from .errors import LinkLost
from .link import RayLink
from .messages import Malformed, decode, encode, line, tensor_data, tensor_from, tensor_header
from .timeouts import RayTimeouts

_POLL_SECONDS = 0.05  # between two checks whether a worker has stopped
_HEADER_BYTES = 1 << 16  # of an answer, besides its tensor


class RayPool:
    """Actors that have begun a run, one a lane. See `chords_core.execution.ray.workers.RayWorkers.open`.

    If a worker or its machine dies, or its evaluation raises, the `EvaluationResult` has a `WorkersUnavailable` as its
    error, and the driver makes the evaluation on another lane.

    Attributes:
        names: of the workers, by lane.
        left_out: a line on each worker that cannot take part, with the reason.
    """

    def __init__(
        self, link: RayLink, run: int, names: Sequence[str], left_out: Sequence[str], timeouts: RayTimeouts
    ) -> None:
        self.names, self.left_out = tuple(names), tuple(dict.fromkeys(left_out))
        self._link, self._run, self._timeouts = link, run, timeouts
        self._under_way: dict[int, tuple[int, Evaluation, float]] = {}  # by request: lane, evaluation, when it began
        self._told_to_stop: set[int] = set()  # requests under way
        self._stopping: set[int] = set()  # requests to stop that have no answer yet
        self._came: list[EvaluationResult] = []  # results that came while the workers were told to stop
        self._open = True

    @property
    def lanes(self) -> int:
        return len(self.names)

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        number = self._link.number()
        request = encode({**tensor_header(evaluation.x), "sigma": evaluation.sigma}, tensor_data(evaluation.x))
        self._under_way[number] = lane, evaluation, time.perf_counter()
        self._order("call", lane, request, id=number, max_data=evaluation.x.nbytes + _HEADER_BYTES)

    def next(self, timeout: float) -> EvaluationResult | None:
        end = time.monotonic() + timeout
        while self._under_way:
            try:
                message = self._link.receive(max(0.0, end - time.monotonic()), self._timeouts.silent)
            except LinkLost as error:
                return self._result(next(iter(self._under_way)), f"the connection to Ray was lost: {error}")
            if message is None:
                return None
            header, data = message
            if header.get("reply_to") in self._under_way:
                return self._result(header["reply_to"], header.get("lost"), data)
        return None

    def wait(self, timeout: float) -> bool:
        """See `chords_core.execution.pools.Waits`. It also tells the workers to stop their evaluations."""
        self._stop_and_gather(time.monotonic() + timeout)
        return not self._under_way

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        """As `Pool.settle`, but the workers are told to stop, and have `RayTimeouts.stop` seconds for that.

        A worker that is still busy then goes on, if its evaluation may take up to ``within`` seconds more: it keeps its
        model for the next run. If ``within`` is 0 or None, it is killed.
        """
        self._stop_and_gather(math.inf if within is None else time.monotonic() + self._timeouts.stop)
        for lane, _, _ in self._under_way.values():
            if within:
                self._order("leave", lane, seconds=min(within, self._timeouts.give_up))
            else:
                self._order("kill", lane)
        came, self._came = self._came, []
        self._under_way.clear()
        self._stopping.clear()
        return came

    def close(self) -> None:
        """End the run on the workers. Closing again does nothing."""
        self.settle(self._timeouts.give_up)
        if self._open:
            self._order("end")
        self._open = False

    def _stop_and_gather(self, end: float) -> None:
        """Tell each worker to stop, once, and gather results until all have stopped, or until ``end`` on the clock
        `time.monotonic`."""
        for number, (lane, _, _) in self._under_way.items():
            if number not in self._told_to_stop:
                stop = self._link.number()
                self._order("stop", lane, id=stop)
                self._stopping.add(stop)
        self._told_to_stop = set(self._under_way)
        try:
            while (self._under_way or self._stopping) and (left := end - time.monotonic()) > 0:
                message = self._link.receive(min(left, _POLL_SECONDS), self._timeouts.silent)
                if message is None:
                    continue
                header, data = message
                self._stopping.discard(header.get("reply_to", 0))
                if header.get("reply_to") in self._under_way:
                    self._came.append(self._result(header["reply_to"], header.get("lost"), data))
        except LinkLost:
            self._stopping.clear()

    def _order(self, order: str, lane: int = 0, data: bytes = b"", max_data: int = 0, **more: Any) -> None:
        """Send an order about this run to the child process."""
        self._link.send({"op": order, "run": self._run, "lane": lane, **more}, data, max_data)

    def _result(self, number: int, problem: str | None, data: bytes = b"") -> EvaluationResult:
        """The result of a request: the tensor in ``data``, or the error with this ``problem``."""
        lane, evaluation, began = self._under_way.pop(number)
        seconds = time.perf_counter() - began
        denoised = None
        if problem is None:
            try:
                denoised, problem = _denoised(data, evaluation.x)
            except Malformed as error:
                problem = f"its answer is {error}"
        if denoised is None:
            lost = WorkersUnavailable(f"{self.names[lane]}: {line(problem)}")
            return EvaluationResult(lane, evaluation, seconds, error=lost)
        return EvaluationResult(lane, evaluation, seconds, denoised.to(evaluation.x.device))

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _denoised(data: bytes, x: Tensor) -> tuple[Tensor | None, str | None]:
    """An actor's answer to ``x``: denoised [the shape of x], or the problem that it had.

    Raises:
        Malformed: if it is neither.
    """
    header, values = decode(data)
    if (problem := header.get("problem")) is not None:
        return None, str(problem)
    if {name: header.get(name) for name in ("dtype", "shape")} != tensor_header(x):
        raise Malformed("a tensor of another dtype or shape than expected")
    return tensor_from(header, values), None
