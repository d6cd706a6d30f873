"""The progress of a training: shown while it runs, and kept for the curve and the figures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import latent_preview
import torch
from torch import Tensor

from .....chords_core import RolledBack, TrainingEvent, TrainingIterated
from ...node_text import show_lines
from ...phrases import Phrase
from ...streaming.previews import rough_previewer, to_picture
from ...streaming.stream import RunStream
from ..progress import numbers

_log = logging.getLogger("chords")

_PREVIEW_SECONDS = 0.25  # between two pictures of the current sample


@dataclass(eq=False)
class TrainingHistory:
    """What happened in a training.

    ``values``: the objective [B] of each iteration's batch before its update, NaN where the update before was rolled
    back; ``means``: the mean over the last batches, after each iteration; ``drift``: how far the predictions were from
    those without the LoRA, relative; ``marks``: (iteration, what went wrong); ``best``: the iteration whose parameters
    are kept.
    """

    values: list[Tensor] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    drift: list[float | None] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)
    best: int = 0
    evaluations: int = 0


class TrainingProgress:
    """Takes the events of `optimize_parameters`, tells the user, and keeps what happened in ``history``.

    Args:
        stream: where events and pictures go.
        latent_format: of the model, for previews where no objective decodes.
        seen: the last pictures that the objective saw, or None.
    """

    def __init__(
        self, stream: RunStream, iterations: int, latent_format: Any, seen: Callable[[], Tensor | None]
    ) -> None:
        self.history = TrainingHistory()
        self._stream, self._format, self._seen = stream, latent_format, seen
        self._bar = comfy.utils.ProgressBar(iterations)
        self._shown = -_PREVIEW_SECONDS

    def __call__(self, event: TrainingEvent) -> None:
        if isinstance(event, TrainingIterated):
            self._iterated(event)
        elif isinstance(event, RolledBack):
            history = self.history
            self._add(torch.full_like(history.values[0], torch.nan), history.means[-1], None)
            history.marks.append((event.iteration, f"rolled back: {event.reason}"))
            _log.info("SDO: iteration %d %s", event.iteration, history.marks[-1][1])

    def _add(self, values: Tensor, mean: float, drift: float | None) -> None:
        self.history.values.append(values)
        self.history.means.append(mean)
        self.history.drift.append(drift)

    def _iterated(self, event: TrainingIterated) -> None:
        self._add(event.objective.cpu(), event.mean, event.drift)
        self.history.evaluations = event.evaluations
        if event.mean <= event.best:
            self.history.best = event.iteration
        self._bar.update_absolute(event.iteration + 1, event.of)
        self._stream.send(
            "iteration",
            iteration=event.iteration + 1,
            of=event.of,
            objective=numbers(event.objective),
            best=[event.best],
            sampled=True,
            evaluations=event.evaluations,
        )
        if self._stream.seconds - self._shown >= _PREVIEW_SECONDS:
            self._shown = self._stream.seconds
            first = f"{self.history.means[0]:.4g}"
            title = Phrase("iteration {number} of {count}", number=event.iteration + 1, count=event.of)
            show_lines(title, Phrase("mean objective {value}, from {first}", value=f"{event.mean:.4g}", first=first))
            self._show(event.sample)

    def _show(self, sample: Tensor) -> None:
        if (pictures := self._seen()) is not None:
            self._stream.send_frame(("JPEG", to_picture(pictures), latent_preview.MAX_PREVIEW_RESOLUTION))
        elif (previewer := rough_previewer(self._format)) is not None:
            self._stream.send_frame(previewer.decode_latent_to_preview_image("JPEG", sample[:1]))
