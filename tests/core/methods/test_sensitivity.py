"""How far a move of a node may change the end: against linear systems, where the answer is known."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chords_core.methods import sensitivity
from chords_core.methods.sensitivity import effects
from chords_core.methods.window_rule import GapControl, Measured, MovingRule, Progress

QUICK = settings(max_examples=60, deadline=None, derandomize=True)


def measured(moves: list[float], rates: list[tuple[float, float] | None], steps: list[int] | None = None) -> Measured:
    known = tuple(steps or range(len(moves)))
    by_sample = tuple(None if rate is None else (rate,) for rate in rates)
    return Measured(known, tuple((move,) for move in moves), tuple(move > 0 for move in moves), {}, by_sample)


def even(steps: int) -> list[float]:
    return [1 - step / steps for step in range(steps + 1)]


@QUICK
@given(st.integers(2, 30), st.floats(0.0, 5.0), st.floats(0.0, 5.0), st.integers(0, 40))
def test_it_is_the_error_of_a_linear_system(steps: int, defect: float, response: float, place: int) -> None:
    """Euler on D(x) = response x, where one node's prediction is off by the defect times its move."""
    node, times, move = place % steps, even(steps), 0.01
    moves = [move if each == node else 0.0 for each in range(steps)]
    found = effects(measured(moves, [(defect, response)] * steps), times, (1.0,) * steps)
    error = 0.0
    for step in range(steps):
        kept = times[step + 1] / times[step]
        own = defect * move * (1 - times[node]) if step == node else 0.0
        error = kept * error + (1 - kept) * (sensitivity._CARRIED * response * error + own)
    assert sum(each for (each,) in found) == pytest.approx(error, rel=1e-9, abs=1e-12)


def test_an_error_is_carried_on_by_the_response_of_later_nodes() -> None:
    moves = [0.0, 0.0, 0.01, *[0.0] * 7]
    totals = [
        sum(each for (each,) in effects(measured(moves, [(1.0, response)] * 10), even(10), (1.0,) * 10))
        for response in (0.0, 1.0, 3.0, 10.0)
    ]
    assert totals == sorted(totals) and totals[-1] > 20 * totals[0]


def test_a_node_that_was_evaluated_once_has_the_rates_of_its_neighbour() -> None:
    moves = [0.0, 0.01, 0.01, 0.01]
    filled = effects(measured(moves, [None, (2.0, 3.0), None, (1.0, 0.5)]), even(4), (1.0,) * 4)
    known = effects(measured(moves, [(2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (1.0, 0.5)]), even(4), (1.0,) * 4)
    assert filled == known


def test_each_sample_has_its_own() -> None:
    both = Measured((0, 1), ((0.0, 0.0), (0.01, 0.0)), (False, True), {}, (None, ((1.0, 1.0), (9.0, 9.0))))
    assert [sum(each) for each in zip(*effects(both, even(2), (1.0, 1.0)), strict=True)] == [pytest.approx(0.005), 0]


def rule(max_effect: float) -> MovingRule:
    return MovingRule(10, tuple(range(10)), (1.0,) * 10, 1.0, gaps=GapControl(10), max_move=1.0, max_effect=max_effect)


def judged(by_node: dict[int, float]) -> Measured:
    found = tuple((by_node.get(node, 0.0),) for node in range(10))
    return Measured(tuple(range(10)), ((0.001,),) * 10, (True,) * 10, {}, (), found)


def test_a_window_goes_on_at_the_nodes_with_the_largest_effects() -> None:
    """It ends once all moves together may change the end by no more than the rule allows."""
    seen = judged({3: 0.02, 6: 0.01, 7: 0.005, 9: 0.03})
    assert rule(0.07).following(Progress(), seen, 2, 5, 5)[1] is None
    assert rule(0.06).following(Progress(), seen, 2, 5, 5)[1] == (3, 9)
    assert rule(0.06).following(Progress(), seen, 8, 5, 5)[1] == (3, 6, 7, 9)
