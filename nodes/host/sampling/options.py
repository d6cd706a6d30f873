"""How a user wants a picture sampled: the words of the inputs, and what they mean to the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ....chords_core import InvalidInput, choose_calls

_ACCEPTS: Mapping[str, int | Literal["exact"] | None] = {
    "auto": None,
    "first": 1,
    "second": 2,
    "third": 3,
    "exact": "exact",
}
ACCEPTS = tuple(_ACCEPTS)
EVERY_STEP = "every step"
_ONE_CALL_IN = {"auto": None, "1/2": 2, "1/3": 3}
CALLS = (EVERY_STEP, *_ONE_CALL_IN)
CHORDS, SECANT = "CHORDS", "secant window"
_METHODS = {"auto": None, CHORDS: "chords", SECANT: "secant"}
METHODS = tuple(_METHODS)


@dataclass(frozen=True)
class SamplerOptions:
    """The inputs of the samplers by the same names, in the words of the user interface: see `chords_core.plan`."""

    cores: int = 0
    accept: str = "auto"
    calls: str = EVERY_STEP
    method: str = "auto"


def core_accept(label: str) -> int | Literal["exact"] | None:
    """A choice of `ACCEPTS` as `chords_core.plan` takes it. Raises `InvalidInput` for another one."""
    _check("accept", label, ACCEPTS)
    return _ACCEPTS[label]


def core_calls(label: str, steps: int) -> int | None:
    """A choice of `CALLS` as `chords_core.plan` takes it. Raises `InvalidInput` for another one."""
    _check("calls", label, CALLS)
    return None if label == EVERY_STEP else choose_calls(steps, _ONE_CALL_IN[label])


def core_method(label: str) -> str | None:
    """A choice of `METHODS` as `chords_core.plan` takes it. Raises `InvalidInput` for another one."""
    _check("method", label, METHODS)
    return _METHODS[label]


def _check(name: str, label: str, choices: tuple[str, ...]) -> None:
    if label not in choices:
        raise InvalidInput(name, f"unknown {name} {label!r}; there are {', '.join(choices)}")
