"""The trial of several rows in one call: it measures as little as it can, and finds rows that are not the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from chords_core.execution.row_trial import RowTrial
from tests.core.problems import noise

X = noise(2, 6, scale=10.0, dtype=torch.float32)
SIGMAS = torch.linspace(10, 0.5, 20).tolist()

Answers = Callable[[Sequence[Tensor], Sequence[float]], Sequence[Tensor]]


def model(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    return [(0.5 * x + 1.5 * sigma**2) / (0.5 + sigma**2) for x, sigma in zip(xs, sigmas, strict=True)]


def of_the_first_sigma(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    """As a patch that reads ``sigmas[0]``."""
    return model(xs, [sigmas[0]] * len(xs))


def in_half_precision(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    return [row.half().to(x.dtype) if len(xs) > 1 else row for x, row in zip(xs, model(xs, sigmas), strict=True)]


class Clocked:
    """A model with calls of known length, by the number of rows, and its clock. ``first``: what the first call of each
    number of rows takes more."""

    def __init__(self, seconds: Mapping[int, float], first: float = 0.0, answers: Answers = model) -> None:
        self.now, self.calls = 0.0, list[int]()
        self._seconds, self._first, self._answers = seconds, first, answers

    def __call__(self, xs: Sequence[Tensor], sigmas: Sequence[float]) -> Sequence[Tensor]:
        self.now += self._seconds[len(xs)] + (0.0 if len(xs) in self.calls else self._first)
        self.calls.append(len(xs))
        return self._answers(xs, sigmas)

    def trial(self, max_difference: float = 1e-3, sigmas: Sequence[float] = SIGMAS) -> RowTrial:
        return RowTrial(self, X, sigmas, max_difference, clock=lambda: self.now)


def test_rows_that_cost_little_are_all_measured() -> None:
    """What the first call of a shape takes more does not count."""
    clocked = Clocked({1: 0.1, 2: 0.1, 4: 0.11, 8: 0.12}, first=3.0)
    times = clocked.trial().measure()
    assert times.problem == "" and dict(times.seconds) == pytest.approx({1: 0.1, 2: 0.1, 4: 0.11, 8: 0.12}, rel=0.3)


def test_a_large_model_is_called_as_little_as_possible() -> None:
    """Two calls of one row, of which the first may load the model, and one of two rows."""
    clocked = Clocked({1: 2.0, 2: 3.8})
    times = clocked.trial().measure()
    assert clocked.calls == [1, 1, 2] and times.problem == ""
    assert times.seconds == pytest.approx({1: 2.0, 2: 3.8})


def test_it_goes_on_as_long_as_rows_gain() -> None:
    clocked = Clocked({1: 0.1, 2: 0.12, 4: 0.2})
    assert set(clocked.trial().measure().seconds) == {1, 2, 4}
    assert 8 not in clocked.calls


def test_rows_that_do_not_fit_are_not_tried() -> None:
    clocked = Clocked({1: 0.1, 2: 0.1})
    times = clocked.trial().measure(fits=lambda rows: rows < 4)
    assert set(times.seconds) == {1, 2} and "4 rows do not fit" in times.problem
    assert set(clocked.calls) == {1, 2}


def test_rows_that_fail_are_not_used() -> None:
    def answers(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        if len(xs) > 2:
            raise RuntimeError("out of memory")
        return model(xs, sigmas)

    times = Clocked({1: 0.1, 2: 0.1, 4: 0.1}, answers=answers).trial().measure()
    assert set(times.seconds) == {1, 2} and times.problem == "a call of 4 rows failed: out of memory"


def test_what_one_row_raises_is_raised() -> None:
    def answers(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        raise RuntimeError("broken")

    for call in (lambda trial: trial.measure(), lambda trial: trial.check(4)):
        with pytest.raises(RuntimeError, match="broken"):
            call(Clocked({1: 0.1}, answers=answers).trial())


def swapped(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    return model(xs, sigmas)[::-1]


def with_nan(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    return [row * float("nan") if len(xs) > 1 else row for row in model(xs, sigmas)]


def an_item_less(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    return [row[: 1 if len(xs) > 1 else None] for row in model(xs, sigmas)]


@pytest.mark.parametrize("answers", [of_the_first_sigma, swapped, with_nan, an_item_less])
def test_other_answers_than_of_one_row_are_found(answers: Answers) -> None:
    clocked = Clocked({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, answers=answers)
    times = clocked.trial(max_difference=0.03).measure()
    assert set(times.seconds) == {1} and times.problem
    assert Clocked({1: 0.1, 8: 0.1}, answers=answers).trial(max_difference=0.03).check(8)


def test_rounding_is_no_difference() -> None:
    clocked = Clocked({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, answers=in_half_precision)
    assert clocked.trial(max_difference=3e-3).measure().problem == ""
    assert clocked.trial(max_difference=3e-3).check(8) == ""
    assert "differ" in clocked.trial(max_difference=1e-6).check(8)


def test_a_check_raises_what_the_rows_raise() -> None:
    def answers(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
        if len(xs) > 1:
            raise RuntimeError("out of memory")
        return model(xs, sigmas)

    with pytest.raises(RuntimeError, match="out of memory"):
        Clocked({1: 0.1, 4: 0.1}, answers=answers).trial().check(4)


def test_a_check_makes_three_calls() -> None:
    clocked = Clocked({1: 0.1, 4: 0.1})
    assert clocked.trial().check(4) == "" and clocked.calls == [1, 1, 4]


def test_no_more_rows_than_steps() -> None:
    """A round of a window has at most as many evaluations."""
    clocked = Clocked({1: 0.1, 2: 0.1})
    assert set(clocked.trial(sigmas=SIGMAS[:3]).measure().seconds) == {1, 2}
