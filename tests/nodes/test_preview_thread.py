"""The thread that makes pictures beside a run: no caller waits for it, and late pictures are dropped."""

from __future__ import annotations

import importlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

WAIT = 60.0  # for events that come at once, even on a busy machine
NAME = "chords-test-previews"


@pytest.fixture(scope="module")
def module(repo: Path) -> ModuleType:
    """The module itself. Other modules of its folder need a host."""
    package = ModuleType("chords_host")
    package.__path__ = [str(repo / "nodes" / "host")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module("chords_host.streaming.preview_thread")


class HeldPreviews:
    """A preview thread in which each picture waits for ``let_go``. Its picture is the index of the hit."""

    def __init__(self, module: ModuleType, expected_seconds: float = 0.0) -> None:
        self._request = module.PreviewRequest
        self._go = threading.Semaphore(0)
        self._changed = threading.Condition()
        self.begun: list[Any] = []
        self.shown: list[Any] = []
        self.thread = module.PreviewThread(NAME, self._make, self._show, expected_seconds)

    def submit(self, *indices: int | None, max_waiting: int = 1) -> None:
        for index in indices:
            self.thread.submit(self._request(index, torch.zeros(1)), max_waiting)

    def let_go(self, count: int) -> None:
        self._go.release(count)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT)

    def _make(self, request: Any) -> Any:
        with self._changed:
            self.begun.append(request.hit_index)
            self._changed.notify_all()
        assert self._go.acquire(timeout=WAIT)
        return request.hit_index

    def _show(self, request: Any, picture: Any) -> None:
        with self._changed:
            self.shown.append(picture)
            self._changed.notify_all()


@pytest.fixture
def previews(module: ModuleType) -> Iterator[HeldPreviews]:
    held = HeldPreviews(module)
    yield held
    held.let_go(1000)
    held.thread.close(WAIT)
    assert not [thread for thread in threading.enumerate() if thread.name == NAME]


def test_hits_are_shown_in_order_and_steps_when_no_hit_waits(previews: HeldPreviews) -> None:
    previews.submit(0)
    previews.wait_for(lambda: previews.begun == [0])
    previews.submit(None, 1, 2, max_waiting=2)
    previews.let_go(3)
    previews.wait_for(lambda: len(previews.shown) == 3)
    previews.submit(3)
    previews.wait_for(lambda: previews.begun == [0, 1, 2, 3])
    previews.submit(None, None)
    previews.let_go(2)
    previews.wait_for(lambda: len(previews.shown) == 5)
    assert previews.shown == [0, 1, 2, 3, None]  # no step that is older than a hit; of the last two only the newest


def test_only_so_many_hits_wait_and_the_newest_stay(previews: HeldPreviews) -> None:
    previews.submit(0)
    previews.wait_for(lambda: previews.begun == [0])
    previews.submit(1, 2, 3, 4, max_waiting=2)
    previews.let_go(3)
    assert previews.thread.close(WAIT) == []
    assert previews.shown == [0, 3, 4]


def test_dropped_hits_are_returned_and_never_shown(previews: HeldPreviews) -> None:
    previews.submit(0)
    previews.wait_for(lambda: previews.begun == [0])
    previews.submit(1, 2, max_waiting=5)
    assert [request.hit_index for request in previews.thread.drop_hits()] == [0, 1, 2]
    assert previews.thread.drop_hits() == []
    assert previews.thread.busy_seconds() > 0  # the call still runs, and the thread takes no other request
    previews.submit(3)
    previews.let_go(2)
    previews.wait_for(lambda: bool(previews.shown))
    assert previews.shown == [3] and previews.begun == [0, 3]


@pytest.mark.parametrize("is_slow", [False, True], ids=["no time to wait", "known to be slow"])
def test_the_end_does_not_wait_for_a_picture_that_takes_longer(module: ModuleType, is_slow: bool) -> None:
    held = HeldPreviews(module, expected_seconds=math.inf if is_slow else 0.0)
    held.submit(0)
    held.wait_for(lambda: held.begun == [0])
    held.submit(1, None)
    began = time.monotonic()
    assert [request.hit_index for request in held.thread.close(WAIT if is_slow else 0.0)] == [0, 1]
    assert time.monotonic() - began < WAIT / 2
    (thread,) = (thread for thread in threading.enumerate() if thread.name == NAME)
    assert thread.daemon
    held.submit(2)
    held.let_go(10)
    thread.join(WAIT)
    assert not thread.is_alive() and held.shown == [] and held.begun == [0]


def test_pictures_are_made_without_gradients(module: ModuleType) -> None:
    modes: list[bool] = []
    thread = module.PreviewThread(NAME, lambda _: modes.append(torch.is_inference_mode_enabled()), lambda *_: None)
    thread.submit(module.PreviewRequest(0, torch.zeros(1)))
    assert thread.close(WAIT) == [] and modes == [True]
