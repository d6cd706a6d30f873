"""Which step one core calls next within a tolerance: the rule by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chords_core.methods.stepping_rule import JUMP, SteppingRule, allowed_surprise
from chords_core.methods.window_rule import GapControl, Measured, MovingRule, Progress, uneven_steps

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
TOLERANCE = 0.01


def rule(steps: int, amplification: float = 1.0) -> SteppingRule:
    return SteppingRule(steps, (amplification,) * steps, TOLERANCE)


def measured(known: list[int], surprise: float, move: float = 0.0) -> Measured:
    """What a first call at the last of the known nodes has shown."""
    moves = [0.0] * (len(known) - 1) + [move]
    changed = tuple(each > 0 for each in moves)
    return Measured(tuple(known), tuple((each,) for each in moves), changed, {known[-1]: (surprise,)})


def run(of: SteppingRule, surprises: dict[int, float], usual: float = 0.0) -> list[int]:
    """The nodes in the order of their calls, if each first call has the surprise that is given."""
    progress, called, node = Progress(), list[int](), 0
    for rounds in range(1, of.steps + 1):
        called.append(node)
        known = sorted(set(called))
        newest = known[-1] == node
        seen = measured(known, surprises.get(node, usual))
        seen = seen if newest else Measured(seen.known, seen.moves, seen.changed, {})
        progress, following = of.following(progress, seen, 1, rounds, of.steps - rounds)
        if following is None:
            return called
        node = following[0]
    raise AssertionError("more calls than steps")


@QUICK
@given(st.integers(1, 300), st.floats(0.0, 10.0))
def test_the_first_and_the_last_step_are_called_and_none_twice(steps: int, times: float) -> None:
    called = run(rule(steps), {}, times * allowed_surprise(steps, TOLERANCE))
    assert called[0] == 0 and max(called) == steps - 1
    assert len(set(called)) == len(called)


def test_a_smooth_prediction_takes_ever_larger_gaps() -> None:
    called = run(rule(100), {})
    gaps = [b - a for a, b in zip(called, called[1:], strict=False)]
    assert gaps[0] == 1 and max(gaps) > 5 and gaps[:-2] == sorted(gaps[:-2])
    assert len(called) < 30


def test_a_surprising_prediction_is_called_at_every_step() -> None:
    assert run(rule(40), {}, 2 * allowed_surprise(40, TOLERANCE)) == list(range(40))


def test_a_larger_surprise_makes_the_gap_smaller() -> None:
    allowed = allowed_surprise(100, TOLERANCE)
    gaps = []
    for times in (0.1, 1.0, 2.0, 3.9):
        progress, _ = rule(100).following(Progress(6.0), measured([0, 6, 12, 18], times * allowed), 1, 4, 96)
        gaps.append(progress.gap)
    assert gaps == sorted(gaps, reverse=True) and gaps[0] > 6 > gaps[1] > gaps[-1] > 1


def test_what_the_solver_amplifies_counts_more() -> None:
    seen = measured([0, 6, 12, 18], allowed_surprise(100, TOLERANCE) / 2)
    once, thrice = (rule(100, factor).following(Progress(6.0), seen, 1, 4, 96)[0].gap for factor in (1.0, 3.0))
    assert thrice < once


def test_steps_before_a_jump_are_called_after_all() -> None:
    jump = 1.5 * JUMP * allowed_surprise(100, TOLERANCE)
    progress, following = rule(100).following(Progress(4.0), measured([0, 1, 5, 9], jump), 1, 4, 96)
    assert progress.gap == 1.0 and following == (2,)
    assert progress.skipped == {2, 3, 4, 6, 7, 8}


def test_a_step_beside_a_much_longer_one_is_not_left_out() -> None:
    seen = measured([0, 6, 12, 18], 0.5 * allowed_surprise(30, TOLERANCE))
    assert rule(30).following(Progress(5.0), seen, 1, 4, 26)[1] == (24,)
    even = [1 - step / 30 for step in range(31)]
    assert not uneven_steps(even)
    uneven = uneven_steps([*even[:22], *(0.4 * each for each in even[22:])])
    assert {21, 22} <= uneven
    assert replace(rule(30), required=uneven).following(Progress(5.0), seen, 1, 4, 26)[1] == (21,)
    window = MovingRule(30, tuple(range(30)), (1.0,) * 30, 0.01, gaps=GapControl(9), required=uneven)
    still = Measured((0, 6, 12, 18), ((0.0,),) * 4, (False,) * 4, {})
    nodes = window.following(Progress(5.0), still, 4, 4, 26)[1]
    assert nodes is not None and 21 in nodes


def test_a_node_that_moved_far_is_called_again_after_the_steps_before_it() -> None:
    progress, following = rule(100).following(Progress(4.0), measured([0, 1, 5, 9], 0.0, move=0.5), 1, 4, 96)
    assert following == (2,) and progress.skipped == {2, 3, 4, 6, 7, 8}
    known = list(range(10))
    assert rule(100).following(Progress(4.0), measured(known, 0.0, move=0.5), 1, 10, 96)[1] == (9,)
    no_calls_left = rule(100).following(Progress(4.0), measured(known, 0.0, move=0.5), 1, 10, 90)[1]
    assert no_calls_left is not None and no_calls_left[0] > 9


def test_with_a_solver_of_higher_order_fewer_steps_are_left_out() -> None:
    """By more than in proportion to the amplification: one step left out can spoil the picture."""
    seen = measured([0, 6, 12, 18], allowed_surprise(100, TOLERANCE))
    twice = measured([0, 6, 12, 18], 2 * allowed_surprise(100, TOLERANCE))
    higher, lower = (
        rule(100, 2.0).following(Progress(6.0), seen, 1, 4, 96),
        rule(100).following(Progress(6.0), twice, 1, 4, 96),
    )
    assert higher[0].gap < lower[0].gap


@pytest.mark.parametrize("steps", [8, 20, 50, 1000])
def test_the_tolerance_is_in_proportion(steps: int) -> None:
    assert allowed_surprise(steps, 0.02) == pytest.approx(2 * allowed_surprise(steps, 0.01))
