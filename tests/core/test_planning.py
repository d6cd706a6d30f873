"""The planner: a run does what the plan promises, and a plan never makes a run slower."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import pytest
import torch

from chords_core import (
    AdaptivePlan,
    Agreement,
    Cause,
    ChordsPlan,
    InterpolatedPlan,
    InvalidInput,
    Plan,
    SequentialPlan,
    WindowPlan,
    check_starts,
    choose_calls,
    hit_depth,
    lattice_starts,
    plan,
    sample,
)
from tests.core.problems import Gaussian, geometric, linear, noise

Accept = int | Literal["exact"] | None

METHODS = (None, "chords", "secant")
ACCEPTS: tuple[Accept, ...] = (None, 1, 2, 3, "exact")


def _causes(chosen: Plan) -> list[Cause]:
    return [reason.cause for reason in chosen.reasons if not isinstance(reason, str)]


def _starts(chosen: Plan) -> tuple[int, ...]:
    return chosen.starts if isinstance(chosen, ChordsPlan) else (0,)


def _is_sound(chosen: Plan, steps: int) -> bool:
    if isinstance(chosen, ChordsPlan):
        fits = check_starts(chosen.starts, steps) == chosen.starts and 1 <= chosen.expected_hit <= chosen.cores
        return fits and chosen.depth == hit_depth(steps, chosen.starts, chosen.cores - chosen.expected_hit + 1)
    if isinstance(chosen, WindowPlan):
        return 2 <= chosen.cores <= steps and 1 <= chosen.expected_hit <= chosen.depth
    return chosen.cores == 1 and chosen.depth == chosen.called_steps


@pytest.mark.parametrize("method", METHODS)
def test_choice_is_sound_and_never_slower(method: str | None) -> None:
    """For any steps and lanes: no more cores than lanes, at most N calls in a row, and a reason."""
    for steps in range(1, 61):
        for lanes in range(10):
            for accept in ACCEPTS:
                chosen = plan(steps, lanes, accept=accept, method=method)
                assert _is_sound(chosen, steps)
                assert chosen.cores <= max(1, lanes)
                assert chosen.depth <= steps and chosen.speedup >= 1
                assert chosen.steps == steps and chosen.reasons


def test_choice_is_close_to_the_sequential_result() -> None:
    """With CHORDS no core starts more than a fifth of the steps after its neighbour. The fastest is rectified twice at
    least, the last time exactly at the end."""
    for steps in range(10, 61):
        for lanes in range(2, 10):
            starts = _starts(plan(steps, lanes, method="chords"))
            if len(starts) > 1:
                gaps = [b - a for a, b in pairwise(starts)]
                assert max(gaps) <= steps / 5
                assert (steps - starts[-1]) % gaps[-1] == 0 and steps - starts[-1] >= 2 * gaps[-1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lanes", [4, 6, 8])
def test_several_lanes_always_gain(lanes: int, method: str | None) -> None:
    """With four lanes or more, every number of steps from 20 on gains."""
    for steps in range(20, 101):
        assert plan(steps, lanes, accept=1, method=method).speedup >= 1.3


def test_the_planner_prefers_the_window_which_takes_fewer_calls_than_chords() -> None:
    for steps in range(16, 101):
        for lanes in range(2, 10):
            chosen, published = plan(steps, lanes), plan(steps, lanes, method="chords")
            assert chosen.depth <= published.depth or chosen.cores == 1
            assert isinstance(chosen, SequentialPlan | WindowPlan)


@pytest.mark.parametrize(
    ("steps", "lanes", "cores", "depth"),
    [(20, 2, 2, 14), (20, 4, 4, 11), (20, 8, 8, 10), (30, 4, 4, 14), (50, 8, 8, 14)],
)
def test_common_choices(steps: int, lanes: int, cores: int, depth: int) -> None:
    """All lanes are used: of windows that take as many rounds, the one of more cores is closer."""
    chosen = plan(steps, lanes)
    assert (chosen.cores, chosen.depth) == (cores, depth)


@pytest.mark.parametrize(
    ("steps", "lanes", "starts", "depth"),
    [
        (20, 2, (0,), 20),
        (20, 4, (0, 4, 8, 12), 11),
        (20, 8, (0, 2, 5, 8, 11, 14), 11),
        (30, 4, (0, 6, 12, 18), 15),
        (50, 8, (0, 10, 15, 20, 25, 30, 35, 40), 17),
    ],
)
def test_common_choices_for_chords(steps: int, lanes: int, starts: tuple[int, ...], depth: int) -> None:
    """Two lanes gain too little to be worth a difference; more cores than needed only cost accuracy."""
    chosen = plan(steps, lanes, accept=1, method="chords")
    assert (_starts(chosen), chosen.depth) == (starts, depth)


def test_requested_cores_start_close_too() -> None:
    """A core that starts far from its neighbour spoils its own hit, so an explicit number avoids that where it can."""
    assert _starts(plan(30, 1, 4, method="chords")) == (0, 6, 12, 18)
    assert _starts(plan(20, 1, 4, method="chords")) == (0, 4, 8, 12)
    assert _starts(plan(50, 1, 8, method="chords")) == (0, 10, 15, 20, 25, 30, 35, 40)
    for steps, cores in ((50, 2), (5, 4), (7, 4), (12, 8)):
        assert _starts(plan(steps, 1, cores, method="chords")) == tuple(lattice_starts(steps, cores))


@pytest.mark.parametrize("lanes", [0, 1])
@pytest.mark.parametrize("accept", ACCEPTS)
def test_one_lane_runs_one_core(lanes: int, accept: Accept) -> None:
    """With nothing to run in parallel the plain sampler runs."""
    chosen = plan(20, lanes, accept=accept)
    assert isinstance(chosen, SequentialPlan) and _causes(chosen) == [Cause.ONE_LANE]


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_few_steps_run_one_core(steps: int) -> None:
    """Few-step models keep every step, however many lanes there are."""
    chosen = plan(steps, 8)
    assert isinstance(chosen, SequentialPlan) and _causes(chosen) == [Cause.TOO_FEW_STEPS]


def test_exact_runs_one_core() -> None:
    """The exact result is the sequential one, so further cores would do nothing for it."""
    chosen = plan(50, 8, accept="exact")
    assert isinstance(chosen, SequentialPlan) and _causes(chosen) == [Cause.EXACT]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lanes", [0, 1, 2, 8])
@pytest.mark.parametrize("accept", ACCEPTS)
def test_an_explicit_number_of_cores_alone_decides(lanes: int, accept: Accept, method: str | None) -> None:
    """It gives the same plan on any lanes, however slow, because it decides the picture."""
    for steps in (1, 2, 5, 20, 50):
        for cores in range(1, 9):
            chosen = plan(steps, lanes, cores, accept=accept, method=method, costs=(1.0, 9.0))
            assert _is_sound(chosen, steps)
            assert chosen == plan(steps, 1, cores, accept=accept, method=method)
            assert chosen.cores == min(cores, steps)


@pytest.mark.parametrize("cores", [2, 4, 8])
def test_chords_runs_only_where_it_is_named(cores: int) -> None:
    assert plan(20, 8, cores).method == plan(20, 8, cores, method="secant").method == "secant"
    assert plan(20, 8).method == "secant"
    assert plan(20, 8, cores, method="chords").method == "chords"
    for method in METHODS:  # a window only comes close to the exact result, CHORDS has its bits
        assert plan(20, 8, cores, accept="exact", method=method) == plan(20, 8, cores, accept="exact")


def test_a_solver_whose_window_is_not_close_runs_on_one_core_unless_a_method_is_named() -> None:
    for chosen in (
        plan(30, 4, solver="uni_pc"),
        plan(30, 4, 4, solver="uni_pc"),
        plan(30, 4, 4, solver="uni_pc", calls=15),
    ):
        assert chosen.cores == 1
        reason = chosen.reasons[-1]
        assert not isinstance(reason, str)
        assert (reason.cause, reason.solver) == (Cause.WINDOW_NOT_CLOSE, "uni_pc")
    assert plan(30, 4, 4, method="secant", solver="uni_pc").cores == 4
    assert plan(30, 4, 4, method="chords", solver="uni_pc").method == "chords"
    assert plan(30, 4, 4, accept="exact", solver="uni_pc").expected_hit == 4


def test_accept_is_the_number_of_the_hit() -> None:
    """Hits are counted from the fastest core; "exact" is the slowest core's. None needs two hits to compare."""
    plans = [plan(50, 4, 4, accept=accept, method="chords") for accept in ACCEPTS]
    assert [chosen.expected_hit for chosen in plans] == [2, 1, 2, 3, 4]
    rules = [isinstance(chosen, ChordsPlan) and isinstance(chosen.accept, Agreement) for chosen in plans]
    assert rules == [True, False, False, False, False]


def test_a_hit_that_there_is_not_is_the_last_one() -> None:
    chosen = plan(50, 2, 2, accept=3, method="chords")
    assert chosen.expected_hit == 2
    assert Cause.NO_SUCH_HIT in _causes(chosen)


@pytest.mark.parametrize(("scale", "early"), [(1e-3, True), (30.0, False)])
def test_chords_ends_by_evidence(scale: float, early: bool) -> None:
    """The first hit that agrees with the one before is taken. If none does, it is the last, which is exact."""
    chosen = plan(20, 4, 4, method="chords")
    sigmas, x = geometric(20), noise(3, 5)

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return Gaussian()(x, sigma) + scale * torch.sin(40 * x + sigma) / (1 + sigma)

    result = sample(denoise, x, sigmas, **chosen.sample_options())
    real = [hit for hit in result.hits if hit.core > 0]
    changes = [float(((b.x - a.x).norm(dim=1) / b.x.norm(dim=1)).max()) for a, b in pairwise(real)]
    assert all(change > 0.05 for change in changes[:-1])
    assert (changes[-1] <= 0.05) == early or real[-1].core == 1
    assert (result.depth == chosen.depth) == early
    if not early:
        assert torch.equal(result.x, sample(denoise, x, sigmas).x)


def test_an_agreement_is_of_every_item_of_the_batch() -> None:
    rule = Agreement(0.05)
    one = torch.ones(2, 3, 4)
    off = one.clone()
    off[1] *= 1.2
    assert rule.accepts(one, one * 1.04)
    assert not rule.accepts(one, off)
    off[1] = torch.nan
    assert rule.accepts(one, off)


@pytest.mark.parametrize("method", ["chords", "secant"])
@pytest.mark.parametrize(("steps", "lanes", "accept"), [(20, 4, None), (50, 8, 2), (28, 3, 3)])
def test_a_run_keeps_the_promise(steps: int, lanes: int, accept: Accept, method: str) -> None:
    """A run of the plan has the planned depth, and its result has the planned number."""
    chosen = plan(steps, lanes, accept=accept, method=method)
    x = torch.zeros(2, dtype=torch.float64)
    if isinstance(chosen, WindowPlan):
        assert chosen.accept == (accept or 1)
        result = sample(linear, x, geometric(steps), method="secant", cores=chosen.cores, rounds=chosen.depth)
        assert len(result.hits) == chosen.expected_hit + 1
    else:
        result = sample(linear, x, geometric(steps), **chosen.sample_options())
    assert result.depth == chosen.depth


def test_a_plan_can_be_ended_early() -> None:
    """What is asked for while it runs is the newest hit, whatever the plan."""
    x = torch.zeros(2, dtype=torch.float64)
    for chosen in (plan(20, 4), plan(20, 4, method="chords"), plan(20, 1), plan(20, 1, calls=13)):
        result = sample(linear, x, geometric(20), **chosen.sample_options(lambda: True))
        assert len(result.hits) == 1


def test_later_hits_of_a_window_are_later() -> None:
    depths = [plan(50, 4, accept=accept).depth for accept in (None, 1, 2, 3)]
    assert depths[0] == depths[1] < depths[2] < depths[3] < 50


@pytest.mark.parametrize("method", METHODS)
def test_measured_times_decide(method: str | None) -> None:
    """A fourth lane that keeps the other three waiting is left out. All are, where a round takes as long as the calls
    that it saves."""

    def by(*costs: float) -> Plan:
        return plan(50, 4, accept=1, method=method, costs=costs)

    assert by(1.0, 1.0, 1.0, 1.0) == by()
    assert by(1.0, 1.0, 1.0, 2.0).cores < 4
    assert by(1.0, 4.0).cores == 1
    for costs in ((2.0, 3.0, 3.5, 4.0), (0.1, 0.1, 0.3), (1.0, 1.6)):
        chosen = by(*costs)
        cost = costs[min(chosen.cores, len(costs)) - 1]
        assert chosen.depth * cost <= 50 * costs[0]


def test_solving_a_window_counts_where_times_were_measured() -> None:
    """A model that takes next to no time gains nothing from fewer calls."""
    assert plan(1000, 4, costs=(0.0006,) * 4, solving=1e-5).cores > 1
    assert plan(1000, 4, costs=(0.0006,) * 4, solving=0.02).cores == 1


def test_measured_times_decide_with_fewer_calls_too() -> None:
    calls = choose_calls(50)
    assert plan(50, 4, calls=calls, costs=(1.0, 3.0)).cores == 1
    assert plan(50, 4, calls=calls, costs=(1.0, 1.0, 1.0, 3.0)).cores < 4
    assert plan(50, 4, 4, calls=calls, costs=(1.0, 3.0)) == plan(50, 4, 4, calls=calls)


def test_chords_takes_every_step_on_several_cores() -> None:
    assert plan(20, 4, 4, calls=13, method="chords") == plan(20, 4, 4, method="chords")
    assert plan(20, 4, calls=13, method="chords") == plan(20, 4, method="chords")
    for lanes, cores in ((1, 0), (4, 1)):
        assert isinstance(plan(20, lanes, cores, calls=13, method="chords"), InterpolatedPlan)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("one_in", [0, None, 2])
@pytest.mark.parametrize("accept", ACCEPTS)
def test_every_plan_can_be_run(accept: Accept, one_in: int | None, method: str | None) -> None:
    """`sample` takes whatever is planned, for few lanes or many. It has the depth that was promised; a window takes at
    most one call in a row for each step."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)[None]
    for steps in (1, 2, 5, 12, 30):
        calls = None if one_in == 0 else choose_calls(steps, one_in)
        for lanes, cores in ((1, 0), (2, 0), (3, 0), (8, 0), (1, 2), (1, 4)):
            chosen = plan(steps, lanes, cores, accept=accept, calls=calls, method=method)
            options: dict[str, Any] = dict(chosen.sample_options())
            result = sample(lambda x, sigma: torch.tanh(3 * x) / (1 + sigma), x, geometric(steps), **options)
            windowed = isinstance(chosen, WindowPlan)
            assert result.depth == chosen.depth or (windowed and result.depth <= steps)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("steps", {"steps": 0}),
        ("cores", {"cores": -1}),
        ("accept", {"accept": "fourth"}),
        ("accept", {"accept": 0}),
        ("accept", {"accept": True}),
        ("method", {"method": "picard"}),
        ("calls", {"calls": 21}),
        ("calls", {"calls": 1}),
        ("calls", {"calls": "auto"}),
        ("costs", {"costs": (1.0, 0.0)}),
        ("tolerance", {"tolerance": 0}),
        ("tolerance", {"tolerance": 1.0}),
        ("calls", {"tolerance": 0.01, "calls": 10}),
        ("accept", {"tolerance": 0.01, "accept": 2}),
        ("accept", {"tolerance": 0.01, "accept": "exact"}),
        ("method", {"tolerance": 0.01, "method": "chords"}),
    ],
)
def test_bad_input_is_refused(name: str, given: dict[str, Any]) -> None:
    """What cannot be planned is refused by name."""
    with pytest.raises(InvalidInput, match=f"^{name}: "):
        plan(**{"steps": 20, "lanes": 4, **given})


# --- fewer calls than steps


@pytest.mark.parametrize("steps", [12, 20, 30, 50])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 8, 16])
def test_fewer_calls_take_more_lanes_only_where_that_pays(steps: int, lanes: int) -> None:
    calls = choose_calls(steps)
    alone, chosen = plan(steps, 1, calls=calls), plan(steps, lanes, calls=calls)
    assert chosen.depth == alone.depth or alone.depth / chosen.depth >= 1.1
    assert chosen.cores <= min(lanes, 8)
    assert chosen.calls in (alone.calls, None)
    if chosen.calls is not None and chosen.cores > 1:  # else it takes all steps, which is closer
        assert chosen.depth < plan(steps, lanes).depth


def test_a_number_of_cores_is_the_same_plan_on_any_lanes() -> None:
    assert plan(30, 1, 4, calls=15) == plan(30, 8, 4, calls=15)
    assert plan(20, 8, 64, calls=13).cores <= 8


@pytest.mark.parametrize(("steps", "one_in"), [(2, 2), (1, 3), (8, None)])
def test_where_no_call_is_saved_every_step_is_taken(steps: int, one_in: int | None) -> None:
    assert choose_calls(steps, one_in) is None


def test_a_share_of_the_steps_is_called() -> None:
    assert [choose_calls(30, one_in) for one_in in (2, 3, 4)] == [15, 10, 8]
    with pytest.raises(InvalidInput, match="^one_in: "):
        choose_calls(30, 1)


CASES = [(steps, one_in, cores) for steps in (4, 8, 20, 30, 50) for one_in in (None, 2) for cores in (0, 1, 2, 4, 8)]


@pytest.mark.parametrize(("steps", "one_in", "cores"), CASES)
@pytest.mark.parametrize("accept", [None, 1, 2, 3])
def test_counts_and_causes_agree(steps: int, one_in: int | None, cores: int, accept: Accept) -> None:
    chosen = plan(steps, 8, cores, calls=choose_calls(steps, one_in), accept=accept)
    if chosen.calls is None:  # too few steps to leave any out
        assert chosen.called_steps == steps
        return
    assert 2 <= chosen.called_steps == chosen.calls < steps
    assert chosen.depth <= chosen.calls
    if chosen.cores == 1:
        assert chosen.depth == chosen.calls
        assert (Cause.CORES_NOT_FASTER in _causes(chosen)) == (cores > 1)
    else:
        assert chosen.depth < chosen.calls
        assert (Cause.CORES_REQUESTED in _causes(chosen)) == (cores > 0)
        assert (Cause.MORE_CORES_USELESS in _causes(chosen)) == (cores > chosen.cores)


def test_a_run_of_every_step_calls_the_model_at_every_step() -> None:
    assert plan(30, 4).called_steps == 30
    assert plan(30, 4, accept="exact", calls=15).called_steps == 30
    assert plan(30, 4, calls=30) == plan(30, 4)


# --- within a tolerance


@pytest.mark.parametrize(("lanes", "cores"), [(1, 0), (8, 0), (8, 1)])
def test_few_steps_are_all_taken_within_a_tolerance_too(lanes: int, cores: int) -> None:
    for steps in (1, 4, 11):
        chosen = plan(steps, lanes, cores, tolerance=0.01)
        assert isinstance(chosen, SequentialPlan) and chosen.reasons[0].cause is Cause.TOO_FEW_STEPS
    assert plan(1, 8, 4, tolerance=0.01).reasons[0].cause is Cause.NO_ROOM
    assert plan(4, 8, 3, tolerance=0.01).cores == 3  # a number of cores decides the picture


@pytest.mark.parametrize("tolerance", [0.003, 0.01, 0.1])
@pytest.mark.parametrize("steps", [20, 50, 1000])
def test_a_tolerance_takes_the_cores_that_are_fastest(steps: int, tolerance: float) -> None:
    depths = [plan(steps, lanes, tolerance=tolerance).depth for lanes in (0, 1, 2, 4, 8, 32)]
    assert depths == sorted(depths, reverse=True) and 2 <= depths[-1] <= depths[0] <= steps
    alone = plan(steps, 1, tolerance=tolerance)
    assert isinstance(alone, AdaptivePlan) and alone.cores == 1
    assert plan(steps, 4, 4, tolerance=tolerance) == plan(steps, 8, 4, tolerance=tolerance)
    assert plan(steps, 4, tolerance=tolerance, costs=(1.0, 9.0)).cores == 1
    smaller = plan(steps, 4, 4, tolerance=tolerance / 3)
    assert smaller.depth >= plan(steps, 4, 4, tolerance=tolerance).depth


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_a_plan_within_a_tolerance_can_be_run(cores: int) -> None:
    """Close, in at most as many calls in a row as there are steps; the newest result can be taken at any time."""
    steps = 20
    chosen = plan(steps, cores, cores, tolerance=0.01)
    x, sigmas = noise(1, 6), geometric(steps)
    model = Gaussian()
    result = sample(model, x, sigmas, prediction="eps", **chosen.sample_options())
    expected = sample(model, x, sigmas).x
    assert result.depth <= steps and float((result.x - expected).norm() / expected.norm()) < 0.02
    assert sample(model, x, sigmas, **chosen.sample_options(lambda: True)).depth == 1
