"""How many cores to run for given steps and lanes, and which hit to take: a choice with its reason."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from .checks import check_choice, check_whole, is_number, shown
from .errors import InvalidInput
from .methods.accept import Agreement
from .methods.start_indices import hit_depth, lattice_starts
from .methods.window_spec import expected_rounds
from .solvers.interpolated import fewer_calls

ACCEPTS = ("auto", "first", "second", "third", "exact")
EVERY_STEP = "every step"
CALLS = (EVERY_STEP, "auto", "1/2", "1/3")
CHORDS, SECANT = "CHORDS", "secant window"
PARALLEL_METHODS = ("auto", CHORDS, SECANT)

# With fewer steps each step matters so much that a parallel result differs visibly from the stock one.
_FEWEST_STEPS = 12
# Below this many times fewer sequential calls, lanes cost more than they bring.
_LEAST_GAIN = 1.25
# The same where fewer calls gain already.
_LEAST_FURTHER_GAIN = 1.1
# A core that starts further from its neighbour than this share of the steps starts from too coarse a guess: on the demo
# model (benchmarks/results/starts.md) such first hits are up to 26 % off the sequential result, others 0 to 6 % (at 12
# steps 8 %).
_LONGEST_JUMP = 0.2
_RECTIFICATIONS = (2, 3, 4)
# Further cores of a secant window hardly save a round.
_MOST_IN_A_WINDOW = 8
_LATER = {"second": 2, "third": 3}


AGREES = 0.05
"""CHORDS accepts the first hit that differs by at most this share from the one before, which bounds its error."""

# Solvers whose window is within 5 % of one core at the 90th percentile of pictures, and closer than fewer steps are
# (benchmarks/results/trust.md). A predictor-corrector of third order amplifies what a window does not know yet.
_WINDOW_SOLVERS = ("euler", "dpmpp_2m", "res_multistep")


@dataclass(frozen=True)
class Plan:
    """What to run, and why.

    Attributes:
        starts: one index a core, of CHORDS.
        accept: number of the hit to take (1 = first), the earliest of them if that is decided by evidence.
        depth: sequential model calls until it; of a window about.
        reason: why, in words for the user.
        calls: at how many of the steps the model is called, or None for all.
        method: "chords", which with one core is sequential, or "secant".
        rank: of a window, what to `sample` with as ``accept``.
        agreement: of CHORDS, the rule that ends the run, or None.
    """

    steps: int
    starts: tuple[int, ...]
    accept: int
    depth: int
    reason: str
    calls: int | None = None
    method: str = "chords"
    rank: int = 1
    agreement: Agreement | None = None

    @property
    def cores(self) -> int:
        return len(self.starts)

    @property
    def length(self) -> int:
        """Of the steps, those at which the model is called."""
        return self.calls or self.steps

    @property
    def speedup(self) -> float:
        """Sequential calls saved by a device a core: steps / depth, 1 or more."""
        return self.steps / self.depth

    @property
    def ends_with(self) -> int | Agreement:
        """What to `sample` with as ``accept``."""
        if self.method == "secant":
            return self.rank
        return self.accept if self.agreement is None else self.agreement


def one_core(steps: int, reason: str) -> Plan:
    """The sequential run."""
    return Plan(steps, (0,), 1, steps, reason)


def calls_of(choice: str, steps: int) -> int | None:
    """How many times one core calls the model for ``steps``, by one of `CALLS`; None: at every step, which is also
    what "auto" takes where too few calls would be saved.

    Raises:
        InvalidInput: for an unknown choice.
    """
    check_choice("calls", choice, CALLS)
    if choice == EVERY_STEP:
        return None
    if choice == "auto":
        calls = fewer_calls(steps)
        return calls if steps / calls >= _LEAST_GAIN else None
    calls = max(2, -(-steps // int(choice[-1])))
    return calls if calls < steps else None


def plan(
    steps: int,
    lanes: int,
    cores: int = 0,
    accept: str = "auto",
    calls: str = EVERY_STEP,
    method: str = "auto",
    costs: Sequence[float] = (),
    solver: str = "euler",
    solving: float = 0.0,
) -> Plan:
    """Choose method, cores and hit.

    ``cores`` = 0 chooses what is fastest on ``lanes`` devices and stays close to the sequential result, never more
    cores than lanes, and one core where nothing is gained. An explicit number is kept whatever the devices, because
    it decides the result. ``method`` "auto" is the secant window, or one core where the window of this ``solver`` is
    not close enough; CHORDS runs where it is named. With fewer ``calls`` several cores are a secant window; "exact",
    and "CHORDS" on several cores, take every step.

    Args:
        accept: "first" takes the first hit of CHORDS, "auto" the first that differs by at most `AGREES` from the hit
            before, at worst the last. A window ends by what it measures, later for "second" and "third".
        costs: how long a round of model calls on 1, 2, ... devices at once takes, in any unit; beyond those that are
            given, as with the last. Empty: as long as one call. An explicit number of cores is kept all the same.
        solver: the name of the solver, as `sample` takes it.
        solving: what solving a window takes a round, in the unit of ``costs``, which has to be given for it to count.

    Raises:
        InvalidInput: for an unknown ``accept``, ``calls`` or ``method``, cores below 0 or no step.
    """
    check_whole("steps", steps)
    check_whole("lanes", lanes, 0)
    check_whole("cores", cores, 0, " (0 chooses)")
    check_choice("accept", accept, ACCEPTS)
    check_choice("method", method, PARALLEL_METHODS)
    if not isinstance(costs, Sequence) or not all(is_number(cost) and 0 < cost < math.inf for cost in costs):
        raise InvalidInput("costs", f"must be a list of positive numbers, not {shown(costs)}")
    made = calls_of(calls, steps)
    alone = cores == 1 or (cores == 0 and lanes < 2)
    doubtful = method == "auto" and solver not in _WINDOW_SOLVERS
    too_far = f"on several cores {solver} is not close enough to one; name a method to run it so"
    if made is not None and accept != "exact" and (method != CHORDS or alone):
        chosen = _sparse_plan(steps, made, lanes, cores, accept, costs, solver, solving)
        if chosen.cores > 1 and doubtful:
            chosen = _sparse_plan(steps, made, 1, 0, accept, costs, solver, solving)
            chosen = replace(chosen, reason=f"{chosen.reason}; {too_far}")
        return chosen
    if cores == 1:
        return one_core(steps, "one core was asked for")
    if doubtful and accept != "exact" and (cores or lanes > 1):
        return one_core(steps, too_far)
    if cores:
        make = _chords_plan if method == CHORDS or accept == "exact" else _window_plan
        chosen = make(steps, cores, accept, f"{cores} cores were asked for", solver)
        return chosen if chosen.cores > 1 else one_core(steps, f"{steps} step(s) leave no room for more cores")
    if lanes < 2:
        return one_core(steps, "one device, so nothing could run in parallel")
    if accept == "exact":
        return one_core(steps, "the exact result takes every step in turn")
    if steps < _FEWEST_STEPS:
        return one_core(steps, f"at {steps} steps there is little to gain and each step matters")
    reason = f"the fewest sequential calls on {lanes} devices that stay close to the result of one core"
    if method == CHORDS:
        lattices = chain.from_iterable(_close_starts(steps, cores) for cores in range(2, min(lanes, steps) + 1))
        plans = [_plan_for(steps, starts, accept, reason) for starts in lattices]
    else:
        most = min(lanes, steps, _MOST_IN_A_WINDOW)
        plans = [_window_plan(steps, cores, accept, reason, solver) for cores in range(2, most + 1)]

    def seconds(chosen: Plan) -> float:
        return chosen.depth * _cost(costs, chosen.cores, solving if chosen.method == "secant" else 0.0)

    def order(chosen: Plan) -> tuple[float, int]:
        """The fastest; of several the closest, which a window of more cores is, and CHORDS with shorter jumps."""
        return seconds(chosen), -chosen.cores if chosen.method == "secant" else _longest_jump(chosen.starts)

    best = min(plans, key=order, default=None)
    if best is None or best.speedup < _LEAST_GAIN:
        return one_core(steps, f"on {lanes} devices a result close to that of one core would hardly come earlier")
    if steps * _cost(costs, 1) < _LEAST_GAIN * seconds(best):
        return one_core(steps, f"as measured, {lanes} devices at once take too long a call to gain anything")
    return best


def _cost(costs: Sequence[float], cores: int, solving: float = 0.0) -> float:
    return costs[min(cores, len(costs)) - 1] + solving if costs else 1.0


def _sparse_plan(
    steps: int,
    calls: int,
    lanes: int,
    cores: int,
    accept: str,
    costs: Sequence[float],
    solver: str,
    solving: float,
) -> Plan:
    """One core with so many calls, or the window of so many cores. For ``cores`` = 0 whatever is fastest on the
    devices, which may be a window on all steps: it is closer."""
    alone = Plan(steps, (0,), 1, calls, "its prediction is interpolated at the others", calls)
    if cores:
        best = _sparse_window(steps, calls, min(cores, calls - 1, _MOST_IN_A_WINDOW), accept, "", solver)
        if best.cores < 2 or best.depth >= calls:
            told = f"{alone.reason}; {cores} cores would be no faster" if cores > 1 else alone.reason
            return replace(alone, reason=told)
        told = f", but more than {best.cores} bring nothing" if cores > best.cores else ""
        return replace(best, reason=f"{cores} cores were asked for{told}")
    reason = f"the fewest calls in a row on {lanes} devices"
    counts = range(2, min(lanes, _MOST_IN_A_WINDOW) + 1)
    plans = [_window_plan(steps, count, accept, reason, solver) for count in counts if count <= steps]
    plans += [_sparse_window(steps, calls, count, accept, reason, solver) for count in counts if count < calls]

    def seconds(chosen: Plan) -> float:
        return chosen.depth * _cost(costs, chosen.cores, solving if chosen.method == "secant" else 0.0)

    def pays(chosen: Plan) -> bool:  # on all steps it is closer, too
        return seconds(alone) >= (1.0 if chosen.calls is None else _LEAST_FURTHER_GAIN) * seconds(chosen)

    worth_it = [chosen for chosen in plans if chosen.depth < calls and pays(chosen)]
    return min(worth_it, key=lambda chosen: (seconds(chosen), chosen.length < steps, -chosen.cores), default=alone)


def _sparse_window(steps: int, calls: int, cores: int, accept: str, reason: str, solver: str) -> Plan:
    later = _LATER.get(accept, 1)
    rounds = expected_rounds(calls, cores, solver=solver, accept=later) if cores > 1 else calls
    # Each round has a hit, the first of them a draft.
    return Plan(steps, tuple(range(max(cores, 1))), max(rounds - 1, 1), rounds, reason, calls, "secant", later)


def _window_plan(steps: int, cores: int, accept: str, reason: str, solver: str) -> Plan:
    """The secant window on all steps: each round has a hit, the last is the one to take."""
    cores = min(cores, steps)
    later = _LATER.get(accept, 1)
    rounds = expected_rounds(steps, cores, solver=solver, accept=later)
    return Plan(steps, tuple(range(cores)), max(rounds - 1, 1), rounds, reason, method="secant", rank=later)


def _chords_plan(steps: int, cores: int, accept: str, reason: str, solver: str = "") -> Plan:
    return _plan_for(steps, _starts_for(steps, cores), accept, reason)


def _starts_for(steps: int, cores: int) -> Sequence[int]:
    """The close starts of so many cores with the earliest first hit; the lattice rule's where these gain nothing."""

    def order(starts: Sequence[int]) -> tuple[int, int]:
        return hit_depth(steps, starts, cores), _longest_jump(starts)

    worth_it = (s for s in _close_starts(steps, cores) if steps / hit_depth(steps, s, cores) >= _LEAST_GAIN)
    return min(worth_it, key=order, default=None) or lattice_starts(steps, cores)


def _close_starts(steps: int, cores: int) -> Iterator[tuple[int, ...]]:
    """Evenly spaced starts without a long jump, as `lattice_starts` has them but of any gap.

    There are none for two cores: with so short a jump they gain less than is worth a difference.
    """
    longest = int(_LONGEST_JUMP * steps)
    if cores < 3:
        return
    for q in _RECTIFICATIONS:
        for gap in range(1, longest + 1):
            first = steps - (cores - 2 + q) * gap
            if 1 <= first <= longest:
                yield 0, *range(first, steps - q * gap + 1, gap)


def _longest_jump(starts: Sequence[int]) -> int:
    return max(b - a for a, b in pairwise(starts))


def _plan_for(steps: int, starts: Sequence[int], accept: str, reason: str) -> Plan:
    wanted = {"auto": 2, "first": 1, "second": 2, "third": 3, "exact": len(starts)}[accept]
    hit = min(wanted, len(starts))
    if hit < wanted and accept != "auto":
        reason += f"; {len(starts)} cores give no {accept} hit, so their last"
    evidence = Agreement(AGREES) if accept == "auto" and len(starts) > 1 else None
    depth = hit_depth(steps, starts, len(starts) - hit + 1)
    return Plan(steps, tuple(starts), hit, depth, reason, agreement=evidence)
