"""The results of earlier trials, so that the same patches are tried once while the server runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...phrases import Phrase
from ..hooks import Hook

LanePlace = tuple[torch.device, ...] | str
"""Where a lane calls the model: its devices, or the name of a worker."""

_MAX_VERDICTS = 16  # of one model


@dataclass(frozen=True, eq=False)
class TrialSubject:
    """What a trial tries.

    Attributes:
        packs: the packs whose code takes part.
        hooks: what they add to a call.
        model: the BaseModel.
        version: the version of its weights.
        guider: the class of the guider.
        controlled: whether ControlNets take part. A patch may do with them what lanes cannot, as calls of other sizes.
    """

    packs: tuple[str, ...]
    hooks: tuple[Hook, ...]
    model: Any
    version: Any
    guider: type
    controlled: bool = False


@dataclass(frozen=True, eq=False)
class Verdict:
    """The result of a trial. Hooks and guider are held by weak references.

    Attributes:
        places: where the lanes of the trial were.
        reason: the reason for one core; None if the trial passed.
        anywhere: whether the reason holds for lanes in other places as well.
    """

    hooks: tuple[Callable[[], Any], ...]
    version: Any
    guider: Callable[[], type | None]
    controlled: bool
    places: frozenset[LanePlace]
    reason: Phrase | None
    anywhere: bool

    def is_about(self, subject: TrialSubject) -> bool:
        """Whether the trial was one of exactly these hooks, with these weights and this guider."""
        return (
            self.version == subject.version
            and self.guider() is subject.guider
            and self.controlled == subject.controlled
            and len(self.hooks) == len(subject.hooks)
            and all(_is_same(reference(), hook.call) for reference, hook in zip(self.hooks, subject.hooks, strict=True))
        )


_verdicts: weakref.WeakKeyDictionary[Any, list[Verdict]] = weakref.WeakKeyDictionary()  # by model


def known_reason(subject: TrialSubject) -> Phrase | None:
    """The reason for one core, if an earlier trial gave one that holds for lanes in any place."""
    return next(
        (verdict.reason for verdict in _about(subject) if verdict.reason is not None and verdict.anywhere), None
    )


def known_verdict(subject: TrialSubject, places: Sequence[LanePlace]) -> Verdict | None:
    """The verdict of an earlier trial for lanes in these places; None if there was no such trial.

    A trial that passed holds for fewer lanes as well.
    """
    wanted = frozenset(places)
    for verdict in _about(subject):
        if verdict.places >= wanted if verdict.reason is None else verdict.places == wanted:
            return verdict
    return None


def remember(subject: TrialSubject, places: Sequence[LanePlace], reason: Phrase | None, anywhere: bool) -> None:
    """Store the result of a trial."""
    try:
        hooks = tuple(_reference(hook.call) for hook in subject.hooks)
    except TypeError:  # a hook without weak references is tried in each run
        return
    alive = [old for old in _verdicts.get(subject.model, ()) if all(hook() is not None for hook in old.hooks)]
    new = Verdict(
        hooks, subject.version, weakref.ref(subject.guider), subject.controlled, frozenset(places), reason, anywhere
    )
    _verdicts[subject.model] = [new, *alive][:_MAX_VERDICTS]


def _about(subject: TrialSubject) -> list[Verdict]:
    return [verdict for verdict in _verdicts.get(subject.model, ()) if verdict.is_about(subject)]


def _reference(call: Any) -> Callable[[], Any]:
    return weakref.WeakMethod(call) if _is_bound(call) else weakref.ref(call)


def _is_bound(call: Any) -> bool:
    return hasattr(call, "__self__") and hasattr(call, "__func__")


def _is_same(one: Any, other: Any) -> bool:
    if _is_bound(one) and _is_bound(other):  # a bound method is a new object each time
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    return one is other
