"""The actors of a Ray cluster, kept from run to run. Used by the child process only.

An actor gets ready for a run in up to three calls: it makes its worker, loads the model, and begins the run. Each actor
goes through them at its own speed, so a slow actor, or one that hangs, does not keep the others waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import actor as actor_module
from . import messages
from .actor import RayActor
from .cluster import call_aside, is_ready, ray_module, read_header, resources
from .errors import NoWorker, WorkerRefused
from .messages import line
from .timeouts import RayTimeouts
from .worker_set import ActorState, Failed, PendingCall, Task, WorkerSet

MAX_CPU_WORKERS = 8
"""How many actors at most where the cluster has no GPU and no number is given: each one loads the model."""

_POLL_SECONDS = 0.05  # between two checks for messages of the parent process
_PING_SECONDS = 2.0  # between two pings of an actor that gets ready

ModelSource = Callable[[list[str]], bytes | None]
"""Called with the names of the actors that lack the model; returns it, or None while it is not there yet."""


class Actors:
    """One actor on each GPU, or one on each CPU core if the cluster has no GPU.

    Args:
        factory: pickled; makes the `Worker` in an actor's process.
        count: how many at most; 0: all GPUs, or up to `MAX_CPU_WORKERS` CPU cores.
        address: of the cluster, for messages.
        log: called with an actor's error and its traceback.
    """

    def __init__(
        self, factory: bytes, count: int, address: str, timeouts: RayTimeouts, log: Callable[[str], None]
    ) -> None:
        self._factory, self._count, self._address = factory, count, address
        self._timeouts, self._log = timeouts, log
        self._actors: list[ActorState] = []
        self._names = 0
        self._model: tuple[str, Any] | None = None  # its key, and its place in Ray's store

    def lanes(self) -> int:
        """How many actors the cluster has room for now."""
        gpus, cpus = resources()
        if gpus:
            return min(self._count or gpus, gpus)
        return max(1, min(self._count or MAX_CPU_WORKERS, cpus))

    def open(self, count: int, key: str | None, run: bytes, model: ModelSource, poll: Callable[[], None]) -> WorkerSet:
        """At most ``count`` actors that have loaded the model of this key and have begun the ``run``.

        Actors that died are replaced, and new ones are started if the cluster has room. ``poll`` is called again and
        again, and may raise to end the waiting.

        Raises:
            NoWorker: if no actor gets ready in time.
            WorkerRefused: if a worker's machine is not set up as it has to be; names the worker and the reason.
        """
        lanes = self.lanes()
        worker_set = WorkerSet(min(count, lanes), key, ray_module().put(run))
        self._end_unusable(worker_set, poll)
        resting = [(actor, actor.failed) for actor in self._actors if actor.failed]
        for actor, failed in resting:
            worker_set.leave_out(actor, failed.why)
        for _ in range(len(self._actors), min(worker_set.count + len(resting), lanes)):
            self._actors.append(self._start())
        while self._advance(worker_set, model):
            poll()
            self._wait(worker_set)
        self._report_missing(worker_set)
        return self._require_workers(worker_set)

    def end(self, actor: ActorState) -> None:
        """Kill an actor. This frees its device, or its place in the queue for one."""
        ray_module().kill(actor.handle)
        self._actors.remove(actor)

    def _require_workers(self, worker_set: WorkerSet) -> WorkerSet:
        """``worker_set`` with its actors in order.

        Raises:
            NoWorker: if none is ready, with the reason for each.
        """
        worker_set.ready.sort(key=self._actors.index)
        worker_set.run = None  # the actors have it, so Ray may free it
        if not worker_set.ready:
            raise NoWorker("; ".join(dict.fromkeys(worker_set.left_out)))
        return worker_set

    # Starting and ending

    def _start(self) -> ActorState:
        ray = ray_module()
        for module in (actor_module, messages):
            ray.cloudpickle.register_pickle_by_value(module)
        on_gpus = resources()[0] > 0
        remote_class = ray.remote(
            num_cpus=0 if on_gpus else 1,
            num_gpus=1 if on_gpus else 0,
            max_restarts=0,
            concurrency_groups={"aside": 1},  # for calls that are answered while the actor works
            scheduling_strategy="SPREAD",
            enable_task_events=False,  # the cluster would keep a record of every call
        )(RayActor)
        handle = remote_class.remote()
        return ActorState(handle, call_aside(handle.about), time.monotonic())

    def _end_unusable(self, worker_set: WorkerSet, poll: Callable[[], None]) -> None:
        """End the actors that do not answer, and those that failed and may try again: a new process may succeed where
        an old one cannot."""
        ray = ray_module()
        pings = {call_aside(actor.handle.about): actor for actor in self._actors if actor.name}
        waiting, end = list(pings), time.monotonic() + self._timeouts.ping
        while waiting and time.monotonic() < end:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_POLL_SECONDS)
            poll()
        for ping, actor in pings.items():
            actor.ping = None
            actor.pinged = time.monotonic()
            if ping in waiting or read_header(ping)[1] is not None or self._may_retry(actor, worker_set.key):
                self.end(actor)

    def _may_retry(self, actor: ActorState, key: str | None) -> bool:
        """Whether an actor that could not get ready may try again: for another model, or after some time."""
        failed = actor.failed
        return failed is not None and (failed.key != key or time.monotonic() - failed.when > self._timeouts.rest)

    def _name_placed(self, worker_set: WorkerSet) -> None:
        """Name the actors that have got a place after their nodes, and end those that wait too long for one."""
        for actor in [actor for actor in self._actors if not actor.name]:
            if is_ready(actor.placed):
                about, death = read_header(actor.placed)
                if death is not None:
                    self._actors.remove(actor)
                    worker_set.left_out.append(f"a worker could not start: {death}")
                else:
                    actor.name = f"ray:{line(about.get('address'))}/{self._names}"
                    actor.pinged = time.monotonic()
                    self._names += 1
            elif time.monotonic() - actor.since > self._timeouts.no_place:
                self.end(actor)
                worker_set.left_out.append(self._no_room())

    def _no_room(self) -> str:
        need = "GPU" if resources()[0] > 0 else "CPU core"
        return (
            f"the Ray cluster at {self._address} has no room for a worker, which needs one {need}; another program may "
            "be using it"
        )

    # Getting ready

    def _advance(self, worker_set: WorkerSet, model: ModelSource) -> bool:
        """Start the next call of every actor that has answered; whether to wait for more actors."""
        self._name_placed(worker_set)
        for actor in self._getting_ready(worker_set):
            self._advance_one(actor, worker_set, model)
        if len(worker_set.ready) >= worker_set.count:
            return False
        now, timeouts = time.monotonic(), self._timeouts
        if getting_ready := self._getting_ready(worker_set):
            if not worker_set.ready:
                return now < worker_set.began + timeouts.ready
            behind = max(timeouts.behind, timeouts.behind_factor * (worker_set.first_ready - worker_set.began))
            if all(actor.call is not None and actor.call.worker_set is not worker_set for actor in getting_ready):
                behind = timeouts.ping  # an earlier run has waited for them already
            if now < worker_set.first_ready + behind:
                return True
        unplaced = any(not actor.name for actor in self._actors)
        return unplaced and (now < worker_set.began + timeouts.place or not self._usable(worker_set))

    def _usable(self, worker_set: WorkerSet) -> list[ActorState]:
        """The actors that have a place, as many as the run asks for."""
        return [actor for actor in self._actors if worker_set.may_use(actor)][: worker_set.count]

    def _getting_ready(self, worker_set: WorkerSet) -> list[ActorState]:
        return [actor for actor in self._usable(worker_set) if actor not in worker_set.ready]

    def _wait(self, worker_set: WorkerSet) -> None:
        """Wait until one of the actors has answered, or for `_POLL_SECONDS`."""
        answers = [actor.call.answer for actor in self._getting_ready(worker_set) if actor.call is not None]
        answers += [actor.placed for actor in self._actors if not actor.name]
        if answers:
            ray_module().wait(answers, num_returns=1, timeout=_POLL_SECONDS)
        else:
            time.sleep(_POLL_SECONDS)

    def _advance_one(self, actor: ActorState, worker_set: WorkerSet, model: ModelSource) -> None:
        """Take the answer to an actor's call, if it is there, and start its next call."""
        if actor.call is not None:
            if not is_ready(actor.call.answer):
                self._check_alive(actor, actor.call, worker_set)
                return
            call, actor.call = actor.call, None
            if not self._take_answer(actor, call, worker_set):
                return
        if not actor.made:
            self._call(actor, Task.MAKE, worker_set, actor.handle.make.remote(self._factory))
        elif worker_set.key is not None and actor.loaded != worker_set.key:
            if (stored := self._stored_model(worker_set, model)) is not None:
                actor.loaded = None  # until it has loaded this one
                self._call(actor, Task.LOAD, worker_set, actor.handle.load.remote(stored))
        else:
            self._call(actor, Task.BEGIN, worker_set, actor.handle.begin.remote(worker_set.run))

    def _call(self, actor: ActorState, task: Task, worker_set: WorkerSet, answer: Any) -> None:
        actor.call = PendingCall(task, worker_set, answer, time.monotonic() + self._timeouts.give_up)

    def _stored_model(self, worker_set: WorkerSet, model: ModelSource) -> Any:
        """The model in Ray's store, or None while it is not there yet."""
        if self._model is None or self._model[0] != worker_set.key:
            lacking = [actor.name for actor in self._usable(worker_set) if actor.loaded != worker_set.key]
            if (data := model(lacking)) is None:
                return None
            assert worker_set.key is not None
            # Kept for actors that start later. This also frees the model before.
            self._model = worker_set.key, ray_module().put(data)
        return self._model[1]

    def _take_answer(self, actor: ActorState, call: PendingCall, worker_set: WorkerSet) -> bool:
        """Take the answer to a call; whether the actor goes on to its next call."""
        header, death = read_header(call.answer)
        if death is not None:
            self._actors.remove(actor)
            worker_set.leave_out(actor, death)
            return False
        problem = header.get("problem")
        if problem is None:
            actor.made = True
            if call.task is Task.LOAD:
                actor.loaded = call.worker_set.key
        if call.worker_set is not worker_set:  # what failed in an earlier run is tried again in this one
            return True
        if problem is not None:
            self._log(f"the worker {actor.name} reported:\n{header.get('trace')}")
            if header.get("wrong_setup"):
                self.end(actor)  # a new actor sees what has been put right since
                raise WorkerRefused(f"the worker {actor.name}: {line(problem)}")
        if call.task is Task.BEGIN:
            self._take_begun(actor, problem, worker_set)
            return False
        if problem is not None:
            # It does not try this model again for some time: every run would wait for it.
            actor.failed = Failed(worker_set.key, line(problem), time.monotonic())
            worker_set.leave_out(actor, line(problem))
        return problem is None

    def _take_begun(self, actor: ActorState, problem: object, worker_set: WorkerSet) -> None:
        """Take the answer to the last of the three calls."""
        if problem is None:
            actor.doubtful = False
            worker_set.take(actor)
            return
        worker_set.leave_out(actor, line(problem))
        if actor.doubtful:
            self.end(actor)  # a new process may succeed where this one cannot
        actor.doubtful = True

    def _check_alive(self, actor: ActorState, call: PendingCall, worker_set: WorkerSet) -> None:
        """End an actor that has not answered a ping for too long (its process or machine has stopped), or that is
        given up."""
        now = time.monotonic()
        if actor.ping is not None and is_ready(actor.ping):
            actor.ping = None  # if the actor died, its call has that answer as well
        if actor.ping is None and now - actor.pinged > _PING_SECONDS:
            actor.ping, actor.pinged = call_aside(actor.handle.about), now
        elif actor.ping is not None and now - actor.pinged > self._timeouts.hung:
            hung = f"it did not {call.task.value}, and has not answered for {self._timeouts.hung:.0f} s"
            worker_set.leave_out(actor, hung)
            self.end(actor)
        elif now > call.until:
            worker_set.leave_out(actor, f"it took too long to {call.task.value}, and was ended")
            self.end(actor)

    def _report_missing(self, worker_set: WorkerSet) -> None:
        """Report the actors that are not ready, with what they are doing."""
        waited = time.monotonic() - worker_set.began
        for actor in self._getting_ready(worker_set):
            task = actor.call.task.value if actor.call is not None else "get ready"
            worker_set.leave_out(
                actor, f"it did not {task} within {waited:.0f} s; it goes on, and takes part in a later run"
            )
        if len(worker_set.ready) < worker_set.count and any(not actor.name for actor in self._actors):
            worker_set.left_out.append(
                "a worker has not found a place in the cluster in time, or has not started there"
            )
