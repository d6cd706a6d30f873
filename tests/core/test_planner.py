"""The planner: what it promises is what a run then does, and it never makes a run slower."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from chords_core import ACCEPTS, InvalidInput, Plan, check_starts, hit_depth, lattice_starts, one_core, plan, sample
from tests.core.problems import geometric, linear


def _is_sound(chosen: Plan, steps: int) -> bool:
    fits = check_starts(chosen.starts, steps) == chosen.starts and 1 <= chosen.accept <= chosen.cores
    return fits and chosen.depth == hit_depth(steps, chosen.starts, chosen.cores - chosen.accept + 1)


def test_choice_is_sound_and_never_slower() -> None:
    """For any steps and lanes: no more cores than lanes, a depth of at most N, and a reason in words."""
    for steps in range(1, 61):
        for lanes in range(10):
            for accept in ACCEPTS:
                chosen = plan(steps, lanes, accept=accept)
                assert _is_sound(chosen, steps)
                assert chosen.cores <= max(1, lanes)
                assert chosen.depth <= steps and chosen.speedup >= 1
                assert chosen.steps == steps and chosen.reason


def test_choice_is_close_to_the_sequential_result() -> None:
    """No core starts more than a fifth of the steps after its neighbour, and the fastest is rectified twice at least,
    the last time exactly at the end."""
    for steps in range(10, 61):
        for lanes in range(2, 10):
            starts = plan(steps, lanes).starts
            if len(starts) > 1:
                gaps = [b - a for a, b in pairwise(starts)]
                assert max(gaps) <= steps / 5
                assert (steps - starts[-1]) % gaps[-1] == 0 and steps - starts[-1] >= 2 * gaps[-1]


@pytest.mark.parametrize("lanes", [4, 6, 8])
def test_several_lanes_always_gain(lanes: int) -> None:
    """There are no numbers of steps at which a user of several devices gets nothing."""
    for steps in range(20, 101):
        assert plan(steps, lanes).speedup >= 1.3


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
def test_common_choices(steps: int, lanes: int, starts: tuple[int, ...], depth: int) -> None:
    """Two devices gain too little to be worth a difference; more cores than needed only cost accuracy."""
    chosen = plan(steps, lanes)
    assert (chosen.starts, chosen.depth) == (starts, depth)


def test_cores_asked_for_start_close_too() -> None:
    """A core that starts far from its neighbour spoils its own hit, so an explicit number avoids that where it can."""
    assert plan(30, 1, 4).starts == (0, 6, 12, 18)
    assert plan(20, 1, 4).starts == (0, 4, 8, 12)
    assert plan(50, 1, 8).starts == (0, 10, 15, 20, 25, 30, 35, 40)
    for steps, cores in ((50, 2), (5, 4), (7, 4), (12, 8)):
        assert plan(steps, 1, cores).starts == tuple(lattice_starts(steps, cores))


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


@pytest.mark.parametrize("lanes", [0, 1, 2, 8])
@pytest.mark.parametrize("accept", ACCEPTS)
def test_explicit_cores_decide_alone(lanes: int, accept: str) -> None:
    """A number of cores gives the same starts and hit on any devices: it decides the picture."""
    for steps in (1, 2, 5, 20, 50):
        for cores in range(1, 9):
            chosen = plan(steps, lanes, cores, accept)
            assert _is_sound(chosen, steps)
            assert (chosen.starts, chosen.accept) == (plan(steps, 1, cores, accept).starts, chosen.accept)
            assert chosen.cores == min(cores, steps)


def test_accept_names_the_hit() -> None:
    """first, second and third count hits from the fastest core; exact is the slowest core's."""
    hits = [plan(50, 4, 4, accept).accept for accept in ("auto", "first", "second", "third", "exact")]
    assert hits == [1, 1, 2, 3, 4]
    assert plan(50, 2, 2, "third").accept == 2


@pytest.mark.parametrize(("steps", "lanes", "accept"), [(20, 4, "auto"), (50, 8, "second"), (28, 3, "third")])
def test_a_run_keeps_the_promise(steps: int, lanes: int, accept: str) -> None:
    """A run with the planned starts and hit has the planned depth."""
    chosen = plan(steps, lanes, accept=accept)
    x = torch.zeros(2, dtype=torch.float64)
    result = sample(linear, x, geometric(steps), starts=chosen.starts, accept=chosen.accept)
    assert result.depth == chosen.depth


@pytest.mark.parametrize(
    ("name", "args"),
    [("steps", (0, 4)), ("cores", (20, 4, -1)), ("accept", (20, 4, 0, "fourth")), ("accept", (20, 4, 0, ""))],
)
def test_bad_wishes_are_refused(name: str, args: tuple) -> None:
    """What cannot be planned is refused by name."""
    with pytest.raises(InvalidInput, match=f"^{name}: "):
        plan(*args)


@pytest.mark.parametrize("steps", [12, 20, 30, 50])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 8, 16])
def test_fewer_calls_take_more_devices_only_where_that_pays(steps: int, lanes: int) -> None:
    alone, chosen = plan(steps, 1, calls="auto"), plan(steps, lanes, calls="auto")
    assert chosen.calls == alone.calls
    assert chosen.cores <= min(lanes, 8)
    assert chosen.cores == 1 or alone.depth / chosen.depth >= 1.25


def test_a_number_of_cores_is_the_same_plan_on_any_devices() -> None:
    assert plan(30, 1, 4, calls="auto") == plan(30, 8, 4, calls="auto")
    assert plan(20, 8, 64, calls="auto").cores <= 8


@pytest.mark.parametrize(("steps", "calls"), [(2, "1/2"), (1, "1/3"), (8, "auto"), (20, "every step")])
def test_where_no_call_is_saved_every_step_is_taken(steps: int, calls: str) -> None:
    assert plan(steps, 1, calls=calls).calls is None


def test_an_unknown_number_of_calls_is_refused() -> None:
    with pytest.raises(InvalidInput, match="calls"):
        plan(20, 1, calls="some")
