"""What the batches of a training are: the seed of each, and the prompt of each item. Needs no host."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Batches:
    """Batches of ``size`` items that go through all ``prompts`` (their number), shuffled anew each time.

    Everything follows from ``seed``, so it does not depend on what was asked for before.
    """

    prompts: int
    size: int
    seed: int

    def noise_seed(self, iteration: int) -> int:
        """The seed of the noise of an iteration, far from the seeds that users write."""
        return hashed_seed(self.seed, f"noise {iteration}")

    def prompts_of(self, iteration: int) -> tuple[int, ...]:
        """The number of each item's prompt in an iteration."""
        first = iteration * self.size
        return tuple(self._prompt(place) for place in range(first, first + self.size))

    def _prompt(self, place: int) -> int:
        time, within = divmod(place, self.prompts)
        order = list(range(self.prompts))
        random.Random(hashed_seed(self.seed, f"prompts {time}")).shuffle(order)
        return order[within]


def hashed_seed(seed: int, purpose: str) -> int:
    """A seed (64 bits) for one purpose, far from those that users write and from those of other purposes."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
