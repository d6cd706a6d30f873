"""How long an evaluation may take before its lane counts as slow, from the times measured in the run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..checks import is_number, shown
from ..errors import InvalidInput

_LATE_FACTOR = 2.0  # a lane that was late once may be late again


@dataclass(frozen=True)
class LaneTimeouts:
    """The rule for the seconds that an evaluation may take. Each lane is compared with itself only, because the
    devices of lanes may differ much in speed.

    - A lane has ``factor`` times its slowest evaluation so far, but at least ``floor``. So neither jitter nor other
      work on the device matters.
    - A lane that was late has at least twice the seconds that it took then. So a device that has become slow is not
      reported again and again, and one that hung for a while cannot hang unnoticed.
    - The first evaluation of a lane may load or compile. It has ``first`` seconds, or ``factor`` times the slowest
      evaluation of any lane if that is more. It counts for the second evaluation and no longer for the third.

    A false alarm means that one evaluation is made twice; it never ends the run. So the numbers need not be right for
    every device.
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
        """Seconds for a lane that has not answered yet; ``slowest``: the slowest evaluation of any lane, 0 if none."""
        return max(self.first, self.factor * slowest)

    def of_next(self, slowest: float, late: float) -> float:
        """Seconds for a lane that has answered: its ``slowest`` evaluation in time, and its slowest ``late`` one; 0
        if there is none."""
        return max(self.floor, self.factor * slowest, _LATE_FACTOR * late)


class LaneWatchdog:
    """Measures how long each lane takes, and finds the lanes that are overdue: at work for longer than ``timeouts``
    allows.

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
        """``lane`` has answered. Returns the seconds that it took if it was slow, else None."""
        seconds = self._clock() - self._began.pop(lane)
        calls = self._calls[lane] = self._calls.get(lane, 0) + 1
        if self._due.pop(lane, None) is None:
            self._late[lane] = max(seconds, self._late.get(lane, 0.0))
            return seconds
        self._slowest[lane] = seconds if calls == 2 else max(seconds, self._slowest.get(lane, 0.0))
        return None

    def overdue(self) -> bool:
        """Whether there is an overdue lane that `slow` has not returned yet."""
        return bool(self._due) and self._clock() > min(self._due.values())

    def slow(self) -> list[tuple[int, float]]:
        """The lanes that have become overdue since the last call, each with the seconds that it has been at work."""
        now = self._clock()
        lanes = [lane for lane, due in self._due.items() if now > due]
        for lane in lanes:
            del self._due[lane]
        return [(lane, now - self._began[lane]) for lane in lanes]

    def left(self) -> float:
        """Seconds until the last lane at work is overdue; 0 if all are, or if no lane is at work."""
        return max(0.0, max(self._due.values(), default=0.0) - self._clock()) if self._due else 0.0
