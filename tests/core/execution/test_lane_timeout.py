"""How long an evaluation may take before its lane counts as slow."""

from __future__ import annotations

import pytest

from chords_core import (
    LaneBack,
    LaneLost,
    LaneSlow,
    LaneTimeouts,
    Recorder,
)
from chords_core.execution.lane_timeout import LaneWatchdog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def allowed(watch: LaneWatchdog, clock: Clock, lane: int) -> float:
    """The seconds after which ``lane`` counts as slow."""
    watch.begin(lane)
    left = watch.left()
    clock.now += left
    assert not watch.overdue() and watch.slow() == []
    clock.now += 1e-6
    assert watch.overdue()
    ((slow, seconds),) = watch.slow()
    assert slow == lane and seconds == pytest.approx(left)
    assert not watch.overdue() and watch.slow() == [] and watch.left() == 0
    clock.now -= left + 1e-6
    assert watch.end(lane) is not None
    return left


def took(watch: LaneWatchdog, clock: Clock, lane: int, seconds: float) -> float | None:
    watch.begin(lane)
    clock.now += seconds
    if watch.overdue():
        watch.slow()
    return watch.end(lane)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ([], 300.0),  # it may load or compile
        ([0.1], 20.0),  # jitter does not matter
        ([60.0], 600.0),  # the first counts for the second, because the device may be slow
        ([60.0, 3.0], 30.0),  # and not after that
        ([60.0, 3.0, 7.0, 1.0], 70.0),  # the slowest counts
        ([1.0, 1.0, 50.0], 100.0),  # it was late: twice as long next time
        ([1.0, 1.0, 50.0, 40.0], 400.0),  # in time by the new limit: a device that has become slow
        ([400.0], 800.0),  # the first call was late
    ],
)
def test_a_lane_is_judged_by_its_own_times(times: list[float], seconds: float) -> None:
    clock = Clock()
    watch = LaneWatchdog(LaneTimeouts(), clock)
    for other in (0.01, 0.01, 9.0):  # another lane's times
        assert took(watch, clock, 1, other) is None
    for own in times:
        took(watch, clock, 0, own)
    assert allowed(watch, clock, 0) == pytest.approx(seconds)


def test_the_first_evaluation_has_more_time_where_all_are_slow() -> None:
    clock = Clock()
    watch = LaneWatchdog(LaneTimeouts(), clock)
    assert took(watch, clock, 1, 100.0) is None
    assert allowed(watch, clock, 0) == 1000.0


def test_what_is_left_is_the_longest() -> None:
    """The time that is left is that of the lane that will be overdue last. Overdue lanes do not count."""
    clock = Clock()
    watch = LaneWatchdog(LaneTimeouts(), clock)
    assert watch.left() == 0
    took(watch, clock, 0, 1.0)
    watch.begin(0)
    watch.begin(1)
    clock.now += 50
    assert watch.slow() == [(0, 50.0)]
    assert watch.left() == 250
    clock.now += 1000
    assert watch.left() == 0


def test_the_record_of_a_lane_that_was_slow() -> None:
    """A lane is marked as lost while it is slow, and not when it is back."""
    recorder = Recorder()
    recorder(LaneSlow(1, 20.123))
    recorder(LaneSlow(2, 30.0))
    assert [(mark.lane, mark.error) for mark in recorder.timeline().lost] == [
        (1, "no answer for 20.1 s"),
        (2, "no answer for 30 s"),
    ]
    recorder(LaneBack(1, 25.0))
    recorder(LaneLost(2, ValueError("broken")))
    assert [(mark.lane, mark.error) for mark in recorder.timeline().lost] == [(2, "ValueError: broken")]
