"""Items with NaN or infinity: which ones are new, and what two answers to one evaluation give together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from chords_core import InvalidInput
from chords_core.execution.nonfinite import check_denoised, has_finite_item, merge, newly_nonfinite

ITEMS = 4
X = torch.arange(ITEMS * 6.0).reshape(ITEMS, 2, 3)
items = st.sets(st.integers(0, ITEMS - 1))


def broken(x: Tensor, which: set[int], value: float = torch.nan) -> Tensor:
    """A copy of ``x`` with ``value`` in one element of these items."""
    copy = x.clone()
    for item in which:
        copy[item, 1, 2] = value
    return copy


@given(items, items, st.sampled_from([torch.nan, torch.inf, -torch.inf]))
def test_an_item_is_newly_nonfinite_if_its_input_was_finite(before: set[int], after: set[int], value: float) -> None:
    found = newly_nonfinite(broken(X, before), broken(X, after, value))
    assert (set() if found is None else set(found.nonzero().flatten().tolist())) == after - before
    assert has_finite_item(broken(X, after, value)) == (len(after) < ITEMS)


@given(items, items)
def test_each_merged_item_is_finite_if_it_is_in_either_answer(first: set[int], second: set[int]) -> None:
    one, other = X + 1, X + 2
    merged = merge(X, broken(one, first), broken(other, second))
    assert (merged.first_alone, merged.second_alone) == (bool(first - second), bool(second - first))
    for item in range(ITEMS):
        if item in first & second:
            assert not torch.isfinite(merged.denoised[item]).all()
        else:  # the second answer is preferred
            assert torch.equal(merged.denoised[item], (one if item in second else other)[item])


def test_large_finite_values_are_finite() -> None:
    """Although their sum overflows."""
    large = torch.full((2, 8), 3e38)
    assert newly_nonfinite(torch.zeros(2, 8), large) is None and has_finite_item(large)


@pytest.mark.parametrize("x", [torch.ones(()), torch.ones(5)])
def test_a_tensor_of_less_than_two_dimensions_is_one_item(x: Tensor) -> None:
    answer = x.clone()
    answer.reshape(-1)[0] = torch.nan
    found = newly_nonfinite(x, answer)
    assert found is not None and found.tolist() == [True] and not has_finite_item(answer)


@pytest.mark.parametrize("answer", [None, 1.0, torch.ones(3), torch.ones(2, 3, dtype=torch.int64)])
def test_an_answer_unlike_x_is_refused(answer: object) -> None:
    with pytest.raises(InvalidInput, match="^denoise: "):
        check_denoised(torch.ones(2, 3), answer)
