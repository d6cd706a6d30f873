"""The program of the child process that uses Ray, so that its parent does not have to.

Ray ends or aborts a process that loses its cluster, and unpickles what a cluster answers. Both may happen to the child
process. `link` starts it. It reads messages from its standard input and writes messages to its standard output. It ends
with its parent, and the Ray that it started ends with it.
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

from ...errors import WorkersUnavailable
from . import cluster
from .actors import Actors
from .address import LOCAL, check_reachable
from .errors import failure_kind
from .messages import Header, encode, line, read
from .timeouts import RayTimeouts
from .worker_set import WorkerSet

_ALIVE_SECONDS = 1.0  # between two signs of life
_REACH_SECONDS = 5.0  # for an address to accept a connection, and again to answer

Message = tuple[Header, bytes]


class Closed(Exception):
    """The parent process has closed the connection, or has ended."""


class Withdrawn(Exception):
    """The parent process has withdrawn its request."""


class Server:
    """Does what the parent process asks for, one request after another. Evaluations run side by side."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._writing = threading.Lock()
        self._sent = 0.0  # when the last message was sent
        self._inbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._actors: Actors | None = None
        self._run: tuple[int, WorkerSet] | None = None  # its number, and its actors
        self._timeouts, self._address = RayTimeouts(), LOCAL
        self._requests: dict[str, Callable[[Header, bytes], Header]] = {
            "connect": self._connect,
            "lanes": self._lanes,
            "open": self._open,
        }
        self._orders: dict[str, Callable[[WorkerSet, Header, bytes], None]] = {
            "call": self._call,
            "stop": self._stop,
            "leave": self._leave,
            "kill": self._kill,
            "end": self._end,
        }

    def serve(self) -> None:
        """Serve until the parent process closes the connection."""
        for target in (self._read, self._watch_parent):
            threading.Thread(target=target, daemon=True).start()
        try:
            while True:
                header, data = self._next(_ALIVE_SECONDS) or ({}, b"")
                if header.get("op") in self._orders:
                    self._follow(header, data)
                elif header.get("op") in self._requests:
                    self._answer(header, data)
        except Closed:
            pass

    def _follow(self, header: Header, data: bytes) -> None:
        """Follow an order about a run, unless the run is over."""
        if self._run is None or self._run[0] != header["run"]:
            return
        try:
            self._orders[header["op"]](self._run[1], header, data)
        except Exception as error:
            if "id" in header:
                self._send({"reply_to": header["id"], "lost": line(error)})

    def _answer(self, header: Header, data: bytes) -> None:
        try:
            answer = self._requests[header["op"]](header, data)
        except Withdrawn:
            return
        except Closed:
            raise
        except Exception as error:
            # The text of an error of our own is whole and safe; Ray's may have many lines.
            why = str(error) if isinstance(error, WorkersUnavailable) else line(error) or type(error).__name__
            answer = {"failed": why, "kind": failure_kind(error)}
        self._send({"reply_to": header["id"], **answer})

    # Requests

    def _connect(self, header: Header, data: bytes) -> Header:
        self._timeouts = RayTimeouts(**header["timeouts"])
        self._address = address = str(header["address"])
        if address != LOCAL:
            check_reachable(address, _REACH_SECONDS)
        # The child process finds Ray where its parent finds it.
        sys.path += [folder for folder in header["path"] if folder not in sys.path]
        cluster.connect(address, address == LOCAL, header["cores"], header["local_gpus"])
        self._actors = Actors(data, header["count"], address, self._timeouts, self._log)
        return {}

    def _lanes(self, header: Header, data: bytes) -> Header:
        assert self._actors is not None
        if self._address != LOCAL:
            check_reachable(self._address, _REACH_SECONDS)  # Ray waits a minute for a cluster that has ended
        return {"lanes": self._actors.lanes()}

    def _open(self, header: Header, data: bytes) -> Header:
        assert self._actors is not None
        asked = False
        received: list[bytes] = []

        def poll() -> None:
            while (message := self._next(0.0)) is not None:
                about, more = message
                if about.get("id") == header["id"]:
                    if about["op"] == "model":
                        received.append(more)
                    elif about["op"] == "withdraw":
                        raise Withdrawn

        def model(names: list[str]) -> bytes | None:
            nonlocal asked
            if not asked:
                asked = True
                self._send({"needs_model": header["id"], "names": names})
            return received.pop() if received else None

        self._run = None
        worker_set = self._actors.open(header["count"], header["key"], data, model, poll)
        self._run = header["id"], worker_set
        return {"names": worker_set.names, "left_out": worker_set.left_out}

    # Orders about a run

    def _call(self, worker_set: WorkerSet, header: Header, data: bytes) -> None:
        self._forward(header["id"], worker_set.call(header["lane"], data))

    def _stop(self, worker_set: WorkerSet, header: Header, data: bytes) -> None:
        self._forward(header["id"], worker_set.stop(header["lane"]))

    def _leave(self, worker_set: WorkerSet, header: Header, data: bytes) -> None:
        worker_set.leave_at_work(header["lane"], header["seconds"])

    def _kill(self, worker_set: WorkerSet, header: Header, data: bytes) -> None:
        assert self._actors is not None
        self._actors.end(worker_set.drop(header["lane"]))

    def _end(self, worker_set: WorkerSet, header: Header, data: bytes) -> None:
        self._run = None
        worker_set.end()

    def _forward(self, number: int, answer: Any) -> None:
        """Send an actor's answer to this request when it comes, without reading it."""

        def send(_: object) -> None:
            message, problem = cluster.read(answer)
            self._send({"reply_to": number, **({} if problem is None else {"lost": problem})}, message)

        answer.future().add_done_callback(send)

    # The connection to the parent process

    def _log(self, text: str) -> None:
        self._send({"log": text})

    def _next(self, timeout: float) -> Message | None:
        """The next message, or None after ``timeout`` seconds. Also sends a sign of life from time to time.

        Raises:
            Closed: if there will be no more messages.
        """
        if time.monotonic() - self._sent > _ALIVE_SECONDS / 2:
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
            self._sent = time.monotonic()
            try:
                self._sink.write(encode(header, data))
                self._sink.flush()
            except (OSError, ValueError):
                pass  # the parent has ended; the thread that reads sees it

    def _read(self) -> None:
        try:
            while (message := read(self._source)) is not None:
                self._inbox.put(message)
        finally:
            self._close()

    def _watch_parent(self) -> None:
        """Close if the parent process ends. Its end of the pipe may stay open in another process that it started."""
        if os.name == "nt":
            return
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(_ALIVE_SECONDS)
        self._close()

    def _close(self) -> None:
        self._inbox.put(None)
        time.sleep(self._timeouts.end)
        if os.name != "nt" and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # Ray has not ended in time; this group has all processes that it started
        os._exit(1)


def main() -> None:
    """Serve the parent process, and then close the connection to Ray."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # the processes that Ray starts inherit these
    os.dup2(2, 1)
    Server(source, sink).serve()
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    os._exit(0)  # without waiting for any thread
