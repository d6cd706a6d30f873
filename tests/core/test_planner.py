"""The planner: what it promises is what a run then does, and it never makes a run slower."""

from __future__ import annotations

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


def test_choice_is_the_fewest_sequential_calls() -> None:
    """No number of cores up to the lanes has an earlier first hit."""
    for steps in range(10, 61):
        for lanes in range(2, 10):
            best = min(
                hit_depth(steps, starts, len(starts))
                for starts in (lattice_starts(steps, cores) for cores in range(1, lanes + 1))
            )
            chosen = plan(steps, lanes)
            assert chosen.depth == best or (chosen.cores == 1 and steps / best < 1.25)


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
