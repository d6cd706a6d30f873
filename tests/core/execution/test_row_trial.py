"""The trial of several rows in one call: it measures as little as it can, and finds rows that are not the model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from chords_core import RowsFailed
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
    clocked = Clocked({1: 0.2, 2: 0.2, 4: 0.22, 8: 0.24})
    times = clocked.trial().measure()
    assert times.problem == "" and dict(times.seconds) == pytest.approx({1: 0.2, 2: 0.2, 4: 0.22, 8: 0.24})
    assert clocked.calls == [1, 1, 2, 1, 4, 8]


@pytest.mark.parametrize("first", [0.1, 3.0])
def test_what_the_first_call_of_a_shape_takes_more_does_not_count(first: float) -> None:
    """Where a call is short, however much that is."""
    times = Clocked({1: 0.05, 2: 0.05, 4: 0.05, 8: 0.06}, first=first).trial().measure()
    assert dict(times.seconds) == pytest.approx({1: 0.05, 2: 0.05, 4: 0.05, 8: 0.06})


def test_a_large_model_is_called_as_little_as_possible() -> None:
    """Two calls of one row, of which the first may load the model, and one of two rows."""
    clocked = Clocked({1: 2.0, 2: 3.8})
    times = clocked.trial().measure()
    assert clocked.calls == [1, 1, 2] and times.problem == ""
    assert times.seconds == pytest.approx({1: 2.0, 2: 3.8})


def test_rows_that_may_have_loaded_something_are_called_once_more() -> None:
    clocked = Clocked({1: 2.0, 2: 2.1, 4: 2.2, 8: 2.3}, first=0.9)
    assert set(clocked.trial().measure().seconds) == {1, 2, 4, 8}
    assert clocked.calls == [1, 1, 2, 2, 1, 4, 4, 8, 8]
    slow = Clocked({1: 2.0, 2: 3.0})
    assert set(slow.trial().measure().seconds) == {1, 2} and slow.calls == [1, 1, 2, 2]


def test_it_goes_on_as_long_as_the_caller_hopes_for_a_gain() -> None:
    clocked = Clocked({1: 0.2, 2: 0.22, 4: 0.4})
    seen: list[dict[int, float]] = []

    def worth(rows: int, seconds: Mapping[int, float]) -> bool:
        seen.append(dict(seconds))
        return seconds[max(seconds)] < 1.5 * seconds[1]

    assert set(clocked.trial().measure(worth).seconds) == {1, 2, 4}
    assert [set(each) for each in seen] == [{1}, {1, 2}, {1, 2, 4}] and 8 not in clocked.calls


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


def middle_is_wrong(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    """The first and the last row are right."""
    return [row + (xs[i] if 0 < i < len(xs) - 1 else 0) for i, row in enumerate(model(xs, sigmas))]


def an_item_less(xs: Sequence[Tensor], sigmas: Sequence[float]) -> list[Tensor]:
    return [row[: 1 if len(xs) > 1 else None] for row in model(xs, sigmas)]


@pytest.mark.parametrize("answers", [of_the_first_sigma, swapped, with_nan, an_item_less, middle_is_wrong])
def test_other_answers_than_of_one_row_are_found(answers: Answers) -> None:
    clocked = Clocked({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, answers=answers)
    times = clocked.trial(max_difference=0.03).measure()
    assert set(times.seconds) == {1} and times.problem
    if answers is not middle_is_wrong:
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

    with pytest.raises(RowsFailed, match="a call of 4 rows failed: out of memory"):
        Clocked({1: 0.1, 4: 0.1}, answers=answers).trial().check(4)


@pytest.mark.parametrize("rows", [2, 4, 8])
def test_a_check_makes_two_calls(rows: int) -> None:
    clocked = Clocked({1: 0.1, rows: 0.1})
    assert clocked.trial().check(rows) == "" and clocked.calls == [1, rows]


def test_no_more_rows_than_steps() -> None:
    """A round of a window has at most as many evaluations."""
    clocked = Clocked({1: 0.1, 2: 0.1})
    assert set(clocked.trial(sigmas=SIGMAS[:3]).measure().seconds) == {1, 2}
