"""What an optimisation costs: model calls, and bytes that the backward pass needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core.sdo.events import Iterated
from tests.core.problems import Counted, geometric, noise
from tests.core.sdo.short_optimisation import (
    MODEL,
    SIZE,
    small,
)


@pytest.mark.parametrize("refresh", [1, 4, 10])
def test_evaluations_are_counted(refresh: int) -> None:
    """A sampling costs the steps, a gradient three more; every call is counted once."""
    model = Counted(MODEL)
    found, events = small(denoise=model, refresh=refresh, iterations=12, x=noise(1, SIZE, scale=10.0))
    samplings = len(range(0, 12, refresh)) + 1
    assert found.evaluations == 8 * samplings + 3 * 12
    assert model.calls == found.evaluations - 2 * 12  # of the three, two are the backward pass
    assert found.sampled == tuple(number % refresh == 0 for number in range(12))
    counts = [event.evaluations for event in events if isinstance(event, Iterated)]
    assert counts == sorted(counts) and counts[-1] <= found.evaluations


@pytest.mark.parametrize(("checkpoint", "cost"), [(True, 4), (False, 3)])
def test_evaluations_of_full_backpropagation(checkpoint: bool, cost: int) -> None:
    """Three a step, four with checkpointing; the first and the last sampling are forward only."""
    found, _ = small(gradient="full", checkpoint=checkpoint, iterations=5, x=noise(1, SIZE, scale=10.0))
    assert found.evaluations - 5 * 8 * cost in (2 * 8, 3 * 8)


@pytest.mark.parametrize("keep", ["last", "spread"])
def test_saved_bytes_do_not_depend_on_the_steps(keep: str) -> None:
    """The shortcut keeps the graph of one evaluation, for any number of steps."""

    def saved(steps: int, **options: Any) -> int:
        count = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            small(sigmas=geometric(steps), iterations=1, **options)
        return count

    assert saved(5, keep=keep) == saved(40, keep=keep)
    full_bytes = {"gradient": "full", "checkpoint": False}
    assert saved(40, **full_bytes) > 30 * saved(40, keep=keep)
