"""The window methods: what they converge to, how fast, and that only the arguments matter."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chords_core import (
    Accepted,
    Denoise,
    Device,
    Evaluated,
    Event,
    Hit,
    InlinePool,
    InvalidInput,
    LaneLost,
    OnDemand,
    Residual,
    RoundDone,
    ThreadPool,
    Window,
    WindowSpec,
    accuracy_window,
    sample,
    simulate,
    solver_window,
)
from chords_core.execution.driver import drive
from chords_core.methods.secant_model import RANK
from chords_core.methods.window_spec import expected_rounds
from chords_core.solvers import SOLVERS
from chords_core.solvers.cubic import LOWEST_SIGMA, cubic_updates, curve_nodes
from chords_core.solvers.linear_form import solver_updates
from tests.core.problems import Counted, Gaussian, Mixture, Slow, assert_same, geometric, karras, noise, nonlinear

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
METHODS = ["picard", "secant"]


def flow_sigmas(steps: int, shift: float = 3.0) -> Tensor:
    """A flow model's schedule, from 1 to 0."""
    t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * t / (1 + (shift - 1) * t)


def as_flow(denoise: Denoise) -> Denoise:
    """An ideal model of x0 + s eps, for states (1 - sigma) x0 + sigma eps."""

    def flow(x: Tensor, sigma: float) -> Tensor:
        alpha = max(1 - sigma, 1e-6)
        return denoise(x / alpha, sigma / alpha)

    return flow


def guided(scale: float = 3.0, size: int = 6) -> Denoise:
    """The ideal model of four wide clusters, guided away from that of all data: its slopes are negative, too."""
    clusters, everything = Mixture(size), Gaussian(0.0, 1.5)
    return lambda x, sigma: everything(x, sigma) + scale * (clusters(x, sigma) - everything(x, sigma))


SCHEDULES = [
    karras,
    flow_sigmas,
    lambda steps: geometric(steps, last_zero=True),
    lambda steps: flow_sigmas(steps + 2)[:-2],
]


def relative(x: Tensor, expected: Tensor) -> float:
    return float((x - expected).norm() / expected.norm())


def run(denoise: Denoise, x: Tensor, plan: WindowSpec) -> Window:
    machine = Window(x, plan)
    drive(machine, InlinePool(denoise))
    return machine


def truth(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """The ODE's own solution, by many small steps."""
    return sample(denoise, x, sigmas, method="sequential", solver="dpmpp_2m").x


# --- convergence


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("schedule", range(len(SCHEDULES)))
def test_rows_are_the_solver(solver: str, schedule: int) -> None:
    """The linear updates give the solver's trajectory for any evaluations, whether or not it ends at 0."""
    sigmas = SCHEDULES[schedule](9)
    start = noise(5)
    states, evaluations = [], []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        states.append(x)
        evaluations.append(nonlinear(x, sigma))
        return evaluations[-1]

    end = sample(denoise, start, sigmas, method="sequential", solver=solver).x
    updates, x = solver_updates(SOLVERS[solver], sigmas), start
    assert len(updates) == 9
    for i, update in enumerate(updates):
        assert all(j <= i for j, _ in update.weights)
        x = update.ratio * x + sum(weight * evaluations[j] for j, weight in update.weights)
        torch.testing.assert_close(x, states[i + 1] if i < 8 else end, rtol=1e-9, atol=1e-9)


@QUICK
@given(
    st.integers(1, 14), st.integers(1, 16), st.sampled_from(METHODS), st.sampled_from(sorted(SOLVERS)),
    st.sampled_from(SCHEDULES), st.integers(0, 999),
)  # fmt: skip
def test_as_many_rounds_as_steps_are_the_sequential_result(
    steps: int, cores: int, method: str, solver: str, schedule: Callable[[int], Tensor], seed: int
) -> None:
    """N rounds give the sequential solver's result for any K, and the last hit says so. "exact" needs no more
    rounds."""
    sigmas, x = schedule(steps), noise(2, 3, seed=seed)
    x = x * sigmas[0]
    expected = sample(nonlinear, x, sigmas, method="sequential", solver=solver).x
    result = sample(nonlinear, x, sigmas, method=method, cores=cores, solver=solver, rounds=steps)
    torch.testing.assert_close(result.x, expected, rtol=1e-9, atol=1e-9)
    assert result.depth == steps and result.hits[-1].core == 1
    assert result.evaluations == steps * min(cores, steps)
    exact = sample(nonlinear, x, sigmas, method=method, cores=cores, solver=solver, accept="exact")
    torch.testing.assert_close(exact.x, expected, rtol=1e-9, atol=1e-9)
    assert exact.depth <= steps and exact.hits[-1].core == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision(dtype: torch.dtype) -> None:
    """Latents keep their dtype. In between, everything is float32 or higher."""
    seen = set()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        seen.add(x.dtype)
        return Mixture(6)(x.double(), sigma).to(x.dtype)

    sigmas, x = geometric(12).float(), noise(3, 6, scale=10.0).to(dtype)
    expected = sample(denoise, x.float(), sigmas, method="sequential").x
    result = sample(denoise, x, sigmas, method="secant", cores=3, accept="exact")
    assert seen == {dtype, torch.float32} and result.x.dtype == dtype
    assert relative(result.x.float(), expected) < 4 * torch.finfo(dtype).eps
    assert all(hit.x.dtype == dtype for hit in result.hits)


@pytest.mark.parametrize("slope", [-2.0, -0.5, 0.3, 0.9])
@pytest.mark.parametrize(("cores", "rounds"), [(4, 9), (8, 6)])
def test_a_denoiser_with_one_slope_is_soon_solved(slope: float, cores: int, rounds: int) -> None:
    """The local model of D = c x + b is exact once a node has been evaluated twice. So the result is exact once all
    nodes
    have been, except those that were evaluated at their final state at once. Picard's result is not exact then."""
    shift = noise(1, 5, seed=3)
    sigmas, x = karras(12), noise(2, 5, scale=10.0)

    def affine(x: Tensor, sigma: float) -> Tensor:
        return slope * x + shift

    expected = sample(affine, x, sigmas, method="sequential").x
    error, picard = (
        relative(sample(affine, x, sigmas, method=method, cores=cores, rounds=rounds).x, expected)
        for method in ("secant", "picard")
    )
    assert error < 1e-11 < 1e-8 < picard


def test_slopes_make_it_faster() -> None:
    """At equal rounds the secant window is closer to the sequential result than Picard, guided or not."""
    for scale, rounds in itertools.product((1.0, 3.0), (9, 12)):
        denoise, sigmas = as_flow(guided(scale)), flow_sigmas(20)
        x = noise(16, 6)
        expected = sample(denoise, x, sigmas, method="sequential").x
        errors = {
            m: relative(sample(denoise, x, sigmas, method=m, cores=4, rounds=rounds).x, expected) for m in METHODS
        }
        assert errors["secant"] < 0.5 * errors["picard"]


# --- the ODE's own solution


@pytest.mark.parametrize("to_zero", [True, False])
def test_cubic_integrates_cubics(to_zero: bool) -> None:
    """Where D is constant in sigma the states are exact, and for a smooth D the error falls with the fourth power."""
    high, low = 8.0, 0.5

    def error(count: int, value: Callable[[float], float], integral: Callable[[float], float]) -> float:
        nodes = [high * (low / high) ** (j / (count - 1)) for j in range(count)]
        x = 1.0
        for update in cubic_updates(nodes, to_zero)[count - 1][:-1]:
            x = update.ratio * x + sum(weight * value(nodes[j]) for j, weight in update.weights)
        return abs(x - low * (1 / high + integral(low) - integral(high)))

    assert error(5, lambda s: 3.0, lambda s: 3.0 / s) < 1e-13
    # D = sigma / (1 + sigma): the integral of D d(1/sigma) = -d sigma / (sigma (1 + sigma))
    errors = [error(n, lambda s: s / (1 + s), lambda s: math.log((1 + s) / s)) for n in (9, 17, 33, 65)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(order > 3.5 for order in orders), orders


@pytest.mark.parametrize("flow", [False, True])
def test_order_of_accuracy(flow: bool) -> None:
    """Converged on N nodes, the error against the exact solution falls with the fourth power of N."""
    ideal = Gaussian()
    x = noise(4, 3, scale=10.0)
    sigmas = geometric(40, 10.0, 0.5)
    expected = ideal.solution(x, 10.0, 0.5)
    denoise: Denoise = ideal
    if flow:  # the same curve in other coordinates: alpha x with sigma' = sigma / (1 + sigma)
        denoise, sigmas, x = as_flow(ideal), sigmas / (1 + sigmas), x / 11
        expected = expected / 1.5
    errors = [
        relative(run(denoise, x, accuracy_window(sigmas, 4, rounds=60, nodes=n)).hits[-1].x, expected)
        for n in (8, 16, 32)
    ]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(order > 3.3 for order in orders), (errors, orders)


@pytest.mark.parametrize("flow", [True, False])
def test_cubic_beats_what_one_core_does_in_twice_the_depth(flow: bool) -> None:
    """11 rounds of 4 cores are closer to the solution than 22 steps of DPM++ 2M on the usual grid."""
    denoise = as_flow(guided(1.0)) if flow else guided(1.0)

    def schedule(n: int) -> Tensor:
        return flow_sigmas(n) if flow else torch.cat([karras(n - 1, 14.6, 0.03), torch.zeros(1)])

    x = noise(16, 6) * schedule(5)[0]
    expected = truth(denoise, x, schedule(1500))
    cubic = sample(denoise, x, schedule(20), method="secant", solver="cubic", cores=4, rounds=11)
    one = sample(denoise, x, schedule(22), method="sequential", solver="dpmpp_2m")
    assert cubic.depth == 11
    assert relative(cubic.x, expected) < 0.5 * relative(one.x, expected)


def test_nodes() -> None:
    """Nodes descend from the first sigma to a sigma above 0, or to the last. They follow the schedule's curve."""
    for count in (1, 2, 3, 15, 40):
        for schedule in (flow_sigmas(20), flow_sigmas(4), karras(20), geometric(20, 14.6, 0.5, last_zero=True)):
            nodes = curve_nodes(schedule, count)
            assert len(nodes) == count and nodes[0] == float(schedule[0]) and nodes[-1] > 0
            assert all(a > b for a, b in itertools.pairwise(nodes))
            if schedule[-1] > 0 and count > 1:
                assert nodes[-1] == float(schedule[-1])
    assert curve_nodes(geometric(20, 14.6, 0.5, last_zero=True), 10)[-1] == pytest.approx(LOWEST_SIGMA)
    assert curve_nodes(karras(19, 14.6, 0.002), 20) == pytest.approx(karras(19, 14.6, 0.002).tolist())
    t = [(1 - j / 15) ** 2 for j in range(15)]
    assert curve_nodes(flow_sigmas(3000), 15) == pytest.approx([3 * a / (1 + 2 * a) for a in t], rel=1e-4)
    # A schedule that stops early has the same nodes as the whole one has in that part.
    whole, part = flow_sigmas(40, shift=1.0), flow_sigmas(40, shift=1.0)[:31]
    assert curve_nodes(part, 9) == pytest.approx([(1 - j / 16) ** 2 for j in range(9)])
    assert curve_nodes(whole, 16)[:9] == pytest.approx([(1 - j / 16) ** 2 for j in range(9)])


# --- only the arguments matter


@QUICK
@given(
    st.integers(1, 12), st.integers(1, 6), st.sampled_from(METHODS), st.sampled_from(["euler", "dpmpp_2m", "cubic"]),
    st.integers(0, 999),
)  # fmt: skip
def test_order_of_completion_changes_nothing(steps: int, cores: int, method: str, solver: str, seed: int) -> None:
    """Results in any order give the same bits. A round has exactly K evaluations."""
    sigmas, x, order = karras(steps), noise(2, 3, scale=10.0), random.Random(seed)
    if solver == "cubic":
        plan = accuracy_window(sigmas, cores, rounds=7)
    else:
        plan = solver_window(sigmas, cores, SOLVERS[solver], slopes=method == "secant", rounds=7)
    expected, shuffled = run(nonlinear, x, plan), Window(x, plan)
    while shuffled.accepted is None:
        evaluations = shuffled.ready()
        assert [evaluation.core for evaluation in evaluations] == list(range(1, plan.cores + 1))
        assert all(a.index < b.index for a, b in itertools.pairwise(evaluations))
        assert all(evaluation.sigma == plan.sigmas[evaluation.index] for evaluation in evaluations)
        order.shuffle(evaluations)
        for n, evaluation in enumerate(evaluations, start=1):
            events = shuffled.complete(evaluation, nonlinear(evaluation.x, evaluation.sigma))
            assert bool(events) == (n == len(evaluations))
    assert len(shuffled.hits) == 7 and shuffled.ready() == []
    assert shuffled.complete(evaluations[0], evaluations[0].x) == [], "what comes late is dropped"
    assert all(torch.equal(a.x, b.x) for a, b in zip(shuffled.hits, expected.hits, strict=True))


@pytest.mark.parametrize("solver", ["euler", "res_multistep", "cubic"])
@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_lanes_change_nothing(lanes: int, solver: str) -> None:
    """1 to 8 lanes, of any speed, give the same bits as the caller's own thread."""
    x, sigmas = noise(2, 4, 5, 5, dtype=torch.float32), flow_sigmas(16).float()
    arguments: dict[str, Any] = {"method": "secant", "cores": 4, "solver": solver}
    expected = sample(nonlinear, x, sigmas, **arguments)
    with ThreadPool([Slow(seed, most=0.001) for seed in range(lanes)]) as pool:
        assert_same(sample(None, x, sigmas, pool=pool, **arguments), expected)


@pytest.mark.parametrize("solver", ["euler", "cubic"])
@pytest.mark.parametrize("at", [1, 6, 17])
def test_a_lost_lane_changes_nothing(solver: str, at: int) -> None:
    """A lane that fails, in any round, costs time but does not change the result."""
    x, sigmas = noise(2, 6, scale=10.0), karras(16)

    class Failing(Counted):
        def call(self, number: int, x: Tensor, sigma: float) -> Tensor:
            if number >= at:
                raise RuntimeError("out of memory")
            return nonlinear(x, sigma)

    events: list[Event] = []
    arguments: dict[str, Any] = {"method": "secant", "cores": 4, "solver": solver, "rounds": 10}
    expected = sample(nonlinear, x, sigmas, **arguments)
    with ThreadPool([Failing(), nonlinear, nonlinear]) as pool:
        assert_same(sample(None, x, sigmas, pool=pool, on_event=events.append, **arguments), expected)
    assert sum(isinstance(event, LaneLost) for event in events) <= 1


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "cubic"])
def test_samples_are_independent(solver: str) -> None:
    """Other items of the batch do not matter, apart from rounding."""
    x, sigmas = noise(3, 2, 6), flow_sigmas(14)
    x[1] *= 50
    arguments: dict[str, Any] = {"method": "secant", "cores": 3, "solver": solver, "rounds": 9}
    denoise = as_flow(guided())
    together = sample(denoise, x, sigmas, **arguments).x
    for one, alone in zip(together, x, strict=True):
        torch.testing.assert_close(sample(denoise, alone[None], sigmas, **arguments).x[0], one, rtol=1e-8, atol=1e-8)


def test_any_shape() -> None:
    """A state of fewer than two dimensions is one sample."""
    sigmas = geometric(10)
    for shape in [(), (5,), (1, 5), (2, 3, 4), (1, 2, 2, 2, 2), (0, 4)]:
        x = noise(*shape, scale=10.0)
        result = sample(lambda x, sigma: x.sin() / (1 + sigma), x, sigmas, method="secant", cores=3, rounds=6)
        assert result.x.shape == x.shape


# --- hits, rounds, events


@QUICK
@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 12), st.sampled_from(["euler", "cubic"]))
def test_rounds_are_made_whatever_accept_says(steps: int, cores: int, rounds: int, solver: str) -> None:
    """With rounds given there are as many hits, one a round, and the last is the result."""
    sigmas, x = karras(steps), noise(2, 3, scale=10.0)
    results = []
    for accept in (1, cores, "exact", Residual(1e9)):
        events: list[Event] = []
        result = sample(
            nonlinear, x, sigmas, method="secant", cores=cores, solver=solver, rounds=rounds, accept=accept,
            on_event=events.append,
        )  # fmt: skip
        assert [hit.depth for hit in result.hits] == list(range(1, rounds + 1))
        assert result.depth == rounds and result.x is result.hits[-1].x
        steps_seen = [event for event in events if isinstance(event, RoundDone)]
        assert [(event.depth, event.of) for event in steps_seen] == [(r, rounds) for r in range(1, rounds + 1)]
        assert [event for event in events if isinstance(event, Hit)] == list(result.hits)
        assert isinstance(events[-1], Accepted) and events[-1].hit is result.hits[-1]
        evaluated = [event for event in events if isinstance(event, Evaluated)]
        assert len(evaluated) == result.evaluations and {event.depth for event in evaluated} == set(
            range(1, rounds + 1)
        )
        results.append(result.x)
    assert all(torch.equal(x, results[0]) for x in results)


def test_rounds_are_expected_to_be_fewer_than_steps() -> None:
    """They are fewer than the steps where cores can gain, and never more."""
    ruled = {(20, 2): 14, (20, 4): 11, (20, 8): 10, (50, 4): 17, (50, 8): 14, (4, 4): 3}
    assert {of: expected_rounds(*of) for of in ruled} == ruled
    for steps, cores in itertools.product(range(1, 60), range(1, 20)):
        cores = min(cores, steps)
        assert 1 <= expected_rounds(steps, cores) <= expected_rounds(steps, cores, False) <= steps


def test_each_later_hit_asked_for_comes_closer() -> None:
    denoise, sigmas, x = as_flow(guided(1.0)), flow_sigmas(30), noise(8, 6)
    expected = sample(denoise, x, sigmas, method="sequential").x
    results = [sample(denoise, x, sigmas, method="secant", cores=4, accept=n) for n in (1, 2, 3)]
    assert results[0].depth < results[1].depth < results[2].depth < 30
    errors = [relative(result.x, expected) for result in results]
    assert errors[0] < 0.02 and errors[2] < errors[0]
    assert [hit.core for hit in results[0].hits] == [0] * results[0].depth


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize(("steps", "cores"), [(12, 3), (30, 2), (30, 8)])
def test_solving_from_the_first_change_on_is_solving_all(steps: int, cores: int, solver: str) -> None:
    """Each hit has the same bits."""

    class Whole(Window):
        def _learn(self) -> int:
            super()._learn()
            return 0

    denoise, sigmas, x = as_flow(guided()), flow_sigmas(steps), noise(8, 6)
    hits = []
    for kind in (Window, Whole):
        run = kind(x, solver_window(sigmas, cores, SOLVERS[solver]))
        while run.accepted is None:
            for evaluation in run.ready():
                run.complete(evaluation, denoise(evaluation.x, evaluation.sigma))
        hits.append([hit.x for hit in run.hits])
    assert all(torch.equal(a, b) for a, b in zip(*hits, strict=True))


def test_residual_stops_between_equal_hits() -> None:
    """Two hits that agree end the run once every node has been evaluated. If none agree, the exact result does."""
    denoise, sigmas, x = as_flow(guided()), flow_sigmas(30), noise(8, 6)
    by_rule = sample(denoise, x, sigmas, method="secant", cores=4).depth
    easy = sample(denoise, x, sigmas, method="secant", cores=4, accept=Residual(1e6))
    assert easy.depth <= by_rule
    strict = sample(denoise, x, sigmas, method="secant", cores=4, accept=Residual(1e-300))
    expected = sample(denoise, x, sigmas, method="sequential").x
    assert strict.depth > by_rule and relative(strict.x, expected) < 1e-12
    middle = sample(denoise, x, sigmas, method="secant", cores=4, accept=Residual(1e-6))
    assert easy.depth <= middle.depth <= strict.depth
    assert float((middle.hits[-1].x - middle.hits[-2].x).norm()) / x.numel() < 1e-6
    cubic = sample(denoise, x, sigmas, method="secant", solver="cubic", cores=4, accept=Residual(1e-6))
    assert float((cubic.hits[-1].x - cubic.hits[-2].x).norm()) / x.numel() < 1e-6


def test_newest_on_demand() -> None:
    """Before any hit, the first one ends the run. Later, the newest one ends it at once."""
    x, sigmas = noise(2, 3, scale=10.0), karras(16)
    result = sample(nonlinear, x, sigmas, method="secant", cores=4, accept=OnDemand(1, lambda: True))
    assert len(result.hits) == 1 and result.depth == 1
    seen: list[Event] = []
    result = sample(
        nonlinear, x, sigmas, method="secant", cores=4, on_event=seen.append, rounds=12,
        accept=OnDemand(1, lambda: sum(isinstance(event, Hit) for event in seen) == 3),
    )  # fmt: skip
    assert len(result.hits) == 3 and result.x is result.hits[2].x


def test_few_latents_are_kept() -> None:
    """The memory that the module promises: at most 2 latents for each evaluation after a node's first."""
    sigmas, x = flow_sigmas(24), noise(2, 6)
    for plan in (solver_window(sigmas, 4, SOLVERS["euler"], rounds=20), accuracy_window(sigmas, 4, rounds=20)):
        machine = run(as_flow(guided()), x, plan)
        directions = [len(node.model._directions) for node in machine._nodes.values()]
        assert max(directions) <= RANK and sum(directions) <= min(len(directions) * RANK, 20 * 4 - len(directions))


def test_rounds_take_as_long_as_their_slowest_device() -> None:
    """In the simulator K devices make a round in the time of one evaluation, and half as many in the time of two."""
    plan = solver_window(flow_sigmas(20), 4, SOLVERS["euler"], rounds=10)
    for devices, seconds in ((4, 20.0), (2, 40.0), (1, 80.0)):
        simulated = simulate(Window(torch.ones(1), plan), [Device(2.0)] * devices)
        assert simulated.seconds == pytest.approx(seconds) and simulated.evaluations == 40
    assert simulate(Window(torch.ones(1), plan), [Device(2.0)] * 3 + [Device(3.0)]).seconds == pytest.approx(30.0)


# --- bad input


BAD: list[tuple[str, dict[str, Any]]] = [
    ("solver", {"solver": "cubic", "method": "chords"}),
    ("solver", {"solver": "cubic", "method": "picard"}),
    ("solver", {"solver": "cubic", "method": "sequential"}),
    ("solver", {"solver": "quartic"}),
    ("method", {"method": "newton"}),
    ("rounds", {"rounds": 0}),
    ("rounds", {"rounds": -3}),
    ("rounds", {"rounds": 2.0}),
    ("rounds", {"rounds": True}),
    ("rounds", {"rounds": "all"}),
    ("rounds", {"rounds": 5, "method": "chords"}),
    ("cores", {"cores": 0}),
    ("cores", {"cores": 1.5}),
    ("cores", {"cores": True}),
    ("starts", {"starts": [0, 3]}),
    ("accept", {"accept": 0}),
    ("accept", {"accept": "best"}),
    ("accept", {"accept": "exact", "solver": "cubic"}),
    ("sigmas", {"sigmas": torch.tensor([1.0, 2.0, 3.0])}),
    ("sigmas", {"sigmas": torch.tensor([1.0])}),
    ("x", {"x": torch.arange(4)}),
]


@pytest.mark.parametrize(("name", "wrong"), BAD, ids=lambda value: value if isinstance(value, str) else str(value))
def test_refused_by_name_before_any_call(name: str, wrong: dict[str, Any]) -> None:
    model = Counted()
    arguments = {"x": noise(4), "sigmas": geometric(12), "method": "secant", "cores": 4, **wrong}
    with pytest.raises(InvalidInput, match=f"^{name}: .") as raised:
        sample(model, arguments.pop("x"), arguments.pop("sigmas"), **arguments)
    assert raised.value.name == name and model.calls == 0
