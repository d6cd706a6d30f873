"""Evaluations on the machines of a Ray cluster. The only module here that knows Ray, and it imports it late.

`RayWorkers` are actors that live from run to run; `RayPool` is what the driver works with during one run.
What crosses the network: a model's changes once per change, the conditioning once per run and machine, and
one latent each way per evaluation.
"""

from __future__ import annotations

import logging
import math
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
from .ray_actor import Packed, RayActor, Worker, pack, unpack

_log = logging.getLogger("chords")

Session = tuple[str, str]
"""A connection of this process to Ray: the node's id, and the number the cluster gave the connection."""

LOCAL = "local"
HOW_TO_GET_RAY = "Ray is not installed. Install it where ComfyUI runs, with ComfyUI's Python: python -m pip install ray"

_MOST_CPU_WORKERS = 8  # unless more are asked for: each holds a model of its own
_POLL_SECONDS = 0.05  # between two looks whether the run was cancelled
_CONNECT_SECONDS = 5.0
_PLACE_SECONDS = 15.0  # for all workers to find a place in the cluster; then those that have one do
_NO_PLACE_SECONDS = 60.0  # for the first worker; one that has found none by then is given up
_PING_SECONDS = 5.0  # for a worker to say that it is alive
_STOP_SECONDS = 5.0  # at least, for a worker to leave the evaluation it was told to stop
_FETCH_SECONDS = 1.0  # for the answer of a call that is over, where nobody needs it any more
_CLOSE_SECONDS = 60.0  # the same, where nobody says how long it may take
_REST_SECONDS = 300.0  # before a worker that could not get ready for a model is tried again with it


class NoWorker(WorkersUnavailable):
    """Not one worker can take part in the run: for want of room, or of memory, or because all died."""


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
    since: float
    name: str = ""
    made: bool = False
    loaded: Hashable = None
    failed: _Failed | None = None
    doubtful: bool = False  # could not begin the last run: that may lie in the run, or in this process


@dataclass(frozen=True)
class _Failed:
    """An actor could not load the model of this key: why, and when."""

    key: Hashable
    why: str
    when: float


@dataclass(eq=False)
class _Crew:
    """The actors that get ready for a run with the model of this ``key``, and a line on each that could not."""

    key: Hashable
    actors: list[_Actor]
    left_out: list[str]

    def leave_out(self, actor: _Actor, why: str) -> None:
        self.actors.remove(actor)
        self.left_out.append(f"the worker {actor.name}: {why}")


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
        self._session: Session | None = None
        self._connected_here = False
        self._connect()

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

        Actors that died are replaced, and new ones started, as far as the cluster has room. One that cannot be made
        or load the model is left out, also for some minutes in the runs with that model that follow; one that cannot
        begin, in this run. The pool says so.

        Raises:
            NoWorker: if none is left, or the cluster has no room for any.
            WorkersUnavailable: if a worker's machine is not set up as it has to be, with its reason and machine.
            Cancelled: once ``cancelled`` returns true.
        """
        ray = _ray()

        crew = self._placed(min(count, self.lanes), None if model is None else model.key, cancelled)
        unmade = self._call_all(
            crew, lambda actor: actor.handle.make.remote(self._factory), cancelled, lambda actor: not actor.made
        )
        self._set_aside(crew, unmade)
        for actor in crew.actors:
            actor.made = True
        if model is not None:
            self._load(crew, model, cancelled)
        shared = ray.put(run)
        for actor, _ in self._call_all(crew, lambda actor: actor.handle.begin.remote(shared), cancelled):
            if actor.doubtful:
                self._end(actor)  # a new process may do what this one cannot any more
            actor.doubtful = True
        for actor in self._manned(crew).actors:
            actor.doubtful = False
        return RayPool([(actor.handle, actor.name) for actor in crew.actors], crew.left_out)

    def close(self) -> None:
        """End the actors, and the connection to Ray if it was made here; with that, a Ray that was started here.
        Closing again does nothing, nor does closing after someone else has connected this process anew."""
        ray = _ray()

        if self._session is not None and _session() == self._session:
            for actor in self._actors:
                ray.kill(actor.handle)
            if self._connected_here:
                ray.shutdown()
        self._forget(None, connected_here=False)

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _connect(self) -> None:
        """Connect if there is no connection (any more). One that someone else has made is used."""
        try:
            ray = _ray()
        except ImportError as error:
            raise WorkersUnavailable(HOW_TO_GET_RAY) from error
        there = _session()
        if there is not None:
            if there != self._session:
                _log.warning("CHORDS: this process is connected to a Ray already; used instead of %s", self._address)
                self._forget(there, connected_here=False)
            return
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
        self._forget(_session(), connected_here=True)

    def _forget(self, session: Session | None, connected_here: bool) -> None:
        """Begin anew in that connection: the actors and what they were sent belong to the one before."""
        self._actors, self._model = [], None
        self._session, self._connected_here = session, connected_here

    @staticmethod
    def _resources() -> tuple[int, int]:
        """The GPUs and CPU cores of all nodes that are alive."""
        ray = _ray()

        resources = ray.cluster_resources()
        return int(resources.get("GPU", 0)), int(resources.get("CPU", 0))

    def _placed(self, count: int, key: Hashable, cancelled: Callable[[], bool]) -> _Crew:
        """``count`` living actors that may get ready for the model of this key, or as many as find room."""
        self._actors = self._living(key)
        resting = [actor for actor in self._actors if actor.failed]
        for _ in range(len(self._actors), min(count + len(resting), self.lanes)):
            self._actors.append(self._start())
        crew = _Crew(key, [], [f"the worker {actor.name}: {actor.failed.why}" for actor in resting if actor.failed])
        began = time.monotonic()
        while True:
            without = self._newly_placed(crew)
            crew.actors = [actor for actor in self._actors if actor.name and not actor.failed][:count]
            waited_enough = bool(crew.actors) and time.monotonic() - began > _PLACE_SECONDS
            if len(crew.actors) == count or waited_enough or not without:
                break
            _wait_a_little(cancelled)
        if without and len(crew.actors) < count:
            crew.left_out.append("a worker has not found a place in the cluster in time, or has not started there")
        return self._manned(crew)

    def _newly_placed(self, crew: _Crew) -> list[_Actor]:
        """Name those that have found a place, and end those that never will; the actors without one as yet."""
        for actor in [actor for actor in self._actors if not actor.name]:
            if _is_there(actor.placed, 0):
                if (death := self._name(actor)) is not None:
                    crew.left_out.append(f"a worker could not start: {_first_line(death)}")
            elif time.monotonic() - actor.since > _NO_PLACE_SECONDS:
                self._end(actor)
                crew.left_out.append(self._no_room())
        return [actor for actor in self._actors if not actor.name]

    def _no_room(self) -> str:
        need = "GPU" if self.on_gpus else "CPU core"
        return (
            f"the Ray cluster at {self._address} has no room for a worker, which needs one {need}; something else may "
            "be using it"
        )

    @staticmethod
    def _manned(crew: _Crew) -> _Crew:
        """Raises NoWorker if nobody is left in it."""
        if not crew.actors:
            raise NoWorker("; ".join(dict.fromkeys(crew.left_out)))
        return crew

    def _end(self, actor: _Actor) -> None:
        """Kill it, and free its device or its place in the queue for one."""
        ray = _ray()

        ray.kill(actor.handle)
        self._actors.remove(actor)

    def _start(self) -> _Actor:
        ray = _ray()

        ray.cloudpickle.register_pickle_by_value(ray_actor)
        made = ray.remote(
            num_cpus=0 if self.on_gpus else 1,
            num_gpus=1 if self.on_gpus else 0,
            max_restarts=0,
            concurrency_groups={"aside": 1},  # answers while the actor works
            scheduling_strategy="SPREAD",
            enable_task_events=False,  # a record of every call, which the cluster would keep
        )(RayActor)
        handle = made.remote()
        return _Actor(handle, _aside(handle.about), time.monotonic())

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

    def _living(self, key: Hashable) -> list[_Actor]:
        """The actors that answer, and those that have no place yet; without those that failed and are to be tried
        again: a new process may do what an old one cannot any more."""
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
        kept = []
        for actor, ref in named:
            rested = actor.failed and (actor.failed.key != key or time.monotonic() - actor.failed.when > _REST_SECONDS)
            if ref in answered and not rested:
                kept.append(actor)
            else:
                ray.kill(actor.handle)  # if it only hangs, it must not keep its device
        return kept + [actor for actor in self._actors if not actor.name]

    def _load(self, crew: _Crew, model: Parcel, cancelled: Callable[[], bool]) -> None:
        """Send the model to the actors that have another or none."""
        ray = _ray()

        lacking = [actor for actor in crew.actors if actor.loaded != model.key]
        if not lacking:
            return
        if self._model is None or self._model[0] != model.key:
            self._model = model.key, ray.put(model.make())  # kept for actors that start later; frees the one before
        shared = self._model[1]
        _log.info("CHORDS: sending the model's changes to %s", ", ".join(actor.name for actor in lacking))
        for actor in lacking:
            actor.loaded = None  # until it has loaded this one
        unloaded = self._call_all(
            crew, lambda actor: actor.handle.load.remote(shared), cancelled, lambda actor: actor in lacking
        )
        self._set_aside(crew, unloaded)
        for actor in crew.actors:
            actor.loaded = model.key

    def _call_all(
        self,
        crew: _Crew,
        call: Callable[[_Actor], Any],
        cancelled: Callable[[], bool],
        where: Callable[[_Actor], bool] = lambda actor: True,
    ) -> list[tuple[_Actor, str]]:
        """Call the actors and wait for all. Those that fail or die are left out; the former are returned, with why."""
        ray = _ray()

        failed = []
        refs = [(actor, call(actor)) for actor in crew.actors if where(actor)]
        for actor, ref in refs:
            _check(cancelled)
            while not _is_there(ref, _POLL_SECONDS):
                _check(cancelled)
            try:
                _, problem = ray.get(ref)
            except ray.exceptions.RayError as error:
                crew.leave_out(actor, _lost(error))
                continue
            if problem is None:
                continue
            why, trace, wrong_setup = problem
            _log.error("CHORDS: the worker %s said:\n%s", actor.name, trace)
            if wrong_setup:
                self._end(actor)  # the next one reads anew what has been put right by then
                raise WorkersUnavailable(f"the worker {actor.name}: {why}")
            failed.append((actor, why))
            crew.leave_out(actor, why)
        return failed

    def _set_aside(self, crew: _Crew, failed: list[tuple[_Actor, str]]) -> None:
        """Have these rest, as far as this model goes: to try it again and again would keep every run waiting."""
        for actor, why in failed:
            actor.failed = _Failed(crew.key, why, time.monotonic())
        self._manned(crew)


class RayPool:
    """Actors that have begun a run, as a `Pool`. See `RayWorkers.open`.

    A worker that dies, or whose node does, gives an Outcome with a `WorkersUnavailable` as its error, and one
    whose evaluation raises likewise: the driver then evaluates elsewhere. ``left_out`` says of each worker that
    should have been here why it is not.
    """

    def __init__(self, workers: Sequence[tuple[Any, str]], left_out: Sequence[str] = ()) -> None:
        self._handles = [handle for handle, _ in workers]
        self.names = tuple(name for _, name in workers)
        self.left_out = tuple(dict.fromkeys(left_out))
        self._under_way: dict[Any, tuple[int, Task, float]] = {}
        self._stopping: dict[Any, Any] = {}  # by call under way, the call that tells its worker to stop
        self._session = _session()

    @property
    def lanes(self) -> int:
        return len(self._handles)

    def submit(self, lane: int, task: Task) -> None:
        ref = self._handles[lane].denoise.remote(pack(task.x), task.sigma) if self._connected else object()
        self._under_way[ref] = lane, task, time.perf_counter()

    def next(self, timeout: float) -> Outcome | None:
        ray = _ray()

        if not self._under_way:
            return None
        if not self._connected:
            return self._outcome(next(iter(self._under_way)), None, "the connection to Ray was ended by someone else")
        there, _ = ray.wait(list(self._under_way), num_returns=1, timeout=timeout)
        return self._fetched(there[0], timeout) if there else None

    def wait(self, timeout: float) -> bool:
        ray = _ray()

        if not self._under_way or not self._connected:
            return True
        calls = [*self._under_way, *self._told_to_stop()]
        _, left = ray.wait(calls, num_returns=len(calls), timeout=timeout)
        return not left

    def _told_to_stop(self) -> list[Any]:
        """The calls that tell the workers to stop what they are at, each made once."""
        for ref in self._under_way:
            if ref not in self._stopping:
                self._stopping[ref] = _aside(self._handles[self._under_way[ref][0]].stop)
        return [self._stopping[ref] for ref in self._under_way]

    def _fetched(self, ref: Any, timeout: float) -> Outcome | None:
        """What a call that is over came back with; None if that is not here within ``timeout`` seconds."""
        ray = _ray()

        try:
            value, problem = ray.get(ref, timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError as error:
            return self._outcome(ref, None, _lost(error))
        return self._outcome(ref, value, None if problem is None else problem[0])

    def _outcome(self, ref: Any, value: Packed | None, problem: str | None) -> Outcome:
        lane, task, began = self._under_way.pop(ref)
        seconds = time.perf_counter() - began
        if value is None:
            return Outcome(lane, task, seconds, error=WorkersUnavailable(f"{self.names[lane]}: {problem}"))
        return Outcome(lane, task, seconds, unpack(value).to(task.x.device))

    def settle(self, within: float | None = None) -> list[Outcome]:
        """As `Pool.settle`, but workers are told to stop what they are at, have some seconds for that in any case, and
        are ended only after that: one that is no more than slow keeps its model."""
        ray = _ray()

        if not self._under_way or not self._connected:
            self._under_way.clear()
            return []
        pending, stopping = list(self._under_way), self._told_to_stop()
        patience = None if within in (None, math.inf) else max(within, _STOP_SECONDS)
        _, left = ray.wait([*pending, *stopping], num_returns=2 * len(pending), timeout=patience)
        given_up = [ref for ref in pending if ref in left]
        for ref in given_up:
            ray.kill(self._handles[self._under_way[ref][0]])
        there = [self._fetched(ref, _FETCH_SECONDS) for ref in pending if ref not in given_up]
        self._under_way.clear()
        self._stopping.clear()
        return [outcome for outcome in there if outcome is not None]

    def close(self) -> None:
        """Let the workers forget the run. Closing again does nothing."""
        self.settle(_CLOSE_SECONDS)
        for handle in self._handles if self._connected else ():
            handle.end.remote()
        self._handles = []

    @property
    def _connected(self) -> bool:
        """Whether the workers can be reached at all; without a connection, Ray would start another by itself."""
        return _session() == self._session

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _ray() -> Any:
    import ray

    return ray


def _session() -> Session | None:
    """This process's connection to Ray as it is now, or None: another program in it may end one and make its own."""
    ray = _ray()

    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return context.get_node_id(), context.get_job_id()


def _lost(error: BaseException) -> str:
    return f"its process or machine was lost: {_first_line(error)}"


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
