"""The options of a training, as the node's inputs give them."""

from __future__ import annotations

from dataclasses import dataclass

from .....chords_core import InvalidInput
from .....chords_core.sdo.optimize_parameters import steps_to_train
from ...sampling.options import FAST, NEAR

FIDELITIES = {"near": NEAR, "exact": None, "fast": FAST}
"""How the trajectories are sampled: the tolerance of `chords_core.sample`. The first is the default."""


@dataclass(frozen=True)
class TrainerOptions:
    """How to train.

    ``layers``, ``pattern``: see `layers.choose_layers`; ``batch``: pictures an iteration; ``fidelity``: one of
    `FIDELITIES`; ``keep``: the steps whose graph is kept, the first is 1, or None for those of
    `chords_core.optimize_parameters`; ``pictures``: how many pictures show the result; ``lines``: the prompts that are
    given as texts. The others are as in `chords_core.optimize_parameters` and in the host's samplers.
    """

    rank: int
    layers: str
    pattern: str
    iterations: int
    lr: float
    batch: int
    steps: int
    sampler_name: str
    scheduler: str
    cfg: float
    seed: int
    fidelity: str
    hold: float
    keep: tuple[int, ...] | None
    patience: int | None
    gradient: str
    pictures: int
    lines: tuple[str, ...]

    @property
    def tolerance(self) -> float | None:
        """How far from the sampler's own result the trajectories may be; None: not at all."""
        return None if self.gradient == "full" else FIDELITIES[self.fidelity]

    def kept(self, steps: int) -> tuple[int, ...] | None:
        """``keep`` as indices of ``steps`` steps.

        Raises:
            InvalidInput: if there is no such step.
        """
        if self.keep is None:
            return None
        if beyond := [number for number in self.keep if number > steps]:
            raise InvalidInput("keep", f"has {beyond[0]}, and there are {steps} steps")
        return tuple(number - 1 for number in self.keep)

    def backward_passes(self, steps: int) -> int:
        """How many backward passes through the model an iteration of ``steps`` steps makes."""
        kept = len(steps_to_train(self.kept(steps), steps))
        if self.gradient == "full":
            return steps + (kept if self.hold > 0 else 0)
        return kept + (kept - 1 if self.hold > 0 else 0)

    @property
    def picture_seeds(self) -> list[int]:
        """The seeds of the pictures that show the result. No batch uses their noise."""
        return [(self.seed + number) % 2**64 for number in range(self.pictures)]


def parse_keep(text: str) -> tuple[int, ...] | None:
    """``keep`` from what a user writes: "auto", or numbers such as "5, 11, 17".

    Raises:
        InvalidInput: naming ``keep``.
    """
    if text.strip().lower() in ("", "auto"):
        return None
    parts = [part for part in text.replace(",", " ").split() if part]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidInput("keep", f'must be "auto", or numbers of steps, such as 5, 11, 17, not {text!r}')
    return tuple(sorted({int(part) for part in parts}))
