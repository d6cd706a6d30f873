"""A client library for ComfyUI with CHORDS: submit a workflow, follow it, fetch its files, accept early, cancel.

    client = ComfyClient("http://127.0.0.1:8188")
    run = client.run(workflow, on_event=print)  # raises a ClientError if the run does not end well
    pictures = [client.view(image) for image in run.images]

It needs Python 3.10 and PACKAGES. Functions import them, because demo.py imports this module before it installs them.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

DEFAULT_SERVER = "http://127.0.0.1:8188"
PACKAGES = "requests websocket-client tqdm"
POLL_SECONDS = 0.2  # between two questions to the server
SILENCE_SECONDS = 5.0  # without a message about the prompt; then the client asks whether the server still has it
OUTAGE_SECONDS = 10.0  # a server that answered before may fail for this long, for example while it restarts
FEATURE_FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
Json = dict[str, Any]


class ClientError(RuntimeError):
    """A run that does not end well. `outcome` and `exit_code` are for the command; `details`: the server's message."""

    outcome, exit_code = "error", 1

    def __init__(self, message: str, details: Json | None = None):
        super().__init__(message)
        self.details = details or {}


class ExecutionError(ClientError):
    """A node failed while the workflow ran."""


class UsageError(ClientError):
    """The caller gave something that is not valid."""

    outcome, exit_code = "invalid", 2


class ValidationError(ClientError):
    """The server refuses a workflow. `node_errors`: its reasons by node id; `status`: the HTTP status."""

    outcome, exit_code = "invalid", 2

    def __init__(self, message: str, node_errors: Json, status: int):
        super().__init__(message)
        self.node_errors, self.status = node_errors, status


class ConnectionLost(ClientError):
    """The server does not answer, or not as ComfyUI does."""

    outcome, exit_code = "unreachable", 3


class HttpError(ConnectionLost):
    """The server answers with an HTTP error status: `code`, with the body `text`."""

    def __init__(self, path: str, code: int, text: str):
        super().__init__(f"HTTP {code} from {path}: {text[:200]}")
        self.code, self.text = code, text


class Timeout(ClientError, TimeoutError):
    """The run takes longer than allowed."""

    outcome, exit_code = "timeout", 4


class Interrupted(ClientError):
    """Somebody interrupted the run, or removed it from the queue."""

    outcome, exit_code = "interrupted", 5


@dataclass
class Preview:
    """A picture that a node sent while it ran, at `time` (seconds of time.monotonic())."""

    data: bytes
    mime: str
    node_id: str | None = None
    metadata: Json = field(default_factory=dict)
    time: float = 0.0


Message = tuple[str, Json] | Preview  # an event is (type, data)


@dataclass
class Run:
    """One prompt on the server: its events and when they came, its previews, and in the end its history entry."""

    prompt_id: str
    history: Json = field(default_factory=dict)
    events: list[tuple[str, Json]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outputs(self) -> Json:
        """What each node wrote to the history, by node id."""
        return self.history.get("outputs", {})

    @property
    def images(self) -> list[Json]:
        """The pictures of all nodes, each as `ComfyClient.view` needs it: filename, subfolder, type."""
        return [image for output in self.outputs.values() for image in output.get("images", [])]

    def of_kind(self, kind: str) -> list[Json]:
        """The data of all events of one type, in order."""
        return [data for name, data in self.events if name == kind]

    def node_seconds(self, node_id: str) -> float | None:
        """The seconds from the start of a node to the start of the next one; None if they are not known."""
        times = [when for (kind, _), when in zip(self.events, self.times, strict=True) if kind == "executing"]
        nodes = [data.get("node") for data in self.of_kind("executing")]
        return next((times[i + 1] - times[i] for i in range(len(times) - 1) if nodes[i] == node_id), None)


class ComfyClient:
    """Talks to one ComfyUI server over HTTP and its websocket. timeout: seconds to wait for one answer.

    All methods raise ConnectionLost if no answer comes, and HttpError for an HTTP error status.
    """

    def __init__(self, url: str = DEFAULT_SERVER, client_id: str | None = None, timeout: float = 60.0):
        try:
            import requests  # noqa: F401
            import tqdm  # noqa: F401
            from websocket import create_connection  # noqa: F401 - another package named websocket does not have it
        except ImportError as error:
            raise UsageError(f"the client needs packages: pip install {PACKAGES} ({error})") from error
        self.url, self.client_id, self.timeout = url.rstrip("/"), client_id or uuid.uuid4().hex, timeout

    def get(self, path: str, **query: object) -> bytes:
        """GET a path. Returns the body."""
        return self._request("GET", path, params=query)

    def get_json(self, path: str, **query: object) -> Any:
        """GET a path. Returns the decoded JSON body."""
        return self._decoded(self.get(path, **query))

    def post(self, path: str, body: object = None) -> Any:
        """POST JSON. Returns the decoded body, or None if it is empty."""
        data = json.dumps({} if body is None else body)  # requests' own encoder refuses NaN
        answer = self._request("POST", path, data=data, headers={"Content-Type": "application/json"})
        return self._decoded(answer) if answer.strip() else None

    def _request(self, method: str, path: str, **options: Any) -> bytes:
        import requests

        try:
            answer = requests.request(method, self.url + path, timeout=self.timeout, **options)
        except requests.RequestException as error:
            cause: BaseException = error
            while cause.__context__ is not None:  # the first one is short: "[Errno 111] Connection refused"
                cause = cause.__context__
            raise ConnectionLost(f"no answer from {self.url}: {str(cause) or type(cause).__name__}") from error
        if not answer.ok:
            raise HttpError(path, answer.status_code, answer.content.decode(errors="replace").strip())
        return answer.content

    def _decoded(self, answer: bytes) -> Any:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ConnectionLost(f"{self.url} does not answer as ComfyUI does: {answer[:80]!r}") from error

    def object_info(self, node: str | None = None) -> Json:
        """The server's description of all node classes, or of one; {} if there is no such class."""
        return self.get_json(f"/object_info/{urllib.parse.quote(node, safe='')}" if node else "/object_info")

    def submit(self, workflow: Json, extra: Json | None = None) -> Json:
        """Submit an API-format workflow. Returns the server's answer; raises ValidationError if it refuses."""
        try:
            answer = self.post("/prompt", {"prompt": workflow, "client_id": self.client_id, **(extra or {})})
        except HttpError as error:
            raise _refusal(error, workflow) from None
        if not isinstance(answer, dict) or "prompt_id" not in answer:
            raise ConnectionLost(f"{self.url} does not answer as ComfyUI does: {answer!r:.80}")
        return answer

    def queue(self, workflow: Json, extra: Json | None = None) -> str:
        """Submit an API-format workflow. Returns its prompt id."""
        return self.submit(workflow, extra)["prompt_id"]

    def history(self, prompt_id: str) -> Json | None:
        """The history entry of a finished prompt, else None."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def is_queued(self, prompt_id: str) -> bool:
        """Whether a prompt waits or runs."""
        queue = self.get_json("/queue")
        return any(item[1] == prompt_id for name in ("queue_running", "queue_pending") for item in queue.get(name, []))

    def chords_events(self, prompt_id: str) -> list[Json]:
        """The record of a prompt's CHORDS runs so far; [] before the first one begins."""
        try:
            return self.get_json(f"/chords/runs/{prompt_id}").get("events", [])
        except HttpError as error:
            if error.code == 404:
                return []
            raise

    def accept(self, prompt_id: str, node_id: str | None = None, index: int | None = None) -> Json:
        """End a CHORDS run with its newest hit, or with the hit of this index, at once or when it comes.

        HttpError: 404 before the run begins, 409 after its end.
        """
        wanted = {"prompt_id": prompt_id, "node_id": node_id, "index": index}
        return self.post("/chords/accept", {name: value for name, value in wanted.items() if value is not None})

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop what runs now. With a prompt id: only if it is that prompt."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def cancel(self, prompt_id: str) -> None:
        """Stop a prompt, whether it waits or runs."""
        self.post("/queue", {"delete": [prompt_id]})  # first, because the prompt may begin between the two requests
        self.interrupt(prompt_id)

    def view(self, image: Json) -> bytes:
        """The bytes of a file that a node reported: filename, subfolder, type."""
        return self.get(view_path(image))

    def upload(self, data: bytes, name: str, *, subfolder: str = "", overwrite: bool = True) -> Json:
        """Write a picture to the server's input folder."""
        fields = {"type": "input", "subfolder": subfolder, "overwrite": str(overwrite).lower()}
        return self._decoded(self._request("POST", "/upload/image", data=fields, files={"image": (name, data)}))

    def run(
        self,
        workflow: Json,
        *,
        on_event: Callable[[str, Json], None] | None = None,
        on_preview: Callable[[Preview], None] | None = None,
        time_limit: float = 300.0,
        extra: Json | None = None,
        socket: bool = True,
    ) -> Run:
        """Submit a workflow, follow it over the websocket (by polling if that fails), and return it when it is done."""
        with self.listening() if socket else contextlib.nullcontext((None, "")) as (stream, _how):
            run = Run(self.queue(workflow, extra))
            for message in follow(self, run, stream, time_limit):
                if isinstance(message, Preview):
                    run.previews.append(message)
                    if on_preview is not None:
                        on_preview(message)
                elif isinstance(message, tuple) and on_event is not None:
                    on_event(*message)
        return run

    def run_polling(self, workflow: Json, **options: Any) -> Run:
        """As `run`, with the same options, but without a socket: on_event gets the `chords` events only."""
        return self.run(workflow, socket=False, **options)

    def wait(self, prompt_id: str, *, time_limit: float = 300.0) -> Json:
        """Wait for the end of a prompt that anybody submitted. Returns its history entry."""
        run = Run(prompt_id)
        for _ in follow(self, run, None, time_limit):
            pass
        return run.history

    @contextlib.contextmanager
    def listening(self) -> Iterator[tuple[EventStream | None, str]]:
        """The event stream, or None where it cannot be opened; and in words, how a prompt is followed."""
        with contextlib.ExitStack() as stack:
            try:
                stream, how = stack.enter_context(self.socket()), "following by websocket"
            except ConnectionLost as error:
                stream, how = None, f"following by polling: {error}"
            yield stream, how

    @contextlib.contextmanager
    def socket(self) -> Iterator[EventStream]:
        """The server's event stream for this client. It is open when this returns: no later event is missed."""
        import websocket

        address = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        try:
            connection = websocket.create_connection(address, timeout=self.timeout)
            connection.send(json.dumps(FEATURE_FLAGS))
        except (websocket.WebSocketException, OSError) as error:
            reason = str(error).partition(" -+-+- ")[0]  # the library adds all headers
            raise ConnectionLost(f"no websocket at {self.url}: {reason}") from error
        with contextlib.closing(connection):
            yield EventStream(connection)


def view_path(image: Json) -> str:
    """The path, with a query, from which a server gives a file that a node reported."""
    query: Json = {key: image[key] for key in ("filename", "subfolder", "type") if key in image}
    return f"/view?{urllib.parse.urlencode(query)}"


@dataclass
class EventStream:
    """The messages of the server's websocket, decoded."""

    _connection: Any

    def receive(self, time_limit: float) -> Message | None:
        """The next message; None if none comes within `time_limit` seconds."""
        import websocket

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
            if (decoded := decode(message)) is not None:
                return decoded
        return None


def decode(message: str | bytes) -> Message | None:
    """Decode a websocket message: JSON to (type, data), a picture to a Preview, other kinds to None."""
    if isinstance(message, str):
        value = json.loads(message)
        return value.get("type", ""), value["data"] if isinstance(value.get("data"), dict) else {}
    kind, number = struct.unpack_from(">II", message)
    if kind == 1:  # PREVIEW_IMAGE: the number is the format
        return Preview(message[8:], "image/png" if number == 2 else "image/jpeg", time=time.monotonic())
    if kind == 4:  # PREVIEW_IMAGE_WITH_METADATA: the number is the length of the metadata
        data = json.loads(message[8 : 8 + number])
        mime = data.get("image_type", "image/jpeg")
        return Preview(message[8 + number :], mime, data.get("node_id"), data, time.monotonic())
    return None


def follow(
    client: ComfyClient,
    run: Run,
    stream: EventStream | None,
    time_limit: float = math.inf,
) -> Iterator[Message | str | None]:
    """Follow a prompt to its end: over the event stream while that works, else by polling.

    Yields its events and previews as they come, lines for the user (str), and None before each wait. At the end the
    run has its history. Raises a ClientError if the prompt fails or takes longer than `time_limit` seconds.
    """
    began = heard = answered = time.monotonic()
    seen: set[str] = set()
    complete = False  # the stream brought all events
    while True:
        yield None
        now, entry, polls = time.monotonic(), None, stream is None
        messages: list[Message] = []
        if now - began > time_limit:
            raise Timeout(f"prompt {run.prompt_id} was not done within {time_limit:g} s")
        try:
            if now - heard > SILENCE_SECONDS:
                heard = now
                stream = None if _ended(client, run.prompt_id) else stream
            if stream is None:
                entry = client.history(run.prompt_id)  # first: when it is there, the record is complete
                record = [] if complete else client.chords_events(run.prompt_id)
                messages += [("chords", event) for event in record if _identity(event) not in seen]
                answered = time.monotonic()
            elif (message := stream.receive(POLL_SECONDS)) is not None:
                messages.append(message)
        except ConnectionLost as error:
            entry = None
            if stream is not None:
                stream, answered = None, now
                yield f"{error}; going on by polling"
            elif time.monotonic() - answered > OUTAGE_SECONDS:
                raise ConnectionLost(f"lost the server: {error}") from error
        for message in messages:
            data = message.metadata if isinstance(message, Preview) else message[1]
            if data.get("prompt_id") not in (None, run.prompt_id):
                continue
            heard = time.monotonic() if data.get("prompt_id") else heard
            if isinstance(message, tuple):
                seen.add(_identity(data))
                run.events.append(message)
                run.times.append(time.monotonic())
            yield message
            if isinstance(message, tuple) and _ends(*message):
                stream, complete, run.seconds = None, True, time.monotonic() - began
        if entry is not None:
            run.history, run.seconds = entry, run.seconds or time.monotonic() - began
            return _check(entry)
        if polls:
            time.sleep(POLL_SECONDS)


def _ended(client: ComfyClient, prompt_id: str) -> bool:
    """Whether a prompt is done. Raises Interrupted if the server no longer has it."""
    queued = client.is_queued(prompt_id)
    done = client.history(prompt_id) is not None  # second: the prompt may end between the two requests
    if not queued and not done:
        raise Interrupted("the prompt is no longer in the server's queue: it was removed, or the server restarted")
    return done


def _identity(event: Json) -> str:
    """The same text for an event of the stream and of the record, where a hit also has its picture."""
    skipped = "image" if event.get("kind") == "hit" else None
    return json.dumps({key: value for key, value in event.items() if key != skipped}, sort_keys=True)


def _ends(kind: str, data: Json) -> bool:
    """Whether an event says that its prompt is done. Raises what it says about a failure."""
    if kind == "execution_error":
        what = f"{data.get('exception_type')}: {str(data.get('exception_message', '')).strip()}"
        raise ExecutionError(f"node {data.get('node_id')} ({data.get('node_type')}) failed: {what}", data)
    if kind == "execution_interrupted":
        raise Interrupted(f"the run was interrupted at node {data.get('node_id')}", data)
    return kind == "executing" and data.get("node") is None and data.get("prompt_id") is not None


def _check(entry: Json) -> None:
    """Raise what a history entry says about a failure."""
    status = entry.get("status") or {}
    for message in status.get("messages", []):
        _ends(*message)
    if status.get("status_str") == "error":
        raise ExecutionError("the run failed; the server gave no reason")


def _refusal(error: HttpError, workflow: Json) -> ValidationError:
    """Why the server refuses a workflow, in words."""
    try:
        answer = json.loads(error.text)
        reason, node_errors = answer.get("error") or {}, answer.get("node_errors") or {}
    except (ValueError, AttributeError):  # not JSON, or not an object
        reason, node_errors = f"HTTP {error.code}: {error.text[:500]}", {}
    lines = [_sentence({"message": reason} if isinstance(reason, str) else reason), *node_lines(node_errors, workflow)]
    return ValidationError("the server refused the workflow: " + "\n".join(lines), node_errors, error.code)


def node_lines(node_errors: Json, workflow: Json) -> list[str]:
    """What is wrong with nodes, in the server's words: a line for each reason."""
    lines = []
    for node_id, node in node_errors.items():
        name = node.get("class_type") or workflow.get(node_id, {}).get("class_type", "?")
        lines += [f"  node {node_id} ({name}): {_sentence(reason)}" for reason in node.get("errors", [])]
    return lines


def _sentence(reason: Json) -> str:
    return ": ".join(filter(None, (reason.get("message"), reason.get("details")))) or "no reason given"
