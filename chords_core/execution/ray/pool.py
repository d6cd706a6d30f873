"""Evaluations on the machines of a Ray cluster.

`RayWorkers` are actors that live from run to run; `RayPool` is what the driver works with during one run. This process
does not connect to Ray, because Ray ends a process that loses its cluster, and unpickles what a cluster answers. A
child process does (`child`), and it may end at any time. It is sent the worker's factory and the run pickled, and
answers with plain bytes.

What crosses the network: a model's changes once per change, the conditioning once per run and machine, and
one latent each way per evaluation.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torch import Tensor

from ...errors import Cancelled, WorkersUnavailable
from ...methods.events import Evaluation
from ..pools import EvaluationResult
from . import actor as actor_module
from . import messages
from .actor import Worker
from .address import LOCAL, resolved
from .link import LinkLost, RayLink
from .messages import Header, Malformed, decode, encode, line, tensor_data, tensor_from, tensor_header
from .timeouts import RayTimeouts

_log = logging.getLogger("chords")

HOW_TO_GET_RAY = "Ray is not installed. Install it where ComfyUI runs, with ComfyUI's Python: python -m pip install ray"

_POLL_SECONDS = 0.05  # between two looks whether the run was cancelled
_HEADER_BYTES = 1 << 16  # of an answer, beside its tensor


_T = TypeVar("_T")


class NoWorker(WorkersUnavailable):
    """Not one worker can take part in the run: for want of room, or of memory, or because all died."""


@dataclass(frozen=True)
class ModelPayload:
    """What the actors load: a key that changes when it does, and what makes it, called only if an actor lacks it."""

    key: str
    make: Callable[[], bytes]


class RayWorkers:
    """Actors of a Ray cluster, one a GPU, or one a CPU core where the cluster has no GPU; kept between runs.

    Args:
        factory: makes the `Worker` in an actor's process. Sent by value if it is a function within a function.
        address: "local" starts a Ray on this machine; else ``host:port`` of a running one, or "auto" for that in
            RAY_ADDRESS, or, without one, as "local".
        count: how many actors at most; 0: all GPUs, or up to 8 CPU cores.
        local_gpus: whether a Ray that is started here may use this machine's GPUs.
        timeouts: how long each part may take.
        cancelled: asked again and again while something is waited for, here and in what follows; ends the waiting
            by returning true or by raising.

    Raises:
        InvalidInput: if the address is none.
        WorkersUnavailable: if Ray is not installed, or cannot be started or reached.
        Cancelled: once ``cancelled`` returns true.

    Use it as a context manager, or call `close`: that ends the actors, and a Ray that was started here. One thread at a
    time may use it.
    """

    def __init__(
        self,
        factory: Callable[[], Worker],
        address: str = LOCAL,
        count: int = 0,
        local_gpus: bool = True,
        timeouts: RayTimeouts | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._address, self._count, self._local_gpus = resolved(address), count, local_gpus
        self._timeouts, self._cancelled = timeouts or RayTimeouts(), cancelled
        self._factory = _pickled(factory)
        self._link: RayLink | None = None
        self._link = self._connected()

    @property
    def lanes(self) -> int:
        """How many actors there can be on the cluster as it is now.

        Raises:
            NoWorker: if the cluster was there and is lost.
            Cancelled: see `RayWorkers`.
        """

        def asked(link: RayLink) -> int:
            try:
                return int(self._ask(link, {"op": "lanes"}, seconds=self._timeouts.answer)["lanes"])
            except WorkersUnavailable as error:
                raise LinkLost(str(error)) from error

        return self._tried_anew(asked)

    def open(
        self,
        run: Any,
        count: int,
        model: ModelPayload | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> RayPool:
        """A pool of at most ``count`` actors for one run, each with ``model`` loaded and the ``run`` begun.

        Actors that died are replaced, and new ones started, as far as the cluster has room. One that cannot be made
        or load the model is left out, also for some minutes in the runs with that model that follow; one that cannot
        begin, in this run; one that is not ready in time (see `RayTimeouts`) until it is. The pool says so.

        Raises:
            NoWorker: if none is left, or the cluster has no room for any, or is lost.
            WorkersUnavailable: if a worker's machine is not set up as it has to be, with its reason and machine.
            Cancelled: see `RayWorkers`; ``cancelled`` takes its place here.
        """
        data = _pickled(run)

        def opened(link: RayLink) -> RayPool:
            request = {"op": "open", "count": count, "key": None if model is None else model.key}
            number = link.number()

            def send_model(names: Sequence[str]) -> None:
                assert model is not None
                _log.info("CHORDS: sending the model's changes to %s", ", ".join(map(line, names)))
                link.send({"op": "model", "id": number}, model.make())

            said = self._ask(link, {**request, "id": number}, data, cancelled, send_model)
            names, left_out = ([line(text) for text in said[name]] for name in ("names", "left_out"))
            return RayPool(link, number, names, left_out, self._timeouts)

        return self._tried_anew(opened)

    def close(self) -> None:
        """End the actors and the connection to Ray; with that, a Ray that was started here. Closing again does
        nothing."""
        if self._link is not None:
            self._link.close(self._timeouts.end)

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _tried_anew(self, call: Callable[[RayLink], _T]) -> _T:
        """What ``call`` gives; on a new connection, once, if that of an earlier run turns out to be lost."""
        for last in (self._link is None or not self._link.alive, True):
            try:
                link = self._connected()
                return call(link)
            except LinkLost as error:
                link.kill()
                if last:
                    raise NoWorker(f"the connection to Ray at {self._address} was lost: {error}") from error
        raise AssertionError("the last time returns or raises")

    def _connected(self) -> RayLink:
        """The connection to Ray, made anew if it is lost."""
        if self._link is not None and self._link.alive:
            return self._link
        lost, local = self._link is not None, self._address == LOCAL
        link = RayLink()
        request = {
            "op": "connect",
            "address": self._address,
            "count": self._count,
            "cores": max(os.cpu_count() or 1, self._count),
            "local_gpus": self._local_gpus,
            "timeouts": asdict(self._timeouts),
            "path": [folder for folder in sys.path if folder],
        }
        seconds = self._timeouts.start if local else self._timeouts.connect
        what = "started here" if local else f"reached at {self._address}"
        try:
            self._ask(link, request, self._factory, seconds=seconds)
        except (LinkLost, WorkersUnavailable) as error:
            link.kill()
            why = str(error) if self._address in str(error) else f"Ray could not be {what}: {error}"
            raise (NoWorker if lost else WorkersUnavailable)(why) from error
        except BaseException:
            link.kill()
            raise
        self._link = link
        return link

    def _ask(
        self,
        link: RayLink,
        request: Header,
        data: bytes = b"",
        cancelled: Callable[[], bool] | None = None,
        wanted: Callable[[Sequence[str]], None] | None = None,
        seconds: float | None = None,
    ) -> Header:
        """The answer to a request. ``wanted``: called if the child asks for the model; ``seconds``: to answer, no
        matter whether it gives signs of life.

        Raises:
            LinkLost, NoWorker, WorkersUnavailable, Cancelled.
        """
        number = request.setdefault("id", link.number())
        link.send(request, data)
        began = time.monotonic()
        try:
            while True:
                if (cancelled or self._cancelled)():
                    raise Cancelled("the run was cancelled")
                message = link.receive(_POLL_SECONDS, seconds or self._timeouts.silent)
                said = {} if message is None else message[0]
                if said.get("re") == number:
                    return _granted(said)
                if said.get("wants") == number and wanted is not None:
                    wanted(said["names"])
                if seconds is not None and time.monotonic() - began > seconds:
                    raise LinkLost(f"it has not answered within {seconds:.0f} s")
        except LinkLost:
            raise
        except BaseException:
            link.send({"op": "withdraw", "id": number})
            raise


class RayPool:
    """Actors that have begun a run, as a `Pool`. See `RayWorkers.open`.

    A worker that dies, or whose node does, gives an EvaluationResult with a `WorkersUnavailable` as its error, and one
    whose evaluation raises likewise: the driver then evaluates elsewhere. ``left_out`` says of each worker that
    should have been here why it is not.
    """

    def __init__(
        self, link: RayLink, run: int, names: Sequence[str], left_out: Sequence[str], timeouts: RayTimeouts
    ) -> None:
        self.names, self.left_out = tuple(names), tuple(dict.fromkeys(left_out))
        self._link, self._run, self._timeouts = link, run, timeouts
        self._under_way: dict[int, tuple[int, Evaluation, float]] = {}
        self._told: set[int] = set()  # of the calls under way, those whose workers were told to stop
        self._stopping: set[int] = set()  # what these have yet to answer to that
        self._came: list[EvaluationResult] = []  # after they were told
        self._open = True

    @property
    def lanes(self) -> int:
        return len(self.names)

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        number = self._link.number()
        request = encode({**tensor_header(evaluation.x), "sigma": evaluation.sigma}, tensor_data(evaluation.x))
        self._under_way[number] = lane, evaluation, time.perf_counter()
        self._order("call", lane, request, id=number, most_data=evaluation.x.nbytes + _HEADER_BYTES)

    def next(self, timeout: float) -> EvaluationResult | None:
        end = time.monotonic() + timeout
        while self._under_way:
            try:
                message = self._link.receive(max(0.0, end - time.monotonic()), self._timeouts.silent)
            except LinkLost as error:
                return self._outcome(next(iter(self._under_way)), f"the connection to Ray was lost: {error}")
            if message is None:
                return None
            header, data = message
            if header.get("re") in self._under_way:
                return self._outcome(header["re"], header.get("lost"), data)
        return None

    def wait(self, timeout: float) -> bool:
        """See `chords_core.execution.pools.Waits`. The workers are told to stop what they are at."""
        self._gather(time.monotonic() + timeout)
        return not self._under_way

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        """As `Pool.settle`, but workers are told to stop, and have a moment for that. After it, one that still works is
        left to it if its evaluation may end ``within`` that time: it keeps its model, and the next run finds it again.
        Otherwise it is ended."""
        self._gather(math.inf if within is None else time.monotonic() + self._timeouts.stop)
        for lane, _, _ in self._under_way.values():
            if within:
                self._order("leave", lane, seconds=min(within, self._timeouts.give_up))
            else:
                self._order("kill", lane)
        came, self._came = self._came, []
        self._under_way.clear()
        self._stopping.clear()
        return came

    def _gather(self, end: float) -> None:
        """Tell the workers to stop, each once, and take what comes in until all have, or until ``end``, on the clock
        `time.monotonic`."""
        for number, (lane, _, _) in self._under_way.items():
            if number not in self._told:
                stop = self._link.number()
                self._order("stop", lane, id=stop)
                self._stopping.add(stop)
        self._told = set(self._under_way)
        try:
            while (self._under_way or self._stopping) and (left := end - time.monotonic()) > 0:
                message = self._link.receive(min(left, _POLL_SECONDS), self._timeouts.silent)
                if message is None:
                    continue
                header, data = message
                self._stopping.discard(header.get("re"))
                if header.get("re") in self._under_way:
                    self._came.append(self._outcome(header["re"], header.get("lost"), data))
        except LinkLost:
            self._stopping.clear()

    def close(self) -> None:
        """Let the workers forget the run. Closing again does nothing."""
        self.settle(self._timeouts.give_up)
        if self._open:
            self._order("end")
        self._open = False

    def _order(self, order: str, lane: int = 0, data: bytes = b"", most_data: int = 0, **more: Any) -> None:
        self._link.send({"op": order, "run": self._run, "lane": lane, **more}, data, most_data)

    def _outcome(self, number: int, problem: str | None, data: bytes = b"") -> EvaluationResult:
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
    """What an actor answered to ``x``, or its problem.

    Raises:
        Malformed: if it is neither.
    """
    header, values = decode(data)
    if (problem := header.get("problem")) is not None:
        return None, str(problem)
    if {name: header.get(name) for name in ("dtype", "shape")} != tensor_header(x):
        raise Malformed("a tensor of another dtype or shape than was asked for")
    return tensor_from(header, values), None


def _granted(said: Header) -> Header:
    """An answer, unless it says that there is none."""
    if "failed" not in said:
        return said
    why = str(said["failed"])
    raise NoWorker(why) if said.get("kind") == "NoWorker" else WorkersUnavailable(why)


def _pickled(value: Any) -> bytes:
    """``value`` for an actor, with all that it uses of this package but cannot import there."""
    try:
        from ray import cloudpickle
    except ImportError as error:
        raise WorkersUnavailable(HOW_TO_GET_RAY) from error
    with _by_value(cloudpickle):
        dumps: Callable[[Any], bytes] = cloudpickle.dumps
        return dumps(value)


@contextmanager
def _by_value(cloudpickle: Any) -> Iterator[None]:
    modules = actor_module, messages
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
