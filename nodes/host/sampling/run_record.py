"""The record of one run. Needs torch only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ....chords_core import AdaptivePlan, ChordsPlan, Plan, SequentialPlan, Timeline, WindowPlan
from ..phrases import Card, Phrase


@dataclass(frozen=True, eq=False)
class RunHit:
    """A hit as a LATENT's samples, on the CPU.

    Attributes:
        core: 0 for the draft, K for the fastest core, 1 for the slowest.
        depth: sequential model calls until it.
        samples: [the latent's shape].
    """

    core: int
    depth: int
    samples: Tensor


@dataclass(frozen=True, eq=False)
class SharedCalls:
    """How the devices of a lane shared its calls.

    Attributes:
        split: the way of most calls, by its name: "off", "guidance", "tokens 4", "guidance x tokens 2".
        seconds: of a call by each way that was measured, by its name.
    """

    split: str
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ChordsRun:
    """The record of one run of a sampler, CHORDS_RUN on the graph.

    Attributes:
        message: what was done and why, for the user.
        method: "sequential", "chords", "secant", or "stock" for the host's own sampler; empty if nothing was sampled.
        solver: the solver, or the name of the host's sampler.
        plan: what was to be done.
        devices: one name a lane; one in all where the lanes are the rows of a call.
        depth: sequential model calls that were made.
        evaluations: all model calls. One of several rows counts once.
        seconds: duration of the run.
        lost_lanes: devices that were lost or are late, each with its error.
        hits: the results in the order they came, up to the run's own.
        timeline: when each lane did what; None for the host's own sampler.
        latent_format: the host's, for previews.
        by_request: a user ended the run by taking a result.
        estimate: about the relative RMS difference of the result from KSampler's latent, right within a factor of 3 in
            most runs; 0 where it is KSampler's, apart from rounding. None if it is not known.
        shared: how the devices of the first lane shared calls; None if each lane had one device.
        rows: how many evaluations were one model call at most, on one device; 1: each was a call of its own.
        fallbacks: the classes of the reasons for which the run did less in parallel than the pack can
            (`monitoring.fallbacks.Fallback`).
        card: what the node shows of it.
    """

    message: str = ""
    method: str = ""
    solver: str = ""
    plan: Plan = SequentialPlan(0, (Phrase("nothing was sampled"),))
    devices: tuple[str, ...] = ()
    depth: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    lost_lanes: tuple[str, ...] = ()
    hits: tuple[RunHit, ...] = ()
    timeline: Timeline | None = None
    latent_format: Any = None
    by_request: bool = False
    estimate: float | None = None
    shared: SharedCalls | None = None
    rows: int = 1
    fallbacks: tuple[str, ...] = ()
    card: Card | None = None

    @property
    def lanes(self) -> tuple[str, ...]:
        """The device of each lane, by its name."""
        return self.devices * self.rows if self.rows > 1 else self.devices

    def summary(self) -> dict[str, Any]:
        """The record without the pictures, as JSON."""
        return {
            "message": self.message,
            "method": self.method,
            "solver": self.solver,
            "devices": list(self.devices),
            "cores": self.plan.cores,
            "starts": starts_of(self.plan),
            "steps": self.plan.steps,
            "tolerance": tolerance_of(self.plan),
            "estimate": self.estimate,
            "depth": self.depth,
            "evaluations": self.evaluations,
            "rows": self.rows,
            "seconds": self.seconds,
            "hits": [{"core": hit.core, "depth": hit.depth} for hit in self.hits],
            "change": self.timeline.accuracy_estimate if self.timeline else None,
            "lost_lanes": list(self.lost_lanes),
            "split": "off" if self.shared is None else self.shared.split,
            "split_seconds": {} if self.shared is None else dict(self.shared.seconds),
        }


def starts_of(plan: Plan) -> list[int] | None:
    """The start index of each core, for clients; None for a window, which has none."""
    if isinstance(plan, ChordsPlan):
        return list(plan.starts)
    return None if isinstance(plan, WindowPlan | AdaptivePlan) and plan.cores > 1 else [0]


def tolerance_of(plan: Plan) -> float | None:
    """The tolerance of a plan that has one, for clients."""
    return plan.tolerance if isinstance(plan, AdaptivePlan) else None
