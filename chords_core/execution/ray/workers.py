"""The actors of a Ray cluster, kept from run to run. Used by the child process only (`child`), which knows Ray.

An actor gets ready for a run in up to three calls: it makes its worker, loads the model, begins the run. Each actor
goes through them at its own pace, so one that is slow or hangs keeps no other waiting.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import actor as actor_module
from . import messages
from .actor import RayActor
from .messages import Header, Malformed, decode, line
from .timeouts import RayTimeouts

MOST_CPU_WORKERS = 8
"""Unless more are asked for: each holds a model of its own."""

_POLL_SECONDS = 0.05  # between two looks at what has come from the parent
_PING_EVERY = 2.0  # seconds, for an actor that gets ready

_MAKE, _LOAD, _BEGIN, _CALL = "be made", "load the model", "begin the run", "answer a call of an earlier run"


class NoWorker(Exception):
    """Not one worker can take part in the run; the message has a reason for each."""


class WorkerRefused(Exception):
    """A worker's machine is not set up as it has to be."""


@dataclass(frozen=True, eq=False)
class _Step:
    """A call that an actor is at: what it is to do, for which run, the pending answer, and when it is given up."""

    what: str
    crew: Crew
    answer: Any
    until: float


@dataclass(frozen=True)
class _Failed:
    """An actor could not get ready for the model of this key: why, and when."""

    key: str | None
    why: str
    when: float


@dataclass(eq=False)
class _Actor:
    """An actor, and what is known of it: its ``name`` once it has a place, what it has loaded, what it is at."""

    handle: Any
    placed: Any  # the pending answer to about()
    since: float
    name: str = ""
    made: bool = False
    loaded: str | None = None
    step: _Step | None = None
    failed: _Failed | None = None
    doubtful: bool = False  # could not begin the last run: that may lie in the run, or in this process
    ping: Any = None  # the pending answer to the newest ping
    pinged: float = 0.0


class Crew:
    """The actors that get ready for one run with the model of this ``key``, and a line on each that could not."""

    def __init__(self, count: int, key: str | None, run: Any) -> None:
        self.count, self.key, self.run = count, key, run
        self.began = time.monotonic()
        self.first_ready = math.inf  # the time when the first one was ready
        self.ready: list[_Actor] = []
        self.left_out: list[str] = []
        self._out: list[_Actor] = []
        self._dropped: list[_Actor] = []

    @property
    def names(self) -> list[str]:
        """The actors' names, by lane."""
        return [actor.name for actor in self.ready]

    def leave_out(self, actor: _Actor, why: str) -> None:
        """Do without it, and say why."""
        self._out.append(actor)
        self.left_out.append(f"the worker {actor.name}: {why}")

    def may_use(self, actor: _Actor) -> bool:
        """Whether it has a place and was not left out."""
        return bool(actor.name) and actor not in self._out

    def take(self, actor: _Actor) -> None:
        """It is ready."""
        self.ready.append(actor)
        self.first_ready = min(self.first_ready, time.monotonic())

    def call(self, lane: int, request: bytes) -> Any:
        """Have the actor of that lane make an evaluation; the pending answer."""
        actor = self.ready[lane]
        answer = actor.handle.denoise.remote(request)
        actor.step = _Step(_CALL, self, answer, math.inf)
        return answer

    def stop(self, lane: int) -> Any:
        """Tell the actor of that lane to stop its evaluation; the pending answer."""
        return _aside(self.ready[lane].handle.stop)

    def leave_at_work(self, lane: int, seconds: float) -> None:
        """The evaluation of that lane is given up, but may come to its end within so many seconds."""
        actor = self.ready[lane]
        if actor.step is not None:
            actor.step = _Step(_CALL, self, actor.step.answer, time.monotonic() + seconds)

    def drop(self, lane: int) -> _Actor:
        """Do without the actor of that lane from now on."""
        self._dropped.append(self.ready[lane])
        return self.ready[lane]

    def end(self) -> None:
        """The run is over."""
        for actor in [actor for actor in self.ready if actor not in self._dropped]:
            if actor.step is not None and _is_there(actor.step.answer):
                actor.step = None
            actor.handle.end.remote()
        self.ready = []


class Actors:
    """One actor a GPU, or one a CPU core where the cluster has no GPU.

    Args:
        factory: pickled; makes the `Worker` in an actor's process.
        count: how many at most; 0: all GPUs, or up to `MOST_CPU_WORKERS` CPU cores.
        address: of the cluster, for messages.
        tell: takes what an actor said of an error, for the log.
    """

    def __init__(
        self, factory: bytes, count: int, address: str, timeouts: RayTimeouts, tell: Callable[[str], None]
    ) -> None:
        self._factory, self._count, self._address = factory, count, address
        self._timeouts, self._tell = timeouts, tell
        self._actors: list[_Actor] = []
        self._names = 0
        self._model: tuple[str, Any] | None = None

    def lanes(self) -> int:
        """How many actors there can be on the cluster as it is now."""
        gpus, cpus = _resources()
        if gpus:
            return min(self._count or gpus, gpus)
        return max(1, min(self._count or MOST_CPU_WORKERS, cpus))

    def open(
        self,
        count: int,
        key: str | None,
        run: bytes,
        model: Callable[[list[str]], bytes | None],
        poll: Callable[[], None],
    ) -> Crew:
        """At most ``count`` actors, each with the model of this key loaded and the ``run`` begun.

        Actors that died are replaced, and new ones started, as far as the cluster has room. ``poll`` is called again
        and again, and may raise to end the waiting. ``model`` is called with the names of those that lack the model,
        and returns it as soon as it is there.

        Raises:
            NoWorker: if none gets ready in time.
            WorkerRefused: if a worker's machine is not set up as it has to be, with its reason and name.
        """
        ray = _ray()

        lanes = self.lanes()
        crew = Crew(min(count, lanes), key, ray.put(run))
        self._replace_the_dead(crew, poll)
        resting = [(actor, actor.failed) for actor in self._actors if actor.failed]
        for actor, failed in resting:
            crew.leave_out(actor, failed.why)
        for _ in range(len(self._actors), min(crew.count + len(resting), lanes)):
            self._actors.append(self._start())
        while self._still_awaited(crew, model):
            poll()
            self._wait(crew)
        self._leave_behind(crew)
        crew.ready.sort(key=self._actors.index)
        crew.run = None  # Ray may forget it as soon as the actors have it
        if not crew.ready:
            raise NoWorker("; ".join(dict.fromkeys(crew.left_out)))
        return crew

    def end(self, actor: _Actor) -> None:
        """Kill it, and free its device or its place in the queue for one."""
        ray = _ray()

        ray.kill(actor.handle)
        self._actors.remove(actor)

    def _replace_the_dead(self, crew: Crew, poll: Callable[[], None]) -> None:
        """End those that do not answer, and those that failed and are to be tried again: a new process may do what an
        old one cannot any more."""
        ray = _ray()

        pings = {_aside(actor.handle.about): actor for actor in self._actors if actor.name}
        waiting, end = list(pings), time.monotonic() + self._timeouts.ping
        while waiting and time.monotonic() < end:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_SECONDS)
            poll()
        for ping, actor in pings.items():
            actor.ping = None
            actor.pinged = time.monotonic()
            if ping in waiting or _answer(ping)[1] is not None or self._rested(actor, crew.key):
                self.end(actor)

    def _rested(self, actor: _Actor, key: str | None) -> bool:
        failed = actor.failed
        return failed is not None and (failed.key != key or time.monotonic() - failed.when > self._timeouts.rest)

    def _start(self) -> _Actor:
        ray = _ray()

        for module in (actor_module, messages):
            ray.cloudpickle.register_pickle_by_value(module)
        on_gpus = _resources()[0] > 0
        made = ray.remote(
            num_cpus=0 if on_gpus else 1,
            num_gpus=1 if on_gpus else 0,
            max_restarts=0,
            concurrency_groups={"aside": 1},  # answers while the actor works
            scheduling_strategy="SPREAD",
            enable_task_events=False,  # a record of every call, which the cluster would keep
        )(RayActor)
        handle = made.remote()
        return _Actor(handle, _aside(handle.about), time.monotonic())

    def _still_awaited(self, crew: Crew, model: Callable[[list[str]], bytes | None]) -> bool:
        """Take every actor as far as it can go now; whether there is one to wait for."""
        self._name_the_placed(crew)
        for actor in self._getting_ready(crew):
            self._take_on(actor, crew, model)
        if len(crew.ready) >= crew.count:
            return False
        now, times = time.monotonic(), self._timeouts
        if getting_ready := self._getting_ready(crew):
            if not crew.ready:
                return now < crew.began + times.ready
            behind = max(times.behind, times.behind_factor * (crew.first_ready - crew.began))
            if all(actor.step is not None and actor.step.crew is not crew for actor in getting_ready):
                behind = times.ping  # they are at what an earlier run has waited for already
            if now < crew.first_ready + behind:
                return True
        unplaced = any(not actor.name for actor in self._actors)
        return unplaced and (now < crew.began + times.place or not self._usable(crew))

    def _usable(self, crew: Crew) -> list[_Actor]:
        """The actors of the run: those that have a place, as many as it asks for."""
        return [actor for actor in self._actors if crew.may_use(actor)][: crew.count]

    def _getting_ready(self, crew: Crew) -> list[_Actor]:
        return [actor for actor in self._usable(crew) if actor not in crew.ready]

    def _wait(self, crew: Crew) -> None:
        """Until one of those that are waited for has answered, or a little."""
        ray = _ray()

        answers = [actor.step.answer for actor in self._getting_ready(crew) if actor.step is not None]
        answers += [actor.placed for actor in self._actors if not actor.name]
        if answers:
            ray.wait(answers, num_returns=1, timeout=_POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS)

    def _name_the_placed(self, crew: Crew) -> None:
        """Name those that have found a place after their node, and end those that never will."""
        for actor in [actor for actor in self._actors if not actor.name]:
            if _is_there(actor.placed):
                about, death = _answer(actor.placed)
                if death is not None:
                    self._actors.remove(actor)
                    crew.left_out.append(f"a worker could not start: {death}")
                else:
                    actor.name = f"ray:{line(about.get('address'))}/{self._names}"
                    actor.pinged = time.monotonic()
                    self._names += 1
            elif time.monotonic() - actor.since > self._timeouts.no_place:
                self.end(actor)
                crew.left_out.append(self._no_room())

    def _no_room(self) -> str:
        need = "GPU" if _resources()[0] > 0 else "CPU core"
        return (
            f"the Ray cluster at {self._address} has no room for a worker, which needs one {need}; something else may "
            "be using it"
        )

    def _take_on(self, actor: _Actor, crew: Crew, model: Callable[[list[str]], bytes | None]) -> None:
        """See what became of the call that the actor is at, and begin the next one."""
        if actor.step is not None:
            if not _is_there(actor.step.answer):
                self._look_whether_it_lives(actor, crew)
                return
            step, actor.step = actor.step, None
            if not self._took(actor, step, crew):
                return
        if not actor.made:
            self._begin(actor, _MAKE, crew, actor.handle.make.remote(self._factory))
        elif crew.key is not None and actor.loaded != crew.key:
            if (shared := self._shared_model(crew, model)) is not None:
                actor.loaded = None  # until it has loaded this one
                self._begin(actor, _LOAD, crew, actor.handle.load.remote(shared))
        else:
            self._begin(actor, _BEGIN, crew, actor.handle.begin.remote(crew.run))

    def _begin(self, actor: _Actor, what: str, crew: Crew, answer: Any) -> None:
        actor.step = _Step(what, crew, answer, time.monotonic() + self._timeouts.give_up)

    def _shared_model(self, crew: Crew, model: Callable[[list[str]], bytes | None]) -> Any:
        """The model in Ray's store, or None while it is not there yet."""
        ray = _ray()

        if self._model is None or self._model[0] != crew.key:
            lacking = [actor.name for actor in self._usable(crew) if actor.loaded != crew.key]
            if (data := model(lacking)) is None:
                return None
            assert crew.key is not None
            self._model = crew.key, ray.put(data)  # kept for actors that start later; frees the one before
        return self._model[1]

    def _took(self, actor: _Actor, step: _Step, crew: Crew) -> bool:
        """Take the answer to a step; whether the actor goes on to the next one."""
        said, death = _answer(step.answer)
        if death is not None:
            self._actors.remove(actor)
            crew.leave_out(actor, death)
            return False
        problem = said.get("problem")
        if problem is None:
            actor.made = True
            if step.what == _LOAD:
                actor.loaded = step.crew.key
        if step.crew is not crew:  # what went wrong in an earlier run is tried again in this one
            return True
        if problem is not None:
            self._tell(f"the worker {actor.name} said:\n{said.get('trace')}")
            if said.get("wrong_setup"):
                self.end(actor)  # the next one reads anew what has been put right by then
                raise WorkerRefused(f"the worker {actor.name}: {line(problem)}")
        if step.what == _BEGIN:
            return self._began(actor, problem, crew)
        if problem is not None:
            # It rests, as far as this model goes: to try it again and again would keep every run waiting.
            actor.failed = _Failed(crew.key, line(problem), time.monotonic())
            crew.leave_out(actor, line(problem))
        return problem is None

    def _began(self, actor: _Actor, problem: object, crew: Crew) -> bool:
        if problem is None:
            actor.doubtful = False
            crew.take(actor)
            return False
        crew.leave_out(actor, line(problem))
        if actor.doubtful:
            self.end(actor)  # a new process may do what this one cannot any more
        actor.doubtful = True
        return False

    def _look_whether_it_lives(self, actor: _Actor, crew: Crew) -> None:
        """End an actor that has not answered a ping for too long: its process or its machine has stopped."""
        now = time.monotonic()
        if actor.ping is not None and _is_there(actor.ping):
            actor.ping = None  # if it died, its step says so as well
        if actor.ping is None and now - actor.pinged > _PING_EVERY:
            actor.ping, actor.pinged = _aside(actor.handle.about), now
        elif actor.ping is not None and now - actor.pinged > self._timeouts.hung:
            assert actor.step is not None
            crew.leave_out(actor, f"it was to {actor.step.what} and has not answered for {self._timeouts.hung:.0f} s")
            self.end(actor)
        elif actor.step is not None and now > actor.step.until:
            crew.leave_out(actor, f"it did not {actor.step.what} for too long, and was ended")
            self.end(actor)

    def _leave_behind(self, crew: Crew) -> None:
        """Say of those that are not ready what they are at."""
        waited = time.monotonic() - crew.began
        for actor in self._getting_ready(crew):
            what = actor.step.what if actor.step is not None else "get ready"
            crew.leave_out(actor, f"it did not {what} within {waited:.0f} s; it goes on, and takes part in a later run")
        if len(crew.ready) < crew.count and any(not actor.name for actor in self._actors):
            crew.left_out.append("a worker has not found a place in the cluster in time, or has not started there")


def connect(address: str, local: bool, cores: int, local_gpus: bool) -> None:
    """Start a Ray on this machine, or connect to the one at ``address``."""
    ray = _ray()

    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if local:
        options |= {"include_dashboard": False, "num_cpus": cores}
        options |= {} if local_gpus else {"num_gpus": 0}
    ray.init(address="local" if local else address, **options)


def read(answer: Any) -> tuple[bytes, str | None]:
    """The message that an actor answered with, or why there is none. Ray hands bytes over as they are."""
    ray = _ray()

    try:
        said = ray.get(answer)
    except ray.exceptions.RayError as error:
        return b"", f"its process or machine was lost: {line(error)}"
    return (said, None) if isinstance(said, bytes) else (b"", "it answered with something else than a message")


def _answer(answer: Any) -> tuple[Header, str | None]:
    said, problem = read(answer)
    if problem is not None:
        return {}, problem
    try:
        return decode(said)[0], None
    except Malformed as error:
        return {}, f"it answered with {error}"


def _resources() -> tuple[int, int]:
    """The GPUs and CPU cores of all nodes that are alive."""
    ray = _ray()

    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0)), int(resources.get("CPU", 0))


def _aside(method: Any) -> Any:
    """Call an actor's method beside what it is doing."""
    return method.options(concurrency_group="aside").remote()


def _is_there(answer: Any) -> bool:
    ray = _ray()

    return bool(ray.wait([answer], timeout=0)[0])


def _ray() -> Any:
    import ray

    return ray
