"""Passes the core's events of a run on: to the stream, to the previews, and to the host's progress bar."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
from torch import Tensor

from ....chords_core import (
    Accepted,
    AdaptivePlan,
    Evaluated,
    Event,
    Hit,
    LaneBack,
    LaneLost,
    LaneSlow,
    Plan,
    Recorder,
    RoundDone,
    WindowPlan,
)
from ..known_sentences import phrase_of
from ..phrases import Phrase, message_of
from ..streaming.previews import Previews
from ..streaming.stream import RunStream
from .run_record import ChordsRun, starts_of, tolerance_of

_log = logging.getLogger("chords")

_STEP_SECONDS = 0.1  # between two step events: each wakes the server's thread, and the sampling waits for it

HostCallback = Callable[[dict[str, Any]], None]


class EventRelay:
    """Listens to the core's events of one run.

    The host's callback gets the steps of the stock sampler, so that the progress bar counts steps.

    Args:
        plan: what is run.
        devices: one name a lane.
        recorder: gets every event first.
        stream: the run's event stream.
        previews: None: no pictures of hits.
        sigmas: the run's schedule.
        callback: the host's, or None.
        bar: a tqdm bar over the steps.

    Attributes:
        by_request: whether the user ended the run.
    """

    def __init__(
        self,
        plan: Plan,
        devices: tuple[str, ...],
        recorder: Recorder,
        stream: RunStream,
        previews: Previews | None,
        sigmas: Tensor,
        callback: HostCallback | None,
        bar: Any,
    ) -> None:
        self._plan, self._devices = plan, devices
        self._recorder, self._stream, self._previews = recorder, stream, previews
        self._sigmas, self._callback, self._bar = sigmas, callback, bar
        self._newest: Evaluated | None = None
        self._newest_hit = 0  # its index
        self._last_step = 0.0  # when a step event was sent last
        self._lost: dict[int, Phrase] = {}  # by lane
        self.by_request = False

    @property
    def lost_lanes(self) -> tuple[Phrase, ...]:
        """The lanes that are lost or late now, each with its error."""
        return tuple(self._lost.values())

    def __call__(self, event: Event) -> None:
        self._recorder(event)
        if isinstance(event, Evaluated):
            # The furthest along. Of two cores at the same step, the slower one is the more accurate.
            if self._newest is None or (event.index, -event.core) >= (self._newest.index, -self._newest.core):
                self._newest = event
        elif isinstance(event, RoundDone):
            self._step(event)
        elif isinstance(event, Hit):
            self._hit(event)
        elif isinstance(event, Accepted):
            self._accepted(event.hit)
        elif isinstance(event, LaneLost):
            self._lane(event.lane, "lost", phrase_of(message_of(event.error)))
        elif isinstance(event, LaneSlow):
            self._lane(event.lane, "slow", Phrase("no answer for {seconds} s", seconds=f"{event.seconds:.3g}"))
        elif isinstance(event, LaneBack):
            self._lane(event.lane, "back", f"answered after {event.seconds:.3g} s")

    def _step(self, event: RoundDone) -> None:
        newest = self._newest
        assert newest is not None
        step = math.ceil(event.depth * self._plan.steps / event.of) - 1
        if event.depth == event.of or self._stream.seconds - self._last_step >= _STEP_SECONDS:
            self._last_step = self._stream.seconds
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
        self._newest_hit = mark.index
        self._show(mark.index, hit)

    def _show(self, index: int, hit: Hit) -> None:
        # With one core and no viewer a picture would slow the run down a little, for nothing.
        if self._previews is not None and (self._plan.cores > 1 or self._stream.viewed):
            self._previews.offer_hit(index, hit.x, one_of_many=isinstance(self._plan, WindowPlan | AdaptivePlan))

    def _accepted(self, hit: Hit) -> None:
        index = self._recorder.hits[-1].index
        if index < self._newest_hit:
            self._show(index, hit)  # again: the sampler node shows a later one
        self.by_request = self._stream.accept.is_set() and self._stream.accept_index in (None, index)
        by = "request" if self.by_request else "plan"
        self._stream.send("accepted", index=index, core=hit.core, depth=hit.depth, by=by)

    def _lane(self, lane: int, state: str, error: str) -> None:
        """A lane is ``lost``, or ``slow``, or ``back`` after it was slow."""
        device = self._devices[lane]
        named = Phrase("{device} ({error})", device=device, error=error)
        if state == "back":
            del self._lost[lane]
            _log.info("CHORDS: a lane is back: %s", named)
        else:
            self._lost[lane] = named
            what = "lost a lane" if state == "lost" else "a lane is slow"
            _log.warning("CHORDS: %s, the others go on: %s", what, named)
        self._stream.send("lane", lane=lane, device=device, state=state, error=error)


def send_plan(stream: RunStream, plan: Plan, method: str, solver: str, devices: tuple[str, ...], message: str) -> None:
    """The stream's ``plan`` event. ``method``: as in `ChordsRun`."""
    stream.send(
        "plan",
        method=method,
        solver=solver,
        steps=plan.steps,
        tolerance=tolerance_of(plan),
        cores=plan.cores,
        starts=starts_of(plan),
        accept=plan.expected_hit,
        depth=plan.depth,
        devices=list(devices),
        message=message,
    )


def send_success(stream: RunStream, run: ChordsRun) -> None:
    """The stream's ``done`` event of a run that ended well."""
    figures: dict[str, Any] = {"seconds": run.seconds, "depth": run.depth, "evaluations": run.evaluations}
    figures["estimate"] = run.estimate
    if run.shared is not None:
        figures["split"] = run.shared.split
    if run.rows > 1:
        figures["rows"] = run.rows
    stream.send("done", status="success", **figures, error=None)


@contextmanager
def failure_sent(stream: RunStream) -> Iterator[None]:
    """If the run fails, or is interrupted, its stream ends with a ``done`` event that says so."""
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, comfy.model_management.InterruptProcessingException)
        status, reason = ("interrupted", None) if interrupted else ("error", str(error))
        stream.send("done", status=status, seconds=stream.seconds, depth=0, evaluations=0, error=reason)
        raise
