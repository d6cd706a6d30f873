"""This process's end of the connection to the child that speaks with Ray. Nothing here waits for the child to read."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from .messages import Header, Malformed, encode, line, read

_log = logging.getLogger("chords")

# The package itself stays out of the child, which needs few of its modules, and no torch.
_PROGRAM = """
import sys, types
sys.path[:] = [folder for folder in sys.path if folder]
package = types.ModuleType("chords_core")
package.__path__ = [sys.argv[1]]
sys.modules["chords_core"] = package
from chords_core.execution.ray.child import main
main()
"""
_MOST_DATA = 1 << 20  # bytes of an answer, unless more are asked for
_CLOSING_SECONDS = 2.5  # that a caller waits for the child to end
_ENDING_SECONDS = 5.0  # for a process that closed its pipe to end


class LinkLost(Exception):
    """The child has ended, or says nothing any more."""


class RayLink:
    """A child process, and the messages to and from it. One thread at a time may use it."""

    def __init__(self) -> None:
        self._process, self._end_whole = _started(), _end_whole
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[tuple[Header, bytes]] = queue.SimpleQueue()
        self._heard = time.monotonic()
        self._most_data = _MOST_DATA
        self._lost: str | None = None
        self._closing = self._ended = False
        self._numbers = 0
        for target in (self._write, self._read, self._log_lines):
            threading.Thread(target=target, name="chords-ray", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the child is there, as far as is known."""
        return self._lost is None and not self._closing

    def number(self) -> int:
        """A number for a request, which its answer repeats."""
        self._numbers += 1
        return self._numbers

    def send(self, header: Header, data: bytes = b"", most_data: int = 0) -> None:
        """Send a message, some time. ``most_data``: bytes of data in an answer to it."""
        self._most_data = max(self._most_data, most_data)
        self._outbox.put(encode(header, data))

    def receive(self, timeout: float, silent: float) -> tuple[Header, bytes] | None:
        """The next message, or None after ``timeout`` seconds.

        Raises:
            LinkLost: once there will be none; also if the child gives no sign of life for ``silent`` seconds, which
                ends it.
        """
        try:
            return self._inbox.get(timeout=timeout) if timeout > 0 else self._inbox.get_nowait()
        except queue.Empty:
            pass
        if self._lost is None and time.monotonic() - self._heard > silent:
            self._lose(f"its process has given no sign of life for {silent:.0f} s")
            self.kill()
        if self._lost is not None and self._inbox.empty():
            raise LinkLost(self._lost)
        return None

    def close(self, seconds: float) -> None:
        """Let the child end, and end it if it takes more than so many seconds. Does not wait for all of them."""
        self._closing = True
        self._outbox.put(None)
        thread = threading.Thread(target=self._end, args=(seconds,), name="chords-ray", daemon=True)
        thread.start()
        thread.join(_CLOSING_SECONDS)

    def _end(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """End the child at once, and with it what it started on this machine."""
        self._closing = True
        self._outbox.put(None)
        if not self._ended:
            self._end_whole(self._process)

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = why
            if not self._closing:
                _log.warning("CHORDS: the connection to Ray is lost: %s", why)

    def _write(self) -> None:
        with contextlib.suppress(OSError), _stream(self._process.stdin) as stream:  # the reading thread sees an error
            while (message := self._outbox.get()) is not None:
                stream.write(message)
                stream.flush()
                del message  # may be a whole model

    def _read(self) -> None:
        stream, problem = _stream(self._process.stdout), ""
        try:
            while (message := read(stream, self._most_data)) is not None:
                self._heard = time.monotonic()
                self._take(*message)
        except Malformed as error:
            problem = f"its process sent {error}"
        except OSError as error:
            problem = f"its process cannot be heard: {line(error)}"
        with contextlib.suppress(OSError):
            stream.close()
        try:
            self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        self._lose(problem or f"its process has ended ({_how(self._process.returncode)})")
        self.kill()  # with what it may have left behind
        self._process.wait()
        self._ended = True

    def _take(self, header: Header, data: bytes) -> None:
        if "log" in header:
            _log.error("CHORDS: %s", _printable(header["log"]))
        elif "alive" not in header:
            self._inbox.put((header, data))

    def _log_lines(self) -> None:
        """What Ray prints in the child."""
        with _stream(self._process.stderr) as stream:
            for text in stream:
                if said := line(text.decode(errors="replace")):
                    _log.info("CHORDS: Ray: %s", said)


def _started() -> subprocess.Popen[bytes]:
    """The child, in a session of its own: what is typed at this process's terminal does not reach it, and it can be
    ended whole."""
    command = [sys.executable, "-c", _PROGRAM, str(Path(__file__).resolve().parents[2])]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=os.name != "nt")


def _end_whole(process: subprocess.Popen[bytes]) -> None:
    if os.name == "nt":
        process.kill()
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _stream(pipe: object) -> BinaryIO:
    assert pipe is not None
    return pipe  # type: ignore[return-value]


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit status {code}"


def _printable(text: object) -> str:
    return "".join(letter for letter in str(text) if letter.isprintable() or letter in "\n\t")
