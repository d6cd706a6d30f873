"""The pools: threads, gradient and inference modes, and the context of a lane."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from chords_core import (
    Evaluated,
    Event,
    LaneLost,
    Residual,
    ThreadPool,
    sample,
)
from tests.core.execution.driver_runs import SIGMAS, STARTS, FailsAt, HostInterrupt, X, lane_threads, lost, run
from tests.core.problems import Counted, Slow, assert_same, nonlinear


def test_close_ends_every_thread() -> None:
    """An open pool has one thread a lane, a closed pool none, however its last run ended. It may be closed twice."""
    pool = ThreadPool([FailsAt({5, 6}, lost)] * 3)
    assert pool.lanes == len(lane_threads()) == 3
    run(pool)
    pool.close()
    pool.close()
    assert not lane_threads()

    with pytest.raises(HostInterrupt), ThreadPool([FailsAt({4}, lambda number: HostInterrupt())] * 3) as pool:
        run(pool)
    assert not lane_threads()


def test_inline_starts_no_thread() -> None:
    """Without a pool everything happens in the caller's thread."""
    before = set(threading.enumerate())
    during: set[threading.Thread] = set()
    run(on_event=lambda event: during.update(threading.enumerate()))
    assert during <= before


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, torch.no_grad, torch.enable_grad], ids=["inference", "no_grad", "grad"]
)
def test_lanes_work_in_the_callers_mode(mode: Callable) -> None:
    """Inference and gradient mode belong to a thread. A lane uses those of the caller, in each run."""
    modes: set[tuple[bool, bool]] = set()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        modes.add((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
        return nonlinear(x, sigma)

    with ThreadPool([denoise] * 3) as pool:
        run(pool)
        modes.clear()
        with mode():
            run(pool)
            assert modes == {(torch.is_inference_mode_enabled(), torch.is_grad_enabled())}


def test_gradients_flow_through_lanes() -> None:
    """With gradients on, the result depends on the starting state through every lane, as it does inline.

    Backpropagation adds up in an order of its own, so this is equal up to rounding.
    """
    gradients = []
    with ThreadPool([nonlinear] * 3) as threads:
        for pool in (None, threads):
            x = X.clone().requires_grad_()
            sample(nonlinear, x, SIGMAS, starts=STARTS, pool=pool).x.sum().backward()
            gradients.append(x.grad)
    assert gradients[0] is not None
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)


def test_lane_context_is_entered_in_the_lane() -> None:
    """Each evaluation runs inside the context of its lane, in its lane's thread; an error there loses the lane."""
    inside = threading.local()
    seen: set[int] = set()
    broken: set[int] = set()

    @contextmanager
    def context(lane: int) -> Iterator[None]:
        if lane in broken:
            raise RuntimeError("device gone")
        inside.lane = lane
        yield
        del inside.lane

    def denoise_on(lane: int) -> Callable[[Tensor, float], Tensor]:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            assert inside.lane == lane
            seen.add(lane)
            return nonlinear(x, sigma)

        return denoise

    with ThreadPool([denoise_on(lane) for lane in range(3)], context) as pool:
        assert_same(run(pool), run())
        assert seen == {0, 1, 2}
        broken.add(1)
        losses: list[Event] = []
        result = run(pool, on_event=lambda event: losses.append(event) if isinstance(event, LaneLost) else None)
        assert_same(result, run())
        assert [event.lane for event in losses] == [1]


def test_idle_lanes_do_nothing() -> None:
    """More lanes than cores: no evaluation is made twice or without need."""
    model = Counted()
    with ThreadPool([model] * 8) as pool:
        result = run(pool, accept=2)
    assert result.evaluations == model.calls == run(accept=2).evaluations


@pytest.mark.parametrize("threshold", [1e9, 1e-2, 1e-3])
def test_nothing_begins_after_the_accepted_hit(threshold: float) -> None:
    """After the residual rule has accepted a hit, no evaluation begins that only slower cores would need."""
    model = Counted()
    with ThreadPool([model]) as pool:
        result = run(pool, accept=Residual(threshold))
    assert model.calls == result.evaluations == run(accept=Residual(threshold)).evaluations


def test_every_lane_is_reported() -> None:
    """With one lane for each core, all lanes get work."""
    lanes: set[int] = set()
    with ThreadPool([Slow(seed) for seed in range(4)]) as pool:
        run(pool, on_event=lambda event: lanes.add(event.lane) if isinstance(event, Evaluated) else None)
    assert lanes == {0, 1, 2, 3}


def test_lane_life_lasts_as_long_as_the_thread() -> None:
    """It is entered before the first evaluation and left before the thread ends, also after errors."""
    alive: set[int] = set()
    lives: list[int] = []

    @contextmanager
    def life(lane: int) -> Iterator[None]:
        lives.append(lane)
        alive.add(threading.get_ident())
        yield
        alive.discard(threading.get_ident())

    def denoise(x: Tensor, sigma: float) -> Tensor:
        assert threading.get_ident() in alive
        return nonlinear(x, sigma)

    with ThreadPool([denoise] * 3, lane_life=life) as pool:
        assert_same(run(pool), run())
        assert_same(run(pool), run())
        assert len(alive) == 3
    assert not alive and sorted(lives) == [0, 1, 2]
    with (
        pytest.raises(HostInterrupt),
        ThreadPool([FailsAt({4}, lambda number: HostInterrupt())] * 3, lane_life=life) as pool,
    ):
        run(pool)
    assert not alive
