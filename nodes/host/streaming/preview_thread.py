"""A thread beside a run that makes pictures and shows them. The run waits for it as long as it says, no longer."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

Picture = TypeVar("Picture")


@dataclass(frozen=True, eq=False)
class Shot:
    """A state to be shown: that of the hit ``index``; without one, a step's estimate. ``number``: the newer, the
    higher."""

    index: int | None
    x: Tensor
    number: int = 0


class Desk(Generic[Picture]):
    """Makes a picture of one shot after another: of the hits in their order, and of the newest step while no hit waits.

    A shot can be given up while its picture is made. What becomes of it is then dropped, and the desk takes the next
    shot when the call has returned. A call that never returns keeps its thread, a daemon, and nothing else.

    Args:
        name: the thread's.
        make: makes the picture, or returns None; it must not raise.
        show: called with a shot and what ``make`` returned, unless the shot was given up; it must not raise.
        expected: the seconds that a picture takes, as long as none was made.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Shot], Picture | None],
        show: Callable[[Shot, Picture | None], None],
        expected: float = 0.0,
    ) -> None:
        self._make, self._show = make, show
        self._changed = threading.Condition()
        self._hits: deque[Shot] = deque()
        self._step: Shot | None = None
        self._settled = True  # nothing is to become of what the thread is at
        self._at: Shot | None = None
        self._began, self._took = 0.0, expected
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, shot: Shot, most: int = 1) -> None:
        """Take a shot. Of steps only the newest waits; of hits ``most``, and the oldest is left out for a newer one."""
        with self._changed:
            if self._closed:
                return
            if shot.index is None:
                self._step = shot
            else:
                while len(self._hits) >= most:
                    self._hits.popleft()
                self._hits.append(shot)
            self._changed.notify_all()

    def busy_for(self) -> float:
        """For how many seconds it is at one picture; 0 if at none."""
        with self._changed:
            return self._seconds()

    def give_up(self) -> list[Shot]:
        """The hits that are not shown yet, which it forgets."""
        with self._changed:
            return self._forget()

    def finish(self, within: float) -> list[Shot]:
        """End the thread once all hits are shown, at the latest after ``within`` seconds; at once if the last picture
        took longer. Returns the hits that are not shown."""
        with self._changed:
            self._step = None
            if max(self._took, self._seconds()) < within:
                self._changed.wait_for(lambda: self._at is None and not self._hits, within)
            left, idle = self._forget(), self._at is None
            self._closed = True
            self._changed.notify_all()
        if idle:
            self._thread.join()
        return left

    def _seconds(self) -> float:
        return 0.0 if self._at is None else time.monotonic() - self._began

    def _forget(self) -> list[Shot]:
        left = list(self._hits)
        if self._at is not None and not self._settled:
            self._settled = True
            left = ([] if self._at.index is None else [self._at]) + left
        self._hits.clear()
        return left

    def _work(self) -> None:
        with torch.inference_mode():
            while (shot := self._next()) is not None:
                picture = self._make(shot)
                if self._still_wanted():
                    self._show(shot, picture)
                del shot, picture  # an idle desk must not keep a latent alive
                self._end()

    def _next(self) -> Shot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._hits or self._step is not None or self._closed)
            if self._closed:
                return None
            if self._hits:
                self._at = self._hits.popleft()
            else:
                self._at, self._step = self._step, None
            self._settled, self._began = False, time.monotonic()
            return self._at

    def _still_wanted(self) -> bool:
        with self._changed:
            wanted = not self._settled
            self._settled = True
            return wanted

    def _end(self) -> None:
        with self._changed:
            self._took, self._at = self._seconds(), None
            self._changed.notify_all()
