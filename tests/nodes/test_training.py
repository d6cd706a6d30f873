"""What a training's batches are, and which steps its gradient goes through."""

from __future__ import annotations

from collections import Counter

import pytest
from pack_modules import module

batches = module("nodes.host.sdo.training.batches")
options = module("nodes.host.sdo.training.options")


@pytest.mark.parametrize(("prompts", "size"), [(1, 4), (3, 2), (5, 4), (4, 8)])
def test_all_prompts_are_used_equally_often_in_a_new_order_each_time(prompts: int, size: int) -> None:
    made = batches.Batches(prompts, size, seed=3)
    items = [prompt for iteration in range(prompts * 6) for prompt in made.prompts_of(iteration)]
    assert set(Counter(items).values()) == {6 * size}
    rounds = [tuple(items[first : first + prompts]) for first in range(0, len(items), prompts)]
    assert all(sorted(each) == list(range(prompts)) for each in rounds)
    assert prompts == 1 or len(set(rounds)) > 1


def test_batches_follow_from_the_seed_alone() -> None:
    one, same, other = (batches.Batches(5, 2, seed) for seed in (1, 1, 2))
    assert one.prompts_of(7) == same.prompts_of(7)
    assert [one.noise_seed(i) for i in range(9)] == [same.noise_seed(i) for i in range(9)]
    assert len({made.noise_seed(i) for made in (one, other) for i in range(100)}) == 200


@pytest.mark.parametrize(
    ("text", "kept"), [("auto", None), ("", None), ("1, 4, 9", (1, 4, 9)), (" 4 1 4", (1, 4)), ("20", (20,))]
)
def test_kept_steps_are_numbers(text: str, kept: tuple[int, ...] | None) -> None:
    assert options.parse_keep(text) == kept


@pytest.mark.parametrize("text", ["last", "0", "-1", "1.5", "1; 2"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="keep"):
        options.parse_keep(text)
