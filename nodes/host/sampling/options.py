"""How a user wants a picture sampled: the choices of the nodes, and what they mean to the core. Needs no host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from ....chords_core import InvalidInput

Accepted = int | Literal["exact"] | None
Fidelity = Literal["auto", "exact", "near", "fast"]
Method = Literal["chords", "secant"] | None

_ACCEPTS: Mapping[str, Accepted] = {"auto": None, "first": 1, "second": 2, "third": 3, "exact": "exact"}
_FIDELITIES: Mapping[str, Fidelity] = {name: name for name in get_args(Fidelity)}
_METHODS: Mapping[str, Method] = {"auto": None, "CHORDS": "chords", "secant window": "secant"}

ACCEPTS, FIDELITIES, METHODS = tuple(_ACCEPTS), tuple(_FIDELITIES), tuple(_METHODS)
"""The choices of the inputs ``accept``, ``fidelity`` and ``method``; the first is the default."""

NEAR, FAST = 0.01, 0.03
"""The relative RMS difference from KSampler's latent that `near` and `fast` aim at; about a tenth of the pictures are
more than twice as far off (benchmarks/results/tolerance.md)."""

_TOLERANCES: Mapping[Fidelity, float] = {"auto": NEAR, "near": NEAR, "fast": FAST}

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class SamplerOptions:
    """What a user asks a sampler for.

    Attributes:
        cores: the number of cores; 0: as many as are fastest.
        accept: which result ends the run, as `chords_core.plan` takes it; None: ``fidelity`` decides.
        fidelity: how near the picture has to be to KSampler's. "auto" is KSampler's on one device, and "near" on
            several.
        method: as `chords_core.plan` takes it.
    """

    cores: int = 0
    accept: Accepted = None
    fidelity: Fidelity = "auto"
    method: Method = None

    @property
    def tolerance(self) -> float | None:
        """The relative RMS difference from KSampler's latent that is aimed at; None if a hit is named instead."""
        if self.accept is not None or self.method == "chords":
            return None
        return _TOLERANCES.get(self.fidelity)

    @property
    def accepted(self) -> Accepted:
        """Which hit ends a run without a tolerance, as `chords_core.plan` takes it."""
        return "exact" if self.accept is None and self.fidelity == "exact" else self.accept

    def inputs(self) -> dict[str, Any]:
        """The inputs of a sampler node that give these options."""
        return {
            "fidelity": _label(_FIDELITIES, self.fidelity),
            "cores": self.cores,
            "method": _label(_METHODS, self.method),
            "accept": _label(_ACCEPTS, self.accept),
        }


def parse_options(fidelity: str, cores: int, method: str, accept: str) -> SamplerOptions:
    """The options that a sampler node's inputs ask for.

    Raises:
        InvalidInput: for a choice that does not exist.
    """
    return SamplerOptions(
        cores,
        _value("accept", _ACCEPTS, accept),
        _value("fidelity", _FIDELITIES, fidelity),
        _value("method", _METHODS, method),
    )


def _value(name: str, choices: Mapping[str, _Value], label: str) -> _Value:
    if label not in choices:
        raise InvalidInput(name, f"there is no {label!r}; choose one of {', '.join(choices)}")
    return choices[label]


def _label(choices: Mapping[str, _Value], value: _Value) -> str:
    return next(label for label, known in choices.items() if known == value)
