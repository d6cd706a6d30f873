"""What a training's batches are, which steps its gradient goes through, and how its layers are named."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pack_modules import module

batches = module("nodes.host.sdo.training.batches")
layers = module("nodes.host.sdo.training.layers")
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


def test_layers_of_compiled_blocks_have_the_names_that_they_have_without_the_compiler() -> None:
    """A file with other names would load into no model."""
    blocks = [torch.nn.ModuleDict({"to_q": torch.nn.Linear(2, 2)}) for _ in range(2)]
    network = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList(blocks)})
    plain = layers.choose_layers(network, "attention")
    network["blocks"][1] = torch.compile(blocks[1], backend="eager")
    compiled = layers.choose_layers(network, "attention")
    assert list(compiled) == list(plain) == ["blocks.0.to_q", "blocks.1.to_q"]
    assert all(network.get_submodule(path) is plain[path] for path in compiled)
