"""A client for ComfyUI with CHORDS: submits a workflow, follows it, saves what comes, accepts early, cancels.

    python client.py workflow_api.json --set KSampler.seed=42 --save pictures --accept-after 10

This one file is all there is to it: copy it where you need it. It needs Python 3.10 and nothing else; where the
package websocket-client is installed it follows the server's event stream, else it polls. In a program of your own:

    from client import ComfyClient

    client = ComfyClient("http://127.0.0.1:8188")
    run = client.run(workflow, on_event=print)   # raises a ClientError if the run does not end well
    pictures = [client.view(image) for image in run.images]
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import contextlib
import http.client
import json
import math
import re
import shutil
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

DEFAULT_SERVER = "http://127.0.0.1:8188"
PREVIEW_IMAGE = 1
PREVIEW_IMAGE_WITH_METADATA = 4
FEATURE_FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
TICK = 0.2  # seconds between two looks, at the clock or at the server
SILENCE = 5.0  # seconds without a word about the prompt after which the server is asked whether it still has it
PATIENCE = 10.0  # seconds that a server which answered before may fail to
BAR_WIDTH = 24
OnEvent = Callable[[str, dict], None]
OnPreview = Callable[["Preview"], None]


class ClientError(RuntimeError):
    """Why a run did not end well; `outcome` and `exit_code` are what the command line makes of it."""

    outcome = "error"
    exit_code = 1


class ExecutionError(ClientError):
    """A node failed while the workflow ran. `details` is the server's execution_error message."""

    def __init__(self, message: str, details: dict):
        super().__init__(message)
        self.details = details

    @property
    def traceback(self) -> str:
        """The traceback inside the server."""
        return "".join(self.details.get("traceback") or [])


class UsageError(ClientError):
    """Something the caller gave is not as it must be."""

    outcome = "invalid"
    exit_code = 2


class ValidationError(ClientError):
    """The server refused a workflow. `node_errors` is what it said, `status` the HTTP status."""

    outcome = "invalid"
    exit_code = 2

    def __init__(self, message: str, node_errors: dict, status: int):
        super().__init__(message)
        self.node_errors = node_errors
        self.status = status


class ConnectionLost(ClientError):
    """The server does not answer, or not as ComfyUI does."""

    outcome = "unreachable"
    exit_code = 3


class Timeout(ClientError, TimeoutError):
    """The run took longer than allowed."""

    outcome = "timeout"
    exit_code = 4


class Interrupted(ClientError):
    """The run was interrupted, or taken from the queue. `details` is the server's message about it."""

    outcome = "interrupted"
    exit_code = 5

    def __init__(self, message: str, details: dict):
        super().__init__(message)
        self.details = details


class Cancelled(ClientError):
    """The user stopped waiting."""

    outcome = "cancelled"
    exit_code = 130


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
    """One workflow on the server: its history entry once it is done, and what was streamed meanwhile."""

    prompt_id: str
    history: dict = field(default_factory=dict)
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


# ---------------------------------------------------------------------------------------- the server


class ComfyClient:
    """Talks to one ComfyUI server over HTTP and its websocket."""

    def __init__(self, url: str = DEFAULT_SERVER, client_id: str | None = None, timeout: float = 60.0):
        self.url = url.rstrip("/")
        self.client_id = client_id or uuid.uuid4().hex
        self.timeout = timeout

    # ---- HTTP

    def get(self, path: str, **query: object) -> bytes:
        """GET a path; the body."""
        return self._request(self._address(path, query))

    def get_json(self, path: str, **query: object):
        """GET a path; the decoded JSON body."""
        return self._decoded(self.get(path, **query))

    def post(self, path: str, body: object = None):
        """POST JSON; the decoded body (None if it is empty)."""
        data = json.dumps({} if body is None else body).encode()
        request = urllib.request.Request(self._address(path, {}), data, {"Content-Type": "application/json"})
        answer = self._request(request)
        return self._decoded(answer) if answer.strip() else None

    def _address(self, path: str, query: dict) -> str:
        """The full URL of a path with a query."""
        return f"{self.url}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")

    def _request(self, request: urllib.request.Request | str) -> bytes:
        """Do one HTTP exchange. An answer that says no is an HTTPError, no answer is a ConnectionLost."""
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise ConnectionLost(f"no answer from {self.url}: {reason}") from error

    def _decoded(self, answer: bytes):
        """A JSON body."""
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ConnectionLost(f"{self.url} does not answer as ComfyUI does: {answer[:80]!r}") from error

    def object_info(self, node: str | None = None) -> dict:
        """What the server says about all node classes, or about one ({} if it has no such class)."""
        return self.get_json(f"/object_info/{urllib.parse.quote(node, safe='')}" if node else "/object_info")

    def submit(self, workflow: dict, extra: dict | None = None) -> dict:
        """Submit an API-format workflow; the server's answer. Raises ValidationError if it is refused."""
        body = {"prompt": workflow, "client_id": self.client_id, **(extra or {})}
        try:
            answer = self.post("/prompt", body)
        except urllib.error.HTTPError as error:
            raise _validation_error(error, workflow) from None
        if not isinstance(answer, dict) or "prompt_id" not in answer:
            raise ConnectionLost(f"{self.url} does not answer as ComfyUI does: {answer!r:.80}")
        return answer

    def queue(self, workflow: dict, extra: dict | None = None) -> str:
        """Submit an API-format workflow; its prompt id."""
        return self.submit(workflow, extra)["prompt_id"]

    def history(self, prompt_id: str) -> dict | None:
        """The history entry of a finished prompt, else None."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def is_queued(self, prompt_id: str) -> bool:
        """Whether a prompt waits or runs."""
        queue = self.get_json("/queue")
        return any(item[1] == prompt_id for name in ("queue_running", "queue_pending") for item in queue.get(name, []))

    def chords_events(self, prompt_id: str) -> list[dict]:
        """The record of a prompt's CHORDS runs so far; empty if none has begun."""
        try:
            return self.get_json(f"/chords/runs/{prompt_id}").get("events", [])
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise

    def accept(self, prompt_id: str, node_id: str | None = None) -> dict:
        """End a CHORDS run with the best result so far; HTTPError 404 before it begins, 409 when it is over."""
        return self.post("/chords/accept", {"prompt_id": prompt_id, **({"node_id": node_id} if node_id else {})})

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop what is running (only if it is this prompt, where one is given)."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def cancel(self, prompt_id: str) -> None:
        """Stop a prompt, whether it waits or runs."""
        self.post("/queue", {"delete": [prompt_id]})  # first: it could begin to run between the two
        self.interrupt(prompt_id)

    def view(self, image: dict) -> bytes:
        """The bytes of a file that a node reported."""
        return self.get("/view", **_view_query(image))

    def view_address(self, image: dict) -> str:
        """Where a browser finds a file that a node reported."""
        return self._address("/view", _view_query(image))

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
        return self._decoded(self._request(urllib.request.Request(f"{self.url}/upload/image", body, headers)))

    def free(self) -> None:
        """Ask the server to unload its models and to forget its cached results."""
        self.post("/free", {"unload_models": True, "free_memory": True})

    # ---- running

    def run(
        self,
        workflow: dict,
        *,
        on_event: OnEvent | None = None,
        on_preview: OnPreview | None = None,
        time_limit: float = 300.0,
        extra: dict | None = None,
    ) -> Run:
        """Submit a workflow, follow it (over the websocket where that works), and return it when it is done."""
        with self.listening() as (stream, _how):
            run = Run(self.queue(workflow, extra))

            def keep(preview: Preview) -> None:
                run.previews.append(preview)
                if on_preview is not None:
                    on_preview(preview)

            Follower(self, run, on_event, keep, time_limit=time_limit).follow(stream)
        return run

    def run_polling(
        self,
        workflow: dict,
        *,
        on_event: OnEvent | None = None,
        time_limit: float = 300.0,
        extra: dict | None = None,
    ) -> Run:
        """Submit a workflow, poll until it is done, and return it: no socket. Only `chords` events are seen."""
        run = Run(self.queue(workflow, extra))
        Follower(self, run, on_event, time_limit=time_limit).follow(None)
        return run

    def wait(self, prompt_id: str, *, time_limit: float = 300.0) -> dict:
        """Wait for the end of a prompt, however it was submitted; its history entry."""
        run = Run(prompt_id)
        Follower(self, run, time_limit=time_limit).follow(None)
        return run.history

    @contextlib.contextmanager
    def listening(self) -> Iterator[tuple[EventStream | None, str]]:
        """The event stream, or None where there cannot be one; and which it is, in words."""
        with contextlib.ExitStack() as stack:
            if _websocket() is None:
                yield None, "following by polling: the package websocket-client is not installed"
                return
            try:
                stream = stack.enter_context(self.socket())
            except ConnectionLost as error:
                stream, how = None, f"following by polling: {error}"
            else:
                how = "following by websocket"
            yield stream, how

    @contextlib.contextmanager
    def socket(self) -> Iterator[EventStream]:
        """The server's event stream for this client; it is open, and heard, when this returns."""
        websocket = _websocket()
        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        try:
            connection = websocket.create_connection(address, timeout=self.timeout)
            connection.send(json.dumps(FEATURE_FLAGS))
        except (websocket.WebSocketException, OSError) as error:
            raise ConnectionLost(f"no websocket at {self.url}: {error}") from error
        try:
            yield EventStream(connection)
        finally:
            _close(connection)


def _websocket() -> Any:
    """The package websocket-client, or None. Looked for when it is used: a script may install it meanwhile."""
    try:
        import websocket

        websocket.create_connection  # noqa: B018 - an unrelated package of that name has it not
    except (ImportError, AttributeError):
        return None
    return websocket


def _view_query(image: dict) -> dict:
    """What /view wants to know of a file."""
    return {key: image[key] for key in ("filename", "subfolder", "type") if key in image}


class EventStream:
    """Decoded messages of the server's websocket: ("type", data) pairs and Previews."""

    def __init__(self, connection):
        self._connection = connection

    def receive(self, time_limit: float) -> tuple[str, dict] | Preview | None:
        """The next message, or None if none came in time."""
        websocket = _websocket()
        limit = time.monotonic() + time_limit
        while (left := limit - time.monotonic()) > 0:
            try:
                self._connection.settimeout(left)
                message = self._connection.recv()
            except websocket.WebSocketTimeoutException:
                return None
            except (websocket.WebSocketException, OSError) as error:
                raise ConnectionLost(f"the server closed the connection: {error}") from error
            if not message:
                raise ConnectionLost("the server closed the connection")
            item = decode(message)
            if item is not None:
                return item
        return None


def _close(connection) -> None:
    """Close a websocket and wait for the server's answer, after which its client id may be used again.

    The library's own close() does that too, but takes a KeyboardInterrupt that comes meanwhile for an error.
    """
    websocket = _websocket()
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
        data = value.get("data")
        return value.get("type", ""), data if isinstance(data, dict) else {}
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


class Follower:
    """Follows one prompt to its end: over the event stream while there is one, else by polling.

    on_tick is called several times a second, on_note with a line that a user may want to read.
    """

    def __init__(
        self,
        client: ComfyClient,
        run: Run,
        on_event: OnEvent | None = None,
        on_preview: OnPreview | None = None,
        on_tick: Callable[[], None] | None = None,
        on_note: Callable[[str], None] | None = None,
        time_limit: float = math.inf,
    ):
        self._client = client
        self._run = run
        self._on_event = on_event
        self._on_preview = on_preview
        self._on_tick = on_tick
        self._on_note = on_note
        self._began = time.monotonic()
        self._time_limit = time_limit
        self._seen: set[str] = set()
        self._heard = self._began

    def follow(self, stream: EventStream | None) -> None:
        """Return when the prompt is done, with the history in the run; raise a ClientError if it failed."""
        told_all = stream is not None and self._listen(stream)
        self._run.seconds = time.monotonic() - self._began
        self._poll(told_all)

    def _listen(self, stream: EventStream) -> bool:
        """Take what the stream brings until it says that the prompt is done; False if it did not get that far."""
        while True:
            self._tick()
            try:
                if self._silent() and self._ended():
                    return False
                item = stream.receive(TICK)
            except (ConnectionLost, urllib.error.HTTPError) as error:
                self._note(f"{error}; going on by polling")
                return False
            if item is not None and self._take(item):
                return True

    def _take(self, item: tuple[str, dict] | Preview) -> bool:
        """Take one message; whether it says that the prompt is done."""
        prompt_id = (item.metadata if isinstance(item, Preview) else item[1]).get("prompt_id")
        if prompt_id not in (None, self._run.prompt_id):
            return False
        if prompt_id is not None:
            self._heard = time.monotonic()
        if isinstance(item, Preview):
            if self._on_preview is not None:
                self._on_preview(item)
            return False
        kind, data = item
        self._deliver(kind, data)
        if kind == "execution_error":
            raise _execution_error(data)
        if kind == "execution_interrupted":
            raise _interrupted(data)
        return kind == "executing" and data.get("node") is None and prompt_id is not None

    def _deliver(self, kind: str, data: dict) -> None:
        """Hand an event on."""
        if kind == "chords":
            self._seen.add(_identity(data))
        self._run.events.append((kind, data))
        self._run.times.append(time.monotonic())
        if self._on_event is not None:
            self._on_event(kind, data)

    def _poll(self, told_all: bool) -> None:
        """Ask until the prompt is in the history; meanwhile deliver what the record tells, unless all is known."""
        answered = time.monotonic()
        entry = None
        while entry is None:
            self._tick()
            try:
                entry, events = self._ask(told_all)
                answered = time.monotonic()
            except (ConnectionLost, urllib.error.HTTPError) as error:
                if time.monotonic() - answered > PATIENCE:
                    raise ConnectionLost(f"lost the server: {error}") from error
                events = []
            for event in events:
                if _identity(event) not in self._seen:
                    self._deliver("chords", event)
            if entry is None:
                time.sleep(TICK)
        if not told_all:
            self._run.seconds = time.monotonic() - self._began
        self._run.history = entry
        _raise_if_failed(entry)

    def _ask(self, told_all: bool) -> tuple[dict | None, list[dict]]:
        """The history entry if there is one, and the record: in this order, so that with an entry it is complete."""
        entry = self._client.history(self._run.prompt_id)
        events = [] if told_all else self._client.chords_events(self._run.prompt_id)
        if entry is None and self._silent():
            self._ended()
        return entry, events

    def _silent(self) -> bool:
        """Whether it is time to ask if the server still has the prompt."""
        return time.monotonic() - self._heard > SILENCE

    def _ended(self) -> bool:
        """Whether the prompt is done; raises if the server has it no more, neither done nor waiting."""
        self._heard = time.monotonic()
        prompt_id = self._run.prompt_id
        queued = self._client.is_queued(prompt_id)
        done = self._client.history(prompt_id) is not None  # after the queue: it may be done between the two
        if not queued and not done:
            raise Interrupted(
                "the prompt is no longer in the server's queue: somebody took it out, or the server was started anew",
                {},
            )
        return done

    def _tick(self) -> None:
        """What has to happen at its time."""
        if time.monotonic() - self._began > self._time_limit:
            raise Timeout(f"prompt {self._run.prompt_id} was not done within {self._time_limit:g} s")
        if self._on_tick is not None:
            self._on_tick()

    def _note(self, text: str) -> None:
        """Tell the user."""
        if self._on_note is not None:
            self._on_note(text)


def _identity(event: dict) -> str:
    """What makes an event the same whether the stream or the record brought it (there, a hit has its picture)."""
    if event.get("kind") == "hit":
        event = {key: value for key, value in event.items() if key != "image"}
    return json.dumps(event, sort_keys=True)


def _validation_error(error: urllib.error.HTTPError, workflow: dict) -> ValidationError:
    """A readable exception from the server's refusal."""
    raw = error.read().decode(errors="replace")
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return ValidationError(f"the server refused the workflow (HTTP {error.code}): {raw[:500]}", {}, error.code)
    main = answer.get("error") or {}
    if isinstance(main, str):
        main = {"message": main}
    node_errors = answer.get("node_errors") or {}
    lines = [_sentence(main.get("message"), main.get("details")), *node_error_lines(node_errors, workflow)]
    return ValidationError("the server refused the workflow: " + "\n".join(lines), node_errors, error.code)


def node_error_lines(node_errors: dict, workflow: dict) -> list[str]:
    """What the server says is wrong with nodes, a line each."""
    lines = []
    for node_id, node in node_errors.items():
        name = node.get("class_type") or workflow.get(node_id, {}).get("class_type", "?")
        lines += [
            f"  node {node_id} ({name}): {_sentence(item.get('message'), item.get('details'))}"
            for item in node.get("errors", [])
        ]
    return lines


def _sentence(message: str | None, details: str | None) -> str:
    """Message and details in one line."""
    return ": ".join(part for part in (message, details) if part) or "no reason given"


def _execution_error(data: dict) -> ExecutionError:
    """A readable exception from an execution_error message."""
    where = f"node {data.get('node_id')} ({data.get('node_type')})"
    what = f"{data.get('exception_type')}: {str(data.get('exception_message', '')).strip()}"
    return ExecutionError(f"{where} failed: {what}", data)


def _interrupted(data: dict) -> Interrupted:
    """A readable exception from an execution_interrupted message."""
    return Interrupted(f"the run was interrupted at node {data.get('node_id')}", data)


def _raise_if_failed(entry: dict) -> None:
    """Raise what a history entry reports as the reason of a failed run."""
    status = entry.get("status") or {}
    for kind, data in status.get("messages", []):
        if kind == "execution_error":
            raise _execution_error(data)
        if kind == "execution_interrupted":
            raise _interrupted(data)
    if status.get("status_str") == "error":
        raise ExecutionError("the run failed; the server gave no reason", {})


# -------------------------------------------------------------------------------------- the workflow


def load_workflow(path: Path | str) -> dict:
    """Read a workflow in API format; a UsageError says what else the file is."""
    try:
        workflow = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list):
        raise UsageError(
            f"{path} is a workflow as the ComfyUI page saves it. Open it there and export it in API format: "
            "menu Workflow > Export (API)."
        )
    if not isinstance(workflow, dict) or not workflow:
        raise UsageError(f"{path} is not a workflow in API format")
    for node_id, node in workflow.items():
        if not isinstance(node, dict) or "class_type" not in node or not isinstance(node.get("inputs"), dict):
            raise UsageError(f"{path} is not a workflow in API format: {node_id!r} has no class_type and inputs")
    return workflow


def node_title(workflow: dict, node_id: str) -> str:
    """How a node is called on the page."""
    node = workflow.get(node_id, {})
    return (node.get("_meta") or {}).get("title") or node.get("class_type", f"node {node_id}")


def find_nodes(workflow: dict, name: str) -> list[str]:
    """The ids of the nodes that a name may mean: the one of that id, else all of that title."""
    if name in workflow:
        return [name]
    return [node_id for node_id in workflow if node_title(workflow, node_id) == name]


def parse_setting(workflow: dict, text: str) -> tuple[str, str, Any]:
    """Node id, input and value of a NODE.INPUT=VALUE."""
    target, equals, value = text.partition("=")
    if not equals or not all(target.partition(".")):
        raise UsageError(f"{text!r} is not of the form NODE.INPUT=VALUE")
    dots = [match.start() for match in re.finditer(r"\.", target)]
    for dot in reversed(dots):  # a title may contain dots, and so may the name of an input
        name, key = target[:dot], target[dot + 1 :]
        found = find_nodes(workflow, name)
        if len(found) > 1:
            raise UsageError(f"{len(found)} nodes have the title {name!r}: name one by its id ({', '.join(found)})")
        if found and key:
            return found[0], key, parse_value(value)
    there_are = ", ".join(f"{node_id} ({node_title(workflow, node_id)})" for node_id in workflow)
    raise UsageError(f"no node has the id or title {target[: dots[0]]!r}; there are {there_are}")


def parse_value(text: str) -> Any:
    """The value if the text is JSON, else the text."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return text


def override(workflow: dict, settings: list[str], known_inputs: Callable[[str], set[str] | None]) -> None:
    """Set inputs. `known_inputs` tells those of a class (None: unknown class); it is asked for absent ones only."""
    for text in settings:
        node_id, key, value = parse_setting(workflow, text)
        inputs = workflow[node_id]["inputs"]
        if key not in inputs:
            known = known_inputs(workflow[node_id]["class_type"])
            if known is not None and key.split(".")[0] not in known:  # inputs that grow are called name.part
                where = f"node {node_id} ({node_title(workflow, node_id)})"
                raise UsageError(f"{where} has no input {key!r}; it has {', '.join(sorted(known | inputs.keys()))}")
        inputs[key] = value


# ----------------------------------------------------------------------------------- on the terminal


class Progress:
    """Shows how far a run is: a bar on a terminal, else a line for each quarter; and a line for each hit.

    `label` gives the words before it for a node id.
    """

    def __init__(self, label: Callable[[str], str]):
        self._label = label
        self._live = sys.stderr.isatty()
        self._width = 0
        self._node: str | None = None
        self._quarters = 0
        self._parallel: set[str] = set()

    def __call__(self, kind: str, data: dict) -> None:
        """Take one event."""
        if kind == "progress" and str(data.get("node")) not in self._parallel:
            self._advance(str(data.get("node")), data.get("value", 0), data.get("max", 1))
        elif kind == "chords":
            self._chords(data["kind"], data["node_id"], data)

    def _chords(self, kind: str, node: str, data: dict) -> None:
        """Take an event of a CHORDS run."""
        if kind == "plan":
            self._node = None
            if data.get("method") in ("chords", "secant"):
                self._parallel.add(node)  # the host's own progress of it counts in another unit
        elif kind == "step":
            self._advance(node, data["depth"], data["of"])
        elif kind == "hit":
            self.line(f"{self._label(node)}: {hit_line(data)}")

    def _advance(self, node: str, value: float, total: float) -> None:
        """Show `value` of `total`."""
        share = min(max(value / total, 0.0), 1.0) if total else 1.0
        if node != self._node:
            self._node, self._quarters = node, 0
        if self._live:
            filled = round(BAR_WIDTH * share)
            self._bar(self._label(node), f": [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {value:g}/{total:g}")
        elif int(4 * share) > self._quarters:
            self._quarters = int(4 * share)
            self.line(f"{self._label(node)}: {value:g} of {total:g}")

    def _bar(self, label: str, bar: str) -> None:
        """Draw over the last bar."""
        room = shutil.get_terminal_size().columns - 1  # a line that wraps could not be drawn over
        text = f"  {label[: max(0, room - len(bar) - 2)]}{bar}"[:room]
        sys.stderr.write(f"\r{text:<{self._width}}")
        sys.stderr.flush()
        self._width = len(text)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(f"  {text}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._width:
            sys.stderr.write(f"\r{'':<{self._width}}\r")
            sys.stderr.flush()
            self._width = 0


class Quiet(Progress):
    """Shows nothing."""

    def __init__(self) -> None:
        super().__init__(str)

    def __call__(self, kind: str, data: dict) -> None:
        """Take one event."""

    def line(self, text: str) -> None:
        """Print nothing."""


def hit_line(hit: dict) -> str:
    """A hit in words."""
    change = f", change {hit['change']:.4f}" if hit.get("change") is not None else ""
    return f"hit {hit['index']} ({_core(hit)}): depth {hit['depth']}, {hit['seconds']:.2f} s{change}"


def accepted_line(accepted: dict) -> str:
    """In words, which hit was taken."""
    why = "on request" if accepted.get("by") == "request" else "as planned"
    return f"taken: hit {accepted['index']} ({_core(accepted)}) at depth {accepted['depth']}, {why}"


def _core(event: dict) -> str:
    """Which core a hit is of."""
    if event["core"] == 0:
        return "draft" if event["index"] == 0 else "window"
    return f"core {event['core']}"


# ------------------------------------------------------------------------------------ what it does


class Acceptance:
    """Ends each CHORDS run of a prompt some seconds after it began, or at a hit."""

    def __init__(
        self, client: ComfyClient, prompt_id: str, after: float | None, hit: int | None, note: Callable[[str], None]
    ):
        self._client = client
        self._prompt_id = prompt_id
        self._after = math.inf if after is None else after
        self._hit = math.inf if hit is None else hit
        self._note = note
        self._begun: set[str] = set()
        self._due: dict[str, float] = {}  # node -> when to accept

    def event(self, data: dict) -> None:
        """Take an event of a CHORDS run."""
        node = data["node_id"]
        if data["kind"] == "plan" or (data["kind"] == "iteration" and node not in self._begun):
            self._begun.add(node)
            self._due[node] = time.monotonic() + self._after
        elif data["kind"] == "hit" and data["index"] >= self._hit and node in self._due:
            self._due[node] = time.monotonic()
        elif data["kind"] in ("accepted", "done"):
            self._due.pop(node, None)
        self.tick()

    def tick(self) -> None:
        """Accept what is due."""
        now = time.monotonic()
        for node in [node for node, when in self._due.items() if when <= now]:
            del self._due[node]
            try:
                self._client.accept(self._prompt_id, node)
            except urllib.error.HTTPError as error:
                if error.code != 409:  # over by itself meanwhile
                    self._note(f"could not accept: {_http_reason(error)}")
            except ConnectionLost:
                self._due[node] = now + 1.0


class Pictures:
    """Saves the pictures of hits as they come, and at the end what the workflow saved, into a folder."""

    def __init__(self, client: ComfyClient, folder: Path, note: Callable[[str], None]):
        self._client = client
        self._folder = folder
        self._note = note
        self._runs: dict[str, int] = {}
        self._cores: dict[tuple[str, int], int] = {}
        self._previews: dict[str | None, Preview] = {}
        self.files: list[Path] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot make the folder {folder}: {error.strerror or error}") from error

    def preview(self, preview: Preview) -> None:
        """Keep the newest preview of each node: just before a hit's `picture` event, it is the hit's."""
        self._previews[preview.node_id] = preview

    def event(self, data: dict) -> Path | None:
        """Take an event of a CHORDS run; the file if a hit's picture was saved."""
        if data["kind"] == "plan":
            self._runs[data["node_id"]] = max(self._runs.values(), default=-1) + 1
        elif data["kind"] == "hit":
            self._cores[data["node_id"], data["index"]] = data["core"]
        elif data["kind"] == "picture":
            return self._hit(data)
        return None

    def outputs(self, run: Run) -> None:
        """Save the files that the workflow's nodes left."""
        for image in output_files(run):
            self._write(_local_name(image["filename"]), self._client.view(image))

    def _hit(self, data: dict) -> Path | None:
        """Save the picture of a hit."""
        node, index, image = data["node_id"], data["index"], data["image"]
        try:
            content, suffix = self._client.view(image), Path(_local_name(image["filename"])).suffix
        except (ConnectionLost, urllib.error.HTTPError) as error:
            preview = self._previews.get(node)
            if preview is None:
                self._note(f"could not fetch the picture of hit {index}: {error}")
                return None
            content, suffix = preview.data, ".png" if preview.mime == "image/png" else ".jpg"
        core = self._cores.get((node, index))
        run = self._runs.get(node, 0)
        of = f"core_{core}" if core != 0 else "window" if index else "draft"
        name = f"hit_{index}_{of}{suffix}"
        return self._write(f"run_{run + 1}_{name}" if run else name, content)

    def _write(self, name: str, content: bytes) -> Path:
        """Write a file; files of this prompt do not replace each other."""
        stem, suffix = Path(name).stem, Path(name).suffix
        names = (name, *(f"{stem}_{number}{suffix}" for number in range(2, len(self.files) + 3)))
        path = next(path for path in (self._folder / name for name in names) if path not in self.files)
        beside = self._folder / f".{uuid.uuid4().hex}.part"
        try:
            beside.write_bytes(content)
            beside.replace(path)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()  # half a picture, if it is there still
        self.files.append(path)
        return path


def output_files(run: Run) -> list[dict]:
    """The files that nodes put into the output folder; if there are none, those they only show."""
    reported = [value for output in run.outputs.values() for value in output.values() if isinstance(value, list)]
    files = [item for items in reported for item in items if isinstance(item, dict) and "filename" in item]
    return [file for file in files if file.get("type") == "output"] or files


def _local_name(name: str) -> str:
    """The last part of a name that a server gave: it shall not choose the folder."""
    last = re.split(r"[\\/]", name)[-1]
    return last if last.strip(". ") else "file"


def _http_reason(error: urllib.error.HTTPError) -> str:
    """What a server said when it said no."""
    said = error.read().decode(errors="replace").strip()
    return f"HTTP {error.code} from {urllib.parse.urlsplit(error.url).path}" + (f": {said[:200]}" if said else "")


class Job:
    """One call of the command line: a prompt from the workflow's file to the last picture."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._client = ComfyClient(options.server)
        self._workflow: dict = {}
        self._progress = Quiet() if options.quiet else Progress(lambda node: node_title(self._workflow, node))
        self._pictures: Pictures | None = None
        self._acceptance: Acceptance | None = None
        self._run: Run | None = None
        self._hits: list[dict] = []
        self._accepted: list[dict] = []

    def go(self) -> None:
        """Do it; a ClientError says what went wrong."""
        try:
            self._prepare()
            with self._client.listening() as (stream, how):
                try:
                    self._submit()
                    self._progress.line(how)
                    self._follow(stream)
                except (KeyboardInterrupt, Timeout, UsageError):
                    self._cancel()
                    raise
            if self._pictures is not None:
                self._pictures.outputs(self._run)
        except urllib.error.HTTPError as error:
            raise ConnectionLost(_http_reason(error)) from error
        finally:
            self._progress.clear()

    def _prepare(self) -> None:
        """Everything that can be wrong before the server gets the workflow."""
        self._workflow = load_workflow(self._options.workflow)
        override(self._workflow, self._options.set, self._known_inputs)
        if self._options.save is not None:
            self._pictures = Pictures(self._client, self._options.save, self._progress.line)

    def _known_inputs(self, class_type: str) -> set[str] | None:
        """The inputs of a node class, from the server; None if it has no such class."""
        info = self._client.object_info(class_type).get(class_type)
        return (
            None
            if info is None
            else {name for group in ("required", "optional") for name in info["input"].get(group, ())}
        )

    def _submit(self) -> None:
        """Submit the workflow under an id of our own, so that it can be cancelled whenever the user asks."""
        self._run = Run(str(uuid.uuid4()))
        answer = self._client.submit(self._workflow, {"prompt_id": self._run.prompt_id})
        self._run.prompt_id = answer["prompt_id"]  # older servers choose it
        self._progress.line(f"prompt {self._run.prompt_id}")
        for line in node_error_lines(answer.get("node_errors") or {}, self._workflow):
            self._progress.line(f"left out: {line.strip()}")

    def _follow(self, stream: EventStream | None) -> None:
        """Follow the prompt to its end."""
        options, run = self._options, self._run
        self._acceptance = Acceptance(
            self._client, run.prompt_id, options.accept_after, options.accept_hit, self._progress.line
        )
        Follower(
            self._client,
            run,
            self._event,
            self._pictures.preview if self._pictures is not None else None,
            self._acceptance.tick,
            self._progress.line,
            math.inf if options.timeout is None else options.timeout,
        ).follow(stream)

    def _event(self, kind: str, data: dict) -> None:
        """Take one event."""
        self._progress(kind, data)
        if kind != "chords":
            return
        self._acceptance.event(data)
        self._note_down(data)
        file = self._pictures.event(data) if self._pictures is not None else None
        if file is not None:
            self._progress.line(f"saved {file}")
            self._hit(data)["file"] = str(file)

    def _hit(self, data: dict) -> dict:
        """The newest hit that an event is about."""
        which = (data["node_id"], data["index"])
        return next(hit for hit in reversed(self._hits) if (hit["node_id"], hit["index"]) == which)

    def _note_down(self, data: dict) -> None:
        """Keep what the summary needs, and say what a user wants to know at once."""
        content = {key: value for key, value in data.items() if key not in ("prompt_id", "kind")}
        if data["kind"] == "plan":
            self._progress.line(f"{node_title(self._workflow, data['node_id'])}: {data['message']}")
        elif data["kind"] == "hit":
            self._hits.append(content)
        elif data["kind"] == "picture":
            self._hit(data)["image"] = data["image"]
        elif data["kind"] == "accepted":
            self._accepted.append(content)
        elif data["kind"] == "lane":
            self._progress.line(f"device {data['device']} {data['state']}: {data['error']}")

    def _cancel(self) -> None:
        """Stop the prompt on the server, if that can be done without much ado."""
        if self._run is None:
            return
        self._client.timeout = min(self._client.timeout, 10.0)
        try:
            self._client.cancel(self._run.prompt_id)
        except (ConnectionLost, urllib.error.HTTPError) as error:
            self._progress.line(f"could not cancel the prompt: {error}")

    def finish(self, error: ClientError | None) -> int:
        """Tell how it ended; the exit code."""
        if error is not None:
            print(f"error: {error}", file=sys.stderr)
        if self._options.json:
            print(json.dumps(self._report(error)))
        elif error is None and not self._options.quiet:
            print("\n".join(self._summary()))
        return 0 if error is None else error.exit_code

    def _report(self, error: ClientError | None) -> dict:
        """What --json prints."""
        return {
            "prompt_id": None if self._run is None else self._run.prompt_id,
            "status": "success" if error is None else error.outcome,
            "error": None if error is None else str(error),
            "hits": self._hits,
            "accepted": self._accepted,
            "outputs": {} if self._run is None else self._run.outputs,
            "files": [] if self._pictures is None else [str(path) for path in self._pictures.files],
        }

    def _summary(self) -> list[str]:
        """The result in words."""
        taken = [accepted_line(accepted) for accepted in self._accepted]
        if self._pictures is not None:
            files = [f"saved: {path}" for path in self._pictures.files]
        else:
            files = [f"output: {self._client.view_address(file)}" for file in output_files(self._run)]
        return [f"done in {self._run.seconds:.1f} s", *taken, *files]


def server_address(text: str) -> str:
    """The server's URL; http:// may be left out."""
    address = text if "://" in text else f"http://{text}"
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise argparse.ArgumentTypeError(f"{text!r} is not the address of a web server, such as {DEFAULT_SERVER}")
    return address


EXIT_CODES = """\
exit codes:
  0    done
  1    a node failed on the server
  2    bad use: of this command, of --set, or a workflow that the server refuses
  3    the server cannot be reached, or was lost
  4    --timeout was over; the prompt has been cancelled
  5    somebody else interrupted the prompt, or took it out of the queue
  130  Ctrl-C; the prompt has been cancelled
"""


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Submit a workflow in API format to ComfyUI and follow it to its end.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workflow", type=Path, help="the workflow, as the page's menu Workflow > Export (API) saves it")
    parser.add_argument(
        "--server", type=server_address, default=DEFAULT_SERVER, metavar="URL", help=f"default {DEFAULT_SERVER}"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="set an input of the node of this id or title; VALUE is JSON, or else a text; may be repeated",
    )
    accept = parser.add_mutually_exclusive_group()
    accept.add_argument(
        "--accept-after",
        type=_not_negative(float),
        metavar="SECONDS",
        help="take the best result so far this long after a CHORDS sampler began",
    )
    accept.add_argument(
        "--accept-hit", type=_not_negative(int), metavar="N", help="take hit N as soon as it comes (0: the draft)"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FOLDER", help="save each hit's picture as it comes, and the outputs"
    )
    parser.add_argument("--timeout", type=_not_negative(float), metavar="SECONDS", help="cancel if not done by then")
    parser.add_argument("--quiet", action="store_true", help="no progress, no summary: errors only")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object instead of in words")
    return parser.parse_args(arguments)


def _not_negative(kind: type) -> Callable[[str], Any]:
    """A type for argparse: a finite number of 0 or more."""

    def number(text: str) -> Any:
        value = kind(text)
        if not 0 <= value < math.inf:
            raise ValueError(text)
        return value

    number.__name__ = f"{kind.__name__} of 0 or more"
    return number


def main(arguments: list[str] | None = None) -> int:
    options = parse_options(arguments)
    for stream in (sys.stdout, sys.stderr):
        _never_fail_to_print(stream)
    job = Job(options)
    try:
        job.go()
    except KeyboardInterrupt:
        return job.finish(Cancelled("cancelled"))
    except ClientError as error:
        return job.finish(error)
    return job.finish(None)


def _never_fail_to_print(stream: TextIO) -> None:
    """Titles may hold letters that the terminal's encoding lacks."""
    with contextlib.suppress(AttributeError):
        stream.reconfigure(errors="replace")


if __name__ == "__main__":
    raise SystemExit(main())
