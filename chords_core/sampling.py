"""``sample``: the one call that checks its input, picks method, solver and pool, and runs them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from .checks import as_predicate, check_callable, check_choice, check_floating, check_whole, shown
from .errors import InvalidInput
from .execution.driver import drive
from .execution.lane_timeout import LaneTimeouts, LaneWatchdog
from .execution.pools import Denoise, InlinePool, Pool, check_pool
from .methods.accept import Accept, Agreement, OnDemand, Residual, check_accept
from .methods.chords import Chords
from .methods.events import Event, Hit
from .methods.fewer_calls import FewerCalls
from .methods.start_indices import check_starts, lattice_starts
from .methods.window import Window, WindowSpec
from .methods.window_spec import accuracy_window, check_rounds, solver_window
from .solvers.base import SOLVERS, Solver, Starting
from .solvers.interpolated import interpolated_solver
from .solvers.unipc import PREDICTOR_CORRECTORS

METHODS = ("chords", "picard", "secant", "sequential")
WINDOW_METHODS = ("picard", "secant")
PREDICTIONS = ("flow", "eps")
ACCURATE = "cubic"
"""The solver that makes the secant window aim at the ODE's own solution rather than at a solver's."""

PARALLEL_SOLVERS: dict[str, Solver] = {**SOLVERS, **PREDICTOR_CORRECTORS}


@dataclass(frozen=True, eq=False)
class Result:
    """What a run gave.

    ``x``: the accepted state at the last sigma; ``hits``: every hit up to it, the draft first, then cores
    from the fastest down, or with a window method one a round; ``depth``: sequential model calls until the
    accepted hit; ``evaluations``: model calls made in all, but those that failed or never came back.
    """

    x: Tensor
    hits: tuple[Hit, ...]
    depth: int
    evaluations: int


def sample(
    denoise: Denoise | None,
    x: Tensor,
    sigmas: Tensor,
    *,
    method: str = "chords",
    cores: int = 1,
    starts: Sequence[int] | None = None,
    solver: Solver | str = "euler",
    accept: Accept = 1,
    rounds: int | None = None,
    calls: int | None = None,
    prediction: str | None = None,
    pool: Pool | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancel: Callable[[], bool] | threading.Event | None = None,
    timeouts: LaneTimeouts | None = None,
) -> Result:
    """Integrate dx/dsigma = (x - denoised) / sigma from sigmas[0] to sigmas[-1].

    The result depends on the arguments alone, bit for bit: not on the number of lanes, nor on their speed.

    Args:
        denoise: ``denoise(x, sigma) -> denoised`` with sigma a float. None only with a ``pool``, which has its own.
        x: the state at sigmas[0], any shape, floating point.
        sigmas: 1-D, N+1 >= 2 values, strictly descending, the last >= 0.
        method: "chords" (arXiv 2507.15260), "sequential" (the plain solver on one core), or one of the window
            methods of `chords_core.methods.window`, "picard" and "secant".
        cores: K >= 1. Where the steps leave no room for as many, fewer are used.
        starts: for CHORDS; increasing indices beginning with 0, one a core; None: `lattice_starts` for ``cores``.
        solver: one of `PARALLEL_SOLVERS`, or a `Solver` of one's own; "euler" is DDIM, too. With "secant" also "cubic",
            which takes the sigmas for a curve, chooses nodes of its own on it, and aims at the solution of the ODE.
        accept: n ends with the n-th core to reach the end (1 = the fastest), "exact" with the slowest, which is the
            sequential result; `Residual` and `Agreement` when two hits agree; `OnDemand` with any of these or, once it
            is asked to, with the newest hit. Window methods have a hit each round and end by what they measure: 1
            stands for a small distance from the sequential result, each number above for a smaller one, "exact" for
            the sequential result, to rounding. In a batch the most demanding item decides.
        calls: how many of the N steps the model is called at, 2 to N: those of `interpolation_nodes`, with its
            prediction interpolated at the others (`solvers.interpolated`); more where that turns out to jump. None: at
            each. ``starts`` count them.
        rounds: for window methods: how many to make, whatever ``accept`` says. None: by ``accept``.
        prediction: "flow" for a model whose states are (1 - sigma) x0 + sigma eps, "eps" for x0 + sigma eps, whatever
            the network is trained to predict; None: "flow" where sigmas[0] <= 1. Only windows need it.
        pool: where evaluations run; None: in this thread.
        on_event: called in this thread with each `chords_core.methods.events` record, in order.
        cancel: a function that returns true, or an event that is set, once the run shall stop.
        timeouts: how long an evaluation may take before another lane makes it, too; None: the usual `LaneTimeouts`.

    Raises:
        InvalidInput: before any model call, naming the argument.
        InvalidInput: also if the model returns anything but a floating-point tensor of x's shape and device.
        NonFiniteDenoised: if the model returns NaN or infinity in every item of the batch (dimension 0 of x, where it
            has two or more; otherwise x is one item), naming the core and the step. One item alone goes on as NaN,
            and the others as if it were not there.
        Cancelled: after ``cancel``, within seconds. Lanes that do not stop by then are set aside.
        BaseException: what ``denoise`` raised on the last lane left.
    """
    _check_arguments(denoise, x, method, cores, solver, rounds, pool, on_event, timeouts)
    sigmas = check_sigmas(sigmas).to(x.device)
    steps = len(sigmas) - 1
    if calls is not None and check_whole("calls", calls, 2, " or None") > steps:
        raise InvalidInput("calls", f"{shown(calls)} are more than the {steps} steps of the schedule")
    cancelled = as_predicate(cancel)
    if pool is None:
        assert denoise is not None
        pool = InlinePool(denoise)
    flow = _predicts_flow(prediction)
    rule, asked = (accept.otherwise, accept.asked) if isinstance(accept, OnDemand) else (accept, lambda: False)
    run: Chords | FewerCalls | Window
    if method in WINDOW_METHODS:
        planned = _window_plan(method, sigmas, cores, starts, solver, rule, rounds, calls, flow)
        run, steps = Window(x, planned, rule), planned.path.steps
    else:
        fine = PARALLEL_SOLVERS[solver] if isinstance(solver, str) else solver
        indices, rule = _check_cores(method, cores, starts, rule, steps if calls is None else calls)
        ends_with = check_accept(rule, len(indices))
        if calls is not None and len(indices) == 1:
            run = FewerCalls(x, sigmas, fine, calls)
        else:
            if calls is not None:
                fine, sigmas = interpolated_solver(fine, sigmas, calls)
            run = Chords(x, sigmas, indices, fine, ends_with)
    evaluations = drive(
        run,
        pool,
        steps,
        on_event=on_event,
        cancel=cancelled,
        newest_will_do=asked,
        watchdog=LaneWatchdog(timeouts),
    )
    assert run.accepted is not None
    return Result(run.accepted.x, tuple(run.hits), run.accepted.depth, evaluations)


def check_sigmas(sigmas: Tensor) -> Tensor:
    """``sigmas`` if it is a usable schedule.

    Raises:
        InvalidInput: naming what is wrong.
    """
    check_floating("sigmas", sigmas)
    if sigmas.ndim != 1:
        raise InvalidInput("sigmas", f"must be one-dimensional, not of shape {tuple(sigmas.shape)}")
    if len(sigmas) < 2:
        raise InvalidInput("sigmas", f"need at least 2 values for one step, not {len(sigmas)} (zero steps)")
    levels: list[float] = sigmas.tolist()
    for place, (level, following) in enumerate(pairwise(levels), start=1):
        if not (math.isfinite(level) and following < level and following >= 0):
            finite = math.isfinite(level) and math.isfinite(following)
            must = "be finite" if not finite else "be strictly descending" if following >= level else "not be negative"
            pair = f"values {place} and {place + 1} of {len(levels)} are {level!r} and {following!r}"
            raise InvalidInput("sigmas", f"must {must}; {pair}")
    return sigmas


def _check_arguments(
    denoise: Denoise | None,
    x: Tensor,
    method: str,
    cores: int,
    solver: Solver | str,
    rounds: int | None,
    pool: Pool | None,
    on_event: Callable[[Event], None] | None,
    timeouts: LaneTimeouts | None,
) -> None:
    """Raise `InvalidInput` for what can be seen of each argument by itself, or of two that exclude each other."""
    check_floating("x", x)
    check_choice("method", method, METHODS)
    if not isinstance(solver, Starting) and not callable(solver):
        check_choice("solver", solver, (*PARALLEL_SOLVERS, ACCURATE))
    check_whole("cores", cores)
    if solver == ACCURATE and method != "secant":
        raise InvalidInput("solver", f'"{ACCURATE}" works with method "secant" only, not "{method}"')
    check_rounds(rounds)
    if rounds is not None and method not in WINDOW_METHODS:
        raise InvalidInput("rounds", f'method "{method}" takes no rounds; leave it out')
    if pool is None and denoise is None:
        raise InvalidInput("denoise", "give a function, or a pool whose lanes have one each")
    check_callable("denoise", denoise, "x and sigma", optional=True)
    check_pool(pool)
    check_callable("on_event", on_event, "an event", optional=True)
    if not isinstance(timeouts, LaneTimeouts | None):
        raise InvalidInput("timeouts", f"must be a LaneTimeouts or None, not {shown(timeouts)}")


def _check_cores(
    method: str, cores: int, starts: Sequence[int] | None, accept: int | str | Residual | Agreement, steps: int
) -> tuple[tuple[int, ...], int | str | Residual | Agreement]:
    """The start indices, and ``accept`` fitted to them if the steps leave room for fewer cores."""
    if method == "sequential" and (cores != 1 or starts is not None):
        raise InvalidInput("cores" if starts is None else "starts", 'method "sequential" has one core; use "chords"')
    if starts is not None:
        indices = check_starts(starts, steps)
        if cores not in (1, len(indices)):
            raise InvalidInput("starts", f"{len(indices)} starts for {cores} cores; give one a core")
        return indices, accept
    check_accept(accept, cores)
    indices = tuple(lattice_starts(steps, cores))
    return indices, min(accept, len(indices)) if isinstance(accept, int) else accept


def _window_plan(
    method: str,
    sigmas: Tensor,
    cores: int,
    starts: Sequence[int] | None,
    solver: Solver | str,
    accept: int | str | Residual | Agreement,
    rounds: int | None,
    calls: int | None,
    flow: bool | None,
) -> WindowSpec:
    if starts is not None:
        raise InvalidInput("starts", f"method {method!r} takes no starts; leave them out")
    if isinstance(accept, int):
        check_whole("accept", accept, 1, ', "exact" or Residual(threshold)')
    else:
        check_accept(accept, cores)
    slopes = method == "secant"
    if solver != ACCURATE:
        if calls is not None and isinstance(accept, str) and rounds is None:
            raise InvalidInput(
                "accept", f'"{accept}" is a solver\'s result, but fewer calls only come close to it; give rounds'
            )
        fine = PARALLEL_SOLVERS[solver] if isinstance(solver, str) else solver
        name = solver if isinstance(solver, str) else ""
        return solver_window(
            sigmas, cores, fine, flow=flow, calls=calls, slopes=slopes, rounds=rounds, accept=accept, name=name
        )
    if isinstance(accept, str):
        if rounds is None:
            raise InvalidInput(
                "accept", f'"{accept}" is a solver\'s result, but "{ACCURATE}" aims at the ODE\'s; give rounds'
            )
        accept = 1  # which the rounds override
    if calls is not None:
        raise InvalidInput("calls", f'solver "{ACCURATE}" chooses its own nodes; leave them out')
    return accuracy_window(sigmas, cores, flow=flow, rounds=rounds, accept=accept)


def _predicts_flow(prediction: str | None) -> bool | None:
    if prediction is None:
        return None
    check_choice("prediction", prediction, PREDICTIONS)
    return prediction == "flow"
