"""A ComfyUI server for the demo, the tests and the benchmarks, with folders of its own.

    with ComfyServer(host) as server:
        run = server.client().run(workflow)

Standard library only, apart from the client.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from client import ComfyClient

TAIL_LINES = 40
_WATCHDOG_SOURCE = """
import os, shutil, signal, subprocess, sys, time
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.stdin.buffer.read()
if sys.platform == "win32":
    subprocess.call(["taskkill", "/F", "/T", "/PID", sys.argv[1]])
else:
    try:
        os.killpg(int(sys.argv[1]), signal.SIGKILL)
    except ProcessLookupError:
        pass
for _ in range(50):
    if len(sys.argv) < 3 or not os.path.exists(sys.argv[2]):
        break
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    time.sleep(0.1)
"""


class ServerError(RuntimeError):
    """ComfyUI did not start, or it stopped. The message has the end of its log."""


class ComfyServer:
    """A context manager: ComfyUI on a free local port. It is always stopped at the end.

    Args:
        host: the ComfyUI folder.
        folder: the folder for its output, temp, user and input folders and its log. By default a temporary folder,
            which is removed at the end.
        output: another output folder.
        threads: OMP_NUM_THREADS for the server; None does not set it.
        cpu: whether it computes on the CPU; None: where torch finds no CUDA device.
        arguments: further arguments for main.py.
        environment: further environment variables.
        time_limit: the seconds in which it must answer. The first start compiles all modules that it imports.
        python: the interpreter that runs it.
    """

    base: ClassVar[Path | None] = None
    """The folder with the custom_nodes and models of all servers, in place of the host's own. For tests."""

    def __init__(
        self,
        host: Path | str,
        *,
        folder: Path | str | None = None,
        output: Path | str | None = None,
        threads: int | None = 1,
        cpu: bool | None = None,
        arguments: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        time_limit: float = 600.0,
        python: str = sys.executable,
    ) -> None:
        self.host = Path(host)
        self.python = python
        self.arguments = tuple(arguments)
        self.cpu = cpu
        self.threads = threads
        self.environment = dict(environment or {})
        self.time_limit = time_limit
        self._keep = folder is not None
        self._folder = Path(folder) if folder is not None else None
        self._output = Path(output) if output is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._handlers: dict[int, Any] = {}
        self.port = 0

    @property
    def url(self) -> str:
        """http://127.0.0.1:<port>"""
        return f"http://127.0.0.1:{self.port}"

    @property
    def folder(self) -> Path:
        """The folder that holds this server's own folders and its log."""
        if self._folder is None:
            raise ServerError("the server has not been started")
        return self._folder

    @property
    def log_path(self) -> Path:
        """The file with everything that the server prints."""
        return self.folder / "server.log"

    @property
    def output_directory(self) -> Path:
        """The folder where nodes save their files."""
        return self._output or self.folder / "output"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None else None

    def log(self) -> str:
        """The log so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    def client(self) -> ComfyClient:
        """A new client of this server."""
        return ComfyClient(self.url)

    def __enter__(self) -> ComfyServer:
        return self.start()

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def start(self) -> ComfyServer:
        """Start the server and wait until it answers."""
        self._make_folders()
        self._catch_signals()
        try:
            for attempt in range(3):  # another process may take the free port before ours does
                self.port = _free_port()
                self._launch()
                try:
                    self._wait()
                    return self
                except ServerError:
                    self._kill()
                    if attempt == 2 or "address already in use" not in self.log().lower():
                        raise
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server with all its child processes, and clean up. Safe to call again."""
        self._kill()
        self._restore_signals()
        if not self._keep and self._folder is not None:
            _remove(self._folder)

    def _make_folders(self) -> None:
        """Make the folders of the server."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="chords-server-"))
        self._folder = self._folder.resolve()
        for name in ("temp-root", "user", "input"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        self._output = (self._output or self._folder / "output").resolve()
        self._output.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """The command line that starts ComfyUI."""
        folder = self.folder
        cpu = not _has_cuda(self.python) if self.cpu is None else self.cpu
        return [
            self.python,
            "-u",
            str(self.host / "main.py"),
            *(["--cpu"] if cpu else []),
            *("--listen", "127.0.0.1", "--port", str(self.port)),
            *("--disable-auto-launch", "--disable-api-nodes"),
            *("--output-directory", str(self.output_directory)),
            *("--temp-directory", str(folder / "temp-root")),
            *("--user-directory", str(folder / "user")),
            *("--input-directory", str(folder / "input")),
            *("--database-url", f"sqlite:///{(folder / 'comfyui.db').as_posix()}"),
            *(["--base-directory", str(self.base)] if self.base else []),
            *self.arguments,
        ]

    def _launch(self) -> None:
        """Start the process in a process group of its own, with its output in the log."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        environment.update(self.environment)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.host,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **_own_group(),
            )
        self._watchdog = _watch(self.python, self._process, None if self._keep else self.folder)

    def _wait(self) -> None:
        """Return when the server answers; raise ServerError if it ends or takes too long."""
        process = self._process
        assert process is not None
        limit = time.monotonic() + self.time_limit
        while time.monotonic() < limit:
            if process.poll() is not None:
                self._fail(f"ComfyUI ended with status {process.returncode} before it answered")
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"{self.url}/system_stats", timeout=5) as answer:
                    if answer.status == 200:
                        return
            time.sleep(0.1)
        self._fail(f"ComfyUI did not answer within {self.time_limit:.0f} s")

    def _fail(self, message: str) -> None:
        """Raise a ServerError that shows the end of the log."""
        lines = self.log().splitlines()[-TAIL_LINES:]
        raise ServerError("\n".join([f"{message}. The end of its log:", *lines]))

    def _kill(self) -> None:
        """End the whole process tree: first with SIGTERM, then with SIGKILL."""
        process, self._process = self._process, None
        if process is None:
            return
        for end in (_terminate, _kill):
            end(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
                break
        _kill(process)  # processes that the server started are in the same group
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:  # it would end the process with this number, which may soon be another process
            watchdog.kill()
            watchdog.wait()
            if watchdog.stdin is not None:
                watchdog.stdin.close()

    def _catch_signals(self) -> None:
        """Raise KeyboardInterrupt for SIGTERM and SIGHUP, as for SIGINT, so that `stop` runs."""
        if threading.current_thread() is not threading.main_thread():
            return

        def leave(number: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt(signal.Signals(number).name)

        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                self._handlers[number] = signal.signal(number, leave)

    def _restore_signals(self) -> None:
        """Restore the former signal handlers."""
        while self._handlers:
            number, handler = self._handlers.popitem()
            with contextlib.suppress(ValueError):  # outside the main thread
                signal.signal(number, handler)


def _own_group() -> dict[str, Any]:
    """Arguments for Popen that put the child in a process group of its own."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _watch(python: str, process: subprocess.Popen[bytes], folder: Path | None) -> subprocess.Popen[bytes]:
    """A process that ends the server and removes its folder if this process dies without doing so (SIGKILL, a
    crash)."""
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [python, "-S", "-c", _WATCHDOG_SOURCE, str(process.pid), *([str(folder)] if folder else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, **quiet, **_own_group())


def _remove(folder: Path) -> None:
    """Remove a folder. A process that has just ended may still have written into it."""
    limit = time.monotonic() + 5
    while folder.exists() and time.monotonic() < limit:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            time.sleep(0.05)


def _free_port() -> int:
    """A local TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _has_cuda(python: str) -> bool:
    """Whether the torch of this interpreter finds a CUDA (or ROCm) device."""
    code = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip().endswith("True")


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the process group."""
    if sys.platform == "win32":
        process.terminate()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children at once."""
    if sys.platform == "win32":
        command = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
