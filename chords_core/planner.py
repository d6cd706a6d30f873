"""How many cores to run for given steps and lanes, and which hit to take: a choice with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from .errors import InvalidInput
from .sparse import fewer_calls
from .starts import hit_depth, lattice_starts
from .window import sparse_rounds

ACCEPTS = ("auto", "first", "second", "third", "exact")
EVERY_STEP = "every step"
CALLS = (EVERY_STEP, "auto", "1/2", "1/3")

# With fewer steps each step matters so much that a parallel result differs visibly from the stock one.
_FEWEST_STEPS = 10
# Below this many times fewer sequential calls, lanes cost more than they bring.
_LEAST_GAIN = 1.25
# A core that starts further from its neighbour than this share of the steps starts from too coarse a guess: on the demo
# model (benchmarks/results/starts.md) such first hits are up to 26 % off the sequential result, others 0 to 6 % (at 12
# steps 8 %).
_LONGEST_JUMP = 0.2
_RECTIFICATIONS = (2, 3, 4)
# Further cores of a secant window hardly save a round.
_MOST_IN_A_WINDOW = 8


@dataclass(frozen=True)
class Plan:
    """``method``: "chords", which with one core is sequential, or "secant"; ``starts``: one index a core, of CHORDS;
    ``accept``: number of the hit to take (1 = first); ``depth``: sequential model calls until it; ``reason``: why, in
    words for the user; ``calls``: at how many of the steps the model is called, or None for all."""

    steps: int
    starts: tuple[int, ...]
    accept: int
    depth: int
    reason: str
    calls: int | None = None
    method: str = "chords"

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


def one_core(steps: int, reason: str) -> Plan:
    """The sequential run."""
    return Plan(steps, (0,), 1, steps, reason)


def calls_of(choice: str, steps: int) -> int | None:
    """How many times one core calls the model for ``steps``, by one of `CALLS`; None: at every step, which is also
    what "auto" takes where too few calls would be saved.

    Raises:
        InvalidInput: for an unknown choice.
    """
    if choice not in CALLS:
        raise InvalidInput("calls", f"unknown {choice!r}; there are {', '.join(CALLS)}")
    if choice == EVERY_STEP:
        return None
    if choice == "auto":
        calls = fewer_calls(steps)
        return calls if steps / calls >= _LEAST_GAIN else None
    calls = max(2, -(-steps // int(choice[-1])))
    return calls if calls < steps else None


def plan(steps: int, lanes: int, cores: int = 0, accept: str = "auto", calls: str = EVERY_STEP) -> Plan:
    """Choose cores, starts and hit.

    ``cores`` = 0 chooses what is fastest on ``lanes`` devices among the starts that stay close to the sequential
    result, never more cores than lanes, and one core where nothing is gained. An explicit number is kept
    whatever the devices, because it decides the result; "auto" and "first" take the first hit. With fewer ``calls``
    several cores are a secant window, which then is closer and sooner than CHORDS (benchmarks/results/frontier.md);
    "exact" takes every step.

    Raises:
        InvalidInput: for an unknown ``accept`` or ``calls``, cores below 0 or no step.
    """
    if steps < 1:
        raise InvalidInput("steps", f"need at least one step, not {steps}")
    if cores < 0:
        raise InvalidInput("cores", f"must be 0 (choose for me) or more, not {cores}")
    if accept not in ACCEPTS:
        raise InvalidInput("accept", f"unknown {accept!r}; there are {', '.join(ACCEPTS)}")
    made = None if accept == "exact" else calls_of(calls, steps)
    if made is not None:
        return _sparse_plan(steps, made, lanes, cores, accept)
    if cores == 1:
        return one_core(steps, "one core was asked for")
    if cores:
        chosen = _plan_for(steps, _starts_for(steps, cores), accept, f"{cores} cores were asked for")
        return chosen if chosen.cores > 1 else one_core(steps, f"{steps} step(s) leave no room for more cores")
    if lanes < 2:
        return one_core(steps, "one device, so nothing could run in parallel")
    if accept == "exact":
        return one_core(steps, "the exact result takes every step in turn")
    if steps < _FEWEST_STEPS:
        return one_core(steps, f"at {steps} steps there is little to gain and each step matters")
    reason = f"the fewest sequential calls on {lanes} devices that stay close to the result of one core"
    lattices = chain.from_iterable(_close_starts(steps, cores) for cores in range(2, min(lanes, steps) + 1))
    plans = [_plan_for(steps, starts, accept, reason) for starts in lattices]
    best = min(plans, key=lambda candidate: (candidate.depth, _longest_jump(candidate.starts)), default=None)
    if best is None or best.speedup < _LEAST_GAIN:
        return one_core(steps, f"on {lanes} devices a result close to that of one core would come hardly sooner")
    return best


def _sparse_plan(steps: int, calls: int, lanes: int, cores: int, accept: str) -> Plan:
    """One core, or the secant window of so many cores as bring the result sooner."""
    most = min(cores or lanes, calls - 1, _MOST_IN_A_WINDOW)
    later = {"second": 2, "third": 3}.get(accept, 1)
    choices = range(most, most + 1) if cores else range(2, most + 1)
    rounds = {k: sparse_rounds(calls, k, later) for k in choices if k > 1}
    best = min(rounds, key=lambda k: (rounds[k], k), default=1)
    gain = calls / rounds[best] if best > 1 else 1.0
    if gain <= 1.0 or (cores == 0 and gain < _LEAST_GAIN):
        reason = "its prediction is interpolated at the others"
        if cores > 1:
            reason += f"; {cores} cores would come no sooner"
        return Plan(steps, (0,), 1, calls, reason, calls)
    reason = f"{cores} cores were asked for" if cores else f"the fewest calls in a row on {lanes} devices"
    if cores > best:
        reason += f", but more than {best} bring nothing"
    # Each round has a hit, the first of them a draft.
    return Plan(steps, tuple(range(best)), rounds[best] - 1, rounds[best], reason, calls, "secant")


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
    wanted = {"auto": 1, "first": 1, "second": 2, "third": 3, "exact": len(starts)}[accept]
    hit = min(wanted, len(starts))
    if hit < wanted:
        reason += f"; {len(starts)} cores give no {accept} hit, so their last"
    return Plan(steps, tuple(starts), hit, hit_depth(steps, starts, len(starts) - hit + 1), reason)
