"""How a user wants a picture sampled: the choices of the nodes, and what they mean to the core. Needs no host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ....chords_core import InvalidInput, choose_calls

Accepted = int | Literal["exact"] | None
Method = Literal["chords", "secant"] | None

_ACCEPTS: Mapping[str, Accepted] = {"auto": None, "first": 1, "second": 2, "third": 3, "exact": "exact"}
_CALLS: Mapping[str, int | Literal["auto"] | None] = {"every step": None, "auto": "auto", "1/2": 2, "1/3": 3}
_METHODS: Mapping[str, Method] = {"auto": None, "CHORDS": "chords", "secant window": "secant"}

ACCEPTS, CALLS, METHODS = tuple(_ACCEPTS), tuple(_CALLS), tuple(_METHODS)
"""The choices of the inputs ``accept``, ``calls`` and ``method``; the first is the default."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class SamplerOptions:
    """What a user asks a sampler for.

    Attributes:
        cores: the number of cores; 0: as many as are fastest.
        accept: which result ends the run, as `chords_core.plan` takes it.
        one_call_in: call the model at about one of so many steps; "auto": at so many that the picture stays nearly the
            same; None: at every step.
        method: as `chords_core.plan` takes it.
    """

    cores: int = 0
    accept: Accepted = None
    one_call_in: int | Literal["auto"] | None = None
    method: Method = None

    def calls(self, steps: int) -> int | None:
        """At how many of the ``steps`` to call the model; None: at each."""
        if self.one_call_in is None:
            return None
        return choose_calls(steps, None if self.one_call_in == "auto" else self.one_call_in)

    def inputs(self) -> dict[str, Any]:
        """The inputs of a sampler node that give these options."""
        return {
            "cores": self.cores,
            "accept": _label(_ACCEPTS, self.accept),
            "calls": _label(_CALLS, self.one_call_in),
            "method": _label(_METHODS, self.method),
        }


def parse_options(cores: int, accept: str, calls: str, method: str) -> SamplerOptions:
    """The options that a sampler node's inputs ask for.

    Raises:
        InvalidInput: for a choice that does not exist.
    """
    return SamplerOptions(
        cores,
        _value("accept", _ACCEPTS, accept),
        _value("calls", _CALLS, calls),
        _value("method", _METHODS, method),
    )


def _value(name: str, choices: Mapping[str, _Value], label: str) -> _Value:
    if label not in choices:
        raise InvalidInput(name, f"there is no {label!r}; choose one of {', '.join(choices)}")
    return choices[label]


def _label(choices: Mapping[str, _Value], value: _Value) -> str:
    return next(label for label, known in choices.items() if known == value)
