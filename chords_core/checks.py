"""Checks of arguments. They raise `InvalidInput` with the argument's name, and cut long values in messages."""

from __future__ import annotations

import reprlib
import threading
from collections.abc import Callable, Collection
from typing import TypeGuard

import torch
from torch import Tensor

from .errors import InvalidInput

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 6
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def shown(value: object) -> str:
    """``value`` for a message: shortened if it is long, a tensor by its shape and dtype."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
    return _SHORT.repr(value)


def check_whole(name: str, value: object, least: int = 1, otherwise: str = "") -> int:
    """``value`` if it is an int of at least ``least``.

    Args:
        name: of the argument.
        value: to check.
        least: the smallest allowed number.
        otherwise: what else is allowed, for the message.

    Raises:
        InvalidInput: for anything else, also for a bool or a float such as 4.0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(name, f"must be a whole number of at least {least}{otherwise}, not {shown(value)}")
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is an int or a float, and neither a bool nor NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise `InvalidInput` unless ``value`` is one of the texts in ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidInput(name, f"unknown {name} {shown(value)}; there are {', '.join(choices)}")


def check_floating(name: str, value: object) -> None:
    """Raise `InvalidInput` unless ``value`` is a floating-point tensor."""
    if not isinstance(value, Tensor):
        raise InvalidInput(name, f"must be a tensor, not {type(value).__name__}")
    if not torch.is_floating_point(value):
        raise InvalidInput(name, f"must be a floating-point tensor, not {value.dtype}")


def check_callable(name: str, value: object, of: str, optional: bool = False) -> None:
    """Raise `InvalidInput` unless ``value`` is a function ``of`` what the message says, or None if ``optional``."""
    if not callable(value) and not (optional and value is None):
        other = " or None" if optional else ""
        raise InvalidInput(name, f"must be a function of {of}{other}, not {shown(value)}")


def as_predicate(cancel: Callable[[], bool] | threading.Event | None) -> Callable[[], bool]:
    """``cancel`` as a function that says whether the run has to stop.

    Raises:
        InvalidInput: for any other value.
    """
    if cancel is None:
        return lambda: False
    if isinstance(cancel, threading.Event):
        return cancel.is_set
    if not callable(cancel):
        raise InvalidInput("cancel", f"must be a function, a threading.Event or None, not {shown(cancel)}")
    return cancel
