"""Where the member threads of one call meet and swap values. Standard library only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .errors import MemberTimeout, OutOfStep, Released

_POLL_SECONDS = 0.02  # how long a cancel may go unseen


class Rendezvous:
    """Each member gives a value and gets everybody's. A member waits for the others' values, not until they were read.

    Args:
        members: how many threads take part; each calls `swap` equally often.
        timeout: seconds that a member waits for the others at one meeting.
        poll: called by member 0 while it waits; what it raises ends the call (a host's interrupt, say).
    """

    def __init__(self, members: int, timeout: float, poll: Callable[[], object] | None = None) -> None:
        self.members = members
        self._timeout = timeout
        self._poll = poll
        self._changed = threading.Condition()
        self._rounds = [0] * members
        self._given: dict[int, list[Any]] = {}  # by round; by rank, as one-tuples
        self._read: dict[int, int] = {}
        self._gone: set[int] = set()
        self._aborted: BaseException | None = None

    @property
    def aborted(self) -> BaseException | None:
        """What the call was given up for, if it was."""
        return self._aborted

    def abort(self, cause: BaseException) -> None:
        """Release every member that waits or comes to wait. The first cause counts."""
        with self._changed:
            if self._aborted is None:
                self._aborted = cause
            self._given.clear()
            self._changed.notify_all()

    def leave(self, rank: int) -> None:
        """This member comes to no more meetings: its part is done. Whoever waits for it need not wait any longer."""
        with self._changed:
            self._gone.add(rank)
            self._changed.notify_all()

    def clear(self) -> None:
        """Let go of what was given, and of the cause of the end, once all members are done."""
        with self._changed:
            self._given.clear()
            self._aborted = None

    def swap(self, rank: int, value: Any) -> list[Any]:
        """Give ``value``; returns the values of all members, by rank.

        Raises:
            Released: if the call was given up.
            MemberTimeout: if others did not come in time. The call is given up then.
            OutOfStep: if another member has ended its part without this meeting. The call is given up then.
        """
        number = self._rounds[rank]
        self._rounds[rank] += 1
        with self._changed:
            self._check()
            slots = self._given.setdefault(number, [None] * self.members)
            slots[rank] = (value,)
            if None not in slots:
                self._changed.notify_all()
            else:
                self._wait(rank, slots)
            values = [slot[0] for slot in slots]
            self._read[number] = self._read.get(number, 0) + 1
            if self._read[number] == self.members:
                del self._given[number], self._read[number]
        return values

    def _wait(self, rank: int, slots: list[Any]) -> None:
        """Until the slots are full."""
        end = time.monotonic() + self._timeout
        poll = self._poll if rank == 0 else None
        while None in slots:
            if any(slots[other] is None for other in self._gone):
                ended = OutOfStep("a member of a split call has ended its part before the others")
                self.abort(ended)
                raise ended
            left = end - time.monotonic()
            if left <= 0:
                late = MemberTimeout([other for other, slot in enumerate(slots) if slot is None], self._timeout)
                self.abort(late)
                raise late
            self._changed.wait(min(left, threading.TIMEOUT_MAX) if poll is None else min(left, _POLL_SECONDS))
            self._check()
            if poll is not None and None in slots:
                poll()

    def _check(self) -> None:
        if self._aborted is not None:
            raise Released("another member of the split call gave up") from self._aborted
