"""The pool that makes a whole round in one call: what other pools give, few calls, and an end where a call fails."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import (
    Accepted,
    BatchPool,
    Cancelled,
    Evaluated,
    Event,
    InvalidInput,
    LaneLost,
    NonFiniteDenoised,
    Recorder,
    RowsFailed,
    ThreadPool,
    sample,
)
from tests.core.execution.driver_runs import HostInterrupt
from tests.core.problems import STEP_SOLVERS, Mixture, geometric, noise

STEPS = 20
SIGMAS = geometric(STEPS)
X = noise(3, 6, scale=10.0)
MODEL = Mixture(6)
WINDOW: dict[str, Any] = {"method": "secant", "cores": 4, "tolerance": 0.01}

Rows = Callable[[Sequence[Tensor], Sequence[float]], Sequence[Tensor]]


def rows(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    """The model, a batch of all rows at once."""
    x = torch.stack(list(xs))
    sigma = x.new_tensor(list(sigmas)).reshape(-1, *[1] * (x.ndim - 1))
    to_centres = x.unsqueeze(-2) - MODEL.centres
    weights = torch.softmax(-to_centres.square().sum(-1) / (2 * (MODEL.std**2 + sigma**2)), -1)
    return list(((MODEL.std**2 * x + sigma**2 * (weights @ MODEL.centres)) / (MODEL.std**2 + sigma**2)).unbind())


class Watched:
    """Rows, with the number of them in each call; ``fails(call, rows)`` decides what a call raises."""

    def __init__(self, fails: Callable[[int, int], BaseException | None] = lambda call, rows: None) -> None:
        self.sizes: list[int] = []
        self._fails = fails

    def __call__(self, xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        self.sizes.append(len(xs))
        error = self._fails(len(self.sizes), len(xs))
        if error is not None:
            raise error
        return rows(xs, sigmas)


def assert_reported_once(events: list[Event]) -> None:
    """A report for each evaluation, and `Accepted` comes last."""
    evaluated = [(event.depth, event.index) for event in events if isinstance(event, Evaluated)]
    assert len(evaluated) == len(set(evaluated)) and isinstance(events[-1], Accepted)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(8, 40),
    cores=st.integers(2, 8),
    solver=st.sampled_from(STEP_SOLVERS),
    way=st.sampled_from([{"method": "secant", "tolerance": 0.01}, {"method": "secant"}, {}, {"accept": "exact"}]),
    seed=st.integers(0, 5),
)
def test_the_result_is_that_of_threads(steps: int, cores: int, solver: str, way: dict[str, Any], seed: int) -> None:
    x, sigmas = noise(2, 6, scale=10.0, seed=seed), geometric(steps)
    pool = BatchPool(rows, cores)
    batched = sample(None, x, sigmas, solver=solver, cores=cores, pool=pool, **way)
    with ThreadPool([MODEL] * 2) as threads:
        expected = sample(None, x, sigmas, solver=solver, cores=cores, pool=threads, **way)
    assert batched.depth == expected.depth
    assert float((batched.x - expected.x).norm() / expected.x.norm()) < 1e-6


@pytest.mark.parametrize("cores", [2, 4, 8])
def test_a_round_of_a_window_is_one_call(cores: int) -> None:
    watched, pool = Watched(), BatchPool(rows, cores)
    result = sample(None, X, SIGMAS, pool=BatchPool(watched, cores), **{**WINDOW, "cores": cores})
    assert len(watched.sizes) == result.depth and max(watched.sizes) == cores
    assert sum(watched.sizes) == result.evaluations
    sample(None, X, SIGMAS, pool=pool, **{**WINDOW, "cores": cores})
    assert sum(pool.calls.values()) == result.depth


ONE_ROW = sample(MODEL, X, SIGMAS, **WINDOW)
ONCE = Watched()
sample(None, X, SIGMAS, pool=BatchPool(ONCE, 4), **WINDOW)


@pytest.mark.parametrize("call", [i + 1 for i, size in enumerate(ONCE.sizes) if size > 1])
def test_rows_that_fail_in_any_round_end_the_run_at_once(call: int) -> None:
    """No further call is made, and the pool is as good as new."""
    watched = Watched(lambda number, size: RuntimeError("out of memory") if number == call else None)
    pool, events = BatchPool(watched, 4), list[Event]()
    with pytest.raises(RowsFailed, match="rows failed: out of memory") as failed:
        sample(None, X, SIGMAS, pool=pool, on_event=events.append, **WINDOW)
    assert failed.value.rows == watched.sizes[-1] and len(watched.sizes) == call
    assert not any(isinstance(event, Accepted | LaneLost) for event in events)
    again = sample(None, X, SIGMAS, pool=pool, **WINDOW)
    assert torch.equal(again.x, sample(None, X, SIGMAS, pool=BatchPool(rows, 4), **WINDOW).x)


def test_the_memory_of_the_failed_call_is_free_when_it_is_told() -> None:
    held: list[weakref.ref[Tensor]] = []

    def denoise_rows(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        raise MemoryError("no room")

    with pytest.raises(RowsFailed) as failed:
        sample(None, X, SIGMAS, pool=BatchPool(denoise_rows, 4), **WINDOW)
    assert isinstance(failed.value.__cause__, MemoryError) and len(held) == 1 and held[0]() is None


def test_what_a_call_of_one_row_raises_is_raised() -> None:
    def denoise_rows(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        raise ArithmeticError("broken")

    with pytest.raises(ArithmeticError, match="broken"):
        sample(None, X, SIGMAS, pool=BatchPool(denoise_rows, 1))


@pytest.mark.parametrize("call", [1, 2, 5])
@pytest.mark.parametrize("kind", [HostInterrupt, KeyboardInterrupt])
def test_an_interrupt_ends_the_run_at_once(kind: type[BaseException], call: int) -> None:
    """It is no fault of the rows. The pool is as good as new for the next run."""
    watched = Watched(lambda number, size: kind() if number == call else None)
    pool = BatchPool(watched, 4)
    with pytest.raises(kind):
        sample(None, X, SIGMAS, pool=pool, **WINDOW)
    assert len(watched.sizes) == call
    again = sample(None, X, SIGMAS, pool=pool, **WINDOW)
    assert again.depth == ONE_ROW.depth
    assert again.evaluations == ONE_ROW.evaluations


@pytest.mark.parametrize("call", [1, 3])
def test_a_cancel_is_seen_after_the_call(call: int) -> None:
    watched = Watched()
    with pytest.raises(Cancelled):
        sample(None, X, SIGMAS, pool=BatchPool(watched, 4), cancel=lambda: len(watched.sizes) >= call, **WINDOW)
    assert len(watched.sizes) == call


def test_it_runs_in_the_callers_thread() -> None:
    threads: set[threading.Thread] = set()

    def denoise_rows(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        threads.add(threading.current_thread())
        return rows(xs, sigmas)

    before = threading.enumerate()
    sample(None, X, SIGMAS, pool=BatchPool(denoise_rows, 4), **WINDOW)
    assert threads == {threading.current_thread()} and threading.enumerate() == before


@pytest.mark.parametrize("at", [0, 7, STEPS - 1])
def test_an_item_with_nan_does_not_change_the_others(at: int) -> None:
    """NaN in one item of one row, or of all rows from a step on."""

    def breaks(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        found = rows(xs, sigmas)
        for row, sigma in zip(found, sigmas, strict=True):
            if sigma <= float(SIGMAS[at]):
                row[1] = float("nan")
        return found

    def alone(x: Tensor, sigma: float) -> Tensor:
        return breaks([x], [sigma])[0]

    events: list[Event] = []
    result = sample(None, X, SIGMAS, pool=BatchPool(breaks, 4), on_event=events.append, **WINDOW)
    with ThreadPool([alone] * 4) as threads:
        expected = sample(None, X, SIGMAS, pool=threads, **WINDOW)
    assert_reported_once(events)
    assert result.x[1].isnan().all() and torch.isfinite(result.x[[0, 2]]).all()
    assert result.depth == expected.depth
    torch.testing.assert_close(result.x, expected.x, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_nan_in_every_item_is_an_error() -> None:
    with pytest.raises(NonFiniteDenoised):
        sample(None, X, SIGMAS, pool=BatchPool(lambda xs, sigmas: [x * float("nan") for x in xs], 4), **WINDOW)


def test_an_item_that_is_nan_in_the_batch_only_is_taken_from_the_second_answer() -> None:
    """Half precision may overflow in one call and not in another."""

    def overflows(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        found = rows(xs, sigmas)
        if len(xs) == 4 and not done:
            done.append(True)
            found[2][0, 0] = float("inf")
        return found

    done: list[bool] = []
    result = sample(None, X, SIGMAS, pool=BatchPool(overflows, 4), **WINDOW)
    assert done and torch.isfinite(result.x).all()
    assert float((result.x - ONE_ROW.x).norm() / ONE_ROW.x.norm()) < 1e-6


@pytest.mark.parametrize(
    "wrong",
    [
        lambda xs, sigmas: xs[:-1],
        lambda xs, sigmas: None,
        lambda xs, sigmas: [x[..., :1] for x in xs],
        lambda xs, sigmas: [x.float().int() for x in xs],
    ],
    ids=["a row less", "none", "another shape", "whole numbers"],
)
def test_what_are_no_rows_is_an_error(wrong: Rows) -> None:
    with pytest.raises(InvalidInput):
        sample(None, X, SIGMAS, pool=BatchPool(wrong, 4), **WINDOW)


@pytest.mark.parametrize("arguments", [(None, 4), (rows, 0), (rows, 2.5)])
def test_arguments_are_checked(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidInput):
        BatchPool(*arguments)


def test_the_timeline_has_the_rows_of_a_call_side_by_side() -> None:
    """Each row on a lane of its own, all of a round with the same seconds."""
    recorder, seconds = Recorder(), dict[int, set[tuple[int, float]]]()

    def listen(event: Event) -> None:
        recorder(event)
        if isinstance(event, Evaluated):
            seconds.setdefault(event.depth, set()).add((event.lane, event.seconds))

    sample(None, X, SIGMAS, pool=BatchPool(rows, 4), on_event=listen, **WINDOW)
    assert len(recorder.timeline().evaluations) == sum(map(len, seconds.values()))
    for found in seconds.values():
        assert len({value for _, value in found}) == 1
