"""Why a run does less in parallel than the pack can, as one of a few classes. Pure; needs no host.

Reasons are sentences with names in them. A metric needs a small fixed set of labels, so each place that makes a reason
also says its class.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import TypeVar

from ....chords_core import Cause, Plan, Reason, SequentialPlan

_R = TypeVar("_R", bound=str | None)


class Fallback(Enum):
    """A class of reasons. The value is the label of the metric."""

    NO_GAIN = "no_gain"  # the planner found nothing to gain with these steps and devices
    SAMPLER = "sampler"  # the sampler, or this solver, does not run in parallel
    WRAPPED = "wrapped"  # another node wraps the sampler
    SCHEDULE = "schedule"  # the sigmas cannot be run in parallel
    PATCHES = "patches"  # the prompt, the model or a patch needs its steps in order
    EVERY_STEP = "every_step"  # no step may be left out
    ONE_DEVICE = "one_device"  # the model is bound to its device, as compiled models are
    CONTROLNET = "controlnet"  # lanes cannot have the ControlNets of the run
    COPIES = "copies"  # the model could not be copied to another device
    MEMORY = "memory"  # a device has too little memory
    CHECK = "check"  # a check before the run failed: a copy is not the model, or patches failed a trial
    SHARING = "sharing"  # devices could not share calls
    ROWS = "rows"  # calls of several rows failed
    NOT_ALLOWED = "not_allowed"  # the owner of the server has not allowed the cluster
    CLUSTER = "cluster"  # no worker of the cluster could take part
    WORKERS_MISSING = "workers_missing"  # some workers of the cluster could not take part
    WORKERS_LOST = "workers_lost"  # all workers were lost during the run
    OTHER = "other"  # a reason without a class


_CAUSES = {
    Cause.MORE_CORES_USELESS: Fallback.NO_GAIN,
    Cause.CORES_NOT_FASTER: Fallback.NO_GAIN,
    Cause.TOO_FEW_STEPS: Fallback.NO_GAIN,
    Cause.NO_ROOM: Fallback.NO_GAIN,
    Cause.LITTLE_GAIN: Fallback.NO_GAIN,
    Cause.SLOW_TOGETHER: Fallback.NO_GAIN,
    Cause.NEARLY_EVERY_STEP: Fallback.NO_GAIN,
    Cause.WINDOW_NOT_CLOSE: Fallback.SAMPLER,
}
"""The causes that are fall-backs. The others say what was asked for, or that there is one device."""


class Fallbacks:
    """The classes of the reasons of one run."""

    def __init__(self) -> None:
        self._classes: dict[str, Fallback] = {}

    def known(self, fallback: Fallback, reason: _R) -> _R:
        """Remember the class of a reason, and return the reason. None is no reason."""
        text: str | None = reason
        if text:
            self._classes[text] = fallback
        return reason

    def of(self, plan: Plan, notes: Iterable[str] = (), shared: bool = False) -> tuple[str, ...]:
        """The classes of a run, as labels, each once.

        Args:
            plan: what was run. Its reasons count.
            notes: what else the user was told; a note counts if it has a known reason in it.
            shared: whether devices share calls, which the plan then says in a sentence that is no fall-back.
        """
        found = {_CAUSES.get(reason.cause) for reason in plan.reasons if isinstance(reason, Reason)}
        told = [reason for reason in plan.reasons if isinstance(reason, str)]
        found |= {fallback for each in (*told, *notes) for reason, fallback in self._classes.items() if reason in each}
        in_order = isinstance(plan, SequentialPlan) and bool(told) and len(told) == len(plan.reasons)
        if in_order and not shared and found <= {None}:
            found.add(Fallback.OTHER)
        return tuple(fallback.value for fallback in Fallback if fallback in found)
