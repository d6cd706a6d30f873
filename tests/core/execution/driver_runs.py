"""What the tests of the driver share: a run, models that fail in it, and checks of its result and events."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from chords_core import (
    Accepted,
    Evaluated,
    Event,
    InlinePool,
    LaneBack,
    LaneLost,
    LaneSlow,
    Result,
    ThreadPool,
    sample,
)
from tests.core.problems import Counted, Slow, geometric, noise, nonlinear

STEPS = 12
STARTS = [0, 3, 6, 8]
X, SIGMAS = noise(6, scale=10.0), geometric(STEPS)


def run(pool: ThreadPool | InlinePool | None = None, **arguments) -> Result:
    return sample(nonlinear, X, SIGMAS, **{"starts": STARTS, "solver": "dpmpp_2m", "pool": pool, **arguments})


class HostInterrupt(BaseException):
    """Like a host's: it is no Exception, so that no node catches it."""


class FailsAt(Counted):
    """Raises at the calls of these numbers, counted over all lanes."""

    def __init__(self, calls: set[int], error: Callable[[int], BaseException]) -> None:
        super().__init__(Slow(0, 0.0005))
        self._calls, self._error = calls, error

    def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
        if number in self._calls:
            raise self._error(number)
        return super().call(number, x, sigma)


def lost(number: int) -> Exception:
    return RuntimeError(f"lane lost at call {number}")


def lane_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("chords-lane")]


def assert_same_hits(result: Result, expected: Result) -> None:
    """The same hits and depth, bit for bit; calls may have been made twice."""
    assert result.depth == expected.depth
    assert [(hit.core, hit.depth) for hit in result.hits] == [(hit.core, hit.depth) for hit in expected.hits]
    assert all(torch.equal(hit.x, other.x) for hit, other in zip(result.hits, expected.hits, strict=True))
    assert torch.equal(result.x, expected.x)


def assert_reported_once(events: list[Event]) -> None:
    """Each evaluation is reported once, whatever the lanes do, and `Accepted` comes last."""
    evaluated = [(event.core, event.index) for event in events if isinstance(event, Evaluated)]
    assert len(evaluated) == len(set(evaluated))
    assert isinstance(events[-1], Accepted)
    gone: set[int] = set()
    for event in events:  # a lane that is slow or lost reports nothing before it is back
        if isinstance(event, LaneSlow | LaneLost):
            gone.add(event.lane)
        elif isinstance(event, LaneBack):
            assert event.lane in gone
            gone.remove(event.lane)
        elif isinstance(event, Evaluated):
            assert event.lane not in gone
