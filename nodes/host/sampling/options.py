"""How a user wants a picture sampled: the choices of the nodes, and their values in the core. Needs no host."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ....chords_core import ACCEPTS, CALLS, EVERY_STEP, PARALLEL_METHODS

METHODS = PARALLEL_METHODS
__all__ = ["ACCEPTS", "CALLS", "METHODS", "SamplerOptions", "parse_options"]


@dataclass(frozen=True)
class SamplerOptions:
    """The inputs of the samplers by the same names: see `chords_core.plan`."""

    cores: int = 0
    accept: str = "auto"
    calls: str = EVERY_STEP
    method: str = "auto"

    def inputs(self) -> dict[str, Any]:
        """The inputs of a sampler node that give these options."""
        return asdict(self)


def parse_options(cores: int, accept: str, calls: str, method: str) -> SamplerOptions:
    """The options of a sampler node's inputs."""
    return SamplerOptions(cores, accept, calls, method)
