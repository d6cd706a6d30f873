"""The options of an optimisation, as the node's inputs give them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerOptions:
    """How to search.

    ``candidates``: how many seeds to try, from ``seed`` on; the search begins with the best. ``condition``: optimise
    the embedding of the positive prompt instead of the initial noise. The others are as in
    `chords_core.optimize_latent` and in the host's samplers.
    """

    iterations: int
    lr: float
    steps: int
    sampler_name: str
    scheduler: str
    denoise: float
    cfg: float
    seed: int
    candidates: int
    gradient: str
    refresh: int | str
    keep: str
    regularise: str
    patience: int | None
    condition: bool

    @property
    def seeds(self) -> list[int]:
        """The seed of each candidate."""
        return [(self.seed + number) % 2**64 for number in range(self.candidates)]
