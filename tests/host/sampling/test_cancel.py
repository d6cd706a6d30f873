"""A cancel ends a prompt whatever hangs, without waiting for it, and is never lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from client import ComfyClient
from graphs import Graph, demo, empty_latent, lanes, settings

_SALTS = count(5000)
LANE_TIMEOUTS = 3600.0  # seconds: what hangs would be waited for as long
LIMIT = 120.0  # for a busy machine: alone it takes two seconds


@pytest.fixture(autouse=True)
def _long_timeouts(client: ComfyClient, tmp_path: Path) -> Iterator[None]:
    """With lanes and devices; after the test, what hangs goes on, and has ended before the next one."""

    def have(seconds: float) -> None:
        graph = Graph()
        graph.add("TestPatience", seconds=seconds, salt=next(_SALTS))
        client.run(graph.nodes)

    have(LANE_TIMEOUTS)
    yield
    (tmp_path / "over").touch()
    have(0.0)
    graph = Graph()
    graph.add("TestHangIsOver", salt=next(_SALTS))
    graph.add("TestDeviceIsBack", salt=next(_SALTS))
    client.run(graph.nodes)


def _until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it has not happened"
        time.sleep(0.02)


def _queued(client: ComfyClient, folder: Path, on: dict[str, Any], given: dict[str, Any], **hanging: Any) -> str:
    """The id of a prompt in which calls hang."""
    graph = Graph()
    shared = demo(graph) | settings(seed=next(_SALTS)) | {"latent_image": empty_latent(graph)}
    endless = {"lanes": "", "device": "", "after_calls": 0, **hanging}
    shared["model"] = graph.add("TestEndlessCall", model=shared["model"], folder=str(folder), **endless)
    devices = graph.add("ChordsDevices", **on)
    graph.save("latent", graph.add("ChordsKSampler", **{**shared, **given}, devices=devices))
    return client.queue(graph.nodes)


def _how_it_ended(client: ComfyClient, prompt: str) -> str:
    _until(lambda: client.history(prompt) is not None)
    history = client.history(prompt)
    assert history is not None
    return str([message for message, _ in history["status"]["messages"]][-1])


def _begun(folder: Path) -> int:
    return len(list(folder.glob("begun*")))


def _the_next_one_runs(run_graph) -> None:
    graph = Graph()
    shared = demo(graph) | settings(seed=next(_SALTS)) | {"latent_image": empty_latent(graph)}
    graph.save("latent", graph.add("ChordsKSampler", **shared, cores=4, accept="first", devices=lanes(graph, 4)))
    run_graph(graph)


CHORDS = {"cores": 4, "accept": "exact", "method": "CHORDS"}


@pytest.mark.parametrize(
    ("hanging", "after_calls", "given", "split"),
    [
        ({"lanes": "0"}, 0, CHORDS, "off"),
        ({"lanes": "1"}, 0, CHORDS, "off"),
        ({"lanes": "1,2"}, 2, CHORDS, "off"),
        ({"lanes": "0,1,2,3"}, 1, {"cores": 4}, "off"),
        ({"device": "cpu:1"}, 0, {}, "guidance"),
        ({"device": "cpu:1"}, 2, {}, "guidance"),
        ({"device": "cpu:3"}, 0, {"cores": 2}, "guidance"),
    ],
    ids=str,
)
def test_what_hangs_is_not_waited_for(
    client: ComfyClient,
    run_graph,
    tmp_path: Path,
    hanging: dict[str, str],
    after_calls: int,
    given: dict[str, Any],
    split: str,
) -> None:
    """A lane in its first call, in a later one, several, all; a device of a pair, alone or within a core."""
    on = {"cpu_lanes": 2 if split == "guidance" and not given else 4, "split": split}
    prompt = _queued(client, tmp_path, on, given, **hanging, after_calls=after_calls)
    _until(lambda: _begun(tmp_path) > 0)
    client.interrupt(prompt)
    assert _how_it_ended(client, prompt) == "execution_interrupted"
    assert not list(tmp_path.glob("returned*")), "it was waited for"
    if split == "off":
        _the_next_one_runs(run_graph)


@pytest.mark.parametrize("goes_on", ["never", "before", "after"])
def test_a_cancel_after_accept_is_not_lost(client: ComfyClient, tmp_path: Path, goes_on: str) -> None:
    """Accept has ended the run while lanes are at a call. Whoever takes the cancel, the driver or a lane that goes on,
    the prompt ends by it."""
    (tmp_path / "later").touch()
    given = {**CHORDS, "steps": 1000}  # so many that the run has calls to make when they begin to hang
    prompt = _queued(client, tmp_path, {"cpu_lanes": 4}, given, lanes="0,1,2,3")
    _until(lambda: any(event["kind"] == "hit" for event in client.chords_events(prompt)))
    (tmp_path / "later").unlink()
    _until(lambda: _begun(tmp_path) > 0)
    client.accept(prompt)
    _until(lambda: any(event["kind"] == "accepted" for event in client.chords_events(prompt)))
    if goes_on == "never":
        client.interrupt(prompt)
    else:
        # The two at once: the lane's next operation may be the first to ask for the cancel.
        steps = [lambda: (tmp_path / "over").touch(), lambda: client.interrupt(prompt)]
        for step in steps if goes_on == "before" else reversed(steps):
            step()
    ended = _how_it_ended(client, prompt)
    assert ended == "execution_interrupted" or (goes_on == "before" and ended == "execution_success")
