"""SDO inside the host: an initial noise from which any sampler gives the same sample.

Everything runs where a sampler runs: the host's own sampling prepares model and conditioning and calls a sampler
function, which searches here (`sampler_function`). The initial noise goes in as for the stock samplers, as a latent
with no noise to add, so the search optimises exactly what they begin with. The sample that comes out is the stock
sampler's, from the initial noise that comes out.
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
from ....chords_core.sdo.trajectory import steps_to_keep
from ..known_sentences import phrase_of
from ..node_text import show_text
from ..phrases import Card, Phrase, in_turn
from ..sampling.ksampler import schedule
from ..sampling.names import STEP_SAMPLERS
from ..streaming.previews import to_picture
from ..streaming.stream import RunStream
from .autograd import plain
from .context import ObjectiveContext, ObjectiveSpec, StateObjective
from .given_latent import check_latent
from .initial_noise import first_state, taking_initial_noise, to_latent_samples
from .networks import check_gradient
from .options import OptimizerOptions
from .progress import ObjectiveHistory, counted_iterations, streamed_run
from .resume import CancelledRuns, RunInputs
from .sampler_function import SearchFunction, SearchResult

_CANCELLED: CancelledRuns[SearchResult] = CancelledRuns()


@dataclass(frozen=True, eq=False)
class OptimizationResult:
    """The result of an optimisation.

    ``initial_noise``, ``sample``: LATENT samples; ``model``: takes the initial noise with any sampler's noise off;
    ``positive``: the conditioning, optimised or as it was; ``objective`` [B]: of ``sample``; ``pictures``: of the first
    item, before and after [H, W, 3], where the objective needs pictures; ``evaluations``: forward-equivalent model
    calls, all included; ``stopped``: why it ended early, or None.
    """

    initial_noise: Tensor
    sample: Tensor
    model: ModelPatcher
    positive: Any
    objective: Tensor
    history: ObjectiveHistory
    pictures: tuple[Tensor, ...]
    evaluations: int
    seconds: float
    stopped: str | None

    @property
    def message(self) -> str:
        """The result in a line."""
        return in_turn(self._told)

    @property
    def card(self) -> Card:
        """The result as the node shows it."""
        return Card(self._told[:1], self._told[1:])

    @property
    def _told(self) -> tuple[str, ...]:
        first, best, done = float(self.history.first.mean()), float(self.objective.mean()), len(self.history.values)
        told: list[str] = [
            Phrase(
                "objective {value}, from {first}, in {iterations}",
                value=f"{best:.4g}",
                first=f"{first:.4g}",
                iterations=counted_iterations(done),
            )
        ]
        if self.stopped is not None:
            told.append(phrase_of(self.stopped))
        if not best < first:
            told.append(Phrase("no better initial noise was found: try more candidates, or another seed"))
        return tuple(told)


@dataclass(frozen=True, eq=False)
class _SearchSetup:
    """A search, ready to run: the model takes an initial noise; ``candidates``: LATENT samples, the given seed's
    first."""

    model: ModelPatcher
    positive: Any
    negative: Any
    sigmas: Tensor
    candidates: list[Tensor]
    spec: ObjectiveSpec
    context: ObjectiveContext
    options: OptimizerOptions

    def sample(self, sampler: Any, positive: Any, initial: Tensor) -> Tensor:
        """The host's sampling from ``initial`` with no noise added, as KSampler Advanced does it: LATENT samples."""
        return comfy.sample.sample_custom(
            self.model,
            torch.zeros_like(initial),
            self.options.cfg,
            sampler,
            self.sigmas,
            positive,
            self.negative,
            initial,
            disable_pbar=True,
            seed=self.options.seed,
        )


def optimise(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    vae: Any,
    latent: dict[str, Any],
    spec: ObjectiveSpec,
    options: OptimizerOptions,
    keep_when_cancelled: bool,
) -> OptimizationResult:
    """Search for the initial noise (or the prompt's embedding) whose sample meets the objective.

    ``keep_when_cancelled``: the best of a cancelled search is the result of the next run with the same inputs.

    Raises:
        InvalidInput: before any model call, naming the input, where the search cannot be done.
        ValueError: after the first call, for a model or an objective that has no gradient.
    """
    setup = _set_up(model, positive, negative, vae, latent, spec, options)
    inputs = RunInputs.of((model, vae, spec), (positive, negative), setup.candidates[0], options)
    with streamed_run("optimizer") as stream:
        return _run(setup, inputs, keep_when_cancelled, stream)


def _set_up(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    vae: Any,
    latent: dict[str, Any],
    spec: ObjectiveSpec,
    options: OptimizerOptions,
) -> _SearchSetup:
    """The search of these inputs, which are checked here."""
    check_latent(latent)
    if options.sampler_name not in STEP_SAMPLERS:
        raise InvalidInput(
            "sampler_name", f"{options.sampler_name} cannot be used here; use {', '.join(STEP_SAMPLERS)}"
        )
    if options.condition:
        _check_prompt(positive, options)
    model = plain(model)
    check_gradient("model", model)
    model = taking_initial_noise(model)
    samples = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    context = ObjectiveContext(spec, vae, samples.shape)
    sigmas = schedule(model, options.steps, options.sampler_name, options.scheduler, options.denoise, 0, None, True)
    sigmas = sigmas.cpu()  # where the candidates are; the host moves them to the model's device
    if len(sigmas) < 2:
        raise InvalidInput("denoise", "leaves no step to sample: make it larger, or use more steps")
    noises = (comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")) for seed in options.seeds)
    states = (first_state(model, noise, samples, sigmas) for noise in noises)
    candidates = [to_latent_samples(model, state, sigmas) for state in states]
    return _SearchSetup(model, positive, negative, sigmas, candidates, spec, context, options)


def _run(setup: _SearchSetup, inputs: RunInputs, keep_when_cancelled: bool, stream: RunStream) -> OptimizationResult:
    """Search, or take the result of a cancelled search, and sample the best."""
    best = _CANCELLED.get(inputs) if keep_when_cancelled else None
    search = SearchFunction(
        setup.model, setup.spec, setup.context, setup.options, setup.positive, setup.candidates, stream
    )
    try:
        if best is None:
            setup.sample(comfy.samplers.KSAMPLER(search), setup.positive, setup.candidates[0])
            best = search.result
        assert best is not None
        result = _sampled_result(setup, best, stream)
    except InterruptProcessingException:
        if keep_when_cancelled and (best := best or search.so_far("cancelled")) is not None:
            _CANCELLED.put(inputs, best)
        raise
    _CANCELLED.forget()
    return result


def _sampled_result(setup: _SearchSetup, best: SearchResult, stream: RunStream) -> OptimizationResult:
    """The best, and what the stock sampler gives from it."""
    options, positive, initial = setup.options, setup.positive, setup.candidates[0]
    if options.condition:
        positive = [[best.x.to(positive[0][0]), positive[0][1]]]
    else:
        initial = to_latent_samples(setup.model, best.x, setup.sigmas)
    show_text(Phrase("sampling the best"))
    sample = setup.sample(comfy.samplers.sampler_object(options.sampler_name), positive, initial)
    objective, picture = _evaluated(setup, sample)
    pictures = [shown for shown in (best.history.first_picture, picture) if shown is not None]
    if picture is not None:
        stream.send_frame(("JPEG", to_picture(picture), latent_preview.MAX_PREVIEW_RESOLUTION))
    steps = len(setup.sigmas) - 1
    choosing = options.candidates * steps if options.candidates > 1 else 0
    kept = len(steps_to_keep(options.keep, steps, 1)) if options.gradient == "shortcut" else steps
    result = OptimizationResult(
        initial_noise=initial,
        sample=sample,
        model=setup.model,
        positive=positive,
        objective=objective,
        history=best.history,
        pictures=tuple(pictures) if len(pictures) == 2 else (),
        # A gradient through checkpointed blocks needs one more forward call a step than the core counts.
        evaluations=choosing + best.history.evaluations + kept * len(best.history.values) + steps,
        seconds=stream.seconds,
        stopped=best.stopped,
    )
    show_text(result.message, result.card)
    return result


def _evaluated(setup: _SearchSetup, sample: Tensor) -> tuple[Tensor, Tensor | None]:
    """The objective [B] at ``sample``, and the first item's picture [H, W, 3] if the objective needs pictures."""
    comfy.model_management.load_models_gpu(setup.context.patchers)
    objective = StateObjective(setup.spec.bind(setup.context), setup.context, lambda x: x)
    values = objective(sample)
    return values.cpu().clone(), None if objective.seen is None else objective.seen[0].clamp(0, 1).cpu()


def _check_prompt(positive: Any, options: OptimizerOptions) -> None:
    if len(positive) != 1:
        raise InvalidInput("positive", f"has {len(positive)} parts; an embedding can be optimised where it has one")
    if options.candidates > 1:
        raise InvalidInput("candidates", "are noises to choose from; set it to 1 to optimise the prompt")
