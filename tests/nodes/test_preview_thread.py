"""The thread that makes pictures beside a run: nobody waits for it, and what comes too late is dropped."""

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

WAIT = 60.0  # for what comes at once, even on a busy machine


@pytest.fixture(scope="module")
def desk(repo: Path) -> ModuleType:
    """The module, without the others of its folder, which need a host."""
    package = ModuleType("chords_host")
    package.__path__ = [str(repo / "nodes" / "host")]
    sys.modules.setdefault(package.__name__, package)
    return importlib.import_module("chords_host.streaming.preview_thread")


class Studio:
    """A desk whose every picture waits for ``let_go``; what it shows is the name of the shot."""

    def __init__(self, module: ModuleType, expected: float = 0.0) -> None:
        self._shot = module.Shot
        self._go = threading.Semaphore(0)
        self._changed = threading.Condition()
        self.begun: list[Any] = []
        self.shown: list[Any] = []
        self.desk = module.Desk("chords-test-desk", self._make, self._show, expected)

    def shot(self, name: int | None) -> Any:
        return self._shot(name, torch.zeros(1))

    def put(self, *names: int | None, most: int = 1) -> None:
        for name in names:
            self.desk.put(self.shot(name), most)

    def let_go(self, count: int) -> None:
        self._go.release(count)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT)

    def _make(self, shot: Any) -> Any:
        with self._changed:
            self.begun.append(shot.index)
            self._changed.notify_all()
        assert self._go.acquire(timeout=WAIT)
        return shot.index

    def _show(self, shot: Any, picture: Any) -> None:
        with self._changed:
            self.shown.append(picture)
            self._changed.notify_all()


@pytest.fixture
def studio(desk: ModuleType) -> Iterator[Studio]:
    made = Studio(desk)
    yield made
    made.let_go(1000)
    made.desk.finish(WAIT)
    assert not [thread for thread in threading.enumerate() if thread.name == "chords-test-desk"]


def test_hits_are_shown_in_order_and_steps_when_none_waits(studio: Studio) -> None:
    studio.put(0)
    studio.wait_for(lambda: studio.begun == [0])
    studio.put(None, 1, None, 2, most=2)
    studio.let_go(4)
    studio.wait_for(lambda: len(studio.shown) == 4)
    assert studio.shown == [0, 1, 2, None]  # of the steps the newest only


def test_of_hits_so_many_wait_and_the_newest_stays(studio: Studio) -> None:
    studio.put(0)
    studio.wait_for(lambda: studio.begun == [0])
    studio.put(1, 2, 3, 4, most=2)
    studio.let_go(3)
    assert studio.desk.finish(WAIT) == []
    assert studio.shown == [0, 3, 4]


def test_what_is_given_up_is_handed_back_and_never_shown(studio: Studio) -> None:
    studio.put(0)
    studio.wait_for(lambda: studio.begun == [0])
    studio.put(1, 2, most=5)
    assert [shot.index for shot in studio.desk.give_up()] == [0, 1, 2]
    assert studio.desk.give_up() == []
    assert studio.desk.busy_for() > 0  # it is still at it, and takes nothing else meanwhile
    studio.put(3)
    studio.let_go(2)
    studio.wait_for(lambda: bool(studio.shown))
    assert studio.shown == [3] and studio.begun == [0, 3]


@pytest.mark.parametrize("waits", [False, True])
def test_the_end_waits_for_no_picture_that_takes_longer(desk: ModuleType, waits: bool) -> None:
    """Not when it may not wait at all, and not when the pictures are known to take longer."""
    studio = Studio(desk, expected=math.inf if waits else 0.0)
    studio.put(0)
    studio.wait_for(lambda: studio.begun == [0])
    studio.put(1, None)
    began = time.monotonic()
    assert [shot.index for shot in studio.desk.finish(WAIT if waits else 0.0)] == [0, 1]
    assert time.monotonic() - began < WAIT / 2
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "chords-test-desk")
    assert thread.daemon
    studio.put(2)
    studio.let_go(10)
    thread.join(WAIT)
    assert not thread.is_alive() and studio.shown == [] and studio.begun == [0]


def test_a_desk_works_without_gradients(desk: ModuleType) -> None:
    modes: list[bool] = []
    made = desk.Desk("chords-test-desk", lambda shot: modes.append(torch.is_inference_mode_enabled()), lambda *_: None)
    made.put(desk.Shot(0, torch.zeros(1)))
    assert made.finish(WAIT) == [] and modes == [True]
