"""Runs on imagined devices in virtual time: how long a method would take on hardware that is not there.

The run is a real one: the same state machine, the same `execution.driver.drive`, the same timeouts. So dependencies,
urgency and the work after a failure are not a model of the driver but the driver itself. Only the pool is imagined
(`chords_core.simulated_devices`).

All times are virtual seconds since the run began. Equal arguments give equal results, on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from ._types import Method
from .checks import check_whole, shown
from .errors import InvalidInput
from .execution.driver import drive
from .execution.lane_timeout import LaneTimeouts
from .execution.timeline import HitMark, Recorder, Timeline
from .methods.accept import check_accept
from .methods.chords import Chords
from .methods.events import Evaluation, Event, Hit
from .methods.start_indices import check_starts
from .methods.window import Window
from .methods.window_spec import solver_window
from .plans import AdaptivePlan, ChordsPlan, Plan, WindowPlan
from .simulated_devices import Device, DeviceLost, SimulatedPool, check_figure
from .solvers import EULER


@dataclass(frozen=True)
class Simulated:
    """The result of a simulated run.

    Attributes:
        seconds: until the run returned with the accepted hit; infinite if every device was lost before.
        timeline: which evaluation ran on which device (``lane``: its place in the list), from the start of its latent
            until its result came back; hits and lost devices.
        busy: for each device the share of ``seconds``, 0 to 1, in which it computed. Evaluations whose result was lost
            count, the time of latents on their way does not.
        evaluations: how many came back, including those made twice.
    """

    seconds: float
    timeline: Timeline
    busy: tuple[float, ...]
    evaluations: int

    @property
    def hits(self) -> tuple[HitMark, ...]:
        """The hits, the draft first, with the second of each."""
        return self.timeline.hits


class Barrier:
    """``method`` with rounds that wait for each other: an evaluation starts once all earlier rounds are complete.

    Implementations that gather every device's result after each step work so. The result is the same. `simulate` and
    `chords_core.execution.driver.drive` show what the waiting costs.
    """

    def __init__(self, method: Method) -> None:
        self._method = method
        self._held: list[Evaluation] = []
        self._open = 0  # evaluations of this round that have not come back
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
        """Take one result of this round."""
        self._open -= 1
        events = self._method.complete(evaluation, denoised)
        self.accepted = self._method.accepted
        return events

    def accept_hit(self, index: int | None = None) -> list[Event]:
        """As ``method`` does."""
        events = self._method.accept_hit(index)
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
        method: one that has not begun. It is used up. `skeleton` makes CHORDS for this purpose.
        devices: in the driver's order. Of idle devices, the one that has been idle the longest gets work; at the start
            that is the first. A device that has turned out much slower than the fastest gets work only if no other is
            idle.
        payload: bytes of a latent. For each evaluation one goes to the device and one comes back.
        overhead: seconds for which the driver, which is one thread, is busy with each result.
        seed: of the jitter. The time of an evaluation depends on the seed, the evaluation and its device, and not on
            what came before. So runs with the same seed can be compared.
        timeouts: after which a device that hangs is given up; None: the usual `LaneTimeouts`.

    Raises:
        InvalidInput: for an empty list of devices, or a negative payload or overhead.
    """
    if isinstance(method, type) or not isinstance(method, Method):
        raise InvalidInput("method", f"must be a method that has not begun, such as Chords, not {shown(method)}")
    _check_run(devices, payload, overhead)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidInput("seed", f"must be a whole number, not {shown(seed)}")
    if not isinstance(timeouts, LaneTimeouts | None):
        raise InvalidInput("timeouts", f"must be a LaneTimeouts or None, not {shown(timeouts)}")
    pool = SimulatedPool(devices, payload, overhead, seed, timeouts)
    recorder = Recorder(lambda: pool.now)
    ended = True
    try:
        drive(method, pool, on_event=recorder, watchdog=pool.watch)
    except DeviceLost:
        ended = False
    busy = tuple(min(1.0, seconds / pool.now) if pool.now else 0.0 for seconds in pool.computing)
    return Simulated(pool.now if ended else math.inf, recorder.timeline(), busy, pool.answers)


def skeleton(steps: int, starts: Sequence[int], accept: int = 1) -> Chords:
    """CHORDS with all its dependencies on a state of one element, for `simulate`.

    Raises:
        InvalidInput: for starts or a hit that do not exist.
    """
    indices = check_starts(starts, steps)
    return Chords(
        torch.zeros(1), torch.linspace(1.0, 0.0, steps + 1), indices, EULER, check_accept(accept, len(indices))
    )


def skeleton_of(plan: Plan) -> Method:
    """The method that the plan would run, on a state of one element."""
    if isinstance(plan, ChordsPlan):
        return skeleton(plan.steps, plan.starts, plan.expected_hit)
    if isinstance(plan, AdaptivePlan) and plan.cores == 1:
        return skeleton(plan.depth, (0,))
    if not isinstance(plan, WindowPlan | AdaptivePlan):
        return skeleton(plan.called_steps, (0,))
    # An imagined state does not move, so the window makes the rounds that were planned.
    sigmas = torch.linspace(1.0, 0.0, plan.called_steps + 1)
    return Window(torch.zeros(1), solver_window(sigmas, plan.cores, EULER, slopes=False, rounds=plan.depth))


def expected_seconds(
    plans: Sequence[Plan], devices: Sequence[Device], *, payload: int = 0, overhead: float = 0.0, runs: int = 8
) -> tuple[float, ...]:
    """The expected seconds of each plan on ``devices``: the mean over ``runs`` simulated runs.

    All plans get the same random numbers. Without jitter there is one run. A plan that loses all devices takes
    infinitely long. See `simulate` for ``payload`` and ``overhead``, and for the errors.
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
    check_figure("overhead", overhead, "finite and at least 0 seconds", lambda seconds: 0 <= seconds < math.inf)
