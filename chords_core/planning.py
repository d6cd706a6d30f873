"""The planner: which method to run on how many cores, for given steps and lanes, and why.

Each choice rests on figures in benchmarks/results; the constants below name them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Literal

from .checks import check_choice, check_whole, is_number, shown
from .errors import InvalidInput
from .methods.accept import Agreement
from .methods.start_indices import hit_depth, lattice_starts
from .methods.window_spec import check_tolerance, expected_calls, expected_rounds
from .plans import AdaptivePlan, Cause, ChordsPlan, InterpolatedPlan, Plan, Reason, SequentialPlan, WindowPlan
from .solvers import Solver, find_solver
from .solvers.interpolated import default_calls

AGREEMENT_THRESHOLD = 0.05
"""If nothing else is asked for, CHORDS takes the first hit that differs by at most this share from the hit before. The
change bounds the error of the later hit (benchmarks/results/trust.md)."""

PLANNED_METHODS = ("chords", "secant")
"""The methods that run on several cores."""

_MIN_STEPS = 12
"""With fewer steps each step matters so much that a parallel result differs visibly from that of one core."""

_MIN_SPEEDUP = 1.25
"""Below this factor of calls in a row, further lanes cost more than they bring."""

_MIN_FURTHER_SPEEDUP = 1.1
"""The same where fewer calls gain already."""

_MAX_JUMP = 0.2
"""A CHORDS core that starts further from its neighbour than this share of the steps starts from too coarse a guess. On
the demo model such first hits are up to 26 % off the result of one core, others 0 to 6 %, and 8 % at 12 steps
(benchmarks/results/starts.md)."""

_RECTIFICATIONS = (2, 3, 4)
"""How often the fastest core of CHORDS may be rectified."""

_MAX_WINDOW_CORES = 8
"""Further cores of a window hardly save a round."""


@dataclass(frozen=True, eq=False)
class _Request:
    """The checked arguments of `plan`."""

    steps: int
    lanes: int
    cores: int
    accept: int | Literal["exact"] | None
    method: str | None
    solver: Solver
    costs: tuple[float, ...]
    solving: float

    @property
    def later_hit(self) -> int:
        """How close a window has to come, as ``accept`` of `chords_core.sample`."""
        return self.accept if isinstance(self.accept, int) else 1

    @property
    def window_refused(self) -> bool:
        """Whether a window of this solver is too far off, and no method was named."""
        return self.method is None and not self.solver.window_is_close

    def seconds(self, plan: Plan) -> float:
        """How long the plan takes, in the unit of ``costs``; without those, in calls."""
        if not self.costs:
            return float(plan.depth)
        solving = self.solving if isinstance(plan, WindowPlan | AdaptivePlan) else 0.0
        return plan.depth * (self.costs[min(plan.cores, len(self.costs)) - 1] + solving)

    def sequential(self, cause: Cause) -> SequentialPlan:
        """One core at every step, with this cause and the figures of the request."""
        return SequentialPlan(self.steps, (self.reason(cause),))

    def reason(self, cause: Cause) -> Reason:
        """The cause, with those figures of the request that it uses."""
        return Reason(
            cause,
            lanes=self.lanes if cause in _ABOUT_LANES else 0,
            cores=self.cores if cause in _ABOUT_CORES else 0,
            solver=self.solver.name if cause in _ABOUT_SOLVER else "",
        )


_ABOUT_LANES = {
    Cause.WITHIN_TOLERANCE,
    Cause.FASTEST,
    Cause.FASTEST_WITH_FEWER_CALLS,
    Cause.LITTLE_GAIN,
    Cause.SLOW_TOGETHER,
}
_ABOUT_SOLVER = {Cause.WINDOW_NOT_CLOSE, Cause.NEARLY_EVERY_STEP}
_ABOUT_CORES = {Cause.CORES_REQUESTED, Cause.CORES_NOT_FASTER}


def plan(
    steps: int,
    lanes: int,
    cores: int = 0,
    *,
    accept: int | Literal["exact"] | None = None,
    calls: int | None = None,
    tolerance: float | None = None,
    method: str | None = None,
    solver: str | Solver = "euler",
    costs: Sequence[float] = (),
    solving: float = 0.0,
) -> Plan:
    """Choose the method and the number of cores.

    Args:
        steps: N >= 1, the steps of the schedule.
        lanes: how many evaluations can run at the same time; 0 counts as 1.
        cores: 0 chooses what is fastest on these lanes and stays close to the result of one core. That is never more
            cores than lanes, and one core where nothing is gained. Any other number is kept, whatever the lanes and
            the costs are, because the number of cores decides the result.
        accept: n takes the n-th hit of CHORDS. A window ends by what it measures, and comes closer the larger n is.
            "exact" is the result of one core. None: 1 for a window; CHORDS takes the first hit that differs by at most
            `AGREEMENT_THRESHOLD` from the hit before, and the last if none does.
        calls: at how many of the steps to call the model, 2 to N; None: at each. `choose_calls` gives a good number.
            Then several cores are always a window. It has no effect on "exact", nor on "chords" on several cores.
        tolerance: how far the result may be from that of one core, as `chords_core.sample` takes it; None: the other
            arguments decide. It excludes ``calls``, the method "chords", and any ``accept`` but 1.
        method: "chords" or "secant". None: "secant", or one core if the window of this ``solver`` is not close enough.
        solver: as `chords_core.sample` takes it.
        costs: how long a round of evaluations takes on 1, 2, ... lanes at once, in any unit. More lanes than given take
            as long as the last. Empty: a round always takes as long as one evaluation.
        solving: how long solving a window takes a round, in the unit of ``costs``. Without ``costs`` it has no effect.

    Raises:
        InvalidInput: for an argument out of its range.
    """
    _check_costs(costs)
    request = _Request(
        check_whole("steps", steps),
        check_whole("lanes", lanes, 0),
        check_whole("cores", cores, 0, " (0 chooses)"),
        _checked_accept(accept),
        method,
        find_solver(solver),
        tuple(costs),
        solving,
    )
    if method is not None:
        check_choice("method", method, PLANNED_METHODS)
    if calls is not None and check_whole("calls", calls, 2, " or None") > steps:
        raise InvalidInput("calls", f"{shown(calls)} are more than the {steps} steps of the schedule")
    if tolerance is not None:
        return _plan_within_tolerance(request, check_tolerance(tolerance), calls)
    one_core = cores == 1 or (cores == 0 and lanes < 2)
    if calls is not None and calls < steps and accept != "exact" and (method != "chords" or one_core):
        return _plan_fewer_calls(request, calls)
    return _plan_every_step(request)


def _plan_within_tolerance(request: _Request, tolerance: float, calls: int | None) -> SequentialPlan | AdaptivePlan:
    """The number of cores that was asked for, or the one that takes the least time on the lanes; one core at every
    step, where that gains too little."""
    for name, given in (("calls", calls), ("accept", None if request.accept == 1 else request.accept)):
        if given is not None:
            raise InvalidInput(name, "a tolerance decides this; leave it out, or leave out the tolerance")
    if request.method == "chords":
        raise InvalidInput("method", '"chords" takes no tolerance; use "secant"')

    def within(cores: int, reason: Reason) -> AdaptivePlan:
        depth = expected_calls(request.steps, cores, request.solver, tolerance)
        return AdaptivePlan(request.steps, (reason,), cores, depth, tolerance)

    if request.cores > 1 and request.steps == 1:
        return request.sequential(Cause.NO_ROOM)
    if request.cores > 1:
        return within(min(request.cores, request.steps), request.reason(Cause.CORES_REQUESTED))
    if request.steps < _MIN_STEPS:
        return request.sequential(Cause.TOO_FEW_STEPS)
    lanes = 1 if request.cores else max(request.lanes, 1)
    counts = range(1, min(lanes, request.steps, _MAX_WINDOW_CORES) + 1)
    plans = [within(cores, request.reason(Cause.WITHIN_TOLERANCE)) for cores in counts]
    best = min(plans, key=lambda plan: (request.seconds(plan), plan.cores))
    every = request.sequential(Cause.NEARLY_EVERY_STEP)
    return every if request.seconds(every) < _MIN_FURTHER_SPEEDUP * request.seconds(best) else best


def choose_calls(steps: int, one_in: int | None = None) -> int | None:
    """At how many of the ``steps`` to call the model; None: at each.

    Args:
        one_in: about one call for so many steps, 2 or more. None: `default_calls`, or every step if that would save too
            few calls.
    """
    if one_in is None:
        calls = default_calls(steps)
        return calls if steps / calls >= _MIN_SPEEDUP else None
    calls = max(2, -(-steps // check_whole("one_in", one_in, 2, " or None")))
    return calls if calls < steps else None


def _plan_every_step(request: _Request) -> Plan:
    if request.cores == 1:
        return request.sequential(Cause.ONE_CORE_REQUESTED)
    if request.window_refused and request.accept != "exact" and (request.cores or request.lanes > 1):
        return request.sequential(Cause.WINDOW_NOT_CLOSE)
    if request.cores:
        return _plan_requested_cores(request)
    if request.lanes < 2:
        return request.sequential(Cause.ONE_LANE)
    if request.accept == "exact":
        return request.sequential(Cause.EXACT)
    if request.steps < _MIN_STEPS:
        return request.sequential(Cause.TOO_FEW_STEPS)
    return _plan_fastest(request)


def _plan_requested_cores(request: _Request) -> Plan:
    reason = request.reason(Cause.CORES_REQUESTED)
    chosen: ChordsPlan | WindowPlan
    if request.method == "chords" or request.accept == "exact":
        chosen = _chords(request, _starts_for(request.steps, request.cores), reason)
    else:
        chosen = _window(request, request.cores, None, reason)
    return chosen if chosen.cores > 1 else request.sequential(Cause.NO_ROOM)


def _plan_fastest(request: _Request) -> Plan:
    """What takes the least time on the lanes, with every step; one core if that gains too little."""
    steps, reason = request.steps, request.reason(Cause.FASTEST)
    best: ChordsPlan | WindowPlan | None
    if request.method == "chords":
        counts = range(2, min(request.lanes, steps) + 1)
        lattices = chain.from_iterable(_close_starts(steps, cores) for cores in counts)
        plans = [_chords(request, starts, reason) for starts in lattices]
        best = min(plans, key=lambda each: (request.seconds(each), _longest_jump(each.starts)), default=None)
    else:
        counts = range(2, min(request.lanes, steps, _MAX_WINDOW_CORES) + 1)
        windows = [_window(request, cores, None, reason) for cores in counts]
        best = min(windows, key=lambda each: (request.seconds(each), -each.cores))  # more cores are closer
    if best is None or best.speedup < _MIN_SPEEDUP:
        return request.sequential(Cause.LITTLE_GAIN)
    if request.seconds(request.sequential(Cause.SLOW_TOGETHER)) < _MIN_SPEEDUP * request.seconds(best):
        return request.sequential(Cause.SLOW_TOGETHER)
    return best


def _plan_fewer_calls(request: _Request, calls: int) -> InterpolatedPlan | WindowPlan:
    """One core with so many calls, or a window. If the planner chooses, the window may also take every step."""
    alone = InterpolatedPlan(request.steps, (request.reason(Cause.INTERPOLATED),), calls)
    chosen = _requested_window(request, alone) if request.cores else _fastest_window(request, alone)
    if chosen.cores > 1 and request.window_refused:
        return alone.because(request.reason(Cause.WINDOW_NOT_CLOSE))
    return chosen


def _requested_window(request: _Request, alone: InterpolatedPlan) -> InterpolatedPlan | WindowPlan:
    """The window of as many cores as were asked for, or one core where that is as fast."""
    cores, calls = request.cores, alone.calls
    if cores == 1:
        return alone
    window = _window(request, min(cores, calls - 1, _MAX_WINDOW_CORES), calls, request.reason(Cause.CORES_REQUESTED))
    if window.cores < 2 or window.depth >= calls:
        return alone.because(request.reason(Cause.CORES_NOT_FASTER))
    return window.because(request.reason(Cause.MORE_CORES_USELESS)) if cores > window.cores else window


def _fastest_window(request: _Request, alone: InterpolatedPlan) -> InterpolatedPlan | WindowPlan:
    """What takes the least time: one core with fewer calls, or a window with fewer calls or with every step."""
    steps, calls, reason = request.steps, alone.calls, request.reason(Cause.FASTEST_WITH_FEWER_CALLS)
    counts = range(2, min(request.lanes, _MAX_WINDOW_CORES) + 1)
    windows = [_window(request, cores, None, reason) for cores in counts if cores <= steps]
    windows += [_window(request, cores, calls, reason) for cores in counts if cores < calls]

    def pays(window: WindowPlan) -> bool:
        """With every step it is closer, too, so that it need not be faster."""
        gain = 1.0 if window.calls is None else _MIN_FURTHER_SPEEDUP
        return window.depth < calls and request.seconds(alone) >= gain * request.seconds(window)

    return min(
        filter(pays, windows),
        key=lambda window: (request.seconds(window), window.calls is not None, -window.cores),
        default=alone,
    )


def _window(request: _Request, cores: int, calls: int | None, reason: Reason) -> WindowPlan:
    nodes = request.steps if calls is None else calls
    cores = max(1, min(cores, nodes))
    rounds = expected_rounds(nodes, cores, solver=request.solver, accept=request.later_hit)
    return WindowPlan(request.steps, (reason,), cores, rounds, request.later_hit, calls)


def _chords(request: _Request, starts: Sequence[int], reason: Reason) -> ChordsPlan:
    cores, accept = len(starts), request.accept
    chosen = ChordsPlan(request.steps, (reason,), tuple(starts), cores)
    if accept is None:
        return replace(chosen, accept=Agreement(AGREEMENT_THRESHOLD)) if cores > 1 else chosen
    if accept == "exact":
        return chosen
    return replace(chosen, accept=accept) if accept <= cores else chosen.because(Reason(Cause.NO_SUCH_HIT))


def _starts_for(steps: int, cores: int) -> Sequence[int]:
    """The close starts of so many cores with the earliest first hit; `lattice_starts` where these gain nothing."""

    def order(starts: Sequence[int]) -> tuple[int, int]:
        return hit_depth(steps, starts, cores), _longest_jump(starts)

    close = (
        starts for starts in _close_starts(steps, cores) if steps / hit_depth(steps, starts, cores) >= _MIN_SPEEDUP
    )
    return min(close, key=order, default=None) or lattice_starts(steps, cores)


def _close_starts(steps: int, cores: int) -> Iterator[tuple[int, ...]]:
    """Evenly spaced starts without a long jump, as `lattice_starts` has them, but of any gap.

    There are none for two cores: with so short a jump they gain too little.
    """
    longest = int(_MAX_JUMP * steps)
    if cores < 3:
        return
    for q in _RECTIFICATIONS:
        for gap in range(1, longest + 1):
            first = steps - (cores - 2 + q) * gap
            if 1 <= first <= longest:
                yield 0, *range(first, steps - q * gap + 1, gap)


def _longest_jump(starts: Sequence[int]) -> int:
    return max(b - a for a, b in pairwise(starts))


def _checked_accept(accept: object) -> int | Literal["exact"] | None:
    if accept is None:
        return None
    if isinstance(accept, str) and accept == "exact":
        return "exact"
    return check_whole("accept", accept, 1, ', "exact" or None')


def _check_costs(costs: object) -> None:
    if not isinstance(costs, Sequence) or not all(is_number(cost) and 0 < cost < math.inf for cost in costs):
        raise InvalidInput("costs", f"must be a list of positive numbers, not {shown(costs)}")
