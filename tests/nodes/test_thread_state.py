"""What the host keeps by thread is ended by our threads, where the host has functions for that."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from pack_modules import module

from chords_core import Evaluation, ThreadPool

thread_state = module("nodes.host.devices.thread_state")
preview_thread = module("nodes.host.streaming.preview_thread")
checkpointing = module("nodes.host.sdo.checkpointing")

WAIT = 60.0


class Kept:
    """A host's module that keeps something for each thread."""

    def __init__(self) -> None:
        self.module: Any = ModuleType("comfy.model_prefetch")
        self.graphs: dict[int, threading.Thread] = {}
        self.queues: dict[int, threading.Thread] = {}
        self.module.PREFETCH_QUEUES = self.queues
        self.module.cleanup_malloc_graph = lambda: self.graphs.pop(threading.get_ident(), None)
        self.module.cleanup_prefetch_queues = lambda: self.queues.pop(threading.get_ident(), None)

    def make(self) -> None:
        for kept in (self.graphs, self.queues):
            thread = threading.current_thread()
            assert kept.setdefault(threading.get_ident(), thread) is thread, "that of a dead thread"

    @property
    def left(self) -> list[threading.Thread]:
        return [*self.graphs.values(), *self.queues.values()]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    host = Kept()
    monkeypatch.setitem(sys.modules, "comfy.model_prefetch", host.module)
    yield host


def _in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive()


def test_a_host_without_such_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "comfy.model_prefetch", raising=False)
    thread_state.end_thread_state()
    monkeypatch.setitem(sys.modules, "comfy.model_prefetch", ModuleType("comfy.model_prefetch"))
    thread_state.end_thread_state()
    thread_state.end_process_state()


def test_a_queue_of_all_threads_is_left_to_the_host(kept: Kept) -> None:
    """As in hosts whose queues are one list: other threads may be at work with it."""
    asked: list[str] = []
    kept.module.PREFETCH_QUEUES = []
    kept.module.cleanup_prefetch_queues = lambda: asked.append("queues")
    thread_state.end_thread_state()
    assert not asked
    thread_state.end_process_state()
    assert asked == ["queues"]


def test_a_function_that_fails_costs_a_line_in_the_log(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> None:
        raise SystemExit("broken on purpose")

    kept.make()
    kept.module.cleanup_malloc_graph = broken
    with caplog.at_level(logging.WARNING, "chords"), thread_state.thread_life():
        pass
    assert not kept.queues  # the other one was called
    assert caplog.text.count("broken on purpose") == 1


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_lanes(kept: Kept, ends: str) -> None:
    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        kept.make()
        if ends == "badly":
            raise RuntimeError("broken on purpose")
        return x

    for _ in range(20):  # the system gives the ids of dead threads to new ones
        with ThreadPool([denoise] * 3, lane_life=lambda lane: thread_state.thread_life()) as pool:
            for lane in range(3):
                pool.submit(lane, Evaluation(1, 0, 1.0, 0, torch.zeros(1)))
            pool.settle()
            assert len(kept.left) == 6
        assert not kept.left


def test_a_lane_that_was_given_up(kept: Kept) -> None:
    """It hangs in a call when its run ends, and comes back later."""
    begun, goes_on = threading.Event(), threading.Event()

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        kept.make()
        begun.set()
        assert goes_on.wait(WAIT)
        return x

    before = set(threading.enumerate())
    with ThreadPool([denoise], lane_life=lambda lane: thread_state.thread_life()) as pool:
        pool.submit(0, Evaluation(1, 0, 1.0, 0, torch.zeros(1)))
        assert begun.wait(WAIT)
        pool.settle(within=0.0)
        assert pool.hung == (0,)
    (lane,) = set(threading.enumerate()) - before
    goes_on.set()
    lane.join(WAIT)
    assert not lane.is_alive() and not kept.left


def test_a_failed_call_in_a_thread_that_lives_on(kept: Kept) -> None:
    def work() -> None:
        with pytest.raises(KeyboardInterrupt), thread_state.ended_on_failure():
            kept.make()
            raise KeyboardInterrupt
        assert not kept.left
        with thread_state.ended_on_failure():
            kept.make()
        assert len(kept.left) == 2
        thread_state.end_thread_state()

    _in_a_thread(work)
    assert not kept.left


def test_previews_keep_nothing_between_pictures(kept: Kept) -> None:
    shown, left = threading.Event(), []

    def make(request: Any) -> str:
        kept.make()
        return "picture"

    def show(request: Any, picture: str) -> None:
        left.extend(kept.left)
        shown.set()

    thread = preview_thread.PreviewThread("chords-test-previews", make, show)
    thread.submit(preview_thread.PreviewRequest(1, torch.zeros(1)))
    assert shown.wait(WAIT)
    thread.close(WAIT)
    assert not left and not kept.left


def test_a_backward_pass_in_another_thread(kept: Kept) -> None:
    """On a GPU the blocks run again in threads of torch. Here a thread of the test represents one."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            kept.make()
            made.append(threading.current_thread())
            return self.linear(x)

    made: list[threading.Thread] = []
    network = torch.nn.Sequential(Block())
    x = torch.ones(1, 2, requires_grad=True)
    with checkpointing.checkpointed_blocks(network, set(), {}):
        y = network(x).sum()
        thread_state.end_thread_state()
        _in_a_thread(y.backward)
    assert x.grad is not None and len({*made}) == 2
    assert not kept.left
