"""Runs on imagined devices, in virtual time: what a method would take on hardware that nobody here has.

The run is the real one: the same state machine, connected by the same `execution.driver.drive` with the same
timeouts, so what waits for what, what is most urgent, and what is done elsewhere after a failure is not modelled but
so. Imagined are the pool, which knows when each answer will be there and sets the clock to that moment, and the
model, which answers with the state itself: nothing here depends on what a model would say.

All times are virtual seconds since the run began. Equal arguments give equal results, on any machine.
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
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_whole, is_number, shown
from .errors import InvalidInput
from .execution.driver import Method, drive
from .execution.lane_timeout import LaneTimeouts, LaneWatchdog
from .execution.pools import EvaluationResult
from .execution.timeline import HitMark, Recorder, Timeline
from .methods.accept import check_accept
from .methods.chords import Chords
from .methods.events import Evaluation, Event, Hit
from .methods.start_indices import check_starts
from .methods.window import Window
from .methods.window_spec import solver_window
from .plans import ChordsPlan, Plan, WindowPlan
from .solvers import EULER


def _check(name: str, value: float, must: str, holds: Callable[[float], bool]) -> None:
    if not is_number(value) or not holds(value):
        raise InvalidInput(name, f"must be {must}, not {shown(value)}")


class DeviceLost(Exception):
    """An imagined device died, or none is left that will ever answer."""


@dataclass(frozen=True)
class Link:
    """The way between the driver and a device; each evaluation sends one latent there and one back.

    Args:
        name: for people, and to tell links apart.
        latency: seconds a message takes whatever its size, one way, software included.
        bandwidth: bytes a second, each way at the same time.
        shared: the latents of all devices on this link take turns, as on the one network card of the driver's
            machine; otherwise each device has the bandwidth for itself.
    """

    name: str
    latency: float = 0.0
    bandwidth: float = math.inf
    shared: bool = False

    def __post_init__(self) -> None:
        _check("latency", self.latency, "finite and at least 0", lambda seconds: 0 <= seconds < math.inf)
        _check("bandwidth", self.bandwidth, "positive", lambda rate: rate > 0)


# What reaches a program of the nominal rates. Between machines a call of a Ray actor sets the latency, not the wire.
LOCAL = Link("local")
NVLINK = Link("NVLink", 10e-6, 300e9)
PCIE = Link("PCIe 4 through the host", 50e-6, 12e9)
ETHERNET_100 = Link("100 Gb/s network", 0.5e-3, 11e9, shared=True)
ETHERNET_10 = Link("10 Gb/s Ethernet", 0.5e-3, 1.15e9, shared=True)
ETHERNET_1 = Link("1 Gb/s Ethernet", 0.5e-3, 0.117e9, shared=True)


@dataclass(frozen=True)
class Device:
    """An imagined device, one lane of the run.

    Args:
        seconds: of one evaluation, on average.
        link: how it is reached.
        jitter: each evaluation takes ``seconds`` x (1 - jitter .. 1 + jitter), evenly distributed; 0 <= jitter < 1.
            The standard deviation is jitter / sqrt(3).
        dies_at: from then on it raises: in the evaluation it is at, and at once in any later one.
        hangs_at: from then on it never answers.
    """

    seconds: float
    link: Link = LOCAL
    jitter: float = 0.0
    dies_at: float = math.inf
    hangs_at: float = math.inf

    def __post_init__(self) -> None:
        _check("seconds", self.seconds, "finite and positive", lambda seconds: 0 < seconds < math.inf)
        _check("jitter", self.jitter, "at least 0 and below 1", lambda share: 0 <= share < 1)
        _check("dies_at", self.dies_at, "at least 0", lambda moment: moment >= 0)
        _check("hangs_at", self.hangs_at, "at least 0", lambda moment: moment >= 0)
        if not isinstance(self.link, Link):
            raise InvalidInput("link", f"must be a Link, not {shown(self.link)}")


@dataclass(frozen=True)
class Simulated:
    """What a simulated run came to.

    Attributes:
        seconds: until the run returned with the accepted hit; infinite if every device was lost before.
        timeline: when which evaluation ran on which device (``lane``: its place among the devices), from its latent
            setting out to its result being there; hits and lost devices.
        busy: for each device the share of ``seconds``, 0 to 1, in which it computed. Latents on their way do not
            count, evaluations whose result was lost do.
        evaluations: how many came back, those made twice included.
    """

    seconds: float
    timeline: Timeline
    busy: tuple[float, ...]
    evaluations: int

    @property
    def hits(self) -> tuple[HitMark, ...]:
        """The hits and when each was there, the draft first."""
        return self.timeline.hits


class Barrier:
    """``method`` with rounds that wait for each other: no evaluation of a round starts before all of the rounds before
    it are there, as in implementations that gather every device's result after each step.

    The result is the same; `simulate` or `chords_core.execution.driver.drive` show what the waiting costs.
    """

    def __init__(self, method: Method) -> None:
        self._method = method
        self._held: list[Evaluation] = []
        self._open = 0  # evaluations of the present round still to come
        self.accepted: Hit | None = method.accepted

    def ready(self) -> list[Evaluation]:
        """The next round, once the one before it is complete."""
        self._held += self._method.ready()
        if self._open or not self._held:
            return []
        depth = min(evaluation.depth for evaluation in self._held)
        evaluations = [evaluation for evaluation in self._held if evaluation.depth == depth]
        self._held = [evaluation for evaluation in self._held if evaluation.depth != depth]
        self._open = len(evaluations)
        return evaluations

    def complete(self, evaluation: Evaluation, denoised: Tensor) -> list[Event]:
        """Take one result of the present round."""
        self._open -= 1
        events = self._method.complete(evaluation, denoised)
        self.accepted = self._method.accepted
        return events

    def accept_newest(self) -> list[Event]:
        """As ``method`` does."""
        events = self._method.accept_newest()
        self.accepted = self._method.accepted
        return events


def simulate(
    method: Method,
    devices: Sequence[Device],
    *,
    payload: int = 0,
    overhead: float = 0.0,
    seed: int = 0,
    timeouts: LaneTimeouts | None = None,
) -> Simulated:
    """Run ``method`` on ``devices`` until it has accepted a hit.

    Args:
        method: one that has not begun; it is used up. `skeleton` makes CHORDS for the purpose.
        devices: in the driver's order: of several that are idle, the one idle the longest gets work, at the start
            the first; one that has turned out notably slower than the fastest only if there is no other.
        payload: bytes of a latent; one goes to the device and one comes back for each evaluation.
        overhead: seconds that the driver, which is one thread, is busy with each result.
        seed: of the jitter. How long an evaluation takes depends on the seed, the evaluation and its device's speed,
            not on what came before, so that runs with the same seed can be compared.
        timeouts: after which a device that hangs is given up; None: the usual `LaneTimeouts`.

    Raises:
        InvalidInput: for no devices, or a negative payload or overhead.
    """
    if isinstance(method, type) or not isinstance(method, Method):
        raise InvalidInput("method", f"must be a method that has not begun, such as Chords, not {shown(method)}")
    _check_run(devices, payload, overhead)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidInput("seed", f"must be a whole number, not {shown(seed)}")
    if not isinstance(timeouts, LaneTimeouts | None):
        raise InvalidInput("timeouts", f"must be a LaneTimeouts or None, not {shown(timeouts)}")
    pool = _ImaginedPool(devices, payload, overhead, seed, timeouts)
    recorder = Recorder(lambda: pool.now)
    ended = True
    try:
        drive(method, pool, on_event=recorder, watchdog=pool.watch)
    except DeviceLost:
        ended = False
    busy = tuple(min(1.0, seconds / pool.now) if pool.now else 0.0 for seconds in pool.computing)
    return Simulated(pool.now if ended else math.inf, recorder.timeline(), busy, pool.answers)


def skeleton(steps: int, starts: Sequence[int], accept: int = 1) -> Chords:
    """CHORDS with all its dependencies on a state of one element, to be simulated.

    Raises:
        InvalidInput: for starts or a hit that there cannot be.
    """
    indices = check_starts(starts, steps)
    return Chords(
        torch.zeros(1), torch.linspace(1.0, 0.0, steps + 1), indices, EULER, check_accept(accept, len(indices))
    )


def skeleton_of(plan: Plan) -> Method:
    """What the plan would run, likewise."""
    if isinstance(plan, ChordsPlan):
        return skeleton(plan.steps, plan.starts, plan.expected_hit)
    if not isinstance(plan, WindowPlan):
        return skeleton(plan.called_steps, (0,))
    # An imagined state does not move, so the window makes the rounds that were planned.
    sigmas = torch.linspace(1.0, 0.0, plan.called_steps + 1)
    return Window(torch.zeros(1), solver_window(sigmas, plan.cores, EULER, slopes=False, rounds=plan.depth))


def expected_seconds(
    plans: Sequence[Plan], devices: Sequence[Device], *, payload: int = 0, overhead: float = 0.0, runs: int = 8
) -> tuple[float, ...]:
    """The expected time of each plan on ``devices``: the mean over ``runs`` simulated ones, the same chances for each
    plan. Without jitter one run says all.

    See `simulate` for ``payload`` and ``overhead``, and for what it raises; a plan that no device is left for takes
    infinitely long.
    """
    if not isinstance(plans, Sequence) or not all(isinstance(plan, Plan) for plan in plans):
        raise InvalidInput("plans", f"must be a list of Plan, not {shown(plans)}")
    _check_run(devices, payload, overhead)
    check_whole("runs", runs)
    seeds = range(runs if any(device.jitter for device in devices) else 1)
    return tuple(
        fmean(
            simulate(skeleton_of(plan), devices, payload=payload, overhead=overhead, seed=seed).seconds
            for seed in seeds
        )
        for plan in plans
    )


def _check_run(devices: Sequence[Device], payload: int, overhead: float) -> None:
    if not isinstance(devices, Sequence) or not all(isinstance(device, Device) for device in devices):
        raise InvalidInput("devices", f"must be a list of Device, not {shown(devices)}")
    if not devices:
        raise InvalidInput("devices", "need at least one")
    check_whole("payload", payload, 0)
    _check("overhead", overhead, "finite and at least 0 seconds", lambda seconds: 0 <= seconds < math.inf)


class _Watchdog(LaneWatchdog):
    """One that says when to look, so that the clock can jump there."""

    def first_due(self) -> float:
        return min(self._due.values(), default=math.inf)


class _Stage(Enum):
    """What happens at an event."""

    MADE = 1  # the evaluation is there, and its latent sets out on its way back
    BACK = 2  # the driver has the result
    FAILED = 3  # the driver hears that the device has died


class _Due(NamedTuple):
    """An event to come, in the order of time; the number keeps the heap from comparing evaluations."""

    time: float
    number: int
    stage: _Stage
    lane: int
    evaluation: Evaluation
    sent: float


class _ImaginedPool:
    """A `chords_core.execution.pools.Pool` in virtual time; ``now`` is the driver's clock."""

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
        self._under_way: set[int] = set()
        self._calls: Counter[tuple[int, int, int]] = Counter()  # of each evaluation: more than one if it was lost
        self._free_at: dict[tuple[Link, _Stage], float] = {}  # when a shared link can take the next latent

    @property
    def lanes(self) -> int:
        return len(self._devices)

    def submit(self, lane: int, evaluation: Evaluation) -> None:
        device = self._devices[lane]
        self._under_way.add(lane)
        if not self._answers_by(self.now, lane, evaluation, self.now):
            return
        arrives = self._travel(device.link, _Stage.MADE, self.now)
        made = arrives + device.seconds * self._luck(device, evaluation)
        self.computing[lane] += max(0.0, min(made, device.dies_at, device.hangs_at) - arrives)
        if self._answers_by(made, lane, evaluation, self.now):
            self._expect(made, _Stage.MADE, lane, evaluation, self.now)

    def next(self, timeout: float) -> EvaluationResult | None:
        # Nobody looks at the clock before a lane is overdue, so there is no need to stop every few milliseconds.
        limit = max(self.now, self.watch.first_due()) + timeout
        outcome = self._next_by(limit)
        if outcome is None:
            self._wait_until(limit)
        else:
            self.now += self._overhead
        return outcome

    def settle(self, within: float | None = None) -> list[EvaluationResult]:
        limit = math.inf if within is None else self.now + within
        came: list[EvaluationResult] = []
        while self._under_way and (outcome := self._next_by(limit)):
            came.append(outcome)
        if self._under_way:
            self._wait_until(limit)
        return came

    def _next_by(self, limit: float) -> EvaluationResult | None:
        """The next outcome, the clock set to it, or None if there is none by ``limit``."""
        while self._events and self._events[0].time <= limit:
            time, _, stage, lane, evaluation, sent = heapq.heappop(self._events)
            if stage is _Stage.MADE:
                back = self._travel(self._devices[lane].link, _Stage.BACK, time)
                if self._answers_by(back, lane, evaluation, sent):
                    self._expect(back, _Stage.BACK, lane, evaluation, sent)
                continue
            self.now = max(self.now, time)  # later, if the driver was busy with another one
            self._under_way.remove(lane)
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
        """Whether the device lives until ``time``; if it dies before, the driver is told."""
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

    def _luck(self, device: Device, evaluation: Evaluation) -> float:
        """What this evaluation takes, in units of the device's usual time."""
        key = evaluation.core, evaluation.index, evaluation.depth
        self._calls[key] += 1
        if not device.jitter:
            return 1.0
        chance = random.Random(f"{self._seed} {key} {self._calls[key]}").random()
        return 1 + device.jitter * (2 * chance - 1)
