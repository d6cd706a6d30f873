"""This process's end of the connection to the child process that uses Ray. No call waits for the child to read."""

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

from .errors import LinkLost
from .messages import Header, Malformed, encode, line, read

_log = logging.getLogger("chords")

# A stub package: the child process needs few modules, and the real package would import torch.
_PROGRAM = """
import sys, types
sys.path[:] = [folder for folder in sys.path if folder]
package = types.ModuleType("chords_core")
package.__path__ = [sys.argv[1]]
sys.modules["chords_core"] = package
from chords_core.execution.ray.child import main
main()
"""
_MAX_DATA = 1 << 20  # bytes of an answer, unless a request allows more
_CLOSING_SECONDS = 2.5  # that `close` waits for the child process to end
_ENDING_SECONDS = 5.0  # for a process that has closed its pipe to end


class RayLink:
    """A child process, and the messages to and from it. Only one thread at a time may use it."""

    def __init__(self) -> None:
        self._process, self._kill_group = _start_child(), _kill_group
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[tuple[Header, bytes]] = queue.SimpleQueue()
        self._heard = time.monotonic()
        self._max_data = _MAX_DATA
        self._lost: str | None = None
        self._closing = self._ended = False
        self._numbers = 0
        for target in (self._write, self._read, self._log_lines):
            threading.Thread(target=target, name="chords-ray", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the child process runs, as far as this process knows."""
        return self._lost is None and not self._closing

    def number(self) -> int:
        """A new number for a request; the answer repeats it."""
        self._numbers += 1
        return self._numbers

    def send(self, header: Header, data: bytes = b"", max_data: int = 0) -> None:
        """Put a message into the queue to the child. ``max_data``: bytes of data that an answer to it may have."""
        self._max_data = max(self._max_data, max_data)
        self._outbox.put(encode(header, data))

    def receive(self, timeout: float, silent: float) -> tuple[Header, bytes] | None:
        """The next message, or None after ``timeout`` seconds.

        Raises:
            LinkLost: if there will be no more messages. If the child gives no sign of life for ``silent`` seconds, it
                is killed.
        """
        try:
            return self._inbox.get(timeout=timeout) if timeout > 0 else self._inbox.get_nowait()
        except queue.Empty:
            pass
        if self._lost is None and time.monotonic() - self._heard > silent:
            self._lose(f"the child process has given no sign of life for {silent:.0f} s")
            self.kill()
        if self._lost is not None and self._inbox.empty():
            raise LinkLost(self._lost)
        return None

    def close(self, seconds: float) -> None:
        """Ask the child to end, and kill it if it takes more than ``seconds``. Waits for `_CLOSING_SECONDS` at most."""
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
        """Kill the child at once, with the processes that it started on this machine."""
        self._closing = True
        self._outbox.put(None)
        if not self._ended:
            self._kill_group(self._process)

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = why
            if not self._closing:
                _log.warning("CHORDS: the connection to Ray is lost: %s", why)

    def _write(self) -> None:
        # The thread that reads sees an OSError too.
        with contextlib.suppress(OSError), _stream(self._process.stdin) as stream:
            while (message := self._outbox.get()) is not None:
                stream.write(message)
                stream.flush()
                del message  # it may be a whole model

    def _read(self) -> None:
        stream, problem = _stream(self._process.stdout), ""
        try:
            while (message := read(stream, self._max_data)) is not None:
                self._heard = time.monotonic()
                self._take(*message)
        except Malformed as error:
            problem = f"the child process sent {error}"
        except OSError as error:
            problem = f"the child process cannot be read: {line(error)}"
        with contextlib.suppress(OSError):
            stream.close()
        if not problem:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDING_SECONDS)
        self._lose(problem or f"the child process has ended ({_exit_reason(self._process.returncode)})")
        self.kill()  # its own child processes may still run
        self._process.wait()
        self._ended = True

    def _take(self, header: Header, data: bytes) -> None:
        if "log" in header:
            _log.error("CHORDS: %s", _printable(header["log"]))
        elif "alive" not in header:
            self._inbox.put((header, data))

    def _log_lines(self) -> None:
        """Log what Ray prints in the child process."""
        with _stream(self._process.stderr) as stream:
            for text in stream:
                if said := line(text.decode(errors="replace")):
                    _log.info("CHORDS: Ray: %s", said)


def _start_child() -> subprocess.Popen[bytes]:
    """The child process, in a session of its own. So a Ctrl-C at this process's terminal does not reach it, and it can
    be killed with all that it started."""
    command = [sys.executable, "-c", _PROGRAM, str(Path(__file__).resolve().parents[2])]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=os.name != "nt")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
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


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            pass
    return f"exit status {code}"


def _printable(text: object) -> str:
    return "".join(letter for letter in str(text) if letter.isprintable() or letter in "\n\t")
