"""How a user wants a picture sampled."""

from __future__ import annotations

from dataclasses import dataclass

from ....chords_core import EVERY_STEP


@dataclass(frozen=True)
class SamplerOptions:
    """The inputs of the samplers by the same names: see `chords_core.plan`."""

    cores: int = 0
    accept: str = "auto"
    calls: str = EVERY_STEP
    method: str = "auto"
