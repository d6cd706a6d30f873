"""A tolerance: the result is that close to the solver's own, with no more calls than that takes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import (
    SOLVERS,
    Accepted,
    Cancelled,
    Event,
    Hit,
    InvalidInput,
    OnDemand,
    Residual,
    Result,
    ThreadPool,
    sample,
)
from tests.core.problems import Counted, Mixture, Slow, assert_same, case_name, karras, noise

QUICK = settings(max_examples=25, deadline=None, derandomize=True)
TOLERANCE = 0.01


def flow_sigmas(steps: int, shift: float = 3.0) -> Tensor:
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def flow(x: Tensor, t: float) -> Tensor:
    """A nonlinear model in a flow's coordinates, down to no noise at all."""
    ideal = Mixture(8)
    if t == 1:
        return ideal.centres.mean(0).expand_as(x)
    return ideal(x / (1 - t), t / (1 - t))


def run(cores: int, x: Tensor, sigmas: Tensor, tolerance: float | None = TOLERANCE, **more: Any) -> Result:
    given = {"denoise": flow, **more}
    method = "sequential" if cores == 1 else "secant"
    return sample(x=x, sigmas=sigmas, method=method, cores=cores, tolerance=tolerance, **given)


def difference(found: Tensor, expected: Tensor) -> Tensor:
    return (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)


# --- closeness


@pytest.mark.parametrize("cores", [1, 2, 4, 8])
@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("solver", SOLVERS)
def test_it_is_close_with_fewer_calls_in_a_row(solver: str, steps: int, cores: int) -> None:
    """Each of several items by itself is about within the tolerance, and on the whole calls are saved."""
    sigmas, calls, errors = flow_sigmas(steps), 0, []
    for seed in range(20):
        x = noise(1, 8, seed=seed)
        found = run(cores, x, sigmas, solver=solver)
        errors.append(float(difference(found.x, sample(flow, x, sigmas, solver=solver).x)))
        calls += found.depth
    assert sorted(errors)[10] < 1.5 * TOLERANCE and sorted(errors)[-3] < 4 * TOLERANCE
    assert calls < 20 * steps


@QUICK
@given(st.integers(8, 60), st.sampled_from([1, 2, 4]), st.sampled_from(sorted(SOLVERS)), st.floats(-2.0, 2.0))
def test_a_constant_prediction_takes_few_calls(steps: int, cores: int, solver: str, value: float) -> None:
    """Where the prediction does not change, interpolation is exact."""
    x, sigmas, model = noise(2, 5), flow_sigmas(steps), Counted(lambda x, sigma: torch.full_like(x, value))
    found = run(cores, x, sigmas, denoise=model, solver=solver)
    expected = sample(model, x, sigmas, solver=solver).x
    torch.testing.assert_close(found.x, expected, rtol=1e-6, atol=1e-6)
    assert found.depth <= 8 + steps // 4


@QUICK
@given(st.integers(8, 60), st.sampled_from([1, 2, 4]), st.integers(0, 20))
def test_a_prediction_linear_in_the_step_is_exact(steps: int, cores: int, seed: int) -> None:
    sigmas, x, slope = flow_sigmas(steps), noise(2, 5, seed=seed), noise(2, 5, seed=seed + 1)
    grid = sigmas.tolist()

    def denoise(_: Tensor, sigma: float) -> Tensor:
        return 1.0 + slope * grid.index(sigma) / steps

    found = run(cores, x, sigmas, denoise=denoise)
    torch.testing.assert_close(found.x, sample(denoise, x, sigmas).x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cores", [1, 4])
def test_a_smaller_tolerance_is_closer_and_takes_more_calls(cores: int) -> None:
    sigmas, x = flow_sigmas(40), noise(16, 1, 8)
    errors, calls = [], []
    for tolerance in (0.1, 0.01, 0.001, 1e-6):
        found = [run(cores, each, sigmas, tolerance) for each in x]
        calls.append(sum(each.depth for each in found))
        exact = [sample(flow, each, sigmas).x for each in x]
        errors.append(max(float(difference(f.x, e)) for f, e in zip(found, exact, strict=True)))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-5
    assert calls == sorted(calls)


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("steps", [8, 12, 200, 1000])
def test_any_number_of_steps(steps: int, cores: int) -> None:
    sigmas, x = flow_sigmas(steps), noise(4, 8)
    found = run(cores, x, sigmas)
    assert float(difference(found.x, sample(flow, x, sigmas).x).median()) < 3 * TOLERANCE
    assert found.depth <= min(steps, 80)


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("cores", [1, 4])
def test_an_eps_model_is_solved_as_a_flow_model(solver: str, cores: int) -> None:
    """An eps model on SDXL's range of sigmas, and one that begins below sigma 1 and has to be named."""
    for high, prediction in ((14.6, None), (0.8, "eps")):
        sigmas, x = karras(30, high, 0.03), noise(6, 1, 8, scale=high)
        for each in x:
            found = run(cores, each, sigmas, denoise=Mixture(8), solver=solver, prediction=prediction)
            expected = sample(Mixture(8), each, sigmas, solver=solver).x
            assert float(difference(found.x, expected)) < 3 * TOLERANCE
            assert found.depth < 30


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_a_jump_of_the_prediction_is_called_for(cores: int) -> None:
    """Guidance in a part of the schedule, a prompt that ends: the steps around the jumps are all called."""
    steps = 60
    sigmas, x = flow_sigmas(steps), noise(1, 8)
    grid, called = sigmas.tolist(), set()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        called.add(grid.index(sigma))
        return flow(x, sigma) + (1.5 if grid[42] < sigma < grid[27] else 0.0)

    found = run(cores, x, sigmas, denoise=denoise)
    assert len(called) < steps
    assert {27, 28} <= called
    assert float(difference(found.x, sample(denoise, x, sigmas).x)) < 2 * TOLERANCE


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_step_called_gives_the_solvers_own_result(solver: str) -> None:
    """In the precision of the sigmas: a solver that rounds in float32 is followed with its rounding."""
    sigmas, x = flow_sigmas(20).float(), noise(2, 8)
    found = run(1, x, sigmas, 1e-9, solver=solver)
    torch.testing.assert_close(found.x, sample(flow, x, sigmas, solver=solver).x, rtol=1e-5, atol=1e-5)


# --- what decides


@pytest.mark.parametrize("cores", [1, 3])
def test_in_a_batch_the_most_demanding_item_decides(cores: int) -> None:
    sigmas = flow_sigmas(30)
    x = torch.cat([noise(5, 8), torch.zeros(1, 8, dtype=torch.float64)])
    alone = [run(cores, each[None], sigmas) for each in x]
    together = run(cores, x, sigmas)
    assert together.depth >= max(each.depth for each in alone) - 1
    assert float(difference(together.x, sample(flow, x, sigmas).x).max()) < 2 * TOLERANCE
    same = run(cores, x[:1].expand(4, -1), sigmas)
    assert same.depth == alone[0].depth


@pytest.mark.parametrize("cores", [1, 4])
def test_devices_and_their_speed_do_not_decide(cores: int) -> None:
    sigmas, x = flow_sigmas(24), noise(2, 8)
    expected = run(cores, x, sigmas)
    for lanes in (1, 2, 5):
        with ThreadPool([Slow(seed, denoise=flow) for seed in range(lanes)]) as pool:
            assert_same(run(cores, x, sigmas, pool=pool), expected)


def test_one_core_is_the_same_by_any_method() -> None:
    sigmas, x = flow_sigmas(20), noise(2, 8)
    results = [sample(flow, x, sigmas, method=m, tolerance=0.02) for m in ("sequential", "chords", "secant")]
    for result in results[1:]:
        assert_same(result, results[0])


# --- its own estimate


@pytest.mark.parametrize("cores", [1, 4])
def test_the_estimate_grows_with_the_error(cores: int) -> None:
    """Over tolerances, estimates and errors rise together; the estimate of every step called is 0."""
    sigmas, x = flow_sigmas(40), noise(12, 1, 8)
    means = []
    for tolerance in (0.003, 0.03, 0.3):
        estimates = [run(cores, each, sigmas, tolerance).estimate for each in x]
        assert all(estimate is not None and 0 <= estimate < 3 * tolerance for estimate in estimates)
        means.append(sum(filter(None, estimates)))
    assert means == sorted(means)
    exact = run(1, x[0], sigmas, 1e-9)
    assert exact.estimate == 0 and exact.depth == 40


def test_other_runs_have_no_estimate() -> None:
    sigmas, x = flow_sigmas(12), noise(1, 8)
    assert sample(flow, x, sigmas).estimate is None
    assert sample(flow, x, sigmas, method="secant", cores=3).estimate is None


# --- as any other run


@pytest.mark.parametrize("cores", [1, 4])
def test_hits_come_while_it_runs_and_the_newest_can_be_taken(cores: int) -> None:
    sigmas, x, events = flow_sigmas(30), noise(2, 8), list[Event]()
    full = run(cores, x, sigmas, on_event=events.append)
    hits = [event for event in events if isinstance(event, Hit)]
    assert len(hits) == len(full.hits) == full.depth
    assert isinstance(events[-1], Accepted) and events[-1].hit.x.equal(full.x)
    errors = [float(difference(hit.x, full.x).max()) for hit in hits]
    assert errors[-1] == 0 and errors[len(errors) // 2] < errors[0]
    early = run(cores, x, sigmas, accept=OnDemand(1, lambda: True))
    assert early.depth == 1 and early.x.equal(hits[0].x) and early.estimate is None


@pytest.mark.parametrize("cores", [1, 4])
def test_a_cancel_ends_it(cores: int) -> None:
    stop = threading.Event()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        stop.set()
        return flow(x, sigma)

    model = Counted(denoise)
    with pytest.raises(Cancelled):
        run(cores, noise(1, 8), flow_sigmas(30), denoise=model, cancel=stop)
    assert model.calls == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_latent_of_lower_precision(dtype: torch.dtype) -> None:
    x, sigmas = noise(2, 8).to(dtype), flow_sigmas(20).float()
    found = run(1, x, sigmas, denoise=lambda x, t: flow(x.double(), t).to(dtype))
    assert found.x.dtype == dtype and found.depth <= 20


@pytest.mark.parametrize("cores", [1, 4])
def test_an_item_that_is_nan_does_not_decide(cores: int) -> None:
    x, sigmas = noise(3, 8), flow_sigmas(20)
    broken = torch.cat([x, torch.full_like(x[:1], torch.nan)])
    with_nan, without = run(cores, broken, sigmas), run(cores, x, sigmas)
    assert with_nan.depth == without.depth and with_nan.estimate == pytest.approx(without.estimate)
    torch.testing.assert_close(with_nan.x[:-1], without.x)


# --- bad input

BAD: list[tuple[str, dict[str, Any]]] = [
    *(("tolerance", {"tolerance": wrong}) for wrong in (0, 0.0, -0.1, 1, 2.0, float("nan"), float("inf"), "1%", True)),
    ("calls", {"calls": 5}),
    ("rounds", {"method": "secant", "cores": 2, "rounds": 5}),
    ("accept", {"method": "secant", "cores": 2, "accept": 2}),
    ("accept", {"accept": "exact"}),
    ("accept", {"method": "secant", "cores": 2, "accept": Residual(0.1)}),
    ("accept", {"accept": OnDemand("exact", lambda: False)}),
    ("starts", {"method": "chords", "starts": [0, 4]}),
    ("method", {"method": "chords", "cores": 4}),
    ("method", {"method": "picard", "cores": 4}),
    ("solver", {"method": "secant", "cores": 4, "solver": "cubic"}),
    ("cores", {"method": "sequential", "cores": 4}),
]


@pytest.mark.parametrize(("name", "wrong"), BAD, ids=case_name)
def test_refused_by_name_before_any_call(name: str, wrong: dict[str, Any]) -> None:
    model = Counted(flow)
    with pytest.raises(InvalidInput, match=name) as raised:
        sample(model, noise(2, 8), flow_sigmas(12), **{"tolerance": TOLERANCE, **wrong})
    assert raised.value.name == name
    assert model.calls == 0
