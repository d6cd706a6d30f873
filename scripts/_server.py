"""A ComfyUI server of our own for the demo, the tests and the benchmarks.

    with ComfyServer(host) as server:
        run = server.client().run(workflow)

Standard library only; the client is client.py.
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
from pathlib import Path

from client import ComfyClient

TAIL_LINES = 40
WATCHDOG = """
import os, shutil, signal, subprocess, sys, time
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.stdin.buffer.read()
if os.name == "nt":
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
    """ComfyUI did not start, or stopped; the message carries the end of its log."""


class ComfyServer:
    """A context manager: ComfyUI on a free local port, with folders of its own, always stopped at the end.

    host: the ComfyUI folder. folder: where its output, temp, user and input folders and its log go; by
    default a temporary one, removed at the end. output: another place for the output folder.
    threads: OMP_NUM_THREADS for the server (None leaves it alone). cpu: None uses the CPU where torch sees
    no CUDA. arguments: further ones for main.py. environment: further variables.
    """

    def __init__(
        self,
        host: Path | str,
        *,
        folder: Path | str | None = None,
        output: Path | str | None = None,
        threads: int | None = 1,
        cpu: bool | None = None,
        arguments: tuple[str, ...] | list[str] = (),
        environment: dict[str, str] | None = None,
        time_limit: float = 240.0,
        python: str = sys.executable,
    ):
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
        self._process: subprocess.Popen | None = None
        self._watchdog: subprocess.Popen | None = None
        self._handlers: dict[int, object] = {}
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
        """Where everything the server writes to its terminal goes."""
        return self.folder / "server.log"

    @property
    def output_directory(self) -> Path:
        """Where the nodes that save leave their files."""
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

    def __exit__(self, *_exception) -> None:
        self.stop()

    def start(self) -> ComfyServer:
        """Start the server and wait until it answers."""
        self._make_folders()
        self._catch_signals()
        try:
            for attempt in range(3):  # the free port may be taken by another process before ours binds it
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
        """Create the server's own folders."""
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
            *self.arguments,
        ]

    def _launch(self) -> None:
        """Start the process, in a group of its own, with its output in the log."""
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
        """Return when the server answers; raise with the log's tail if it ends or takes too long."""
        limit = time.monotonic() + self.time_limit
        while time.monotonic() < limit:
            if self._process.poll() is not None:
                self._fail(f"ComfyUI ended with status {self._process.returncode} before it answered")
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
        """End the whole process tree, kindly first."""
        process, self._process = self._process, None
        if process is None:
            return
        for end in (_terminate, _kill):
            end(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
                break
        _kill(process)  # whatever the server itself had started is in the same group
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:  # it would end a process of that number, which may soon be another one
            watchdog.kill()
            watchdog.wait()
            watchdog.stdin.close()

    def _catch_signals(self) -> None:
        """Turn SIGTERM and SIGHUP into a KeyboardInterrupt, as SIGINT is, so that `stop` runs."""
        if threading.current_thread() is not threading.main_thread():
            return

        def leave(number: int, _frame: object) -> None:
            raise KeyboardInterrupt(signal.Signals(number).name)

        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                self._handlers[number] = signal.signal(number, leave)

    def _restore_signals(self) -> None:
        """Put the former signal handlers back."""
        while self._handlers:
            number, handler = self._handlers.popitem()
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, handler)


def _own_group() -> dict:
    """Arguments for Popen that put the child in a process group of its own."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _watch(python: str, process: subprocess.Popen, folder: Path | None) -> subprocess.Popen:
    """A helper process that cleans up if this process dies without doing so (SIGKILL, a crash)."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [python, "-S", "-c", WATCHDOG, str(process.pid), *([str(folder)] if folder else [])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, **quiet, **_own_group())


def _remove(folder: Path) -> None:
    """Remove a folder that a process just ended may still have been writing into."""
    limit = time.monotonic() + 5
    while folder.exists() and time.monotonic() < limit:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            time.sleep(0.05)


def _free_port() -> int:
    """A local TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _has_cuda(python: str) -> bool:
    """Whether that Python's torch sees a CUDA (or ROCm) device."""
    code = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip().endswith("True")


def _terminate(process: subprocess.Popen) -> None:
    """Ask the process group to end."""
    if os.name == "nt":
        process.terminate()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)


def _kill(process: subprocess.Popen) -> None:
    """End the process and its children at once."""
    if os.name == "nt":
        command = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
