"""The actors of one run, and the state of each actor. Used by the child process only."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .cluster import call_aside, is_ready


class Task(Enum):
    """What an actor is doing. The value is for messages: "it did not <value>"."""

    MAKE = "create the worker"
    LOAD = "load the model"
    BEGIN = "begin the run"
    CALL = "answer a call of an earlier run"


@dataclass(frozen=True, eq=False)
class PendingCall:
    """A call that an actor is working on: its task and run, the pending answer, and when it is given up
    (`time.monotonic`)."""

    task: Task
    worker_set: WorkerSet
    answer: Any
    until: float


@dataclass(frozen=True)
class Failed:
    """An actor could not get ready for the model of this ``key``: why, and when (`time.monotonic`)."""

    key: str | None
    why: str
    when: float


@dataclass(eq=False)
class ActorState:
    """An actor, and what the child process knows about it."""

    handle: Any
    placed: Any  # the pending answer to about()
    since: float  # time.monotonic
    name: str = ""  # once it has a place in the cluster
    made: bool = False
    loaded: str | None = None  # the key of its model
    call: PendingCall | None = None
    failed: Failed | None = None
    doubtful: bool = False  # it could not begin the last run; the cause may be the run, or this process
    ping: Any = None  # the pending answer to the newest ping
    pinged: float = 0.0


class WorkerSet:
    """The actors that get ready for one run with the model of this ``key``.

    Attributes:
        ready: the actors that have begun the run, by lane.
        left_out: a line on each actor that cannot take part, with the reason.
        began: when this object was made (`time.monotonic`).
        first_ready: when the first actor was ready; infinity before that.
    """

    def __init__(self, count: int, key: str | None, run: Any) -> None:
        self.count, self.key, self.run = count, key, run
        self.began = time.monotonic()
        self.first_ready = math.inf
        self.ready: list[ActorState] = []
        self.left_out: list[str] = []
        self._out: list[ActorState] = []
        self._dropped: list[ActorState] = []

    @property
    def names(self) -> list[str]:
        """The names of the actors, by lane."""
        return [actor.name for actor in self.ready]

    def leave_out(self, actor: ActorState, why: str) -> None:
        """Go on without this actor, and report the reason."""
        self._out.append(actor)
        self.left_out.append(f"the worker {actor.name}: {why}")

    def may_use(self, actor: ActorState) -> bool:
        """Whether the actor has a place and is not left out."""
        return bool(actor.name) and actor not in self._out

    def take(self, actor: ActorState) -> None:
        """The actor has begun the run."""
        self.ready.append(actor)
        self.first_ready = min(self.first_ready, time.monotonic())

    def call(self, lane: int, request: bytes) -> Any:
        """Start an evaluation on the actor of a lane; the pending answer."""
        actor = self.ready[lane]
        answer = actor.handle.denoise.remote(request)
        actor.call = PendingCall(Task.CALL, self, answer, math.inf)
        return answer

    def stop(self, lane: int) -> Any:
        """Tell the actor of a lane to stop its evaluation; the pending answer."""
        return call_aside(self.ready[lane].handle.stop)

    def leave_at_work(self, lane: int, seconds: float) -> None:
        """Give up the evaluation of a lane, but let its actor go on for so many seconds."""
        actor = self.ready[lane]
        if actor.call is not None:
            actor.call = PendingCall(Task.CALL, self, actor.call.answer, time.monotonic() + seconds)

    def drop(self, lane: int) -> ActorState:
        """Remove the actor of a lane from the run, and return it."""
        self._dropped.append(self.ready[lane])
        return self.ready[lane]

    def end(self) -> None:
        """End the run on all actors."""
        for actor in [actor for actor in self.ready if actor not in self._dropped]:
            if actor.call is not None and is_ready(actor.call.answer):
                actor.call = None
            actor.handle.end.remote()
        self.ready = []
