"""A ComfyUI server of our own for the demo, the tests and the benchmarks, and a small client for it.

    with ComfyServer(host) as server:
        client = ComfyClient(server.url)
        run = client.run(workflow)            # raises ValidationError or ExecutionError
        pictures = [client.view(image) for image in run.images]

Standard library and websocket-client only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

TAIL_LINES = 40
PREVIEW_IMAGE = 1
PREVIEW_IMAGE_WITH_METADATA = 4
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
FEATURE_FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
OnEvent = Callable[[str, dict], None]


class ServerError(RuntimeError):
    """ComfyUI did not start, or stopped; the message carries the end of its log."""


class ValidationError(RuntimeError):
    """The server refused a workflow. `node_errors` is what it said, `status` the HTTP status."""

    def __init__(self, message: str, node_errors: dict, status: int):
        super().__init__(message)
        self.node_errors = node_errors
        self.status = status


class ExecutionError(RuntimeError):
    """A node failed while the workflow ran. `details` is the server's execution_error message."""

    def __init__(self, message: str, details: dict):
        super().__init__(message)
        self.details = details

    @property
    def traceback(self) -> str:
        """The traceback inside the server."""
        return "".join(self.details.get("traceback") or [])


class Interrupted(RuntimeError):
    """The run was interrupted. `details` is the server's execution_interrupted message."""

    def __init__(self, details: dict):
        super().__init__(f"the run was interrupted at node {details.get('node_id')}")
        self.details = details


# ---------------------------------------------------------------------------------------------- server


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


# ---------------------------------------------------------------------------------------------- client


@dataclass
class Preview:
    """A picture sent while a node was running."""

    data: bytes
    mime: str
    node_id: str | None = None
    metadata: dict = field(default_factory=dict)
    time: float = 0.0


@dataclass
class Run:
    """One finished workflow: its history entry, and what was streamed meanwhile."""

    prompt_id: str
    history: dict
    events: list[tuple[str, dict]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outputs(self) -> dict:
        """Node id -> what the node put into the history."""
        return self.history.get("outputs", {})

    @property
    def images(self) -> list[dict]:
        """Every picture of every node, as /view wants it: filename, subfolder, type."""
        return [image for output in self.outputs.values() for image in output.get("images", [])]

    def of_kind(self, kind: str) -> list[dict]:
        """The data of all streamed events of one type, in order."""
        return [data for name, data in self.events if name == kind]

    def node_seconds(self, node_id: str) -> float | None:
        """Seconds between the start of a node and of whatever came after it, from the socket's events."""
        begun = None
        for (kind, data), when in zip(self.events, self.times, strict=True):
            if kind != "executing":
                continue
            if begun is not None:
                return when - begun
            if data.get("node") == node_id:
                begun = when
        return None


class ComfyClient:
    """Talks to one ComfyUI server over HTTP and its websocket."""

    def __init__(self, url: str, client_id: str | None = None, timeout: float = 60.0):
        self.url = url.rstrip("/")
        self.client_id = client_id or uuid.uuid4().hex
        self.timeout = timeout

    # ---- HTTP

    def get(self, path: str, **query: object) -> bytes:
        """GET a path; the body."""
        return self._request(self._address(path, query))

    def get_json(self, path: str, **query: object):
        """GET a path; the decoded JSON body."""
        return json.loads(self.get(path, **query))

    def post(self, path: str, body: object = None):
        """POST JSON; the decoded body (None if it is empty)."""
        data = json.dumps({} if body is None else body).encode()
        request = urllib.request.Request(self._address(path, {}), data, {"Content-Type": "application/json"})
        answer = self._request(request)
        return json.loads(answer) if answer.strip() else None

    def _address(self, path: str, query: dict) -> str:
        """The full URL of a path with a query."""
        return f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")

    def _request(self, request: urllib.request.Request | str) -> bytes:
        """Do one HTTP exchange."""
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            return answer.read()

    def object_info(self, node: str | None = None) -> dict:
        """What the server says about all node classes, or about one ({} if it has no such class)."""
        return self.get_json(f"/object_info/{node}" if node else "/object_info")

    def queue(self, workflow: dict, extra: dict | None = None) -> str:
        """Submit an API-format workflow; its prompt id. Raises ValidationError if it is refused."""
        body = {"prompt": workflow, "client_id": self.client_id, **(extra or {})}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise _validation_error(error, workflow) from None

    def history(self, prompt_id: str) -> dict | None:
        """The history entry of a finished prompt, else None."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop what is running (only if it is this prompt, where one is given)."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def view(self, image: dict) -> bytes:
        """The bytes of a file that a node reported."""
        query = {key: image[key] for key in ("filename", "subfolder", "type") if key in image}
        return self.get("/view", **query)

    def upload(self, data: bytes, name: str, *, subfolder: str = "", overwrite: bool = True) -> dict:
        """Put a picture into the server's input folder."""
        boundary = uuid.uuid4().hex
        fields = {"type": "input", "subfolder": subfolder, "overwrite": "true" if overwrite else "false"}
        body = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in fields.items()
        )
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        body += f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + data
        body += f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return json.loads(self._request(urllib.request.Request(f"{self.url}/upload/image", body, headers)))

    def free(self) -> None:
        """Ask the server to unload its models and to forget its cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    # ---- running

    def run(
        self,
        workflow: dict,
        *,
        on_event: OnEvent | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        time_limit: float = 300.0,
        extra: dict | None = None,
    ) -> Run:
        """Submit a workflow, follow it over the websocket, and return it when it is done."""
        with self.socket() as stream:
            started = time.monotonic()
            prompt_id = self.queue(workflow, extra)
            run = Run(prompt_id, {})
            self._follow(stream, run, on_event, on_preview, started + time_limit)
            run.seconds = time.monotonic() - started
        run.history = self.wait(prompt_id, time_limit=30.0)
        return run

    def run_polling(self, workflow: dict, *, time_limit: float = 300.0, extra: dict | None = None) -> Run:
        """Submit a workflow and poll /history until it is done: no socket."""
        started = time.monotonic()
        prompt_id = self.queue(workflow, extra)
        history = self.wait(prompt_id, time_limit=time_limit)
        return Run(prompt_id, history, seconds=time.monotonic() - started)

    def wait(self, prompt_id: str, *, time_limit: float = 300.0) -> dict:
        """Poll /history until the prompt is in it; raise if it failed or was interrupted."""
        limit = time.monotonic() + time_limit
        while True:
            entry = self.history(prompt_id)
            if entry is not None:
                _raise_if_failed(entry)
                return entry
            if time.monotonic() > limit:
                raise TimeoutError(f"prompt {prompt_id} was not finished within {time_limit:.0f} s")
            time.sleep(0.05)

    @contextlib.contextmanager
    def socket(self) -> Iterator[EventStream]:
        """The server's event stream for this client; it is open, and heard, when this returns."""
        import websocket

        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        connection = websocket.create_connection(address, timeout=self.timeout)
        try:
            connection.send(json.dumps(FEATURE_FLAGS))
            yield EventStream(connection)
        finally:
            _close(connection)

    def _follow(self, stream: EventStream, run: Run, on_event, on_preview, limit: float) -> None:
        """Collect events until this prompt is done; raise if it fails."""
        while True:
            item = stream.receive(limit - time.monotonic())
            if item is None:
                raise TimeoutError(f"prompt {run.prompt_id} was not finished in time")
            if isinstance(item, Preview):
                run.previews.append(item)
                if on_preview is not None:
                    on_preview(item)
                continue
            kind, data = item
            if data.get("prompt_id") not in (None, run.prompt_id):
                continue
            run.events.append(item)
            run.times.append(time.monotonic())
            if on_event is not None:
                on_event(kind, data)
            if kind == "execution_error":
                raise _execution_error(data)
            if kind == "execution_interrupted":
                raise Interrupted(data)
            if kind == "executing" and data.get("node") is None and data.get("prompt_id") == run.prompt_id:
                return


class EventStream:
    """Decoded messages of the server's websocket: ("type", data) pairs and Previews."""

    def __init__(self, connection):
        self._connection = connection

    def receive(self, time_limit: float) -> tuple[str, dict] | Preview | None:
        """The next message, or None if none came in time."""
        import websocket

        limit = time.monotonic() + time_limit
        while (left := limit - time.monotonic()) > 0:
            self._connection.settimeout(left)
            try:
                message = self._connection.recv()
            except websocket.WebSocketTimeoutException:
                return None
            except (websocket.WebSocketException, OSError) as error:
                raise ServerError(f"the server closed the connection: {error}") from error
            if not message:
                raise ServerError("the server closed the connection")
            item = decode(message)
            if item is not None:
                return item
        return None


def _close(connection) -> None:
    """Close a websocket and wait for the server's answer, after which its client id may be used again.

    The library's own close() does that too, but takes a KeyboardInterrupt that comes meanwhile for an error.
    """
    import websocket

    try:
        connection.settimeout(3)
        connection.send_close()
        while connection.recv_frame().opcode != websocket.ABNF.OPCODE_CLOSE:
            pass
    except (websocket.WebSocketException, OSError):
        pass  # the server is gone, or slow
    finally:
        connection.shutdown()


def decode(message: str | bytes) -> tuple[str, dict] | Preview | None:
    """Decode one websocket message; None for kinds of no use here."""
    if isinstance(message, str):
        value = json.loads(message)
        return value.get("type", ""), value.get("data") or {}
    (event,) = struct.unpack_from(">I", message)
    if event == PREVIEW_IMAGE:
        (kind,) = struct.unpack_from(">I", message, 4)
        return Preview(message[8:], "image/png" if kind == 2 else "image/jpeg", time=time.monotonic())
    if event == PREVIEW_IMAGE_WITH_METADATA:
        (length,) = struct.unpack_from(">I", message, 4)
        metadata = json.loads(message[8 : 8 + length])
        mime = metadata.get("image_type", "image/jpeg")
        return Preview(message[8 + length :], mime, metadata.get("node_id"), metadata, time.monotonic())
    return None


def _validation_error(error: urllib.error.HTTPError, workflow: dict) -> Exception:
    """A readable exception from the server's refusal."""
    raw = error.read().decode(errors="replace")
    try:
        answer = json.loads(raw)
    except ValueError:
        text = f"the server refused the workflow (HTTP {error.code}): {raw[:500]}"
        return ValidationError(text, {}, error.code)
    main = answer.get("error") or {}
    if isinstance(main, str):
        main = {"message": main}
    node_errors = answer.get("node_errors") or {}
    lines = [_sentence(main.get("message"), main.get("details"))]
    for node_id, node in node_errors.items():
        name = node.get("class_type") or workflow.get(node_id, {}).get("class_type", "?")
        lines += [
            f"  node {node_id} ({name}): {_sentence(item.get('message'), item.get('details'))}"
            for item in node.get("errors", [])
        ]
    text = "the server refused the workflow: " + "\n".join(lines)
    return ValidationError(text, node_errors, error.code)


def _sentence(message: str | None, details: str | None) -> str:
    """Message and details in one line."""
    return ": ".join(part for part in (message, details) if part) or "no reason given"


def _execution_error(data: dict) -> ExecutionError:
    """A readable exception from an execution_error message."""
    where = f"node {data.get('node_id')} ({data.get('node_type')})"
    what = f"{data.get('exception_type')}: {str(data.get('exception_message', '')).strip()}"
    return ExecutionError(f"{where} failed: {what}", data)


def _raise_if_failed(entry: dict) -> None:
    """Raise what a history entry reports as the reason of a failed run."""
    status = entry.get("status") or {}
    for kind, data in status.get("messages", []):
        if kind == "execution_error":
            raise _execution_error(data)
        if kind == "execution_interrupted":
            raise Interrupted(data)
    if status.get("status_str") == "error":
        raise ExecutionError("the run failed; the server gave no reason", {})
