"""``sample``: checks its arguments, makes method and solver, and runs them on a pool."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ._types import Denoise, Pool
from .checks import as_predicate, check_callable, check_choice, check_floating, check_whole, shown
from .errors import InvalidInput
from .execution.driver import drive
from .execution.lane_timeout import LaneTimeouts, LaneWatchdog
from .execution.pools import InlinePool, check_pool
from .methods.accept import Accept, AcceptRule, OnDemand, check_accept
from .methods.chords import Chords
from .methods.events import Event, Hit, RoundDone
from .methods.fewer_calls import FewerCalls
from .methods.start_indices import check_starts, lattice_starts
from .methods.window import Window
from .methods.window_spec import accuracy_window, check_rounds, check_tolerance, solver_window, tolerance_window
from .solvers import SOLVERS, Solver, find_solver
from .solvers.interpolated import interpolated_solver

METHODS = ("chords", "picard", "secant", "sequential")
WINDOW_METHODS = ("picard", "secant")
PREDICTIONS = ("flow", "eps")
CUBIC = "cubic"
"""The solver with which the secant window aims at the ODE's own solution, and not at a solver's result."""


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a run.

    Attributes:
        x: the accepted state at the last sigma, like the ``x`` that was given.
        hits: every hit up to the accepted one. The draft is the first, then come the cores from the fastest on; a
            window method has one a round.
        depth: model calls in a row: those that the accepted hit needs, or more, where `OnDemand` ended the run after
            further rounds of calls.
        evaluations: model calls in all, without those that failed or never came back.
        estimate: with a tolerance: about the relative RMS difference of x from the solver's own result, in the item of
            the batch where it is largest (`chords_core.methods.estimate`). None for other runs, and for a run that was
            ended before the last step was called, or with an earlier hit than the newest.
    """

    x: Tensor
    hits: tuple[Hit, ...]
    depth: int
    evaluations: int
    estimate: float | None = None


def sample(
    denoise: Denoise | None,
    x: Tensor,
    sigmas: Tensor,
    *,
    method: str = "chords",
    cores: int = 1,
    starts: Sequence[int] | None = None,
    solver: str | Solver = "euler",
    accept: Accept = 1,
    rounds: int | None = None,
    calls: int | None = None,
    tolerance: float | None = None,
    prediction: str | None = None,
    pool: Pool | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancel: Callable[[], bool] | threading.Event | None = None,
    timeouts: LaneTimeouts | None = None,
) -> Result:
    """Integrate dx/dsigma = (x - denoised) / sigma from sigmas[0] to sigmas[-1].

    The result depends on the arguments alone, bit for bit. It does not depend on the number or the speed of the lanes.

    Args:
        denoise: ``denoise(x, sigma) -> denoised`` with sigma a float. None only if there is a ``pool``.
        x: the state at sigmas[0], any shape, floating point.
        sigmas: 1-D, N+1 >= 2 values, strictly descending, the last >= 0.
        method: "chords" (arXiv 2507.15260), "sequential" (the plain solver on one core), or a window method of
            `chords_core.methods.window`: "picard" or "secant".
        cores: K >= 1. Fewer are used where the steps leave no room for as many.
        starts: for CHORDS: increasing indices that begin with 0, one a core. None: `lattice_starts`.
        solver: a name in `SOLVERS`, or a `Solver`; "euler" is DDIM too. With "secant" also "cubic": it takes the
            sigmas for a curve, chooses its own nodes on it, and aims at the solution of the ODE.
        accept: n ends with the n-th core to reach the end (1 = the fastest). "exact" ends with the slowest, which is
            the sequential result. `Residual` and `Agreement` end when two hits agree. `OnDemand` has one of these, and
            ends with the newest hit, or with the one of an index, when it is asked to. Window methods end by what they
            measure: 1 asks for a small distance from the sequential result, each larger number for a smaller one,
            "exact" for the sequential result apart from rounding. In a batch the most demanding item decides.
        rounds: for window methods: how many to make, whatever ``accept`` says. None: ``accept`` decides.
        calls: at how many of the N steps to call the model, 2 to N, with its prediction interpolated at the others
            (`chords_core.solvers.interpolated`). There are more calls where the prediction jumps. ``starts`` count
            these calls. None: at each step.
        tolerance: the result is within about this relative RMS difference of the solver's own on all steps, above 0 and
            below 1: about the median of many runs is half of it, and the 90th percentile at most twice. What is
            evaluated is decided by measured errors as the run goes on. One core takes adaptive steps
            (`chords_core.methods.stepping_rule`), several a window. It takes the place of ``calls``, ``rounds`` and
            ``accept``. In a batch the most demanding item decides.
        prediction: "flow" for states (1 - sigma) x0 + sigma eps, "eps" for x0 + sigma eps, whatever the network is
            trained to predict. None: "flow" where sigmas[0] <= 1. Only windows and a ``tolerance`` use it.
        pool: where evaluations run; None: in this thread.
        on_event: called in this thread with each event of `chords_core.methods.events`, in order.
        cancel: a function that returns true, or an event that is set, when the run has to stop.
        timeouts: how long an evaluation may take before another lane makes it too; None: the usual `LaneTimeouts`.

    Raises:
        InvalidInput: before any model call, with the name of the argument. After one, if the model returns anything
            but a floating-point tensor of x's shape and device.
        NonFiniteDenoised: if the model returns NaN or infinity in every item of the batch (dimension 0 of x, where it
            has two or more; otherwise x is one item). A single item goes on as NaN without changing the others.
        Cancelled: after ``cancel``, within seconds. Lanes that do not stop by then are abandoned.
        BaseException: what ``denoise`` raised on the last lane.
    """
    _check_call(denoise, x, pool, on_event, timeouts)
    check_choice("method", method, METHODS)
    rule = accept.otherwise if isinstance(accept, OnDemand) else accept
    sigmas = check_sigmas(sigmas).to(x.device)
    request = _Request(
        x,
        sigmas,
        method,
        cores,
        starts,
        _checked_solver(solver, method),
        rule,
        rounds,
        calls,
        None if tolerance is None else check_tolerance(tolerance),
    )
    request.check()
    cancelled, flow = as_predicate(cancel), _predicts_flow(prediction)
    if pool is None:
        assert denoise is not None
        pool = InlinePool(denoise)
    run: Window | Chords | FewerCalls
    if tolerance is None:
        run = _window(request, flow) if method in WINDOW_METHODS else _cores(request)
    else:
        run = _within_tolerance(request, flow)
    rounds_made = _RoundsMade(on_event)
    evaluations = drive(
        run,
        pool,
        run.steps if isinstance(run, Window) else request.steps,
        on_event=rounds_made,
        cancel=cancelled,
        on_demand=accept if isinstance(accept, OnDemand) else None,
        watchdog=LaneWatchdog(timeouts),
    )
    assert run.accepted is not None
    estimate = run.estimate() if tolerance is not None and isinstance(run, Window) else None
    hits = run.hits[: next(place for place, hit in enumerate(run.hits) if hit is run.accepted) + 1]
    depth = max(run.hits[-1].depth, rounds_made.depth)
    return Result(run.accepted.x, tuple(hits), depth, evaluations, estimate)


class _RoundsMade:
    """Passes events on to ``listener``, and keeps how many rounds of evaluations are complete."""

    def __init__(self, listener: Callable[[Event], None] | None) -> None:
        self._listener = listener
        self.depth = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, RoundDone):
            self.depth = event.depth
        if self._listener is not None:
            self._listener(event)


def check_sigmas(sigmas: Tensor) -> Tensor:
    """``sigmas`` if it is a usable schedule.

    Raises:
        InvalidInput: with what is wrong, and the first pair of values that is.
    """
    check_floating("sigmas", sigmas)
    if sigmas.ndim != 1:
        raise InvalidInput("sigmas", f"must be one-dimensional, not of shape {tuple(sigmas.shape)}")
    if len(sigmas) < 2:
        raise InvalidInput("sigmas", f"need at least 2 values for one step, not {len(sigmas)} (zero steps)")
    values: list[float] = sigmas.tolist()
    for place, (sigma, following) in enumerate(pairwise(values), start=1):
        if not (math.isfinite(sigma) and following < sigma and following >= 0):
            finite = math.isfinite(sigma) and math.isfinite(following)
            must = "be finite" if not finite else "be strictly descending" if following >= sigma else "not be negative"
            pair = f"values {place} and {place + 1} of {len(values)} are {sigma!r} and {following!r}"
            raise InvalidInput("sigmas", f"must {must}; {pair}")
    return sigmas


@dataclass(frozen=True, eq=False)
class _Request:
    """The arguments of `sample` that decide its result. ``solver`` None stands for "cubic"."""

    x: Tensor
    sigmas: Tensor
    method: str
    cores: int
    starts: Sequence[int] | None
    solver: Solver | None
    accept: AcceptRule
    rounds: int | None
    calls: int | None
    tolerance: float | None

    @property
    def steps(self) -> int:
        """N."""
        return len(self.sigmas) - 1

    def check(self) -> None:
        """Raise `InvalidInput` for what can be seen of one argument, or of two that exclude each other."""
        check_whole("cores", self.cores)
        check_rounds(self.rounds)
        if self.rounds is not None and self.method not in WINDOW_METHODS:
            raise InvalidInput("rounds", f'method "{self.method}" takes no rounds; leave it out')
        if self.calls is not None and check_whole("calls", self.calls, 2, " or None") > self.steps:
            raise InvalidInput("calls", f"{shown(self.calls)} are more than the {self.steps} steps of the schedule")
        if self.method == "sequential" and (self.cores != 1 or self.starts is not None):
            name = "cores" if self.starts is None else "starts"
            raise InvalidInput(name, 'method "sequential" has one core; use "chords"')
        if self.method in WINDOW_METHODS and self.starts is not None:
            raise InvalidInput("starts", f"method {self.method!r} takes no starts; leave them out")
        if self.tolerance is not None:
            self._check_tolerance()

    def _check_tolerance(self) -> None:
        """Raise `InvalidInput` for what a tolerance excludes."""
        for name, given, usual in (
            ("calls", self.calls, None),
            ("rounds", self.rounds, None),
            ("starts", self.starts, None),
            ("accept", self.accept, 1),
        ):
            if given != usual:
                raise InvalidInput(name, "a tolerance decides this; leave it out, or leave out the tolerance")
        if self.solver is None:
            raise InvalidInput("solver", f'"{CUBIC}" aims at no solver\'s result, so that it has no tolerance')
        if self.method == "picard" or (self.method == "chords" and self.cores > 1):
            raise InvalidInput("method", f'"{self.method}" takes no tolerance; use "secant", or one core')


def _check_call(
    denoise: Denoise | None,
    x: Tensor,
    pool: Pool | None,
    on_event: Callable[[Event], None] | None,
    timeouts: LaneTimeouts | None,
) -> None:
    """Raise `InvalidInput` for the state, or for what makes the calls and hears of them."""
    check_floating("x", x)
    if pool is None and denoise is None:
        raise InvalidInput("denoise", "give a function, or a pool whose lanes have one each")
    check_callable("denoise", denoise, "x and sigma", optional=True)
    check_pool(pool)
    check_callable("on_event", on_event, "an event", optional=True)
    if not isinstance(timeouts, LaneTimeouts | None):
        raise InvalidInput("timeouts", f"must be a LaneTimeouts or None, not {shown(timeouts)}")


def _checked_solver(solver: str | Solver, method: str) -> Solver | None:
    """The solver, or None for "cubic"."""
    if solver != CUBIC:
        if isinstance(solver, str) and method == "secant":
            check_choice("solver", solver, (*SOLVERS, CUBIC))
        return find_solver(solver)
    if method != "secant":
        raise InvalidInput("solver", f'"{CUBIC}" works with method "secant" only, not "{method}"')
    return None


def _cores(request: _Request) -> Chords | FewerCalls:
    """CHORDS, or the plain solver as CHORDS on one core."""
    solver, sigmas, calls = request.solver, request.sigmas, request.calls
    assert solver is not None
    starts, accept = _starts(request)
    ends_with = check_accept(accept, len(starts))
    if calls is not None and len(starts) == 1:
        return FewerCalls(request.x, sigmas, solver, calls)
    if calls is not None:
        solver, sigmas = interpolated_solver(solver, sigmas, calls)
    return Chords(request.x, sigmas, starts, solver, ends_with)


def _starts(request: _Request) -> tuple[tuple[int, ...], AcceptRule]:
    """The start indices, and ``accept`` fitted to them where the steps leave room for fewer cores."""
    steps, cores, accept = request.calls or request.steps, request.cores, request.accept
    if request.starts is not None:
        starts = check_starts(request.starts, steps)
        if cores not in (1, len(starts)):
            raise InvalidInput("starts", f"{len(starts)} starts for {cores} cores; give one a core")
        return starts, accept
    check_accept(accept, cores)
    starts = tuple(lattice_starts(steps, cores))
    return starts, min(accept, len(starts)) if isinstance(accept, int) else accept


def _window(request: _Request, flow: bool | None) -> Window:
    """A window of the solver, or of "cubic"."""
    solver, sigmas, cores, accept = request.solver, request.sigmas, request.cores, request.accept
    if isinstance(accept, int):
        check_whole("accept", accept, 1, ', "exact" or Residual(threshold)')
    else:
        check_accept(accept, cores)
    if isinstance(accept, str) and request.rounds is None and (solver is None or request.calls is not None):
        why = f'"{CUBIC}" aims at the ODE\'s' if solver is None else "fewer calls only come close to it"
        raise InvalidInput("accept", f'"{accept}" is the result of a solver, but {why}; give rounds')
    if solver is not None:
        slopes = request.method == "secant"
        spec = solver_window(
            sigmas, cores, solver, flow=flow, calls=request.calls, slopes=slopes, rounds=request.rounds, accept=accept
        )
    elif request.calls is not None:
        raise InvalidInput("calls", f'solver "{CUBIC}" chooses its own nodes; leave them out')
    else:
        ruled = 1 if isinstance(accept, str) else accept  # with rounds, a text has no effect
        spec = accuracy_window(sigmas, cores, flow=flow, rounds=request.rounds, accept=ruled)
    return Window(request.x, spec, accept)


def _within_tolerance(request: _Request, flow: bool | None) -> Window:
    """A window, or on one core adaptive steps."""
    assert request.solver is not None and request.tolerance is not None
    spec = tolerance_window(request.sigmas, request.cores, request.solver, request.tolerance, flow=flow)
    return Window(request.x, spec)


def _predicts_flow(prediction: str | None) -> bool | None:
    if prediction is None:
        return None
    check_choice("prediction", prediction, PREDICTIONS)
    return prediction == "flow"
