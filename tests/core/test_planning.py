"""The planner: what it promises is what a run then does, and it never makes a run slower."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from chords_core import (
    ACCEPTS,
    Agreement,
    InvalidInput,
    Plan,
    check_starts,
    hit_depth,
    lattice_starts,
    one_core,
    plan,
    sample,
)
from tests.core.problems import Gaussian, geometric, linear, noise

METHODS = ("auto", "CHORDS", "secant window")


def _is_sound(chosen: Plan, steps: int) -> bool:
    if chosen.method == "secant":
        return chosen.starts == tuple(range(chosen.cores)) and 1 <= chosen.accept <= chosen.depth
    fits = check_starts(chosen.starts, steps) == chosen.starts and 1 <= chosen.accept <= chosen.cores
    return fits and chosen.depth == hit_depth(steps, chosen.starts, chosen.cores - chosen.accept + 1)


@pytest.mark.parametrize("method", METHODS)
def test_choice_is_sound_and_never_slower(method: str) -> None:
    """For any steps and lanes: no more cores than lanes, a depth of at most N, and a reason in words."""
    for steps in range(1, 61):
        for lanes in range(10):
            for accept in ACCEPTS:
                chosen = plan(steps, lanes, accept=accept, method=method)
                assert _is_sound(chosen, steps)
                assert chosen.cores <= max(1, lanes)
                assert chosen.depth <= steps and chosen.speedup >= 1
                assert chosen.steps == steps and chosen.reason


def test_choice_is_close_to_the_sequential_result() -> None:
    """With CHORDS no core starts more than a fifth of the steps after its neighbour, and the fastest is rectified twice
    at least, the last time exactly at the end."""
    for steps in range(10, 61):
        for lanes in range(2, 10):
            starts = plan(steps, lanes, method="CHORDS").starts
            if len(starts) > 1:
                gaps = [b - a for a, b in pairwise(starts)]
                assert max(gaps) <= steps / 5
                assert (steps - starts[-1]) % gaps[-1] == 0 and steps - starts[-1] >= 2 * gaps[-1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lanes", [4, 6, 8])
def test_several_lanes_always_gain(lanes: int, method: str) -> None:
    """There are no numbers of steps at which a user of several devices gets nothing."""
    for steps in range(20, 101):
        assert plan(steps, lanes, accept="first", method=method).speedup >= 1.3


def test_by_itself_it_takes_the_window_which_is_earlier_than_chords() -> None:
    for steps in range(16, 101):
        for lanes in range(2, 10):
            chosen, published = plan(steps, lanes), plan(steps, lanes, method="CHORDS")
            assert chosen.depth <= published.depth or chosen.cores == 1
            assert chosen.cores == 1 or chosen.method == "secant"


@pytest.mark.parametrize(
    ("steps", "lanes", "cores", "depth"),
    [(20, 2, 2, 14), (20, 4, 4, 11), (20, 8, 8, 10), (30, 4, 4, 14), (50, 8, 8, 14)],
)
def test_common_choices(steps: int, lanes: int, cores: int, depth: int) -> None:
    """All devices there are: of windows as deep, the one of more cores is closer."""
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
    """Two devices gain too little to be worth a difference; more cores than needed only cost accuracy."""
    chosen = plan(steps, lanes, accept="first", method="CHORDS")
    assert (chosen.starts, chosen.depth) == (starts, depth)


def test_cores_asked_for_start_close_too() -> None:
    """A core that starts far from its neighbour spoils its own hit, so an explicit number avoids that where it can."""
    assert plan(30, 1, 4, method="CHORDS").starts == (0, 6, 12, 18)
    assert plan(20, 1, 4, method="CHORDS").starts == (0, 4, 8, 12)
    assert plan(50, 1, 8, method="CHORDS").starts == (0, 10, 15, 20, 25, 30, 35, 40)
    for steps, cores in ((50, 2), (5, 4), (7, 4), (12, 8)):
        assert plan(steps, 1, cores, method="CHORDS").starts == tuple(lattice_starts(steps, cores))


@pytest.mark.parametrize("lanes", [0, 1])
@pytest.mark.parametrize("accept", ACCEPTS)
def test_one_device_runs_one_core(lanes: int, accept: str) -> None:
    """With nothing to run in parallel the plain sampler runs."""
    assert plan(20, lanes, accept=accept).starts == (0,)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_few_steps_run_one_core(steps: int) -> None:
    """Few-step models keep every step, whatever the devices."""
    assert plan(steps, 8) == one_core(steps, plan(steps, 8).reason)


def test_exact_runs_one_core() -> None:
    """The exact result is the sequential one, so further cores would be spent on nothing."""
    assert plan(50, 8, accept="exact").starts == (0,)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lanes", [0, 1, 2, 8])
@pytest.mark.parametrize("accept", ACCEPTS)
def test_explicit_cores_decide_alone(lanes: int, accept: str, method: str) -> None:
    """A number of cores gives the same plan on any devices, however slow: it decides the picture."""
    for steps in (1, 2, 5, 20, 50):
        for cores in range(1, 9):
            chosen = plan(steps, lanes, cores, accept, method=method, costs=(1.0, 9.0))
            assert _is_sound(chosen, steps)
            assert chosen == plan(steps, 1, cores, accept, method=method)
            assert chosen.cores == min(cores, steps)


@pytest.mark.parametrize("cores", [2, 4, 8])
def test_chords_runs_only_where_it_is_named(cores: int) -> None:
    assert plan(20, 8, cores).method == plan(20, 8, cores, method="secant window").method == "secant"
    assert plan(20, 8).method == "secant"
    assert plan(20, 8, cores, method="CHORDS").method == "chords"
    for method in METHODS:  # exact is what KSampler gives, bit for bit, which a window only comes close to
        assert plan(20, 8, cores, "exact", method=method) == plan(20, 8, cores, "exact")


def test_a_solver_whose_window_is_not_close_runs_on_one_core_unless_a_method_is_named() -> None:
    for arguments in ({"cores": 0}, {"cores": 4}, {"cores": 4, "calls": "auto"}):
        chosen = plan(30, 4, solver="uni_pc", **arguments)
        assert chosen.cores == 1
        assert "uni_pc is not close enough to one; name a method" in chosen.reason
    assert plan(30, 4, 4, method="secant window", solver="uni_pc").cores == 4
    assert plan(30, 4, 4, method="CHORDS", solver="uni_pc").method == "chords"
    assert plan(30, 4, 4, accept="exact", solver="uni_pc").accept == 4


def test_accept_names_the_hit() -> None:
    """first, second and third count hits from the fastest core; exact is the slowest core's; auto needs two to
    compare."""
    plans = [plan(50, 4, 4, accept, method="CHORDS") for accept in ACCEPTS]
    assert [chosen.accept for chosen in plans] == [2, 1, 2, 3, 4]
    assert [chosen.agreement is not None for chosen in plans] == [True, False, False, False, False]
    assert plan(50, 2, 2, "third", method="CHORDS").accept == 2


@pytest.mark.parametrize(("scale", "early"), [(1e-3, True), (30.0, False)])
def test_chords_ends_by_evidence(scale: float, early: bool) -> None:
    """The first hit that agrees with the one before is taken; where none does, the last, which is exact."""
    chosen = plan(20, 4, 4, method="CHORDS")
    sigmas, x = geometric(20), noise(3, 5)

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return Gaussian()(x, sigma) + scale * torch.sin(40 * x + sigma) / (1 + sigma)

    result = sample(denoise, x, sigmas, starts=chosen.starts, accept=chosen.ends_with)
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


@pytest.mark.parametrize("method", ["CHORDS", "secant window"])
@pytest.mark.parametrize(("steps", "lanes", "accept"), [(20, 4, "auto"), (50, 8, "second"), (28, 3, "third")])
def test_a_run_keeps_the_promise(steps: int, lanes: int, accept: str, method: str) -> None:
    """A run with what was planned has the planned depth, and its result has the planned number."""
    chosen = plan(steps, lanes, accept=accept, method=method)
    x = torch.zeros(2, dtype=torch.float64)
    if chosen.method == "secant":
        assert chosen.rank == {"auto": 1, "second": 2, "third": 3}[accept]
        result = sample(linear, x, geometric(steps), method="secant", cores=chosen.cores, rounds=chosen.depth)
        assert len(result.hits) == chosen.accept + 1
    else:
        result = sample(linear, x, geometric(steps), starts=chosen.starts, accept=chosen.ends_with)
    assert result.depth == chosen.depth


def test_later_hits_of_a_window_are_later() -> None:
    depths = [plan(50, 4, accept=accept).depth for accept in ("auto", "first", "second", "third")]
    assert depths[0] == depths[1] < depths[2] < depths[3] < 50


@pytest.mark.parametrize("method", METHODS)
def test_measured_times_decide(method: str) -> None:
    """A fourth device that keeps the other three waiting is left out; and all are, where a round takes as long as the
    calls it saves."""

    def by(*costs: float) -> Plan:
        return plan(50, 4, accept="first", method=method, costs=costs)

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
    assert plan(50, 4, calls="auto", costs=(1.0, 3.0)).cores == 1
    assert plan(50, 4, calls="auto", costs=(1.0, 1.0, 1.0, 3.0)).cores < 4
    assert plan(50, 4, 4, calls="auto", costs=(1.0, 3.0)) == plan(50, 4, 4, calls="auto")


def test_chords_takes_every_step_on_several_cores() -> None:
    assert plan(20, 4, 4, calls="auto", method="CHORDS") == plan(20, 4, 4, method="CHORDS")
    assert plan(20, 4, calls="auto", method="CHORDS") == plan(20, 4, method="CHORDS")
    for lanes, cores in ((1, 0), (4, 1)):
        assert plan(20, lanes, cores, calls="auto", method="CHORDS").calls == 13


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("calls", ["every step", "auto", "1/2"])
@pytest.mark.parametrize("accept", ACCEPTS)
def test_every_plan_can_be_run(accept: str, calls: str, method: str) -> None:
    """Whatever is planned, for a few devices or many, is taken by `sample`, and has the depth that was promised; of a
    window, at most one call in a row for each step."""
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)[None]
    for steps in (1, 2, 5, 12, 30):
        for lanes, cores in ((1, 0), (2, 0), (3, 0), (8, 0), (1, 2), (1, 4)):
            chosen = plan(steps, lanes, cores, accept, calls, method)
            windowed = chosen.method == "secant"
            result = sample(
                lambda x, sigma: torch.tanh(3 * x) / (1 + sigma),
                x,
                geometric(steps),
                method=chosen.method,
                cores=chosen.cores,
                starts=None if windowed else chosen.starts,
                accept=chosen.ends_with,
                calls=chosen.calls,
            )
            assert result.depth == chosen.depth or (windowed and result.depth <= steps)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("steps", (0, 4)),
        ("cores", (20, 4, -1)),
        ("accept", (20, 4, 0, "fourth")),
        ("accept", (20, 4, 0, "")),
        ("method", (20, 4, 0, "auto", "every step", "picard")),
    ],
)
def test_bad_input_is_refused(name: str, args: tuple) -> None:
    """What cannot be planned is refused by name."""
    with pytest.raises(InvalidInput, match=f"^{name}: "):
        plan(*args)


@pytest.mark.parametrize("steps", [12, 20, 30, 50])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 8, 16])
def test_fewer_calls_take_more_devices_only_where_that_pays(steps: int, lanes: int) -> None:
    alone, chosen = plan(steps, 1, calls="auto"), plan(steps, lanes, calls="auto")
    assert chosen.depth == alone.depth or alone.depth / chosen.depth >= 1.1
    assert chosen.cores <= min(lanes, 8)
    assert chosen.calls in (alone.calls, None)
    if chosen.calls is not None and chosen.cores > 1:  # else all steps, which is closer
        assert chosen.depth < plan(steps, lanes).depth


def test_a_number_of_cores_is_the_same_plan_on_any_devices() -> None:
    assert plan(30, 1, 4, calls="auto") == plan(30, 8, 4, calls="auto")
    assert plan(20, 8, 64, calls="auto").cores <= 8


@pytest.mark.parametrize(("steps", "calls"), [(2, "1/2"), (1, "1/3"), (8, "auto"), (20, "every step")])
def test_where_no_call_is_saved_every_step_is_taken(steps: int, calls: str) -> None:
    assert plan(steps, 1, calls=calls).calls is None


def test_an_unknown_number_of_calls_is_refused() -> None:
    with pytest.raises(InvalidInput, match="calls"):
        plan(20, 1, calls="some")
