"""The program of the child process that speaks with Ray, so that this process need not.

Ray ends or aborts a process that loses its cluster, and unpickles what a cluster answers. Both may happen to the child.
It is started by `link`, reads messages from its standard input, and writes messages to its standard output. It
ends with its parent, and the Ray that it started ends with it.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from . import workers
from .address import LOCAL, check_reachable
from .messages import Header, encode, line, read
from .timeouts import RayTimeouts
from .workers import Actors, Crew, NoWorker, WorkerRefused

_ALIVE_EVERY = 1.0  # seconds between two signs of life
_REACH_SECONDS = 5.0  # for an address to accept a connection, and again to answer

Message = tuple[Header, bytes]


class Closed(Exception):
    """The parent has closed the connection, or is gone."""


class Withdrawn(Exception):
    """The parent does not ask for it any more."""


class Driver:
    """Does what the parent asks for, one request after another. Evaluations run beside each other."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._writing = threading.Lock()
        self._said = 0.0
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._actors: Actors | None = None
        self._crew: tuple[int, Crew] | None = None
        self._timeouts, self._address = RayTimeouts(), LOCAL
        self._requests: dict[str, Callable[[Header, bytes], Header]] = {
            "connect": self._connect,
            "lanes": self._lanes,
            "open": self._open,
        }
        self._orders: dict[str, Callable[[Crew, Header, bytes], None]] = {
            "call": self._call,
            "stop": self._stop,
            "leave": self._leave,
            "kill": self._kill,
            "end": self._end,
        }

    def serve(self) -> None:
        """Until the parent closes the connection."""
        for target in (self._read, self._watch_parent):
            threading.Thread(target=target, daemon=True).start()
        try:
            while True:
                header, data = self._next(_ALIVE_EVERY) or ({}, b"")
                if header.get("op") in self._orders:
                    self._follow(header, data)
                elif header.get("op") in self._requests:
                    self._answer(header, data)
        except Closed:
            pass

    def _follow(self, header: Header, data: bytes) -> None:
        """An order about a run, unless that is over."""
        if self._crew is None or self._crew[0] != header["run"]:
            return
        try:
            self._orders[header["op"]](self._crew[1], header, data)
        except Exception as error:
            if "id" in header:
                self._send({"re": header["id"], "lost": line(error)})

    def _answer(self, header: Header, data: bytes) -> None:
        try:
            said = self._requests[header["op"]](header, data)
        except Withdrawn:
            return
        except (NoWorker, WorkerRefused) as error:
            said = {"failed": str(error), "kind": type(error).__name__}
        except Closed:
            raise
        except Exception as error:
            said = {"failed": line(error) or type(error).__name__, "kind": "Exception"}
        self._send({"re": header["id"], **said})

    def _connect(self, header: Header, data: bytes) -> Header:
        self._timeouts = RayTimeouts(**header["timeouts"])
        self._address = address = str(header["address"])
        if address != LOCAL:
            check_reachable(address, _REACH_SECONDS)
        sys.path += [
            folder for folder in header["path"] if folder not in sys.path
        ]  # Ray is found as the parent finds it
        workers.connect(address, address == LOCAL, header["cores"], header["local_gpus"])
        self._actors = Actors(data, header["count"], address, self._timeouts, self._tell)
        return {}

    def _lanes(self, header: Header, data: bytes) -> Header:
        assert self._actors is not None
        if self._address != LOCAL:
            check_reachable(self._address, _REACH_SECONDS)  # for Ray waits a minute for one that is gone
        return {"lanes": self._actors.lanes()}

    def _open(self, header: Header, data: bytes) -> Header:
        assert self._actors is not None
        asked: list[int] = []
        model: list[bytes] = []

        def poll() -> None:
            while (message := self._next(0.0)) is not None:
                about, more = message
                if about.get("id") == header["id"]:
                    if about["op"] == "model":
                        model.append(more)
                    elif about["op"] == "withdraw":
                        raise Withdrawn

        def ask_for_model(names: list[str]) -> bytes | None:
            if not asked:
                asked.append(1)
                self._send({"wants": header["id"], "names": names})
            return model.pop() if model else None

        self._crew = None
        crew = self._actors.open(header["count"], header["key"], data, ask_for_model, poll)
        self._crew = header["id"], crew
        return {"names": crew.names, "left_out": crew.left_out}

    def _call(self, crew: Crew, header: Header, data: bytes) -> None:
        self._pass_on(header["id"], crew.call(header["lane"], data))

    def _stop(self, crew: Crew, header: Header, data: bytes) -> None:
        self._pass_on(header["id"], crew.stop(header["lane"]))

    def _leave(self, crew: Crew, header: Header, data: bytes) -> None:
        crew.leave_at_work(header["lane"], header["seconds"])

    def _kill(self, crew: Crew, header: Header, data: bytes) -> None:
        assert self._actors is not None
        self._actors.end(crew.drop(header["lane"]))

    def _end(self, crew: Crew, header: Header, data: bytes) -> None:
        self._crew = None
        crew.end()

    def _pass_on(self, number: int, answer: Any) -> None:
        """Send the answer to this request on as soon as it is there, unread."""

        def there(_: object) -> None:
            said, problem = workers.read(answer)
            self._send({"re": number, **({} if problem is None else {"lost": problem})}, said)

        answer.future().add_done_callback(there)

    def _tell(self, text: str) -> None:
        self._send({"log": text})

    def _next(self, timeout: float) -> Message | None:
        """The next message, or None; with a sign of life now and then.

        Raises:
            Closed: if there will be no more.
        """
        if time.monotonic() - self._said > _ALIVE_EVERY / 2:
            self._send({"alive": True})
        try:
            message = self._inbox.get(timeout=timeout) if timeout else self._inbox.get_nowait()
        except queue.Empty:
            return None
        if message is None:
            raise Closed
        return message

    def _send(self, header: Header, data: bytes = b"") -> None:
        with self._writing:
            self._said = time.monotonic()
            try:
                self._sink.write(encode(header, data))
                self._sink.flush()
            except (OSError, ValueError):
                pass  # the parent is gone, which the reading thread sees

    def _read(self) -> None:
        try:
            while (message := read(self._source)) is not None:
                self._inbox.put(message)
        finally:
            self._close()

    def _watch_parent(self) -> None:
        """A process that the parent started may hold its end of the pipe open."""
        if os.name == "nt":
            return
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(_ALIVE_EVERY)
        self._close()

    def _close(self) -> None:
        self._inbox.put(None)
        time.sleep(self._timeouts.end)
        if os.name != "nt" and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # what Ray is at does not end; the processes that it started are in this group
        os._exit(1)


def main() -> None:
    """Serve the parent, and end the connection to Ray after that."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # the processes that Ray starts inherit these
    os.dup2(2, 1)
    Driver(source, sink).serve()
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    os._exit(0)  # without waiting for anybody's threads
