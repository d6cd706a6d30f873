"""``sample``: the one call that checks its input, picks method, solver and pool, and runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .accept import Accept, Agreement, OnDemand, Residual, check_accept
from .chords import Chords
from .driver import drive
from .errors import InvalidInput
from .events import Event, Hit
from .patience import Patience, Watch
from .pools import Denoise, InlinePool, Pool
from .solvers import SOLVERS, Solver
from .sparse import sparsely
from .starts import check_starts, lattice_starts
from .unipc import PREDICTOR_CORRECTORS
from .window import Window, WindowPlan
from .window_plans import accuracy_plan, check_rounds, solver_plan

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
    solver: str = "euler",
    accept: Accept = 1,
    rounds: int | None = None,
    calls: int | None = None,
    prediction: str | None = None,
    pool: Pool | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancel: Callable[[], bool] | threading.Event | None = None,
    patience: Patience | None = None,
) -> Result:
    """Integrate dx/dsigma = (x - denoised) / sigma from sigmas[0] to sigmas[-1].

    The result depends on the arguments alone, bit for bit: not on the number of lanes, nor on their speed.

    Args:
        denoise: ``denoise(x, sigma) -> denoised`` with sigma a float. None only with a ``pool``, which has its own.
        x: the state at sigmas[0], any shape, floating point.
        sigmas: 1-D, N+1 >= 2 values, strictly descending, the last >= 0.
        method: "chords" (arXiv 2507.15260), "sequential" (the plain solver on one core), or one of the window
            methods of `chords_core.window`, "picard" and "secant".
        cores: K >= 1. Where the steps leave no room for as many, fewer are used.
        starts: for CHORDS; increasing indices beginning with 0, one a core; None: `lattice_starts` for ``cores``.
        solver: one of `PARALLEL_SOLVERS`; "euler" is DDIM, too. With "secant" also "cubic", which takes the sigmas
            for a curve, chooses nodes of its own on it, and aims at the solution of the ODE.
        accept: n ends with the n-th core to reach the end (1 = the fastest), "exact" with the slowest,
            which is the sequential result; `Residual` or `Agreement` when two hits agree; `OnDemand` with any of these
            or, once it is asked to, with the newest hit. Window methods have a hit each round and end by what they
            measure: 1 stands for the budget of `chords_core.window_rule`, each number above for one that is stricter
            by `chords_core.window_plans.STRICTER`, "exact" for as many rounds as it takes to come to the sequential
            result, to rounding.
        calls: how many of the N steps the model is called at, 2 to N, those of `sparse_nodes`, with its prediction
            interpolated at the others (`chords_core.sparse`); None: at each. ``starts`` count them.
        rounds: for window methods: how many to make, whatever ``accept`` says. None: by ``accept``.
        prediction: "flow" for a model whose states are (1 - sigma) x0 + sigma eps, "eps" for x0 + sigma eps, whatever
            the network is trained to predict; None: "flow" where sigmas[0] <= 1. Only windows need it.
        pool: where evaluations run; None: in this thread.
        on_event: called in this thread with each `chords_core.events` record, in order.
        cancel: a function that returns true, or an event that is set, once the run shall stop.
        patience: how long an evaluation may take before another lane makes it, too; None: the usual `Patience`.

    Raises:
        InvalidInput: before any model call, naming the argument.
        InvalidInput: also if the model returns another shape than x's.
        NonFiniteDenoised: if the model returns NaN or infinity, naming the core and the step.
        Cancelled: after ``cancel``, when all lanes have stopped but those that hang.
        BaseException: what ``denoise`` raised on the last lane left.
    """
    sigmas = check_sigmas(sigmas).to(x.device)
    steps = len(sigmas) - 1
    if not torch.is_floating_point(x):
        raise InvalidInput("x", f"must be a floating-point tensor, not {x.dtype}")
    if solver == ACCURATE and method in METHODS and method != "secant":
        raise InvalidInput("solver", f'"{ACCURATE}" works with method "secant" only, not {method!r}')
    if solver != ACCURATE and solver not in PARALLEL_SOLVERS:
        raise InvalidInput("solver", f"unknown solver {solver!r}; there are {', '.join((*PARALLEL_SOLVERS, ACCURATE))}")
    if rounds is not None and method not in WINDOW_METHODS:
        raise InvalidInput("rounds", f"method {method!r} takes no rounds; leave it out")
    check_rounds(rounds)
    if pool is None:
        if denoise is None:
            raise InvalidInput("denoise", "give a function, or a pool whose lanes have one each")
        pool = InlinePool(denoise)
    flow = _predicts_flow(prediction)
    rule, asked = (accept.otherwise, accept.asked) if isinstance(accept, OnDemand) else (accept, lambda: False)
    run: Chords | Window
    if method in WINDOW_METHODS:
        planned = _window_plan(method, sigmas, cores, starts, solver, rule, rounds, calls, flow)
        run, steps = Window(x, planned, rule), planned.path.steps
    else:
        fine = PARALLEL_SOLVERS[solver]
        if calls is not None:
            fine, sigmas = sparsely(fine, sigmas, calls)
            steps = calls
        indices, rule = _check_cores(method, cores, starts, rule, steps)
        run = Chords(x, sigmas, indices, fine, check_accept(rule, len(indices)))
    evaluations = drive(
        run,
        pool,
        steps,
        on_event or (lambda event: None),
        _as_predicate(cancel),
        asked,
        Watch(patience),
    )
    assert run.accepted is not None
    return Result(run.accepted.x, tuple(run.hits), run.accepted.depth, evaluations)


def check_sigmas(sigmas: Tensor) -> Tensor:
    """``sigmas`` if it is a usable schedule.

    Raises:
        InvalidInput: naming what is wrong.
    """
    if not isinstance(sigmas, Tensor):
        raise InvalidInput("sigmas", f"must be a tensor, not {type(sigmas).__name__}")
    if sigmas.ndim != 1:
        raise InvalidInput("sigmas", f"must be one-dimensional, not of shape {tuple(sigmas.shape)}")
    if len(sigmas) < 2:
        raise InvalidInput("sigmas", f"need at least 2 values for one step, not {len(sigmas)} (zero steps)")
    if not bool(torch.isfinite(sigmas).all()) or float(sigmas[-1]) < 0:
        raise InvalidInput("sigmas", f"must be finite and not negative, not {sigmas.tolist()}")
    if not bool((sigmas[1:] < sigmas[:-1]).all()):
        raise InvalidInput("sigmas", f"must be strictly descending, not {sigmas.tolist()}")
    return sigmas


def _check_cores(
    method: str, cores: int, starts: Sequence[int] | None, accept: int | str | Residual | Agreement, steps: int
) -> tuple[tuple[int, ...], int | str | Residual | Agreement]:
    """The start indices, and ``accept`` fitted to them if the steps leave room for fewer cores."""
    if method not in METHODS:
        raise InvalidInput("method", f"unknown method {method!r}; there are {', '.join(METHODS)}")
    _check_count(cores)
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


def _check_count(cores: int) -> None:
    if isinstance(cores, bool) or not isinstance(cores, int) or cores < 1:
        raise InvalidInput("cores", f"must be a whole number of at least 1, not {cores!r}")


def _window_plan(
    method: str,
    sigmas: Tensor,
    cores: int,
    starts: Sequence[int] | None,
    solver: str,
    accept: int | str | Residual | Agreement,
    rounds: int | None,
    calls: int | None,
    flow: bool | None,
) -> WindowPlan:
    _check_count(cores)
    if starts is not None:
        raise InvalidInput("starts", f"method {method!r} takes no starts; leave them out")
    if not isinstance(accept, int):
        check_accept(accept, cores)
    elif isinstance(accept, bool) or accept < 1:
        raise InvalidInput("accept", f'must be a number of at least 1, "exact" or Residual(threshold), not {accept!r}')
    slopes = method == "secant"
    if solver != ACCURATE:
        if calls is not None and isinstance(accept, str) and rounds is None:
            raise InvalidInput(
                "accept", f'"{accept}" is a solver\'s result, but fewer calls only come close to it; give rounds'
            )
        fine = PARALLEL_SOLVERS[solver]
        return solver_plan(sigmas, cores, fine, flow=flow, calls=calls, slopes=slopes, rounds=rounds, accept=accept)
    if isinstance(accept, str):
        if rounds is None:
            raise InvalidInput(
                "accept", f'"{accept}" is a solver\'s result, but "{ACCURATE}" aims at the ODE\'s; give rounds'
            )
        accept = 1  # which the rounds override
    if calls is not None:
        raise InvalidInput("calls", f'solver "{ACCURATE}" chooses its own nodes; leave them out')
    return accuracy_plan(sigmas, cores, flow=flow, rounds=rounds, accept=accept)


def _predicts_flow(prediction: str | None) -> bool | None:
    if prediction not in (None, *PREDICTIONS):
        raise InvalidInput("prediction", f"must be None, {' or '.join(map(repr, PREDICTIONS))}, not {prediction!r}")
    return None if prediction is None else prediction == "flow"


def _as_predicate(cancel: Callable[[], bool] | threading.Event | None) -> Callable[[], bool]:
    if cancel is None:
        return lambda: False
    return cancel.is_set if isinstance(cancel, threading.Event) else cancel
