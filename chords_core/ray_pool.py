"""Evaluations on the machines of a Ray cluster. The only module here that knows Ray, and it imports it late.

`RayWorkers` are actors that live from run to run; `RayPool` is what the driver works with during one run.
What crosses the network: a model's changes once per change, the conditioning once per run and machine, and
one latent each way per evaluation.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from . import ray_actor
from .errors import Cancelled, WorkersUnavailable
from .events import Task
from .pools import Outcome
from .ray_actor import RayActor, Worker, pack, unpack

_log = logging.getLogger("chords")

LOCAL = "local"
HOW_TO_GET_RAY = "Ray is not installed. Install it where ComfyUI runs, with ComfyUI's Python: python -m pip install ray"

_MOST_CPU_WORKERS = 8  # unless more are asked for: each holds a model of its own
_POLL_SECONDS = 0.05  # between two looks whether the run was cancelled
_CONNECT_SECONDS = 5.0
_PLACE_SECONDS = 15.0  # for all workers to find a place in the cluster; then those that have one do
_NO_PLACE_SECONDS = 60.0  # for the first worker
_PING_SECONDS = 5.0  # for a worker to say that it is alive
_STOP_SECONDS = 60.0  # for a worker to leave the evaluation it was told to stop


@dataclass(frozen=True)
class Parcel:
    """What the actors load: a key that changes when it does, and what makes it, called only if an actor lacks it."""

    key: Hashable
    make: Callable[[], bytes]


@dataclass(eq=False)
class _Actor:
    """An actor, and what is known of it: its ``name`` once it has a place, what it has loaded."""

    handle: Any
    placed: Any  # the pending answer to about()
    name: str = ""
    made: bool = False
    loaded: Hashable = None


class RayWorkers:
    """Actors of a Ray cluster, one a GPU, or one a CPU core where the cluster has no GPU; kept between runs.

    Args:
        factory: makes the `Worker` in an actor's process. Sent by value if it is a function within a function.
        address: "local" starts a Ray on this machine; else the address of a running one, as ``ray.init`` takes
            it. A Ray that this process is connected to already is used as it is.
        count: how many actors at most; 0: all GPUs, or up to 8 CPU cores.
        local_gpus: whether a Ray that is started here may use this machine's GPUs.

    Raises:
        WorkersUnavailable: if Ray is not installed, or cannot be started or reached.

    Use it as a context manager, or call `close`: that ends the actors, and Ray only if it was started here.
    """

    def __init__(
        self,
        factory: Callable[[], Worker],
        address: str = LOCAL,
        count: int = 0,
        local_gpus: bool = True,
    ) -> None:
        self._factory, self._address, self._count, self._local_gpus = factory, address, count, local_gpus
        self._actors: list[_Actor] = []
        self._names = 0
        self._model: tuple[Hashable, Any] | None = None
        self._connected_here = False
        self._connect()
        if not self._connected_here:
            _log.warning("CHORDS: this process is connected to a Ray already; it is used instead of %s", address)

    @property
    def lanes(self) -> int:
        """How many actors there can be on the cluster as it is now."""
        self._connect()
        gpus, cpus = self._resources()
        if gpus:
            return min(self._count or gpus, gpus)
        return max(1, min(self._count or _MOST_CPU_WORKERS, cpus))

    @property
    def on_gpus(self) -> bool:
        """Whether the actors have a GPU each."""
        return self._resources()[0] > 0

    def open(
        self,
        run: Any,
        count: int,
        model: Parcel | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> RayPool:
        """A pool of at most ``count`` actors for one run, each with ``model`` loaded and the ``run`` begun.

        Actors that died are replaced, and new ones started, as far as the cluster has room.

        Raises:
            WorkersUnavailable: if a worker cannot be made, load the model or begin, with its reason and machine;
                or if the cluster has no room for any.
            Cancelled: once ``cancelled`` returns true.
        """
        ray = _ray()

        lanes = self._placed(min(count, self.lanes), cancelled)
        self._call_all(lanes, lambda actor: actor.handle.make.remote(self._factory), cancelled, lambda a: not a.made)
        for actor in lanes:
            actor.made = True
        if model is not None:
            self._load(lanes, model, cancelled)
        shared = ray.put(run)
        self._call_all(lanes, lambda actor: actor.handle.begin.remote(shared), cancelled)
        return RayPool([(actor.handle, actor.name) for actor in lanes])

    def close(self) -> None:
        """End the actors, and the connection to Ray if it was made here; with that, a Ray that was started here.
        Closing again does nothing."""
        ray = _ray()

        if ray.is_initialized():
            for actor in self._actors:
                ray.kill(actor.handle)
            if self._connected_here:
                ray.shutdown()
        self._actors, self._model, self._connected_here = [], None, False

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _connect(self) -> None:
        """Connect if there is no connection (any more)."""
        try:
            ray = _ray()
        except ImportError as error:
            raise WorkersUnavailable(HOW_TO_GET_RAY) from error
        if ray.is_initialized():
            return
        self._actors, self._model = [], None
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if self._address == LOCAL:
            cores = max(os.cpu_count() or 1, self._count)
            options |= {"include_dashboard": False, "num_cpus": cores}
            options |= {} if self._local_gpus else {"num_gpus": 0}
        else:
            _check_reachable(self._address)
        try:
            ray.init(address=self._address, **options)
        except Exception as error:
            what = "started here" if self._address == LOCAL else f"reached at {self._address}"
            raise WorkersUnavailable(f"Ray could not be {what}: {error}") from error
        self._connected_here = True

    @staticmethod
    def _resources() -> tuple[int, int]:
        """The GPUs and CPU cores of all nodes that are alive."""
        ray = _ray()

        resources = ray.cluster_resources()
        return int(resources.get("GPU", 0)), int(resources.get("CPU", 0))

    def _placed(self, count: int, cancelled: Callable[[], bool]) -> list[_Actor]:
        """``count`` living actors, or as many as find room."""
        self._actors = self._living()
        while len(self._actors) < count:
            self._actors.append(self._start())
        began, death = time.monotonic(), None
        while True:
            for actor in [actor for actor in self._actors if not actor.name]:
                if _is_there(actor.placed, 0):
                    death = self._name(actor) or death
            ready = [actor for actor in self._actors if actor.name][:count]
            waited = time.monotonic() - began
            if ready and (len(ready) == min(count, len(self._actors)) or waited > _PLACE_SECONDS):
                return ready
            if not self._actors:
                raise WorkersUnavailable(f"the Ray workers could not start: {_first_line(death)}") from death
            if waited > _NO_PLACE_SECONDS:
                raise WorkersUnavailable(
                    f"the Ray cluster at {self._address} has no room for a worker, which needs one "
                    f"{'GPU' if self.on_gpus else 'CPU core'}; something else may be using it"
                )
            _wait_a_little(cancelled)

    def _start(self) -> _Actor:
        ray = _ray()

        ray.cloudpickle.register_pickle_by_value(ray_actor)
        made = ray.remote(
            num_cpus=0 if self.on_gpus else 1,
            num_gpus=1 if self.on_gpus else 0,
            max_restarts=0,
            concurrency_groups={"aside": 1},  # answers while the actor works
            scheduling_strategy="SPREAD",
        )(RayActor)
        handle = made.remote()
        return _Actor(handle, _aside(handle.about))

    def _name(self, actor: _Actor) -> Exception | None:
        """Name it after its node; or, if it died, forget it and return what is known of that."""
        ray = _ray()

        try:
            about = ray.get(actor.placed)
        except ray.exceptions.RayError as error:
            self._actors.remove(actor)
            death: Exception = error
            return death
        actor.name = f"ray:{about['address']}/{self._names}"
        self._names += 1
        return None

    def _living(self) -> list[_Actor]:
        """The actors that answer, and those that have no place yet."""
        ray = _ray()

        named = [(actor, _aside(actor.handle.about)) for actor in self._actors if actor.name]
        answered = set()
        if named:
            there, _ = ray.wait([ref for _, ref in named], num_returns=len(named), timeout=_PING_SECONDS)
            for ref in there:
                try:
                    ray.get(ref)
                    answered.add(ref)
                except ray.exceptions.RayError:
                    pass
        for actor, ref in named:
            if ref not in answered:
                ray.kill(actor.handle)  # if it only hangs, it must not keep its device
        return [actor for actor, ref in named if ref in answered] + [a for a in self._actors if not a.name]

    def _load(self, lanes: list[_Actor], model: Parcel, cancelled: Callable[[], bool]) -> None:
        """Send the model to the actors that have another or none."""
        ray = _ray()

        lacking = [actor for actor in lanes if actor.loaded != model.key]
        if not lacking:
            return
        if self._model is None or self._model[0] != model.key:
            self._model = model.key, ray.put(model.make())  # kept for actors that start later; frees the one before
        shared = self._model[1]
        _log.info("CHORDS: sending the model's changes to %s", ", ".join(actor.name for actor in lacking))
        for actor in lacking:
            actor.loaded = None  # until it has loaded this one
        self._call_all(lanes, lambda actor: actor.handle.load.remote(shared), cancelled, lambda a: a in lacking)
        for actor in lanes:
            actor.loaded = model.key

    def _call_all(
        self,
        lanes: list[_Actor],
        call: Callable[[_Actor], Any],
        cancelled: Callable[[], bool],
        where: Callable[[_Actor], bool] = lambda actor: True,
    ) -> None:
        """Call the actors and wait for all; those that die meanwhile leave ``lanes``."""
        ray = _ray()

        refs = [(actor, call(actor)) for actor in lanes if where(actor)]
        death: Exception | None = None
        for actor, ref in refs:
            _check(cancelled)
            while not _is_there(ref, _POLL_SECONDS):
                _check(cancelled)
            try:
                trace, problem = ray.get(ref)
            except ray.exceptions.RayError as error:
                death = error
                lanes.remove(actor)
                continue
            if problem is not None:
                _log.error("CHORDS: the worker %s said:\n%s", actor.name, trace)
                raise WorkersUnavailable(f"the worker {actor.name}: {problem}")
        if not lanes:
            raise WorkersUnavailable(f"every Ray worker was lost: {_first_line(death)}") from death


class RayPool:
    """Actors that have begun a run, as a `Pool`. See `RayWorkers.open`.

    A worker that dies, or whose node does, gives an Outcome with a `WorkersUnavailable` as its error, and one
    whose evaluation raises likewise: the driver then evaluates elsewhere.
    """

    def __init__(self, workers: Sequence[tuple[Any, str]]) -> None:
        self._handles = [handle for handle, _ in workers]
        self.names = tuple(name for _, name in workers)
        self._under_way: dict[Any, tuple[int, Task, float]] = {}

    @property
    def lanes(self) -> int:
        return len(self._handles)

    def submit(self, lane: int, task: Task) -> None:
        ref = self._handles[lane].denoise.remote(pack(task.x), task.sigma)
        self._under_way[ref] = lane, task, time.perf_counter()

    def next(self, timeout: float) -> Outcome | None:
        ray = _ray()

        if not self._under_way:
            return None
        there, _ = ray.wait(list(self._under_way), num_returns=1, timeout=timeout)
        if not there:
            return None
        try:
            value, problem = ray.get(there[0], timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError as error:
            value, problem = None, f"its process or machine was lost: {_first_line(error)}"
        lane, task, began = self._under_way.pop(there[0])
        seconds = time.perf_counter() - began
        if problem is not None:
            return Outcome(lane, task, seconds, error=WorkersUnavailable(f"{self.names[lane]}: {problem}"))
        return Outcome(lane, task, seconds, unpack(value).to(task.x.device))

    def settle(self, within: float | None = None) -> int:
        """As `Pool.settle`, but workers are told to stop what they are at, and one that does not is ended."""
        ray = _ray()

        if not self._under_way:
            return 0
        pending = list(self._under_way)
        stopping = [_aside(self._handles[self._under_way[ref][0]].stop) for ref in pending]
        patience = _STOP_SECONDS if within is None else min(within, _STOP_SECONDS)
        _, left = ray.wait([*pending, *stopping], num_returns=2 * len(pending), timeout=patience)
        given_up = [ref for ref in pending if ref in left]
        for ref in given_up:
            ray.kill(self._handles[self._under_way[ref][0]])
        self._under_way.clear()
        return len(pending) - len(given_up)

    def close(self) -> None:
        """Let the workers forget the run. Closing again does nothing."""
        self.settle()
        for handle in self._handles:
            handle.end.remote()
        self._handles = []

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _ray() -> Any:
    import ray

    return ray


def _aside(method: Any) -> Any:
    """Call an actor's method beside what it is doing."""
    return method.options(concurrency_group="aside").remote()


def _is_there(ref: Any, timeout: float) -> bool:
    ray = _ray()

    return bool(ray.wait([ref], timeout=timeout)[0])


def _wait_a_little(cancelled: Callable[[], bool]) -> None:
    _check(cancelled)
    time.sleep(_POLL_SECONDS)


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("the run was cancelled")


def _first_line(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _check_reachable(address: str) -> None:
    """Fail at once where nothing listens: Ray itself would try for a minute or more."""
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not port.isdigit():
        return  # "auto", or a name that only Ray understands
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise WorkersUnavailable(
            f"nothing answers at {address} ({error}). Is Ray running there (ray status), and is the port open?"
        ) from error
