"""What a run tells: its record, one line for the user, progress and preview."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ...chords_core import Evaluated, Event, LaneLost, Plan, Result, Step

_log = logging.getLogger("chords")


@dataclass(frozen=True, eq=False)
class RunHit:
    """A hit as a LATENT's samples, on the CPU. ``core``: 0 = the draft, K = the fastest, 1 = the slowest."""

    core: int
    depth: int
    samples: Tensor


@dataclass
class ChordsRun:
    """The record of one run, CHORDS_RUN on the graph: filled while it goes, complete afterwards."""

    message: str = ""
    method: str = ""
    solver: str = ""
    plan: Plan | None = None
    devices: tuple[str, ...] = ()
    depth: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    lost_lanes: list[str] = field(default_factory=list)
    hits: tuple[RunHit, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The record without the pictures, as JSON."""
        return {
            "message": self.message,
            "method": self.method,
            "solver": self.solver,
            "devices": list(self.devices),
            "cores": self.plan.cores if self.plan else 1,
            "starts": list(self.plan.starts) if self.plan else [0],
            "steps": self.plan.steps if self.plan else self.depth,
            "depth": self.depth,
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "hits": [{"core": hit.core, "depth": hit.depth} for hit in self.hits],
            "lost_lanes": self.lost_lanes,
        }


def announce(run: ChordsRun, message: str) -> None:
    """Show the choice and its reason: in the log, in the run's record and as text on the running node."""
    run.message = message
    _log.info("CHORDS: %s", message)
    context = get_executing_context()
    server = PromptServer.instance
    if context is not None and server is not None and server.client_id is not None:
        server.send_progress_text(message, context.node_id, server.client_id)


def describe(chosen: Plan, devices: Sequence[torch.device]) -> str:
    """The choice, what it brings and why, in a line for the user."""
    if chosen.cores == 1:
        return f"one core: {chosen.reason}"
    names = ", ".join(map(str, devices))
    if len(devices) < chosen.cores:
        pace = (
            f"on {len(devices)} device(s) ({names}) the cores take turns, which is slower than one core; "
            "set cores to 0 for the fastest choice"
        )
    else:
        pace = f"{chosen.speedup:.1f}x fewer calls in a row on {names}"
    which = "exact result" if chosen.accept == chosen.cores else f"hit {chosen.accept} of {chosen.cores}"
    starts = ", ".join(str(start + 1) for start in chosen.starts)
    return (
        f"{chosen.cores} cores, starting at steps {starts}: {which} after {chosen.depth} model calls instead of "
        f"{chosen.steps}; {pace} ({chosen.reason})"
    )


def record(run: ChordsRun, result: Result, model: Any, sigmas: Tensor) -> None:
    """Complete the record of a run that has ended well; ``model`` is the host's BaseModel."""
    run.depth, run.evaluations = result.depth, result.evaluations
    run.hits = tuple(
        RunHit(
            hit.core,
            hit.depth,
            model.process_latent_out(
                model.model_sampling.inverse_noise_scaling(sigmas[-1], hit.x).to(torch.float32)
            ).cpu(),
        )
        for hit in result.hits
    )
    if run.lost_lanes:
        announce(run, f"{run.message}; it took longer, because of lost devices: {'; '.join(run.lost_lanes)}")


class Progress:
    """Turns core events into the host's sampler callback, whose steps are those of the stock sampler."""

    def __init__(self, run: ChordsRun, sigmas: Tensor, callback: Any, bar: Any) -> None:
        self._run = run
        self._sigmas = sigmas
        self._callback = callback
        self._bar = bar
        self._newest: Evaluated | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Evaluated):
            # The furthest along; of two cores there, the slower is the more accurate, whichever came first.
            if self._newest is None or (event.index, -event.core) >= (self._newest.index, -self._newest.core):
                self._newest = event
        elif isinstance(event, LaneLost):
            lost = f"{self._run.devices[event.lane]} ({event.error})"
            self._run.lost_lanes.append(lost)
            _log.warning("CHORDS: lost a lane, the others go on: %s", lost)
        elif isinstance(event, Step):
            self._step(event)

    def _step(self, event: Step) -> None:
        newest = self._newest
        assert newest is not None
        step = math.ceil(event.depth * (len(self._sigmas) - 1) / event.of) - 1
        self._bar.update(step + 1 - self._bar.n)
        if self._callback is not None:
            sigma = self._sigmas[newest.index]
            self._callback({"i": step, "x": newest.x, "denoised": newest.denoised, "sigma": sigma, "sigma_hat": sigma})
