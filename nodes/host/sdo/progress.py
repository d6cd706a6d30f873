"""The progress of an optimisation: shown while it runs, and kept for the curve and the figures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import latent_preview
import torch
from comfy.model_management import InterruptProcessingException
from torch import Tensor

from ....chords_core import Improved, Iterated, OptimizationEvent, RolledBack
from ..monitoring.reporter import REPORTER
from ..node_text import failure_shown, show_lines
from ..phrases import Phrase, counted_phrase
from ..streaming.previews import rough_previewer, to_picture
from ..streaming.stream import RUNS, RunStream

_log = logging.getLogger("chords")

_PREVIEW_SECONDS = 0.25  # between two pictures of the current sample


@dataclass(eq=False)
class ObjectiveHistory:
    """What happened in an optimisation; all tensors are on the CPU.

    ``values``: the objective [B] at the start of each iteration; ``sampled``: whether it is of a sampled trajectory;
    ``marks``: (iteration, what went wrong); ``candidates``: the objective [B] of each candidate, if there were several;
    ``chosen``: the seed of each item's candidate; ``first_picture`` [H, W, 3]: where the objective needs pictures.
    """

    values: list[Tensor] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    candidates: list[Tensor] = field(default_factory=list)
    chosen: tuple[int, ...] | None = None
    first_picture: Tensor | None = None
    evaluations: int = 0

    @property
    def first(self) -> Tensor:
        """The objective [B] of the given seed."""
        return self.candidates[0] if self.candidates else self.values[0]


@contextmanager
def streamed_run(node: str) -> Iterator[RunStream]:
    """The stream of the executing node's run, which is counted. Its last event says how the run has ended.

    Args:
        node: its label in the metrics, one of `monitoring.sdo_run.NODES`.
    """
    stream = RUNS.begin()
    status, error = "error", None
    with REPORTER.reported_sdo(stream, node):
        try:
            with failure_shown():
                yield stream
            status = "success"
        except InterruptProcessingException:
            status = "interrupted"
            raise
        except Exception as failure:
            error = str(failure)
            raise
        finally:
            stream.send("done", status=status, seconds=stream.seconds, error=error)


class OptimizationProgress:
    """Takes the events of `optimize_latent`, tells the user, and keeps what happened in ``history``.

    Args:
        stream: where events and pictures go.
        iterations: how many there will be at most.
        latent_format: of the model, for previews where no objective decodes.
        seen: the last pictures that the objective saw, or None.
    """

    def __init__(
        self, stream: RunStream, iterations: int, latent_format: Any, seen: Callable[[], Tensor | None]
    ) -> None:
        self.history = ObjectiveHistory()
        self.best: Improved | None = None
        self._stream, self._iterations, self._format, self._seen = stream, iterations, latent_format, seen
        self._bar = comfy.utils.ProgressBar(iterations)
        self._shown = -_PREVIEW_SECONDS

    def __call__(self, event: OptimizationEvent) -> None:
        if isinstance(event, Iterated):
            self._iterated(event)
        elif isinstance(event, Improved):
            self.best = event
        elif isinstance(event, RolledBack):
            items = f" (items {', '.join(map(str, event.items))})" if len(self.history.values[0]) > 1 else ""
            self.history.marks.append((event.iteration, f"rolled back{items}: {event.reason}"))
            _log.info("SDO: iteration %d %s", event.iteration, self.history.marks[-1][1])

    def candidate(self, number: int, of: int, values: Tensor) -> None:
        """Candidate ``number`` (from 0) has been sampled; ``values`` [B]: its objective."""
        self.history.candidates.append(values.cpu())
        if number == 0:
            self._remember_first()
        title = Phrase("seed {number} of {count}", number=number + 1, count=of)
        show_lines(title, Phrase("objective {value}", value=f"{float(values.mean()):.4g}"))
        self._show_pictures()

    def show_state(self) -> None:
        """Show how far the optimisation is."""
        assert self.best is not None
        first, best = (f"{float(values.mean()):.4g}" for values in (self.history.first, self.best.objective))
        title = Phrase("iteration {number} of {count}", number=len(self.history.values), count=self._iterations)
        show_lines(title, Phrase("objective {value}, from {first}", value=best, first=first))

    def _iterated(self, event: Iterated) -> None:
        self.history.values.append(event.objective.cpu())
        self.history.sampled.append(event.sampled)
        self.history.evaluations = event.evaluations
        self._remember_first()
        self._bar.update_absolute(event.iteration + 1, event.of)
        values = {"objective": numbers(event.objective), "best": numbers(event.best)}
        self._stream.send(
            "iteration",
            iteration=event.iteration + 1,
            of=event.of,
            **values,
            sampled=event.sampled,
            evaluations=event.evaluations,
        )
        if self._stream.seconds - self._shown >= _PREVIEW_SECONDS:
            self._shown = self._stream.seconds
            self.show_state()
            self._show(event.sample)

    def _remember_first(self) -> None:
        if self.history.first_picture is None and (pictures := self._seen()) is not None:
            self.history.first_picture = pictures[0].clamp(0, 1).cpu()

    def _show_pictures(self) -> bool:
        pictures = self._seen()
        if pictures is None:
            return False
        self._stream.send_frame(("JPEG", to_picture(pictures), latent_preview.MAX_PREVIEW_RESOLUTION))
        return True

    def _show(self, sample: Tensor) -> None:
        if self._show_pictures():
            return
        if (previewer := rough_previewer(self._format)) is not None:
            self._stream.send_frame(previewer.decode_latent_to_preview_image("JPEG", sample[:1]))


def numbers(values: Tensor) -> list[float | None]:
    """Values [B] as JSON takes them: NaN and infinity are null."""
    return [float(value) if bool(torch.isfinite(value)) else None for value in values]


def counted_iterations(number: int) -> Phrase:
    """As in "12 iterations"."""
    return counted_phrase(number, "1 iteration", "{count} iterations")


def ended_after(how: str, iterations: int) -> Phrase:
    """Why an optimisation ended early. ``how``: "accepted", "cancelled" or "failed"."""
    counted = counted_iterations(iterations)
    if how == "accepted":
        return Phrase("accepted after {iterations}", iterations=counted)
    if how == "cancelled":
        return Phrase("cancelled after {iterations}", iterations=counted)
    return Phrase("failed after {iterations}", iterations=counted)
