"""Runs of variants on a server, and what is measured of each."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfy_client import ClientError, ComfyClient, ConnectionLost, Json, Run, UsageError

from .pictures import spread
from .variants import Variant

MEMORY_SECONDS = 0.5  # between two questions for the memory
GIVE_UP_SECONDS = 5.0  # for the requests that cancel a run: Ctrl-C ends the command at once


@dataclass(frozen=True)
class Measured:
    """One run of one variant.

    Attributes:
        seconds: of the nodes that sample, from the beginning of each to its end.
        whole: seconds of the whole prompt. The server keeps what does not change, such as loaded models, between runs.
        first: seconds from the beginning of the sampling to the first picture: of a result while it runs, where the
            sampler shows some, else of the end.
        memory: the most bytes in use, by device and "RAM", as the server tells them. Of all programs of the machine.
        pictures: as the server gives them, PNG.
        record: what a CHORDS sampler told of its run: `calls`, `steps`, `devices`, `message` and so on. {} for others.
    """

    seconds: float
    whole: float
    first: float
    memory: dict[str, int] = field(default_factory=dict)
    pictures: tuple[bytes, ...] = ()
    record: Json = field(default_factory=dict)


def run_once(client: ComfyClient, variant: Variant, seed_offset: int, time_limit: float) -> Measured:
    """Run a variant with its seeds moved by ``seed_offset``.

    Raises:
        ClientError: it does not end well, or cannot be measured. The prompt is then cancelled.
    """
    began: list[str] = [str(uuid.uuid4())]  # older servers choose an id themselves, and an event tells it

    def on_event(_kind: str, data: Json) -> None:
        if data.get("prompt_id") and data["prompt_id"] not in began:
            began.append(data["prompt_id"])

    try:
        with _memory(client) as used:
            extra = {"prompt_id": began[0]}
            run = client.run(variant.at(seed_offset), on_event=on_event, time_limit=time_limit, extra=extra)
    except (KeyboardInterrupt, TimeoutError):
        _cancel(client, began)
        raise
    shown = [image for node in variant.picture_nodes for image in run.outputs.get(node, {}).get("images", [])]
    return measured(run, variant.samplers, dict(used), [client.view(image) for image in spread(shown)])


def measured(run: Run, samplers: Sequence[str], memory: dict[str, int], pictures: Sequence[bytes]) -> Measured:
    """What a run that ended well shows.

    Raises:
        UsageError: it cannot be measured: the server took its result from the cache, or sent no events.
    """
    cached = {str(node) for data in run.of_kind("execution_cached") for node in data.get("nodes", [])}
    if cached & set(samplers):
        raise UsageError(
            "the server did not sample, because it still had the result of an earlier run: choose other seeds with "
            "--first-seed, or start ComfyUI without --cache-lru and --cache-ram"
        )
    times = [run.node_seconds(name) for name in samplers]
    seconds = [each for each in times if each is not None]
    if not seconds:
        raise UsageError(
            "the server sent no events of the samplers, so nothing can be timed: a proxy in front of it has to pass "
            "websockets on"
        )
    starts = [when for kind, data, when in _timed(run) if kind == "executing" and data.get("node") in samplers]
    ends = [when for kind, data, when in _timed(run) if kind == "executing" and data.get("node") is None]
    shown = [when for kind, data, when in _timed(run) if kind == "chords" and _is_result(data)]
    begin = next((when for kind, _, when in _timed(run) if kind == "execution_start"), min(starts))
    end = max(ends, default=max(run.times))
    return Measured(
        sum(seconds), end - begin, min([*shown, end]) - min(starts), memory, tuple(pictures), record_of(run)
    )


def _timed(run: Run) -> Iterator[tuple[str, Json, float]]:
    return ((kind, data, when) for (kind, data), when in zip(run.events, run.times, strict=True))


def _is_result(data: Json) -> bool:
    """Whether an event says that the picture of a result is there. The draft (index 0) is none."""
    return data.get("kind") == "picture" and data.get("index", 0) >= 1


def record_of(run: Run) -> Json:
    """What the CHORDS samplers told, all together; {} if there were none."""
    events = run.of_kind("chords")
    plans = [data for data in events if data.get("kind") == "plan"]
    ends = [data for data in events if data.get("kind") == "done"]
    if not plans or not ends:
        return {}
    estimates = [data.get("estimate") for data in ends]
    known = [each for each in estimates if each is not None]
    return {
        "method": plans[-1].get("method"),
        "steps": sum(data.get("steps") or 0 for data in plans),
        "calls": sum(data.get("depth") or 0 for data in ends),
        "model_calls": sum(data.get("evaluations") or 0 for data in ends),
        "estimate": max(known) if known and len(known) == len(estimates) else None,
        "devices": plans[-1].get("devices"),
        "split": ends[-1].get("split"),
        "rows": ends[-1].get("rows"),
        "message": " / ".join(dict.fromkeys(data["message"] for data in plans if data.get("message"))),
        "lost": [f"{data['device']} ({data.get('error')})" for data in events if data.get("state") == "lost"],
    }


def saves(record: Json) -> bool:
    """Whether a CHORDS run made fewer calls in a row than KSampler, or faster ones."""
    return bool(record.get("calls", 0) < record.get("steps", 0) or record.get("split") not in (None, "off"))


def memory_in_use(stats: Json) -> dict[str, int]:
    """Bytes in use by device, from the server's /system_stats."""
    used = {"RAM": stats["system"]["ram_total"] - stats["system"]["ram_free"]} if "ram_total" in stats["system"] else {}
    for device in stats.get("devices", []):
        if device.get("type") != "cpu":
            used[_device_name(device)] = device["vram_total"] - device["vram_free"]
    return used


def _device_name(device: Json) -> str:
    return str(device["name"]).partition(" : ")[0]


@contextlib.contextmanager
def _memory(client: ComfyClient) -> Iterator[dict[str, int]]:
    """The most bytes in use while this is open, asked for again and again; {} if the server does not say."""
    most: dict[str, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            with contextlib.suppress(ClientError, KeyError, TypeError):
                for device, used in memory_in_use(client.get_json("/system_stats")).items():
                    most[device] = max(used, most.get(device, 0))
            ended.wait(MEMORY_SECONDS)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()


def _cancel(client: ComfyClient, prompts: Sequence[str]) -> None:
    client.timeout = min(client.timeout, GIVE_UP_SECONDS)
    for prompt_id in prompts:
        with contextlib.suppress(ConnectionLost):
            client.cancel(prompt_id)


def busy(client: ComfyClient) -> int:
    """How many prompts the server has waiting or running."""
    queue: dict[str, Any] = client.get_json("/queue")
    return sum(len(queue.get(name, [])) for name in ("queue_running", "queue_pending"))
