"""Fewer model calls than steps: the N-step result, with the prediction interpolated between the calls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import Denoise, InvalidInput, Window, sample
from chords_core.methods.window_spec import solver_window
from chords_core.solvers import SOLVERS
from chords_core.solvers.interpolated import default_calls, interpolated_solver, interpolation_nodes
from tests.core.problems import Mixture, karras, noise

SIGMAS = karras(30)
QUICK = settings(max_examples=60, deadline=None, derandomize=True)  # no deadline, because machines are busy


def mixture() -> tuple[Mixture, Tensor]:
    return Mixture(8), noise(6, 8, scale=10.0)


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@QUICK
@given(st.integers(2, 200).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(2, steps))))
def test_nodes_go_from_the_first_step_to_the_last(case: tuple[int, int]) -> None:
    steps, calls = case
    nodes = interpolation_nodes(steps, calls)
    assert len(nodes) == calls
    assert (nodes[0], nodes[-1]) == (0, steps - 1)
    assert all(a < b for a, b in zip(nodes, nodes[1:], strict=False))


@QUICK
@given(st.integers(2, 1000))
def test_fewer_calls_are_never_more_than_steps(steps: int) -> None:
    assert 2 <= default_calls(steps) <= steps


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_call_a_step_is_the_solver_itself(solver: str) -> None:
    denoise, x = mixture()
    wanted = sample(denoise, x, SIGMAS, solver=solver)
    found = sample(denoise, x, SIGMAS, solver=solver, calls=30)
    assert _distance(found.x, wanted.x) < 1e-12
    assert (found.depth, found.evaluations) == (30, 30)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_prediction_cubic_in_the_steps_takes_four_calls(solver: str) -> None:
    """Extrapolated values are corrected later."""
    steps, generator = 30, torch.Generator().manual_seed(2)
    powers = torch.randn(4, 3, 8, dtype=torch.float64, generator=generator)
    x = torch.randn(3, 8, dtype=torch.float64, generator=generator)
    grid = SIGMAS.tolist()

    def denoise(_: Tensor, sigma: float) -> Tensor:
        step = grid.index(sigma) / steps
        return sum(power * step**k for k, power in enumerate(powers))

    wanted = sample(denoise, x, SIGMAS, solver=solver).x
    for calls in (4, 5, 11):
        assert _distance(sample(denoise, x, SIGMAS, solver=solver, calls=calls).x, wanted) < 1e-12


@pytest.mark.parametrize("solver", SOLVERS)
def test_half_the_calls_give_nearly_the_same_result(solver: str) -> None:
    denoise, x = mixture()
    wanted = sample(denoise, x, SIGMAS, solver=solver).x
    sparse = sample(denoise, x, SIGMAS, solver=solver, calls=15)
    assert (sparse.depth, sparse.evaluations) == (15, 15)
    assert _distance(sparse.x, wanted) < 0.002


def test_the_result_is_that_of_all_steps_and_not_that_of_few() -> None:
    """The aim has the discretisation error of the user's sampler. Fewer steps have another error."""
    denoise, x = mixture()
    wanted = sample(denoise, x, SIGMAS).x
    few_steps = sample(denoise, x, karras(15)).x
    assert _distance(sample(denoise, x, SIGMAS, calls=15).x, wanted) < 0.2 * _distance(few_steps, wanted)


def test_more_calls_come_closer() -> None:
    denoise, x = mixture()
    wanted = sample(denoise, x, SIGMAS).x
    errors = [_distance(sample(denoise, x, SIGMAS, calls=calls).x, wanted) for calls in (6, 10, 16, 24)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("cores", [2, 4])
def test_the_slowest_of_several_cores_is_the_one_core(cores: int) -> None:
    denoise, x = mixture()
    alone = sample(denoise, x, SIGMAS, calls=15)
    several = sample(denoise, x, SIGMAS, calls=15, cores=cores, accept="exact")
    assert torch.equal(several.x, alone.x)
    first = several.hits[1]
    assert first.depth < 15
    assert _distance(first.x, alone.x) < 0.5 * _distance(several.hits[0].x, alone.x)


@QUICK
@given(st.integers(0, 2**32), st.integers(2, 6), st.data())
def test_a_moved_trajectory_is_the_one_begun_where_it_was_moved_to(seed: int, at: int, data: st.DataObject) -> None:
    """A rectified core goes on as if it had always been on its new trajectory."""
    generator = torch.Generator().manual_seed(seed)
    solver, sigmas = interpolated_solver(SOLVERS["euler"], SIGMAS, 9)
    x, dx, ddenoised, *evaluations = torch.randn(12, 5, dtype=torch.float64, generator=generator)
    base = data.draw(st.integers(0, at - 1))
    state = solver.begin(x, sigmas)
    for denoised in evaluations[:at]:
        state = state.step(denoised)
    moved = state.moved(dx, ddenoised, base)
    again = solver.begin(moved.begun, sigmas)
    for denoised in evaluations[:at]:
        again = again.step(denoised + ddenoised)
    assert _distance(again.x, moved.x) < 1e-10
    assert _distance(again.step(evaluations[at]).x, moved.step(evaluations[at]).x) < 1e-10


@pytest.mark.parametrize("calls", [0, 1, 31, -3])
def test_impossible_numbers_are_refused_before_any_call(calls: int) -> None:
    def denoise(x: Tensor, sigma: float) -> Tensor:
        raise AssertionError("called")

    with pytest.raises(InvalidInput, match="calls"):
        sample(denoise, torch.zeros(1, 4), SIGMAS, calls=calls)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_window_on_fewer_calls_comes_to_the_same_result(solver: str) -> None:
    """With enough rounds it is. With few rounds it is closer than one core with as many calls."""
    denoise, x = mixture()
    wanted = sample(denoise, x, SIGMAS, solver=solver).x
    settled = sample(denoise, x, SIGMAS, solver=solver, calls=15, method="secant", cores=4, rounds=30)
    assert _distance(settled.x, wanted) < 0.002
    early = sample(denoise, x, SIGMAS, solver=solver, calls=15, method="secant", cores=4)
    assert early.depth < 15
    assert len(early.hits) == early.depth
    assert _distance(early.x, wanted) < 0.5 * _distance(sample(denoise, x, SIGMAS, solver=solver, calls=9).x, wanted)


@QUICK
@given(st.integers(2, 60), st.integers(1, 8))
def test_a_window_leaves_no_call_out(calls: int, cores: int) -> None:
    """The model is called at each of the chosen steps, and the run ends with the last one."""
    denoise, x = mixture()
    seen: set[int] = set()
    machine = Window(x, solver_window(karras(60), cores, SOLVERS["euler"], calls=calls))
    while machine.accepted is None:
        for evaluation in machine.ready():
            seen.add(evaluation.index)
            machine.complete(evaluation, denoise(evaluation.x, evaluation.sigma))
    assert seen >= set(interpolation_nodes(60, calls))


def test_what_a_window_cannot_do_with_fewer_calls_is_refused() -> None:
    def run(**inputs: object) -> None:
        sample(lambda x, sigma: x, torch.zeros(1, 4), SIGMAS, method="secant", cores=2, calls=5, **inputs)

    with pytest.raises(InvalidInput, match="accept"):
        run(accept="exact")
    with pytest.raises(InvalidInput, match="calls"):
        run(solver="cubic")


def jumping(between: tuple[float, float], by: float) -> Denoise:
    """The mixture with stronger guidance in a part of the schedule."""
    smooth = Mixture(8)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        extra = by * torch.tanh(x / (1 + sigma)) if between[0] < sigma < between[1] else 0
        return smooth(x, sigma) + extra

    return denoise


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("between", [(0.3, 2.0), (1.0, 4.0), (0.0, 1.0)])
def test_where_the_prediction_jumps_each_step_is_taken(between: tuple[float, float], solver: str) -> None:
    """The method sees the jump in the answers, so that the result stays close to that of every step."""
    x = noise(6, 8, scale=10.0)
    denoise = jumping(between, 1.5)
    wanted = sample(denoise, x, SIGMAS, solver=solver).x
    found = sample(denoise, x, SIGMAS, solver=solver, calls=15)
    blind = sample(denoise, x, SIGMAS, solver=solver, calls=15, starts=(0, 1), accept="exact").x
    assert 15 < found.evaluations <= 30 + 2
    assert found.depth == found.evaluations
    assert _distance(found.x, wanted) < 0.3 * _distance(blind, wanted)


def test_a_smooth_prediction_takes_no_more_calls_than_asked_for() -> None:
    denoise, x = mixture()
    for calls in (8, 13, 20):
        assert sample(denoise, x, SIGMAS, calls=calls).evaluations == calls
