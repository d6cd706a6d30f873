"""SDO of the network inside the host: a LoRA with which any seed gives pictures that meet an objective.

Everything runs where a sampler runs: the host's own sampling prepares the model and the prompts and calls a sampler
function, which trains here (`training_function`). The LoRA that comes out is put on the model by the host's own
loader, and the pictures of the result are the stock sampler's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.sd
import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from comfy_execution.graph import ExecutionBlocker
from torch import Tensor

from .....chords_core import InvalidInput
from ...known_sentences import phrase_of
from ...node_text import show_text
from ...phrases import Card, Phrase, counted_phrase, in_turn
from ...sampling.ksampler import schedule
from ...sampling.names import STEP_SAMPLERS
from ...streaming.stream import RunStream
from ..autograd import plain
from ..context import ObjectiveContext, ObjectiveSpec
from ..given_latent import check_latent
from ..networks import check_gradient
from ..progress import counted_iterations, streamed_run
from ..resume import CancelledRuns, RunInputs
from .checks import check_devices, check_layers_in_use, check_one_picture_for_all
from .layers import choose_layers
from .lora import Lora, LoraFile, new_lora, read_lora
from .options import TrainerOptions
from .pictures import FixedPictures, decoded, side_by_side
from .progress import TrainingHistory
from .prompts import PromptsGuider, TrainingPrompts
from .training_function import TrainingFunction, TrainingOutcome

_log = logging.getLogger("chords")

_CANCELLED: CancelledRuns[TrainingOutcome] = CancelledRuns()


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """The inputs of a training, as the node has them.

    ``lora``: the LoRA to begin with, or None; ``origins``, ``clip``: what the prompts were made from, by which a run
    with the same inputs is known.
    """

    model: ModelPatcher
    prompts: TrainingPrompts
    vae: Any
    latent: dict[str, Any]
    spec: ObjectiveSpec
    lora: LoraFile | None
    origins: tuple[Any, ...]
    options: TrainerOptions
    clip: Any = None


@dataclass(frozen=True, eq=False)
class Shown:
    """The fixed pictures, which show the result of a training.

    ``before``, ``after`` [pictures]: their objective; ``prompts``: the name of each picture's prompt; ``pictures``
    [pictures, H, W, 3]: each of them before and after, side by side, or what stands for an output that is not there;
    ``pair``: the first picture before and after [H, W, 3], or nothing; ``problem``: why there are none, or None.
    """

    before: Tensor
    after: Tensor
    prompts: tuple[str, ...]
    pictures: Any
    pair: tuple[Tensor, ...]
    problem: str | None = None


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """The result of a training.

    ``model``: the given one with the LoRA on; ``file``: the LoRA; ``layers``: how the layers with a LoRA are called;
    ``rank``: the largest; ``shown``: pictures that it was not trained on; ``evaluations``: forward-equivalent model
    calls of the training, each of a whole batch; ``stopped``: why it ended early, or None.
    """

    model: ModelPatcher
    file: dict[str, Tensor]
    layers: tuple[str, ...]
    rank: int
    history: TrainingHistory
    shown: Shown
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
        shown, done = self.shown, len(self.history.values)
        iterations, stopped = counted_iterations(done), [phrase_of(self.stopped)] if self.stopped is not None else []
        if shown.problem is not None:
            failed = Phrase(
                "trained for {iterations}, but the pictures that show the result failed: {error}",
                iterations=iterations,
                error=shown.problem,
            )
            return failed, *stopped
        before, after = float(shown.before.mean()), float(shown.after.mean())
        told = Phrase(
            "objective {value}, from {first}, of {pictures} that it was not trained on, after {iterations}",
            value=f"{after:.4g}",
            first=f"{before:.4g}",
            pictures=counted_phrase(len(shown.before), "1 picture", "{count} pictures"),
            iterations=iterations,
        )
        advice = Phrase("the pictures have not improved: try more iterations, a smaller lr, or a larger batch")
        return told, *stopped, *([] if after < before else [advice])


@dataclass(frozen=True, eq=False)
class _Setup:
    """A training, ready to run. ``model``: with all weights in memory; ``empty``: LATENT samples of one picture."""

    inputs: TrainingInputs
    model: ModelPatcher
    lora: Lora
    sigmas: Tensor
    empty: Tensor
    context: ObjectiveContext

    def train(self, function: TrainingFunction) -> None:
        """The host's sampling, which calls ``function``."""
        options = self.inputs.options
        guider = PromptsGuider(self.model, self.inputs.prompts, options.cfg)
        # One picture, because the batch is trained one picture after another: the host reserves memory for as many.
        noise = comfy.sample.prepare_noise(self.empty, options.seed)
        sampler = comfy.samplers.KSAMPLER(function)
        guider.sample(noise, self.empty.clone(), sampler, self.sigmas, disable_pbar=True, seed=options.seed)


def train(inputs: TrainingInputs, keep_when_cancelled: bool) -> TrainingResult:
    """Train a LoRA whose pictures meet the objective.

    ``keep_when_cancelled``: the best of a training that was cancelled, or failed on the way, is the result of the next
    run with the same inputs.

    Raises:
        InvalidInput: before any model call, naming the input, where the training cannot be done.
        ValueError: after the first call, for a model or an objective that has no gradient.
    """
    setup = _set_up(inputs)
    models = (inputs.model, inputs.vae, inputs.spec, inputs.clip)
    known = RunInputs.of(models, (*inputs.origins, inputs.lora), setup.empty, inputs.options)
    with streamed_run("trainer") as stream:
        return _run(setup, known, keep_when_cancelled, stream)


def _set_up(inputs: TrainingInputs) -> _Setup:
    """The training of these inputs, which are checked here."""
    options = inputs.options
    check_latent(inputs.latent)
    if options.sampler_name not in STEP_SAMPLERS:
        raise InvalidInput(
            "sampler_name", f"{options.sampler_name} cannot be used here; use {', '.join(STEP_SAMPLERS)}"
        )
    check_devices(inputs.model)
    model = plain(inputs.model)
    check_gradient("model", model)
    if inputs.lora is not None:
        lora = read_lora(model, inputs.lora)
    else:
        layers = choose_layers(model.model.diffusion_model, options.layers, options.pattern)
        lora = new_lora(layers, options.rank, options.seed)
    check_layers_in_use(model, lora)
    latent = inputs.latent
    samples = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    empty = torch.zeros(samples[:1].shape)
    check_one_picture_for_all(inputs.spec, empty.shape)
    texts = inputs.prompts.texts
    context = ObjectiveContext(inputs.spec, inputs.vae, empty.shape, prompts=texts)
    sigmas = schedule(model, options.steps, options.sampler_name, options.scheduler, 1.0, 0, None, True).cpu()
    options.kept(len(sigmas) - 1)
    return _Setup(inputs, model, lora, sigmas, empty, context)


def _run(setup: _Setup, known: RunInputs, keep_when_cancelled: bool, stream: RunStream) -> TrainingResult:
    """Train, or take the result of a cancelled training, and show what it does."""
    inputs = setup.inputs
    best = _CANCELLED.get(known) if keep_when_cancelled else None
    function = TrainingFunction(setup.lora, inputs.spec, setup.context, inputs.options, stream)
    try:
        if best is None:
            setup.train(function)
            best = function.outcome
        assert best is not None
        result = _shown_result(setup, best, stream)
    except (InterruptProcessingException, Exception) as error:
        ended = "cancelled" if isinstance(error, InterruptProcessingException) else "failed"
        best = best or function.outcome or function.so_far(ended)
        if keep_when_cancelled and best is not None:
            _CANCELLED.put(known, best)
        raise
    _CANCELLED.forget()
    return result


def _shown_result(setup: _Setup, best: TrainingOutcome, stream: RunStream) -> TrainingResult:
    """The LoRA, the model with it, and pictures without and with it."""
    inputs, options = setup.inputs, setup.inputs.options
    show_text(Phrase("sampling pictures without the LoRA and with it"))
    fixed = FixedPictures(inputs.prompts, setup.empty, setup.sigmas, inputs.spec, setup.context, options)
    trained, _ = comfy.sd.load_lora_for_models(inputs.model, None, best.file, 1.0, 0.0)
    shown = _shown(fixed, inputs, trained)
    result = TrainingResult(
        model=trained,
        file=best.file,
        layers=tuple(dict.fromkeys(layer.path for layer in setup.lora.layers)),
        rank=max(layer.rank for layer in setup.lora.layers),
        history=best.history,
        shown=shown,
        # A backward pass through checkpointed blocks needs one more forward call than the core counts.
        evaluations=best.history.evaluations
        + len(best.history.values) * options.backward_passes(len(setup.sigmas) - 1),
        seconds=stream.seconds,
        stopped=best.stopped,
    )
    show_text(result.message, result.card)
    return result


def _shown(fixed: FixedPictures, inputs: TrainingInputs, trained: ModelPatcher) -> Shown:
    """The fixed pictures. If they fail, the trained LoRA is a result all the same."""
    try:
        before, after = fixed.of(inputs.model), fixed.of(trained)
        names = inputs.prompts.names()
        prompts = tuple(names[number] for number in fixed.numbers())
        one, other = (decoded(inputs.model, inputs.vae, part.samples) for part in (before, after))
    except InterruptProcessingException:
        raise
    except Exception as error:
        _log.exception("SDO: the pictures without the LoRA and with it failed")
        problem = f"{type(error).__name__}: {error}"
        return Shown(torch.zeros(0), torch.zeros(0), (), ExecutionBlocker(problem), (), problem)
    pictures: Any = ExecutionBlocker("connect a VAE to see pictures")
    if one is None or other is None:
        return Shown(before.objective, after.objective, prompts, pictures, ())
    return Shown(before.objective, after.objective, prompts, side_by_side(one, other), (one[0], other[0]))
