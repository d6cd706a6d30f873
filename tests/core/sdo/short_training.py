"""A short training of a small network, for the tests of `optimize_parameters`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chords_core import Trained, optimize_parameters
from tests.core.problems import Mixture, geometric, noise
from tests.core.sdo.short_optimisation import distance

SIZE = 6
MODEL = Mixture(SIZE)
SIGMAS = geometric(12)


class Network:
    """The ideal model with a low-rank term, which is zero at first."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.down = 0.5 * noise(2, SIZE, seed=11).to(dtype)
        self.up = torch.zeros(SIZE, 2, dtype=dtype)

    @property
    def parameters(self) -> list[Tensor]:
        """What is trained."""
        return [self.down, self.up]

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return MODEL(x, sigma) + torch.tanh(x @ self.down.T) @ self.up.T / (1 + sigma) + self.up.sum(1)


def starts(iteration: int) -> Tensor:
    """Three items of noise, others in each iteration."""
    return noise(3, SIZE, seed=100 + iteration, scale=10.0)


def same_starts(iteration: int) -> Tensor:
    """The same noise in each iteration."""
    return starts(0)


def train(network: Any = None, **options: Any) -> tuple[Network, Trained, list[Any]]:
    """A short training with its events."""
    network = Network() if network is None else network
    events: list[Any] = []
    given = {
        "parameters": network.parameters if isinstance(network, Network) else [],
        "starts": starts,
        "sigmas": SIGMAS,
        "objective": distance,
        **options,
    }
    denoise = given.pop("denoise", network)
    first = [given.pop(name) for name in ("parameters", "starts", "sigmas", "objective")]
    trained = optimize_parameters(denoise, *first, **{"iterations": 20, "lr": 0.03, "on_event": events.append, **given})
    return network, trained, events
