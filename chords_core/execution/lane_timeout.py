"""How long an evaluation may take before its lane counts as slow, from the times measured in the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..checks import is_number, shown
from ..errors import InvalidInput

_LATE_FACTOR = 2.0  # a lane that once came back late may do so again


@dataclass(frozen=True)
class LaneTimeouts:
    """The rule for the seconds that an evaluation may take.

    A lane is judged by itself, since lanes may differ in speed, and differ much: ``factor`` times its slowest
    evaluation so far, but at least ``floor``, so that neither jitter nor other work on the device matters. One that
    was late counts twice its seconds: enough not to complain again of a device that has become slow, and not so much
    that one that hung for a while could then hang unseen. A lane's first evaluation may load or compile: it
    has ``first`` seconds, or ``factor`` times the slowest evaluation of any lane if that is more; it counts for
    the second one, and no more once that is there.

    A false alarm costs one evaluation made twice, never the run; so the numbers need not be right for every device.
    """

    floor: float = 20.0
    factor: float = 10.0
    first: float = 300.0

    def __post_init__(self) -> None:
        for name in ("floor", "factor", "first"):
            value = getattr(self, name)
            if not is_number(value) or value < 0:
                raise InvalidInput(name, f"must be a number of at least 0, not {shown(value)}")

    def of_first(self, slowest: float) -> float:
        """For a lane that has not answered yet; ``slowest``: the slowest evaluation of any lane, 0 if none."""
        return max(self.first, self.factor * slowest)

    def of_next(self, slowest: float, late: float) -> float:
        """For a lane that has: its ``slowest`` evaluation in time, and the slowest that was ``late``; 0 if none."""
        return max(self.floor, self.factor * slowest, _LATE_FACTOR * late)


class LaneWatchdog:
    """Knows what each lane took so far, and which are overdue: at work for longer than ``timeouts`` allows.

    Args:
        clock: the time in seconds, from any origin.
    """

    def __init__(self, timeouts: LaneTimeouts | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeouts, self._clock = timeouts or LaneTimeouts(), clock
        self._began: dict[int, float] = {}
        self._due: dict[int, float] = {}  # of the lanes at work that are not slow
        self._calls: dict[int, int] = {}
        self._slowest: dict[int, float] = {}
        self._late: dict[int, float] = {}

    def begin(self, lane: int) -> None:
        """``lane`` has been given an evaluation."""
        if lane in self._calls:
            allowed = self._timeouts.of_next(self._slowest.get(lane, 0.0), self._late.get(lane, 0.0))
        else:
            allowed = self._timeouts.of_first(max(self._slowest.values(), default=0.0))
        self._began[lane] = now = self._clock()
        self._due[lane] = now + allowed

    def end(self, lane: int) -> float | None:
        """``lane`` has come back. Returns the seconds it took if it was `slow`, else None."""
        took = self._clock() - self._began.pop(lane)
        calls = self._calls[lane] = self._calls.get(lane, 0) + 1
        if self._due.pop(lane, None) is None:
            self._late[lane] = max(took, self._late.get(lane, 0.0))
            return took
        self._slowest[lane] = took if calls == 2 else max(took, self._slowest.get(lane, 0.0))
        return None

    def overdue(self) -> bool:
        """Whether a lane is, that is not known as slow already."""
        return bool(self._due) and self._clock() > min(self._due.values())

    def slow(self) -> list[tuple[int, float]]:
        """The lanes that have become overdue, each with the seconds it has been at work; told once."""
        now = self._clock()
        lanes = [lane for lane, due in self._due.items() if now > due]
        for lane in lanes:
            del self._due[lane]
        return [(lane, now - self._began[lane]) for lane in lanes]

    def left(self) -> float:
        """In how many seconds the last lane at work will be overdue; 0 if all are, or none is at work."""
        return max(0.0, max(self._due.values(), default=0.0) - self._clock()) if self._due else 0.0
