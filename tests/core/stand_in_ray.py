"""A replacement for Ray in this process: actors are threads, and the child process is a thread too.

So the tests of the child process are fast, control the order of events, and need no Ray.
"""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

from chords_core.execution.ray import link
from chords_core.execution.ray.child import Server


class RayError(Exception):
    """Like ``ray.exceptions.RayError``."""


class _Method:
    def __init__(self, handle: Handle, name: str, group: str = "main") -> None:
        self._handle, self._name, self._group = handle, name, group

    def options(self, concurrency_group: str) -> _Method:
        return _Method(self._handle, self._name, concurrency_group)

    def remote(self, *arguments: Any) -> Answer:
        return self._handle.call(self._name, self._group, arguments)


class Answer:
    """Like an ObjectRef."""

    def __init__(self, future: Future[Any] | None = None) -> None:
        self._future: Future[Any] = future or Future()

    def future(self) -> Future[Any]:
        return self._future


class Handle:
    """Like the handle of an actor. ``deaf``: it does not answer any more."""

    def __init__(self, made: Any) -> None:
        self._made, self.dead, self.deaf = made, False, False
        self._lines = {name: ThreadPoolExecutor(1, f"stand-in-{name}") for name in ("main", "aside")}
        self._under_way: list[Future[Any]] = []

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)

    def call(self, name: str, group: str, arguments: tuple[Any, ...]) -> Answer:
        answer: Future[Any] = Future()
        self._under_way.append(answer)

        def done() -> None:
            taken = [stored if not isinstance(stored, Answer) else stored.future().result() for stored in arguments]
            said = getattr(self._made, name)(*taken)
            if not self.deaf and not answer.done():
                answer.set_result(said)

        if self.dead:
            answer.set_exception(RayError("the actor is dead\nand more"))
        else:
            self._lines[group].submit(done)
        return Answer(answer)

    def die(self) -> None:
        self.dead = True
        for answer in self._under_way:
            with suppress(InvalidStateError):  # it has just answered
                answer.set_exception(RayError("the actor died\nand more"))
        for line in self._lines.values():
            line.shutdown(wait=False, cancel_futures=True)


class StandInRay:
    """Like the module ``ray``. ``cores``: of its cluster; ``handles``: of all actors that were ever made."""

    def __init__(self, cores: int = 2, gpus: int = 0) -> None:
        self.cores, self.gpus = cores, gpus
        self.handles: list[Handle] = []
        self.calls: list[tuple[str, Any]] = []
        self.fails_to_start: Exception | None = None
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.cloudpickle = SimpleNamespace(
            register_pickle_by_value=lambda module: None,
            unregister_pickle_by_value=lambda module: None,
            dumps=pickle.dumps,
        )
        self.util = SimpleNamespace(get_node_ip_address=lambda: "10.0.0.1\n")

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))
        if self.fails_to_start is not None:
            raise self.fails_to_start

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.cores), "GPU": float(self.gpus)}

    def remote(self, **options: Any) -> Any:
        self.calls.append(("remote", options))
        return lambda kind: SimpleNamespace(remote=lambda: self._new(kind))

    def _new(self, kind: Any) -> Handle:
        self.handles.append(Handle(kind()))
        if sum(not handle.dead for handle in self.handles) > max(self.cores, self.gpus):
            self.handles[-1].deaf = True  # there is no place for it
        return self.handles[-1]

    def put(self, value: Any) -> Answer:
        future: Future[Any] = Future()
        future.set_result(value)
        return Answer(future)

    def get(self, answer: Answer) -> Any:
        return answer.future().result(0)

    def wait(self, answers: list[Answer], num_returns: int = 1, timeout: float = 0.0) -> tuple[list[Any], list[Any]]:
        wait_for = [answer.future() for answer in answers]
        when = "ALL_COMPLETED" if num_returns > 1 else "FIRST_COMPLETED"
        wait(wait_for, timeout, return_when=when)
        done = [answer for answer in answers if answer.future().done()]
        return done, [answer for answer in answers if answer not in done]

    def kill(self, handle: Handle) -> None:
        handle.die()


class ThreadProcess:
    """Like the child process, but a thread. ``end`` does what SIGKILL does."""

    def __init__(self, ray: StandInRay) -> None:
        self._ray = ray
        source, self.stdin = _pipe()
        self.stdout, self._sink = _pipe()
        self.stderr, errors = _pipe()
        errors.close()
        self.returncode: int | None = None
        self.pid = -1
        self._over = threading.Event()
        self._server = Server(source, self._sink)
        self._server._close = self._no_more  # the real one would end this process
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._server.serve()
        self.end(0)

    def _no_more(self) -> None:
        self._server._inbox.put(None)

    def end(self, code: int = -9) -> None:
        if self.returncode is None:
            self.returncode = code
            with suppress(OSError):
                self._sink.close()  # first: a killed process says nothing about its actors
            self._no_more()
            for handle in self._ray.handles:  # they end with the process that started them
                handle.die()
            self._over.set()

    def wait(self, timeout: float | None = None) -> int | None:
        self._over.wait(timeout)
        return self.returncode


def _pipe() -> tuple[Any, Any]:
    read, write = os.pipe()
    return os.fdopen(read, "rb"), os.fdopen(write, "wb")


def in_threads(monkeypatch: Any, ray: StandInRay) -> list[ThreadProcess]:
    """Use this ``ray`` in the rest of the test, and a thread as the child process; returns the list of started ones."""
    started: list[ThreadProcess] = []

    def start() -> ThreadProcess:
        started.append(ThreadProcess(ray))
        return started[-1]

    monkeypatch.setitem(__import__("sys").modules, "ray", ray)
    monkeypatch.setattr(link, "_start_child", start)
    monkeypatch.setattr(link, "_kill_group", ThreadProcess.end)
    return started
