"""What a run tells: its record, one line for the user, progress and events."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ....chords_core import (
    Accepted,
    Agreement,
    ChordsPlan,
    Evaluated,
    Event,
    Hit,
    LaneBack,
    LaneLost,
    LaneSlow,
    Plan,
    Recorder,
    RoundDone,
    SequentialPlan,
    Timeline,
    WindowPlan,
    hit_depth,
)
from ..streaming.previews import Previews
from ..streaming.stream import RUNS, RunStream
from .plan_reasons import reason_in_words

_log = logging.getLogger("chords")

_STEP_SECONDS = 0.1  # between two step events: each wakes the server's thread, which the sampling has to wait for


@dataclass(frozen=True, eq=False)
class RunHit:
    """A hit as a LATENT's samples, on the CPU. ``core``: 0 = the draft, K = the fastest, 1 = the slowest."""

    core: int
    depth: int
    samples: Tensor


@dataclass(eq=False)
class ChordsRun:
    """The record of one run, CHORDS_RUN on the graph: filled while it goes, complete afterwards."""

    message: str = ""
    method: str = ""
    solver: str = ""
    plan: Plan = SequentialPlan(0, ("nothing was sampled",))
    devices: tuple[str, ...] = ()
    depth: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    lost_lanes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what was asked for and could not be had; told with each message
    hits: tuple[RunHit, ...] = ()
    timeline: Timeline | None = None  # of what the host's own sampler does, nothing is known
    latent_format: Any = None
    shown: bool = True  # on its node, while it goes
    by_request: bool = False  # ended by a user who took the best result so far

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
            "calls": self.plan.called_steps,
            "depth": self.depth,
            "evaluations": self.evaluations,
            "seconds": self.seconds,
            "hits": [{"core": hit.core, "depth": hit.depth} for hit in self.hits],
            "change": self.timeline.accuracy_estimate if self.timeline else None,
            "lost_lanes": self.lost_lanes,
        }


def announce(run: ChordsRun, message: str) -> None:
    """Show the choice and its reason: in the log, in the run's record and, of one that is shown, as text on the running
    node."""
    message = "; ".join((message, *(note for note in run.notes if note not in message)))
    run.message = message
    _log.info("CHORDS: %s", message)
    if run.shown:
        tell(message)


def tell(message: str) -> None:
    """Show a line on the running node."""
    context, server = get_executing_context(), PromptServer.instance
    if context is not None and server is not None and server.client_id is not None:
        server.send_progress_text(message, context.node_id, server.client_id)


def describe(chosen: Plan, devices: Sequence[torch.device | str], took: int | None = None) -> str:
    """The choice, what it brings and why, in a line for the user; once the run is over with how many model calls in a
    row it ``took``."""
    reason = reason_in_words(chosen)
    if not isinstance(chosen, ChordsPlan | WindowPlan) or chosen.cores == 1:
        made = "" if chosen.calls is None else f", the model called at {chosen.calls} of {chosen.steps} steps"
        return f"one core{made}: {reason}"
    names = ", ".join(map(str, devices))
    if isinstance(chosen, WindowPlan):
        made = "" if chosen.calls is None else f", the model called at {chosen.calls} of {chosen.steps} steps"
        depth = took or chosen.depth
        fewer = f"{chosen.steps / depth:.1f}x fewer on {names}"
        if len(devices) < chosen.cores:
            turns = depth * math.ceil(chosen.cores / len(devices))
            slower = ", slower than one core" if turns >= chosen.steps else ""
            fewer = f"on {names} the cores take turns, {turns} calls in a row{slower}"
        elif depth >= chosen.steps:
            fewer = f"no faster than one core, on {names}"
        counted = str(depth) if took else f"about {depth}"
        return (
            f"{chosen.cores} cores in a window{made}: a result after {counted} model calls in a row instead of "
            f"{chosen.steps}; {fewer} ({reason})"
        )
    first = hit_depth(chosen.steps, chosen.starts, chosen.cores)
    if len(devices) < chosen.cores:
        on = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
        pace = f"on {on} ({names}) the cores take turns, slower than one core; set cores to 0 for the fastest choice"
    elif chosen.depth == chosen.steps:
        pace = f"no faster than one core, but the first result is there after {first}; on {names}"
    else:
        pace = f"{chosen.speedup:.1f}x fewer calls in a row on {names}"
    if isinstance(chosen.accept, Agreement) and took:
        which = f"a result that is at most {chosen.accept.threshold:.0%} off, or exact, after {took} model calls"
    elif isinstance(chosen.accept, Agreement):
        if chosen.depth < chosen.steps:
            which = (
                f"the first result that differs by at most {chosen.accept.threshold:.0%} from the one before, "
                f"after {chosen.depth} to {chosen.steps} model calls"
            )
        else:
            which = f"the exact result after {chosen.steps} model calls"
    else:
        which = "the exact result" if chosen.accept == chosen.cores else f"result {chosen.accept} of {chosen.cores}"
        which += f" after {chosen.depth} model calls instead of {chosen.steps}"
    return f"{chosen.cores} cores (CHORDS): {which}; {pace} ({reason})"


def starts_of(plan: Plan) -> list[int] | None:
    """The start index of each core, for clients; null for a window, which has none."""
    if isinstance(plan, ChordsPlan):
        return list(plan.starts)
    return None if isinstance(plan, WindowPlan) else [0]


def plan_fields(run: ChordsRun) -> dict[str, Any]:
    """The fields of the stream's ``plan`` event."""
    chosen = run.plan
    return {
        "method": run.method,
        "solver": run.solver,
        "steps": chosen.steps,
        "calls": chosen.called_steps,
        "cores": chosen.cores,
        "starts": starts_of(chosen),
        "accept": chosen.expected_hit,
        "depth": chosen.depth,
        "devices": list(run.devices),
        "message": run.message,
    }


@contextmanager
def streaming(run: ChordsRun) -> Iterator[RunStream]:
    """The stream of a run, which ends with it however that ends."""
    stream = RUNS.begin()
    try:
        yield stream
    except BaseException as error:
        interrupted = isinstance(error, comfy.model_management.InterruptProcessingException)
        run.seconds = stream.seconds
        _done(stream, run, "interrupted" if interrupted else "error", None if interrupted else str(error))
        raise
    run.seconds = stream.seconds
    _done(stream, run, "success", None)


def _done(stream: RunStream, run: ChordsRun, status: str, error: str | None) -> None:
    figures = {"seconds": run.seconds, "depth": run.depth, "evaluations": run.evaluations}
    stream.send("done", status=status, **figures, error=error)


class Progress:
    """Turns core events into the stream's, and into the host's sampler callback with the stock sampler's steps."""

    def __init__(
        self,
        run: ChordsRun,
        recorder: Recorder,
        stream: RunStream,
        previews: Previews,
        sigmas: Tensor,
        callback: Any,
        bar: Any,
    ) -> None:
        self._run, self._recorder, self._stream, self._previews = run, recorder, stream, previews
        self._sigmas = sigmas
        self._callback = callback
        self._bar = bar
        self._newest: Evaluated | None = None
        self._told = 0.0
        self._gone: dict[int, str] = {}

    def __call__(self, event: Event) -> None:
        self._recorder(event)
        if isinstance(event, Evaluated):
            # The furthest along; of two cores there, the slower is the more accurate, whichever came first.
            if self._newest is None or (event.index, -event.core) >= (self._newest.index, -self._newest.core):
                self._newest = event
        elif isinstance(event, RoundDone):
            self._step(event)
        elif isinstance(event, Hit):
            self._hit(event)
        elif isinstance(event, Accepted):
            self._accepted(event.hit)
        elif isinstance(event, LaneLost):
            self._lane(event.lane, "lost", str(event.error))
        elif isinstance(event, LaneSlow):
            self._lane(event.lane, "slow", f"no answer for {event.seconds:.3g} s")
        elif isinstance(event, LaneBack):
            self._lane(event.lane, "back", f"answered after {event.seconds:.3g} s")

    def _step(self, event: RoundDone) -> None:
        newest = self._newest
        assert newest is not None
        step = math.ceil(event.depth * self._run.plan.steps / event.of) - 1
        if event.depth == event.of or self._stream.seconds - self._told >= _STEP_SECONDS:
            self._told = self._stream.seconds
            self._stream.send("step", depth=event.depth, of=event.of)
        self._bar.update(step + 1 - self._bar.n)
        if self._callback is not None:
            sigma = self._sigmas[newest.index]
            x, denoised = newest.x.to(sigma.device), newest.denoised.to(sigma.device)
            self._callback({"i": step, "x": x, "denoised": denoised, "sigma": sigma, "sigma_hat": sigma})

    def _hit(self, hit: Hit) -> None:
        mark = self._recorder.hits[-1]
        fields = {"core": mark.core, "depth": mark.depth, "seconds": mark.seconds, "change": mark.change}
        self._stream.send("hit", index=mark.index, **fields)
        # With one core it would cost KSampler's users a little for nothing.
        if self._run.shown and (self._run.plan.cores > 1 or self._stream.viewed):
            self._previews.offer_hit(mark.index, hit.x, self._run.method == "secant")

    def _accepted(self, hit: Hit) -> None:
        index = self._recorder.hits[-1].index
        self._run.by_request = self._stream.accept.is_set()
        by = "request" if self._run.by_request else "plan"
        self._stream.send("accepted", index=index, core=hit.core, depth=hit.depth, by=by)

    def _lane(self, lane: int, state: str, error: str) -> None:
        """A lane is ``lost`` or ``slow``, or ``back`` after it was slow."""
        device = self._run.devices[lane]
        told = f"{device} ({error})"
        if state == "back":
            del self._gone[lane]
            _log.info("CHORDS: a lane is back: %s", told)
        else:
            self._gone[lane] = told
            what = "lost a lane" if state == "lost" else "a lane is slow"
            _log.warning("CHORDS: %s, the others go on: %s", what, told)
        self._run.lost_lanes = list(self._gone.values())
        self._stream.send("lane", lane=lane, device=device, state=state, error=error)
