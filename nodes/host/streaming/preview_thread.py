"""A thread that makes and shows pictures beside a run. The run waits for it no longer than it says."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..devices.thread_state import end_thread_state, thread_life

Picture = TypeVar("Picture")


@dataclass(frozen=True, eq=False)
class PreviewRequest:
    """A state to show.

    Attributes:
        hit_index: the index of the hit; None for the estimate of a step.
        x: the state.
        sequence: a newer hit has a higher number.
    """

    hit_index: int | None
    x: Tensor
    sequence: int = 0


class PreviewThread(Generic[Picture]):
    """Makes a picture for one request after another: all hits in their order, and the newest step while no hit waits.

    A hit can be dropped while its picture is made. The picture is then not shown, and the thread takes the next
    request when the call has returned. A call that never returns occupies this daemon thread and nothing else.

    Args:
        name: the name of the thread.
        make: makes the picture, or returns None; it must not raise.
        show: called with the request and the result of ``make``, unless the hit was dropped; it must not raise.
        expected_seconds: how long a picture takes, as long as none was made.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[PreviewRequest], Picture | None],
        show: Callable[[PreviewRequest, Picture | None], None],
        expected_seconds: float = 0.0,
    ) -> None:
        self._make, self._show = make, show
        self._changed = threading.Condition()
        self._hits: deque[PreviewRequest] = deque()
        self._step: PreviewRequest | None = None
        self._current: PreviewRequest | None = None
        self._current_counts = False  # whether the current picture is still to be shown
        self._began, self._last_seconds = 0.0, expected_seconds
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, request: PreviewRequest, max_waiting: int = 1) -> None:
        """Take a request. Only the newest step waits, until a hit comes, and ``max_waiting`` hits: a newer hit replaces
        the oldest one."""
        with self._changed:
            if self._closed:
                return
            if request.hit_index is None:
                self._step = request
            else:
                while len(self._hits) >= max_waiting:
                    self._hits.popleft()
                self._hits.append(request)
                self._step = None  # the hit is newer: nothing older is shown after it
            self._changed.notify_all()

    def busy_seconds(self) -> float:
        """How long the current picture has taken so far; 0 if the thread is idle."""
        with self._changed:
            return self._seconds()

    def drop_hits(self) -> list[PreviewRequest]:
        """Drop all hits that are not shown yet, and return them."""
        with self._changed:
            return self._drop()

    def close(self, timeout: float) -> list[PreviewRequest]:
        """End the thread when all hits are shown, and return the hits that are not.

        It waits ``timeout`` seconds at most, and not at all if the last picture took longer than that.
        """
        with self._changed:
            self._step = None
            if max(self._last_seconds, self._seconds()) < timeout:
                self._changed.wait_for(lambda: self._current is None and not self._hits, timeout)
            dropped, idle = self._drop(), self._current is None
            self._closed = True
            self._changed.notify_all()
        if idle:
            self._thread.join()
        return dropped

    def _seconds(self) -> float:
        return 0.0 if self._current is None else time.monotonic() - self._began

    def _drop(self) -> list[PreviewRequest]:
        dropped = list(self._hits)
        if self._current is not None and self._current_counts:
            self._current_counts = False
            dropped = ([] if self._current.hit_index is None else [self._current]) + dropped
        self._hits.clear()
        return dropped

    def _work(self) -> None:
        with thread_life(), torch.inference_mode():
            while (request := self._next()) is not None:
                picture = self._make(request)
                end_thread_state()  # the memory belongs to sampling until the next picture
                if self._still_counts():
                    self._show(request, picture)
                del request, picture  # an idle thread must not keep a latent alive
                self._end()

    def _next(self) -> PreviewRequest | None:
        with self._changed:
            self._changed.wait_for(lambda: self._hits or self._step is not None or self._closed)
            if self._closed:
                return None
            if self._hits:
                self._current = self._hits.popleft()
            else:
                self._current, self._step = self._step, None
            self._current_counts, self._began = True, time.monotonic()
            return self._current

    def _still_counts(self) -> bool:
        """Whether the current picture is to be shown. After this it can no longer be dropped."""
        with self._changed:
            counts, self._current_counts = self._current_counts, False
            return counts

    def _end(self) -> None:
        with self._changed:
            self._last_seconds, self._current = self._seconds(), None
            self._changed.notify_all()
