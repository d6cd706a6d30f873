"""SDO as the host calls it: a sampler function that searches instead of sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import (
    InvalidInput,
    NonFiniteDenoised,
    OptimizationCancelled,
    Optimized,
    choose_initial_noise,
    optimize_latent,
)
from ....chords_core.sdo.gradients import evaluate
from ..compatibility.reasons import reason_against_repeats
from ..sampling.names import STEP_SAMPLERS
from ..streaming.stream import RunStream
from .autograd import differentiable, normal, runs_uncompiled
from .context import BoundObjective, ObjectiveContext, ObjectiveSpec, StateObjective
from .initial_noise import first_state
from .input_names import renamed_inputs
from .model_call import DifferentiableModelCall, conditioned_call
from .networks import explained, load_networks, raise_if_interrupted
from .options import OptimizerOptions
from .progress import ObjectiveHistory, OptimizationProgress, ended_after


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best of a search.

    ``x``: the best state at the first sigma, or the best conditioning [B, T, D], on the CPU; ``history``: what
    happened; ``stopped``: why it ended early, or None.
    """

    x: Tensor
    history: ObjectiveHistory
    stopped: str | None


class SearchFunction:
    """The sampler function that the host calls; afterwards ``result`` is there.

    Args:
        model: takes an initial noise, see `initial_noise.taking_initial_noise`.
        spec, context: the objective, and the models that it needs.
        options: how to search.
        positive: the host's conditioning.
        candidates: LATENT samples to choose from; the host is given the first.
        stream: where events go; its ``accept`` ends the search.
    """

    def __init__(
        self,
        model: ModelPatcher,
        spec: ObjectiveSpec,
        context: ObjectiveContext,
        options: OptimizerOptions,
        positive: Any,
        candidates: list[Tensor],
        stream: RunStream,
    ) -> None:
        self._model, self._spec, self._context, self._options = model, spec, context, options
        self._prompt = positive[0][0] if options.condition else None
        self._candidates, self._stream = candidates, stream
        self._progress: OptimizationProgress | None = None
        self.result: SearchResult | None = None

    def so_far(self, stopped: str) -> SearchResult | None:
        """The best of a search that was ended, or None if no trajectory had been sampled."""
        progress = self._progress
        if progress is None or progress.best is None:
            return None
        iteration = len(progress.history.values)
        ended = ended_after(stopped, iteration)
        return SearchResult(progress.best.x.cpu(), progress.history, ended)

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        guider = model.inner_model
        reason = reason_against_repeats(guider, extra_args["model_options"], uncompiled=runs_uncompiled())
        if reason is not None:
            raise InvalidInput("model", f"its steps cannot be repeated out of order: {reason}")
        try:
            with renamed_inputs(denoise="model", x="latent", condition="positive"):
                load_networks(guider, self._context, x, len(x))
                bound = self._spec.bind(self._context)
                networks = load_networks(
                    guider, self._context, x, len(x)
                )  # again, because encoding a reference may have moved one
                with differentiable(networks):
                    return self._search(model, normal(x).clone(), normal(sigmas).clone(), extra_args, bound)
        except (NonFiniteDenoised, RuntimeError, LookupError, TypeError) as error:
            known = explained(error)
            if known is None:
                raise
            raise known from error

    def _search(
        self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], bound: BoundObjective
    ) -> Tensor:
        base, last = model.inner_model.inner_model, sigmas[-1]

        def to_latent(state: Tensor) -> Tensor:
            return base.process_latent_out(base.model_sampling.inverse_noise_scaling(last, state).float())

        objective = StateObjective(bound, self._context, to_latent)
        call = DifferentiableModelCall.of(model, extra_args)
        denoise, condition = (call, None) if self._prompt is None else conditioned_call(call, self._prompt, len(x))
        with torch.no_grad():
            evaluate(objective, x)  # an error of the objective is reported before the model is called
        iterations = self._options.iterations
        progress = OptimizationProgress(self._stream, iterations, base.latent_format, lambda: objective.seen)
        self._progress = progress
        try:
            if self._options.candidates > 1:
                x = self._choose(denoise, x, sigmas, objective, progress)
            found = self._optimize(denoise, x, sigmas, objective, condition, progress)
        except OptimizationCancelled:
            self.result = self.so_far("accepted")
            assert progress.best is not None
            return progress.best.sample
        progress.history.evaluations = found.evaluations
        best = found.x if found.condition is None else found.condition
        self.result = SearchResult(best.cpu(), progress.history, found.stopped)
        return found.sample

    def _optimize(
        self,
        denoise: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        objective: StateObjective,
        condition: Tensor | None,
        progress: OptimizationProgress,
    ) -> Optimized:
        options = self._options
        return optimize_latent(
            denoise,
            x,
            sigmas,
            objective,
            iterations=options.iterations,
            lr=options.lr,
            gradient=options.gradient,
            refresh=options.refresh,
            keep=options.keep,
            regularise=options.regularise,
            patience=options.patience,
            solver=STEP_SAMPLERS[options.sampler_name],
            on_event=progress,
            cancel=self._accepted,
            condition=condition,
        )

    def _choose(
        self,
        denoise: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        objective: StateObjective,
        progress: OptimizationProgress,
    ) -> Tensor:
        """The best of the candidates for each item; ``x`` is the first."""
        seeds, others = self._options.seeds, self._candidates[1:]
        states = (first_state(self._model, torch.zeros_like(latent), latent, sigmas.cpu()) for latent in others)
        found = choose_initial_noise(
            denoise,
            torch.stack([x, *(state.to(x) for state in states)]),
            sigmas,
            objective,
            solver=STEP_SAMPLERS[self._options.sampler_name],
            on_sampled=lambda number, values: progress.candidate(number, len(seeds), values),
            cancel=raise_if_interrupted,
        )
        progress.history.chosen = tuple(seeds[number] for number in found.choice.tolist())
        return found.x

    def _accepted(self) -> bool:
        """Whether the user accepts the best so far. A cancel of the prompt raises."""
        raise_if_interrupted()
        return self._stream.accept.is_set() and self._progress is not None and self._progress.best is not None
