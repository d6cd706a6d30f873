"""A training as the host calls it: a sampler function that trains instead of sampling."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

from .....chords_core import (
    InvalidInput,
    NonFiniteDenoised,
    TrainingCancelled,
    optimize_parameters,
)
from .....chords_core.sdo.gradients import evaluate
from .....chords_core.sdo.parameter_gradients import NoParameterGradient
from ...compatibility.reasons import reason_against_repeats, reason_for_every_step
from ...sampling.names import STEP_SAMPLERS
from ...streaming.stream import RunStream
from ..autograd import differentiable, normal, runs_uncompiled
from ..context import BoundObjective, ObjectiveContext, ObjectiveSpec, StateObjective
from ..initial_noise import first_state
from ..input_names import renamed_inputs
from ..model_call import DifferentiableModelCall
from ..networks import explained, load_networks
from ..progress import ended_after
from .batches import Batches
from .hooks import attached
from .lora import Lora
from .options import TrainerOptions
from .progress import TrainingHistory, TrainingProgress
from .prompts import PromptedModelCall, PromptsGuider

_log = logging.getLogger("chords")

_MICRO_BATCH = 1  # memory is that of one picture
_INPUTS = {"denoise": "model", "starts": "latent", "parameters": "model", "tolerance": "fidelity"}


@dataclass(frozen=True, eq=False)
class TrainingOutcome:
    """The best of a training: ``file``, the LoRA as the host has it; ``history``; ``stopped``: why it ended early, or
    None."""

    file: dict[str, Tensor]
    history: TrainingHistory
    stopped: str | None


class TrainingFunction:
    """The sampler function that a `PromptsGuider` calls with one picture; afterwards ``outcome`` is there.

    Args:
        lora: where to begin; its tensors do not change.
        spec, context: the objective, and the models that it needs.
        options: how to train.
        stream: where events go; its ``accept`` ends the training.
    """

    def __init__(
        self, lora: Lora, spec: ObjectiveSpec, context: ObjectiveContext, options: TrainerOptions, stream: RunStream
    ) -> None:
        self._given, self._spec, self._context, self._options = lora, spec, context, options
        self._stream = stream
        self._lora: Lora | None = None
        self._progress: TrainingProgress | None = None
        self.outcome: TrainingOutcome | None = None

    def so_far(self, stopped: str) -> TrainingOutcome | None:
        """The best of a training that was ended, or None if no batch had been sampled."""
        if self._lora is None or self._progress is None or not self._progress.history.values:
            return None
        done = len(self._progress.history.values)
        ended = ended_after(stopped, done)
        return TrainingOutcome(self._lora.file(), self._progress.history, ended)

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        guider = model.inner_model
        options = extra_args["model_options"]
        reason = reason_against_repeats(guider.of_all_prompts(), options, uncompiled=runs_uncompiled())
        if reason is not None:
            raise InvalidInput("model", f"its steps cannot be repeated out of order: {reason}")
        try:
            with renamed_inputs(**_INPUTS):
                load_networks(guider, self._context, x, _MICRO_BATCH)
                bound = self._spec.bind(self._context)
                networks = load_networks(guider, self._context, x, _MICRO_BATCH)  # binding may have moved one
                network = guider.inner_model.diffusion_model
                self._lora = self._given.beside(network)
                with differentiable(networks, self._lora.trained(network)):
                    self._train(model, normal(x).clone(), normal(sigmas).clone(), extra_args, bound)
        except (NonFiniteDenoised, RuntimeError, LookupError, TypeError) as error:
            known = explained(error)
            if known is None:
                raise
            raise known from error
        return x

    def _train(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], bound: BoundObjective) -> None:
        guider, lora = model.inner_model, self._lora
        assert lora is not None
        base, last = guider.inner_model, sigmas[-1]

        def to_latent(state: Tensor) -> Tensor:
            return base.process_latent_out(base.model_sampling.inverse_noise_scaling(last, state).float())

        objective = StateObjective(bound, self._context, to_latent)
        call = DifferentiableModelCall.of(model, extra_args)
        denoise = PromptedModelCall([call.with_conds(conds) for conds in guider.prompts])
        batches = Batches(len(guider.prompts), self._options.batch, self._options.seed)
        with torch.no_grad():  # an error of the objective is reported before the model is called
            evaluate(lambda state: objective(state, batches.prompts_of(0)[:1]), x)
        progress = TrainingProgress(self._stream, self._options.iterations, base.latent_format, lambda: objective.seen)
        self._progress = progress
        with attached(base.diffusion_model, lora) as switch:

            def without_lora(state: Tensor, sigma: float, prompts: tuple[int, ...]) -> Tensor:
                with switch.off():
                    return denoise(state, sigma, prompts)

            try:
                stopped = self._optimize(guider, lora, x, sigmas, batches, (denoise, without_lora, objective), progress)
            except NoParameterGradient as error:
                raise InvalidInput(
                    "model",
                    "gives no gradient: no trained layer takes part in the steps of keep for these prompts (choose "
                    "other steps or layers), or a patch cuts the gradient",
                ) from error
            except TrainingCancelled:
                comfy.model_management.throw_exception_if_processing_interrupted()
                self.outcome = self.so_far("accepted")
                return
        self.outcome = TrainingOutcome(lora.file(), progress.history, stopped)

    def _optimize(
        self,
        guider: PromptsGuider,
        lora: Lora,
        x: Tensor,
        sigmas: Tensor,
        batches: Batches,
        functions: tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]],
        on_event: TrainingProgress,
    ) -> str | None:
        """Train; returns why it ended early, or None. ``functions``: the model, the model without the LoRA, and the
        objective."""
        options, (denoise, without_lora, objective) = self._options, functions
        trained = optimize_parameters(
            denoise,
            lora.parameters,
            lambda iteration: self._noise(guider, x, sigmas, batches.noise_seed(iteration)),
            sigmas,
            objective,
            iterations=options.iterations,
            lr=options.lr,
            gradient=options.gradient,
            keep=options.kept(len(sigmas) - 1),
            solver=STEP_SAMPLERS[options.sampler_name],
            tolerance=self._tolerance(guider, sigmas),
            on_event=on_event,
            cancel=self._ended,
            conditions=batches.prompts_of,
            reference=without_lora,
            hold=options.hold,
            micro_batch=_MICRO_BATCH,
            patience=options.patience,
        )
        on_event.history.best = trained.best
        on_event.history.evaluations = trained.evaluations
        return trained.stopped

    def _noise(self, guider: PromptsGuider, x: Tensor, sigmas: Tensor, seed: int) -> Tensor:
        """The state [B, ...] at sigmas[0] where the host's samplers begin with this seed and an empty latent."""
        empty = torch.zeros(self._options.batch, *x.shape[1:])
        noise = comfy.sample.prepare_noise(empty, seed)
        return normal(first_state(guider.model_patcher, noise, empty, sigmas.cpu())).to(x)

    def _tolerance(self, guider: PromptsGuider, sigmas: Tensor) -> float | None:
        tolerance = self._options.tolerance
        reason = None if tolerance is None else reason_for_every_step(guider.of_all_prompts(), sigmas)
        if reason is not None:
            _log.info("SDO: %s", reason)
            return None
        return tolerance

    def _ended(self) -> bool:
        """Whether the user has cancelled the prompt, or accepts the best so far."""
        if comfy.model_management.processing_interrupted():
            return True
        return self._stream.accept.is_set() and self.so_far("accepted") is not None
