"""Imagined devices and the pool that runs them in virtual time, for `chords_core.simulation`.

The pool knows when each result comes, and sets the clock to that moment. Its model returns the state itself, because
nothing here depends on the values. All times are virtual seconds since the run began.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import NamedTuple

from .checks import is_number, shown
from .errors import InvalidInput
from .execution.lane_timeout import LaneTimeouts, LaneWatchdog
from .execution.pools import EvaluationResult
from .methods.events import Evaluation


def check_figure(name: str, value: float, must: str, holds: Callable[[float], bool]) -> None:
    """Raise `InvalidInput` unless ``value`` is a number that ``holds`` accepts; ``must`` says what that is."""
    if not is_number(value) or not holds(value):
        raise InvalidInput(name, f"must be {must}, not {shown(value)}")


class DeviceLost(Exception):
    """A device died, or no device is left that will ever answer."""


@dataclass(frozen=True)
class Link:
    """The connection between the driver and a device. Each evaluation sends one latent there and one back.

    Args:
        name: for the reader, and to tell links apart.
        latency: seconds that a message takes one way, whatever its size, software included.
        bandwidth: bytes a second, in each direction at the same time.
        shared: whether the latents of all devices on this link take turns, as on the one network card of the driver's
            machine. Otherwise each device has the bandwidth for itself.
    """

    name: str
    latency: float = 0.0
    bandwidth: float = math.inf
    shared: bool = False

    def __post_init__(self) -> None:
        check_figure("latency", self.latency, "finite and at least 0", lambda seconds: 0 <= seconds < math.inf)
        check_figure("bandwidth", self.bandwidth, "positive", lambda rate: rate > 0)


# The part of the nominal rates that a program gets. Between machines the call of a Ray actor decides the latency.
LOCAL = Link("local")
NVLINK = Link("NVLink", 10e-6, 300e9)
PCIE = Link("PCIe 4 through the host", 50e-6, 12e9)
ETHERNET_100 = Link("100 Gb/s network", 0.5e-3, 11e9, shared=True)
ETHERNET_10 = Link("10 Gb/s Ethernet", 0.5e-3, 1.15e9, shared=True)
ETHERNET_1 = Link("1 Gb/s Ethernet", 0.5e-3, 0.117e9, shared=True)


@dataclass(frozen=True)
class Device:
    """A device, one lane of the run.

    Args:
        seconds: of one evaluation, on average.
        link: its connection.
        jitter: each evaluation takes ``seconds`` x (1 - jitter .. 1 + jitter), evenly distributed; 0 <= jitter < 1.
            The standard deviation is ``seconds`` x jitter / sqrt(3).
        dies_at: from this second on it raises: in the evaluation under way, and at once in any later one.
        hangs_at: from this second on it never answers.
    """

    seconds: float
    link: Link = LOCAL
    jitter: float = 0.0
    dies_at: float = math.inf
    hangs_at: float = math.inf

    def __post_init__(self) -> None:
        check_figure("seconds", self.seconds, "finite and positive", lambda seconds: 0 < seconds < math.inf)
        check_figure("jitter", self.jitter, "at least 0 and below 1", lambda share: 0 <= share < 1)
        check_figure("dies_at", self.dies_at, "at least 0", lambda moment: moment >= 0)
        check_figure("hangs_at", self.hangs_at, "at least 0", lambda moment: moment >= 0)
        if not isinstance(self.link, Link):
            raise InvalidInput("link", f"must be a Link, not {shown(self.link)}")


class _Watchdog(LaneWatchdog):
    """A watchdog that says when a lane is overdue, so that the clock can jump there."""

    def first_due(self) -> float:
        """When the first lane is overdue; infinite if no lane is at work."""
        return min(self._due.values(), default=math.inf)


class _Stage(Enum):
    """What happens at an event."""

    MADE = 1  # the evaluation is done, and its latent starts on its way back
    BACK = 2  # the driver has the result
    FAILED = 3  # the driver is told that the device has died


class _Due(NamedTuple):
    """A future event, in the order of time. The number keeps the heap from comparing evaluations."""

    time: float
    number: int
    stage: _Stage
    lane: int
    evaluation: Evaluation
    sent: float


class SimulatedPool:
    """A `Pool` in virtual time.

    Attributes:
        now: the driver's clock.
        watch: the watchdog to drive with.
        computing: for each device the seconds in which it computed.
        answers: how many results came back.
    """

    def __init__(
        self, devices: Sequence[Device], payload: int, overhead: float, seed: int, timeouts: LaneTimeouts | None
    ) -> None:
        self.now = 0.0
        self.watch = _Watchdog(timeouts, lambda: self.now)
        self.computing = [0.0] * len(devices)
        self.answers = 0
        self._devices = tuple(devices)
        self._payload, self._overhead, self._seed = payload, overhead, seed
        self._events: list[_Due] = []
        self._numbers = count()
        self._busy_lanes: set[int] = set()
        self._calls: Counter[tuple[int, int, int]] = Counter()  # by evaluation: more than one if a call was lost
        self._free_at: dict[tuple[Link, _Stage], float] = {}  # when a shared link can take the next latent

    @property
    def lanes(self) -> int:
        return len(self._devices)

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        device = self._devices[lane]
        self._busy_lanes.add(lane)
        if not self._answers_by(self.now, lane, evaluation, self.now):
            return
        arrives = self._travel(device.link, _Stage.MADE, self.now)
        made = arrives + device.seconds * self._relative_time(device, evaluation)
        self.computing[lane] += max(0.0, min(made, device.dies_at, device.hangs_at) - arrives)
        if self._answers_by(made, lane, evaluation, self.now):
            self._expect(made, _Stage.MADE, lane, evaluation, self.now)

    def next(self, timeout: float) -> EvaluationResult | None:
        # Nothing looks at the clock before a lane is overdue, so the clock need not stop every few milliseconds.
        limit = max(self.now, self.watch.first_due()) + timeout
        result = self._next_by(limit)
        if result is None:
            self._wait_until(limit)
        else:
            self.now += self._overhead
        return result

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        limit = math.inf if within is None else self.now + within
        came: list[EvaluationResult] = []
        while self._busy_lanes and (result := self._next_by(limit)):
            came.append(result)
        if self._busy_lanes:
            self._wait_until(limit)
        return came

    def _next_by(self, limit: float) -> EvaluationResult | None:
        """The next result, with the clock set to it, or None if there is none by ``limit``."""
        while self._events and self._events[0].time <= limit:
            time, _, stage, lane, evaluation, sent = heapq.heappop(self._events)
            if stage is _Stage.MADE:
                back = self._travel(self._devices[lane].link, _Stage.BACK, time)
                if self._answers_by(back, lane, evaluation, sent):
                    self._expect(back, _Stage.BACK, lane, evaluation, sent)
                continue
            self.now = max(self.now, time)  # later, if the driver was busy with another one
            self._busy_lanes.remove(lane)
            if stage is _Stage.FAILED:
                return EvaluationResult(lane, evaluation, self.now - sent, error=DeviceLost(f"died at {time:.6g} s"))
            self.answers += 1
            return EvaluationResult(lane, evaluation, self.now - sent, denoised=evaluation.x)
        return None

    def _wait_until(self, limit: float) -> None:
        if math.isinf(limit):
            raise DeviceLost("every device that is left hangs")
        self.now = limit

    def _answers_by(self, time: float, lane: int, evaluation: Evaluation, sent: float) -> bool:
        """Whether the device works until ``time``. If it dies before, the driver will be told."""
        device = self._devices[lane]
        if time < min(device.dies_at, device.hangs_at):
            return True
        if device.dies_at <= device.hangs_at:
            self._expect(max(sent, device.dies_at), _Stage.FAILED, lane, evaluation, sent)
        return False

    def _expect(self, time: float, stage: _Stage, lane: int, evaluation: Evaluation, sent: float) -> None:
        heapq.heappush(self._events, _Due(time, next(self._numbers), stage, lane, evaluation, sent))

    def _travel(self, link: Link, towards: _Stage, time: float) -> float:
        """When a latent that is sent at ``time`` arrives."""
        seconds = self._payload / link.bandwidth
        if link.shared:
            time = max(time, self._free_at.get((link, towards), 0.0))
            self._free_at[link, towards] = time + seconds
        return time + seconds + link.latency

    def _relative_time(self, device: Device, evaluation: Evaluation) -> float:
        """How long this evaluation takes, divided by the device's average."""
        key = evaluation.core, evaluation.index, evaluation.depth
        self._calls[key] += 1
        if not device.jitter:
            return 1.0
        chance = random.Random(f"{self._seed} {key} {self._calls[key]}").random()
        return 1 + device.jitter * (2 * chance - 1)
