"""SDO inside the host: a start that any sampler reproduces.

Everything runs where a sampler runs: the host's own sampling prepares model and conditioning and calls a sampler
function, which here searches (`search`). The start goes in as the stock samplers take it, a latent with no noise to
add, so that what is optimised is what they begin with; and the sample put out is the stock sampler's, from the start
put out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import latent_preview
import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import InvalidInput
from ..sampling.ksampler import schedule
from ..sampling.run_record import tell
from ..sampling.sampler import STEP_SAMPLERS
from ..streaming.previews import to_picture
from ..streaming.stream import RUNS, RunStream
from .autograd import plain, reason_against
from .context import Studio, Wish
from .initial_noise import first_state, taking_starts, to_start
from .progress import Record
from .resume import LEFT, Inputs
from .sampler_function import Best, Gaze, Search, Settings


@dataclass(frozen=True, eq=False)
class Found:
    """What an optimisation gave.

    ``start``, ``sample``: LATENT samples; ``model`` takes the start with any sampler's noise off; ``positive``: the
    conditioning, varied or as it was; ``objective`` [B]: of ``sample``; ``pictures``: of the first item before and
    after [H, W, 3], where the objective looked at pictures; ``evaluations``: forward equivalents, all included.
    """

    start: Tensor
    sample: Tensor
    model: ModelPatcher
    positive: Any
    objective: Tensor
    record: Record
    pictures: tuple[Tensor, ...]
    evaluations: int
    seconds: float
    stopped: str | None

    @property
    def message(self) -> str:
        """The outcome in a line."""
        first, best, done = float(self.record.first.mean()), float(self.objective.mean()), len(self.record.history)
        told = f"objective {best:.4g}, from {first:.4g}, in {done} iteration{'s' if done != 1 else ''}"
        if self.stopped is not None:
            told += f"; {self.stopped}"
        if not best < first:
            told += '; no better start was found: try keep "spread", some candidates, or another seed'
        return told


@dataclass(frozen=True, eq=False)
class _Task:
    """What is searched in: the model as it takes starts, and the ``starts`` as LATENT samples, the given one first."""

    model: ModelPatcher
    positive: Any
    negative: Any
    sigmas: Tensor
    starts: list[Tensor]
    wish: Wish
    studio: Studio
    settings: Settings

    def sample(self, sampler: Any, positive: Any, start: Tensor) -> Tensor:
        """The host's sampling from ``start`` with no noise added, as KSampler Advanced does it: LATENT samples."""
        return comfy.sample.sample_custom(
            self.model,
            torch.zeros_like(start),
            self.settings.cfg,
            sampler,
            self.sigmas,
            positive,
            self.negative,
            start,
            disable_pbar=True,
            seed=self.settings.seed,
        )


def optimise(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    vae: Any,
    latent: dict[str, Any],
    wish: Wish,
    settings: Settings,
    keep_when_cancelled: bool,
) -> Found:
    """Search for the start whose sample fulfils ``wish``.

    ``keep_when_cancelled``: what a cancelled search had found is the result of the next with the same inputs.

    Raises:
        InvalidInput: before any model call, naming the input, where the search cannot be done.
        ValueError: after the first, for a model or an objective that turns out to have no gradient.
    """
    task = _task(model, positive, negative, vae, latent, wish, settings)
    inputs = Inputs.of((model, vae, wish), (positive, negative), task.starts[0], settings)
    stream = RUNS.begin()
    status, error = "error", None
    try:
        found = _found(task, inputs, keep_when_cancelled, stream)
        status = "success"
        return found
    except InterruptProcessingException:
        status = "interrupted"
        raise
    except Exception as failure:
        error = str(failure)
        raise
    finally:
        stream.send("done", status=status, seconds=stream.seconds, error=error)


def _task(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    vae: Any,
    latent: dict[str, Any],
    wish: Wish,
    settings: Settings,
) -> _Task:
    """The checked inputs."""
    _check_latent(latent)
    if settings.sampler_name not in STEP_SAMPLERS:
        raise InvalidInput(
            "sampler_name", f"{settings.sampler_name} cannot be used here; take {', '.join(STEP_SAMPLERS)}"
        )
    if settings.condition:
        _check_prompt(positive, settings)
    model = plain(model)
    if (reason := reason_against(model)) is not None:
        raise InvalidInput("model", f"no gradient can be taken through it: {reason}")
    model = taking_starts(model)
    samples = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    studio = Studio(wish, vae, samples.shape)
    sigmas = schedule(model, settings.steps, settings.sampler_name, settings.scheduler, settings.denoise, 0, None, True)
    sigmas = sigmas.cpu()  # where the starts are; the host takes them to the model's device
    if len(sigmas) < 2:
        raise InvalidInput("denoise", "leaves no step to sample: make it larger, or take more steps")
    noises = (comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")) for seed in settings.seeds)
    starts = [to_start(model, first_state(model, noise, samples, sigmas), sigmas) for noise in noises]
    return _Task(model, positive, negative, sigmas, starts, wish, studio, settings)


def _found(task: _Task, inputs: Inputs, keep_when_cancelled: bool, stream: RunStream) -> Found:
    best = LEFT.get(inputs) if keep_when_cancelled else None
    search = Search(task.model, task.wish, task.studio, task.settings, task.positive, task.starts, stream)
    try:
        if best is None:
            task.sample(comfy.samplers.KSAMPLER(search), task.positive, task.starts[0])
            best = search.best
        assert best is not None
        found = _result(task, best, stream)
    except InterruptProcessingException:
        if keep_when_cancelled and (best := best or search.so_far("cancelled")) is not None:
            LEFT.put(inputs, best)
        raise
    LEFT.forget()
    return found


def _result(task: _Task, best: Best, stream: RunStream) -> Found:
    """The start, and what the stock sampler makes of it."""
    settings, positive, start = task.settings, task.positive, task.starts[0]
    if settings.condition:
        positive = [[best.x.to(positive[0][0]), positive[0][1]]]
    else:
        start = to_start(task.model, best.x, task.sigmas)
    tell("sampling the best")
    sample = task.sample(comfy.samplers.sampler_object(settings.sampler_name), positive, start)
    objective, picture = _look(task, sample)
    pictures = [shown for shown in (best.record.first_picture, picture) if shown is not None]
    if picture is not None:
        stream.send_frame(("JPEG", to_picture(picture), latent_preview.MAX_PREVIEW_RESOLUTION))
    steps = len(task.sigmas) - 1
    choosing = settings.candidates * steps if settings.candidates > 1 else 0
    found = Found(
        start=start,
        sample=sample,
        model=task.model,
        positive=positive,
        objective=objective,
        record=best.record,
        pictures=tuple(pictures) if len(pictures) == 2 else (),
        # A gradient through checkpointed blocks takes a forward call more than the core counts.
        evaluations=choosing + best.record.evaluations + len(best.record.history) + steps,
        seconds=stream.seconds,
        stopped=best.stopped,
    )
    tell(found.message)
    return found


def _look(task: _Task, sample: Tensor) -> tuple[Tensor, Tensor | None]:
    """The objective [B] at ``sample``, and the first item's picture if it looked at pictures."""
    comfy.model_management.load_models_gpu(task.studio.patchers)
    gaze = Gaze(task.wish.bind(task.studio), task.studio, lambda x: x)
    values = gaze(sample)
    return values.cpu().clone(), None if gaze.seen is None else gaze.seen[0].clamp(0, 1).cpu()


def _check_latent(latent: dict[str, Any]) -> None:
    samples = latent["samples"]
    if samples.is_nested:
        raise InvalidInput("latent", "of several parts (video with sound) cannot be optimised")
    if "noise_mask" in latent:
        raise InvalidInput("latent", "has a noise mask: a part of it would stay as it is; remove the mask")
    if not bool(torch.isfinite(samples).all()):
        raise InvalidInput("latent", "has NaN or infinity: what made it has gone wrong")


def _check_prompt(positive: Any, settings: Settings) -> None:
    if len(positive) != 1:
        raise InvalidInput("positive", f"has {len(positive)} parts; an embedding can be optimised where it has one")
    if settings.candidates > 1:
        raise InvalidInput("candidates", "are starts to choose from; with the prompt to be optimised, set it to 1")
