"""The events of a run: sent to clients while it runs, and kept for clients that poll. See docs/headless.md."""

from __future__ import annotations

import contextlib
import io
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api import feature_flags
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from PIL import Image, ImageOps
from protocol import BinaryEventTypes
from server import PromptServer

from ..files import write_whole

PREVIEW_NODE = "ChordsStreamPreview"
RUN_OUTPUT = 1  # the output of the sampler nodes that carries the record of the run
TEMP_SUBFOLDER = "chords"
PROMPTS_KEPT = 64
_PROGRESS = ("step", "iteration")  # of each of these kinds only the newest event is kept

Frame = tuple[str, Image.Image, int | None]
"""A preview as the host's previewers make it: format, picture, maximum side in pixels."""

Frames = tuple[Frame, ...]
"""The previews of the items of a batch, one or more."""


class RunStream:
    """One run of one sampler node. Any thread may send events.

    Attributes:
        accept: is set once the run is to end early; see `ask`.
        accept_index: the index of the hit that it is to end with; None: the newest.
        queued_seconds: from the arrival of the prompt to the beginning of this run. None if the prompt had another run
            before, or if the arrival is not known.
    """

    def __init__(
        self,
        prompt_id: str | None,
        node_id: str | None,
        viewers: tuple[str, ...],
        queued_seconds: float | None = None,
    ) -> None:
        self.prompt_id, self.node_id, self.queued_seconds = prompt_id, node_id, queued_seconds
        self.accept = threading.Event()
        self.accept_index: int | None = None
        self._viewers = viewers
        self._server = PromptServer.instance if prompt_id is not None else None
        self._client = self._server.client_id if self._server is not None else None
        self._lock = threading.Lock()
        self._events: list[dict[str, Any]] = []
        self._files: list[Path] = []
        self._discarded = False
        self._name = uuid.uuid4().hex[:12]
        self._first_picture: float | None = None
        self._began = time.perf_counter()

    def ask(self, index: int | None = None) -> int | None:
        """End the run early with the hit of this index, at once or when it comes; None: with the newest, or the first
        to come. A later call takes the place of an earlier one. Returns the index, as far as it is known."""
        with self._lock:
            self.accept_index = index
            self.accept.set()
        return self.newest_hit if index is None else index

    @property
    def has_hits(self) -> bool:
        """Whether this is a run with hits, and has begun: the search of an SDO node has none."""
        with self._lock:
            return any(event["kind"] == "plan" for event in self._events)

    @property
    def seconds(self) -> float:
        """The seconds since the run began."""
        return time.perf_counter() - self._began

    @property
    def first_picture_seconds(self) -> float | None:
        """From the beginning to the first picture or, where none was shown, to the first hit; None before it."""
        return self._first_picture

    def send(self, kind: str, **fields: Any) -> None:
        """Send an event. Nothing is sent after ``done``: a picture that is ready later is left out."""
        event = {"prompt_id": self.prompt_id, "node_id": self.node_id, "kind": kind, **fields}
        if kind == "hit":
            self._mark_picture()
        with self._lock:
            if self._is_over():
                return
            if kind in _PROGRESS:
                self._events = [kept for kept in self._events if kept["kind"] != kind]
            self._events.append(event)
        if self._server is not None:
            # A copy: the server serialises it later, and a picture may be added to the kept event before that.
            self._server.send_sync("chords", dict(event), self._client)

    def send_frame(self, frame: Frame) -> None:
        """Show a preview on the sampler node, as the host's samplers do."""
        self._send_frame(frame, (self.node_id,))

    def send_picture(self, index: int, frames: Frames, on_sampler: bool = True) -> None:
        """Show a hit on the preview nodes that the sampler feeds, and save it in the temp folder. One that is shown
        again is there already.

        Args:
            index: of the hit.
            frames: the first one is shown; each has a file.
            on_sampler: show it on the sampler node, too.

        Raises:
            OSError: the folder cannot be written to. The picture is shown, and no file remains.
        """
        self._send_frame(frames[0], (self.node_id, *self._viewers) if on_sampler else self._viewers)
        if self._has_picture(index):
            return
        saved = [self._save(index, item, frame) for item, frame in enumerate(frames)]
        fields = {"image": saved[0], **({"images": saved} if len(saved) > 1 else {})}
        with self._lock:
            if not self._is_over():
                for event in self._events:
                    if event["kind"] == "hit" and event["index"] == index:
                        event.update(fields)
        self.send("picture", index=index, **fields)

    @property
    def viewed(self) -> bool:
        """Whether a preview node uses the record of this run."""
        return bool(self._viewers)

    @property
    def running(self) -> bool:
        """Whether the run has not ended."""
        with self._lock:
            return not self._is_over()

    @property
    def newest_hit(self) -> int | None:
        """The index of the newest hit; None before the first one."""
        with self._lock:
            return max((event["index"] for event in self._events if event["kind"] == "hit"), default=None)

    def events(self) -> list[dict[str, Any]]:
        """The events so far; of the steps and iterations only the newest."""
        with self._lock:
            return [dict(event) for event in self._events]

    def discard(self) -> None:
        """Remove the pictures of this run from the temp folder, also one that is being saved now."""
        with self._lock:
            self._discarded = True
            files, self._files = self._files, []
        for path in files:
            _remove(path)

    def _has_picture(self, index: int) -> bool:
        with self._lock:
            hits = [event for event in self._events if event["kind"] == "hit" and event["index"] == index]
            return any("image" in hit for hit in hits)

    def _mark_picture(self) -> None:
        if self._first_picture is None:
            self._first_picture = self.seconds

    def _is_over(self) -> bool:
        """Call it with the lock held."""
        return any(event["kind"] == "done" for event in self._events)

    def _send_frame(self, frame: Frame, nodes: tuple[str | None, ...]) -> None:
        server, client = self._server, self._client
        self._mark_picture()
        if server is None or not nodes:
            return
        if not feature_flags.supports_feature(server.sockets_metadata, client, "supports_preview_metadata"):
            if self.node_id in nodes:  # it has no address: the client shows it on the node that runs
                server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, frame, client)
            return
        prompt = get_progress_state().dynprompt
        for node_id in nodes:
            where = {
                "node_id": node_id,
                "prompt_id": self.prompt_id,
                "display_node_id": prompt.get_display_node_id(node_id),
                "parent_node_id": prompt.get_parent_node_id(node_id),
                "real_node_id": prompt.get_real_node_id(node_id),
            }
            server.send_sync(BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA, (frame, where), client)

    def _save(self, index: int, item: int, frame: Frame) -> dict[str, str]:
        kind, picture, size = frame
        folder = Path(folder_paths.get_temp_directory(), TEMP_SUBFOLDER)
        path = folder / f"{self._name}_{index}{f'_{item + 1}' * (item > 0)}.{'png' if kind == 'PNG' else 'jpg'}"
        small = picture if size is None else ImageOps.contain(picture, (size, size))
        data = io.BytesIO()
        small.save(data, "PNG" if kind == "PNG" else "JPEG", quality=95)
        write_whole(path, data.getvalue())
        with self._lock:
            self._files.append(path)
            is_discarded = self._discarded
        if is_discarded:
            _remove(path)
        return {"filename": path.name, "subfolder": TEMP_SUBFOLDER, "type": "temp"}


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # the host may have emptied the folder
        path.unlink()


class Runs:
    """The runs of the newest prompts, by prompt id and node id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prompts: OrderedDict[str, dict[str, RunStream]] = OrderedDict()

    def begin(self) -> RunStream:
        """A new stream for the node that is executing. Where the host executes none, its events go to nobody."""
        context = get_executing_context()
        if context is None:
            return RunStream(None, None, ())
        queued = None if self.of(context.prompt_id) else _queued_seconds(context.prompt_id)
        stream = RunStream(context.prompt_id, context.node_id, _viewers(context.node_id), queued)
        with self._lock:
            runs = self._prompts.setdefault(context.prompt_id, {})
            replaced = (
                [runs[context.node_id]] if context.node_id in runs else []
            )  # a node that runs once for each item of a list
            runs[context.node_id] = stream
            self._prompts.move_to_end(context.prompt_id)
            while len(self._prompts) > PROMPTS_KEPT:
                replaced += self._prompts.popitem(last=False)[1].values()
        for old in replaced:
            old.discard()
        return stream

    def of(self, prompt_id: str) -> Mapping[str, RunStream]:
        """The runs of a prompt by node id, in the order of their start; empty for an unknown prompt."""
        with self._lock:
            return dict(self._prompts.get(prompt_id, {}))


RUNS = Runs()


def _queued_seconds(prompt_id: str) -> float | None:
    """The seconds since the host took a running prompt into its queue; None if it does not say when that was."""
    with contextlib.suppress(Exception):  # it is for statistics only: no run fails because of another host's queue
        running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
        extra = next(item[3] for item in running if item[1] == prompt_id)
        return max(0.0, time.time() - float(extra["create_time"]) / 1000)  # which is in milliseconds
    return None


def _viewers(sampler: str) -> tuple[str, ...]:
    """The ids of the preview nodes that use the record of a sampler node."""
    prompt = get_progress_state().dynprompt
    nodes = {name: prompt.get_node(name) for name in prompt.all_node_ids()}
    return tuple(
        sorted(
            name
            for name, node in nodes.items()
            if node["class_type"] == PREVIEW_NODE and node["inputs"].get("run") == [sampler, RUN_OUTPUT]
        )
    )
