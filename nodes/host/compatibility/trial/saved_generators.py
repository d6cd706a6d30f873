"""The states of the random generators of a process, to see whether they changed and to restore them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class SavedGenerators:
    """The states of the global generators of Python, numpy and torch, by name."""

    states: dict[str, Any]

    @classmethod
    def now(cls, devices: Iterable[torch.device]) -> SavedGenerators:
        """The present states, including the generators of torch on ``devices``."""
        states: dict[str, Any] = {
            "Python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
        }
        for device in devices:
            if device.type in ("cuda", "xpu"):
                states[f"torch on {device}"] = getattr(torch, device.type).get_rng_state(device)
            elif device.type == "mps":
                states["torch on mps"] = torch.mps.get_rng_state()
        return cls(states)

    def changed(self, now: SavedGenerators) -> list[str]:
        """The names of the generators whose state is another one in ``now``."""
        return [name for name, state in self.states.items() if not _equal(state, now.states[name])]

    def restore(self) -> None:
        """Give all generators the saved states."""
        for name, state in self.states.items():
            if name == "Python":
                random.setstate(state)
            elif name == "numpy":
                np.random.set_state(state)
            elif name == "torch":
                torch.set_rng_state(state)
            elif name == "torch on mps":
                torch.mps.set_rng_state(state)
            else:
                device = torch.device(name.rpartition(" ")[2])
                getattr(torch, device.type).set_rng_state(state, device)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple):
        return all(map(_equal, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)
