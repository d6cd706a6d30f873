"""What an optimisation costs: model calls, and bytes that the backward pass needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from chords_core.sdo.events import Iterated
from chords_core.sdo.gradients import evaluate, objective_gradient
from tests.core.problems import Counted, geometric, noise
from tests.core.sdo.short_optimisation import (
    MODEL,
    SIZE,
    conditioned,
    distance,
    small,
)

FULL = {"gradient": "full", "checkpoint": False}


@pytest.mark.parametrize("refresh", [1, 4, 10])
@pytest.mark.parametrize("keep", [(7,), (4, 7), (1, 4, 7)], ids=str)
def test_evaluations_are_counted(refresh: int, keep: tuple[int, ...]) -> None:
    """A sampling costs the steps, a kept step three, a carried one a fourth; every call is counted once."""
    model = Counted(MODEL)
    found, events = small(denoise=model, refresh=refresh, keep=keep, iterations=12, x=noise(1, SIZE, scale=10.0))
    sampled = len(range(0, 12, refresh))
    kept, carried = 12 * len(keep), (12 - sampled) * len(keep)
    assert found.evaluations == 8 * (sampled + 1) + 3 * kept + carried
    assert model.calls == found.evaluations - 2 * kept  # of the three, two are the backward pass
    assert found.sampled == tuple(number % refresh == 0 for number in range(12))
    counts = [event.evaluations for event in events if isinstance(event, Iterated)]
    assert counts == sorted(counts) and counts[-1] <= found.evaluations


@pytest.mark.parametrize(("checkpoint", "cost"), [(True, 4), (False, 3)])
def test_evaluations_of_full_backpropagation(checkpoint: bool, cost: int) -> None:
    """Three a step, four with checkpointing; the first and the last sampling are forward only."""
    found, _ = small(gradient="full", checkpoint=checkpoint, iterations=5, x=noise(1, SIZE, scale=10.0))
    assert found.evaluations - 5 * 8 * cost in (2 * 8, 3 * 8)


class Saved:
    """Bytes saved for the backward pass at one time, and the most there were."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> _Held:
        return _Held(self, tensor)


class _Held:
    """A saved tensor, as long as a graph holds it."""

    def __init__(self, saved: Saved, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor
        saved.now += tensor.nbytes
        saved.peak = max(saved.peak, saved.now)

    def __del__(self) -> None:
        self.saved.now -= self.tensor.nbytes


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes saved for the backward pass at one time within ``run``."""
    saved = Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        run()
    assert saved.now == 0
    return saved.peak


@pytest.mark.parametrize("keep", ["last", "spread", (0, 2, 4)], ids=str)
def test_saved_bytes_do_not_depend_on_the_steps(keep: Any) -> None:
    """The shortcut keeps the graph of one evaluation at a time, for any number of steps and kept steps."""

    def saved(steps: int, **options: Any) -> int:
        return peak_bytes(lambda: small(sigmas=geometric(steps), iterations=2, **options))

    assert saved(5, keep=keep) == saved(40, keep=keep) == saved(40, keep="last")
    assert saved(40, **FULL) > 30 * saved(40, keep=keep)


def wide(x: Tensor) -> Tensor:
    """An objective whose graph is larger than the model's."""
    return distance(torch.cat([torch.tanh(x) for _ in range(500)], 1).reshape(len(x), 500, SIZE).mean(1))


@pytest.mark.parametrize("objective", [distance, wide])
@pytest.mark.parametrize("of", ["noise", "conditioning"])
def test_saved_bytes_are_those_of_the_larger_graph(objective: Callable[[Tensor], Tensor], of: str) -> None:
    """Never those of the objective's graph and of the model's together."""
    x, condition = noise(3, SIZE), noise(3, SIZE, seed=5)
    end, options = x.clone().requires_grad_(), {}
    if of == "conditioning":
        options = {"denoise": conditioned, "condition": condition}

    def objective_alone() -> None:
        with torch.enable_grad():
            objective_gradient(evaluate(objective, end), end)

    larger = max(
        peak_bytes(objective_alone), peak_bytes(lambda: small(x=x, objective=trivial, iterations=3, **options))
    )
    assert peak_bytes(lambda: small(x=x, objective=objective, iterations=3, **options)) == larger


def trivial(x: Tensor) -> Tensor:
    """An objective that saves nothing for its gradient."""
    return x.sum(1)
