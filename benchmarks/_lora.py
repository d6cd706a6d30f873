"""A LoRA on the linear layers of the demo's flow network, for benchmarks, added by hooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Lora:
    """``y + up(down(x))`` for each linear layer of a network's blocks; ``up`` begins as zero.

    ``parameters``: all ``down`` [rank, in] and ``up`` [out, rank], in turn.
    """

    def __init__(self, network: nn.Module, rank: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.on = True
        self.parameters: list[Tensor] = []
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear) and "blocks" in name:
                bound = layer.in_features**-0.5
                down = (2 * torch.rand(rank, layer.in_features, generator=generator) - 1) * bound
                down, up = (part.to(layer.weight) for part in (down, torch.zeros(layer.out_features, rank)))
                self.parameters += [down, up]
                layer.register_forward_hook(self._hook(down, up))

    def _hook(self, down: Tensor, up: Tensor):  # type: ignore[no-untyped-def]
        def added(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            return output + F.linear(F.linear(inputs[0], down), up) if self.on else None

        return added

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, the network is as it was."""
        self.on = False
        try:
            yield
        finally:
            self.on = True
