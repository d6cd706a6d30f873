"""SDO inside the host: the model call with gradients, and a start that any sampler reproduces.

Everything runs where a sampler runs: the host's own sampling prepares model and conditioning and calls a sampler
function, which here searches. The start goes in as the stock samplers take it, a latent with no noise to add, so that
what is optimised is what they begin with; and the sample put out is the stock sampler's, from the start put out.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.model_management import InterruptProcessingException
from comfy.model_patcher import ModelPatcher
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ...chords_core import InvalidInput, NonFiniteDenoised, OptimizationCancelled, optimize_latent
from .course import Course, tell
from .gradients import differentiable, normal, plain, reason_against, reason_against_loaded
from .guard import reason_against_repeats
from .ksampler import schedule
from .sampler import SOLVERS
from .starts import first_state, taking_starts, to_start
from .stream import RUNS, RunStream
from .studio import Look, Scene, Studio, Wish
from .tensors import mapped

_GRAPH = 3.0  # times the memory of an evaluation that the graph of one takes, its blocks checkpointed: a guess
_KEPT = 8  # nodes whose cancelled optimisations are remembered


@dataclass(frozen=True)
class Settings:
    """How to search. ``condition``: vary the positive prompt's embedding instead of the start; the others as in
    `chords_core.optimize_latent`."""

    iterations: int
    lr: float
    steps: int
    sampler_name: str
    scheduler: str
    denoise: float
    cfg: float
    seed: int
    gradient: str
    refresh: int | str
    keep: str | None
    regularise: str
    patience: int | None
    condition: bool


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
    course: Course
    pictures: tuple[Tensor, ...]
    evaluations: int
    seconds: float
    stopped: str | None


@dataclass(frozen=True, eq=False)
class _Best:
    """The best of a search: the state at the first sigma, or the conditioning [B, T, D]."""

    x: Tensor
    course: Course
    stopped: str | None


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
    _check_latent(latent)
    if settings.sampler_name not in SOLVERS:
        raise InvalidInput("sampler_name", f"{settings.sampler_name} cannot be used here; take {', '.join(SOLVERS)}")
    if settings.condition:
        _check_prompt(positive)
    model = plain(model)
    if (reason := reason_against(model)) is not None:
        raise InvalidInput("model", f"no gradient can be taken through it: {reason}")
    studio = Studio(wish, vae)
    model = taking_starts(model)
    samples = comfy.sample.fix_empty_latent_channels(
        model, latent["samples"], latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")
    )
    sigmas = schedule(model, settings.steps, settings.sampler_name, settings.scheduler, settings.denoise, 0, None, True)
    if len(sigmas) < 2:
        raise InvalidInput("denoise", "leaves no step to sample: make it larger, or take more steps")
    noise = comfy.sample.prepare_noise(samples, settings.seed, latent.get("batch_index"))
    x = first_state(model, noise, samples, sigmas)
    start = to_start(model, x, sigmas)

    stream = RUNS.begin()
    status, error = "error", None
    try:
        found = _found(model, positive, negative, sigmas, start, wish, studio, settings, keep_when_cancelled, stream)
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


def _found(
    model: ModelPatcher,
    positive: Any,
    negative: Any,
    sigmas: Tensor,
    start: Tensor,
    wish: Wish,
    studio: Studio,
    settings: Settings,
    keep_when_cancelled: bool,
    stream: RunStream,
) -> Found:
    inputs = _Inputs.of(model, wish, positive, negative, start, settings)
    best = _LEFT.take(inputs) if keep_when_cancelled else None
    if best is None:
        search = _Search(wish, studio, settings, stream, positive)
        try:
            _sample(model, comfy.samplers.KSAMPLER(search), positive, negative, sigmas, start, settings)
        except InterruptProcessingException:
            if keep_when_cancelled and (best := search.so_far("cancelled")) is not None:
                _LEFT.put(inputs, best)
            raise
        assert search.best is not None
        best = search.best
    if settings.condition:
        positive = [[best.x.to(positive[0][0]), positive[0][1]]]
    else:
        start = to_start(model, best.x, sigmas)
    tell("sampling the best")
    sampler = comfy.samplers.sampler_object(settings.sampler_name)
    sample = _sample(model, sampler, positive, negative, sigmas, start, settings)
    objective, seen = _look(wish, studio, sample)
    before_after = (best.course.first_picture, seen)
    pictures = tuple(picture for picture in before_after if picture is not None)
    evaluations = best.course.evaluations + len(best.course.history) + len(sigmas) - 1
    return Found(
        start,
        sample,
        model,
        positive,
        objective,
        best.course,
        pictures if len(pictures) == 2 else (),
        evaluations,
        stream.seconds,
        best.stopped,
    )


def _sample(
    model: ModelPatcher, sampler: Any, positive: Any, negative: Any, sigmas: Tensor, start: Tensor, settings: Settings
) -> Tensor:
    """The host's sampling from ``start`` with no noise added, as KSampler Advanced does it: LATENT samples."""
    return comfy.sample.sample_custom(
        model,
        torch.zeros_like(start),
        settings.cfg,
        sampler,
        sigmas,
        positive,
        negative,
        start,
        disable_pbar=True,
        seed=settings.seed,
    )


def _look(wish: Wish, studio: Studio, sample: Tensor) -> tuple[Tensor, Tensor | None]:
    """The objective [B] at ``sample``, and the first item's picture if it looked at pictures."""
    comfy.model_management.load_models_gpu(studio.patchers)
    with torch.inference_mode(False), torch.no_grad():
        gaze = _Gaze(wish.bind(studio), studio, lambda x: x)
        values = gaze(sample.clone())
    return values, None if gaze.seen is None else gaze.seen[0].clamp(0, 1).cpu()


class _Gaze:
    """The objective of a state at the end of the schedule. ``seen``: the pictures it looked at last."""

    def __init__(self, look: Look, studio: Studio, to_latent: Callable[[Tensor], Tensor]) -> None:
        self._look, self._studio, self._to_latent = look, studio, to_latent
        self.seen: Tensor | None = None

    def __call__(self, sample: Tensor) -> Tensor:
        scene = Scene(self._to_latent(sample), self._studio.decode)
        values = self._look(scene)
        self.seen = scene.decoded
        return values


class _Search:
    """What the host calls as a sampler: it searches, and leaves what it found in ``best``."""

    def __init__(self, wish: Wish, studio: Studio, settings: Settings, stream: RunStream, positive: Any) -> None:
        self._wish, self._studio, self._settings, self._stream = wish, studio, settings, stream
        self._prompt = positive[0][0] if settings.condition else None
        self._course: Course | None = None
        self.best: _Best | None = None

    def so_far(self, stopped: str) -> _Best | None:
        """What there is of a search that was ended, if a trajectory had been sampled."""
        course = self._course
        if course is None or course.best is None:
            return None
        iteration = len(course.history)
        return _Best(course.best.x, course, f"{stopped} after {iteration} iteration{'s' if iteration != 1 else ''}")

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        guider, settings = model.inner_model, self._settings
        reason = reason_against_repeats(guider, extra_args["model_options"])
        if reason is not None:
            raise InvalidInput("model", f"its steps cannot be repeated out of order: {reason}")
        networks = self._load(guider, x)
        with ExitStack() as stack:
            stack.enter_context(differentiable(networks))
            x, sigmas = normal(x).clone(), normal(sigmas).clone()
            denoise, condition = self._denoiser(model, extra_args, len(x))
            base = guider.inner_model
            last = sigmas[-1]

            def to_latent(state: Tensor) -> Tensor:
                return base.process_latent_out(base.model_sampling.inverse_noise_scaling(last, state).float())

            gaze = _Gaze(self._wish.bind(self._studio), self._studio, to_latent)
            self._course = Course(self._stream, settings.iterations, base.latent_format, lambda: gaze.seen)
            try:
                found = optimize_latent(
                    denoise,
                    x,
                    sigmas,
                    gaze,
                    iterations=settings.iterations,
                    lr=settings.lr,
                    gradient=settings.gradient,
                    refresh=settings.refresh,
                    keep=settings.keep,
                    regularise=settings.regularise,
                    patience=settings.patience,
                    solver=SOLVERS[settings.sampler_name],
                    on_event=self._course,
                    cancel=self._ended,
                    condition=condition,
                )
                self._course.evaluations = found.evaluations
                self.best = _Best(found.x if condition is None else found.condition, self._course, found.stopped)
            except OptimizationCancelled:
                self.best = self.so_far("accepted")
            except (NonFiniteDenoised, RuntimeError) as error:
                raise _explained(error) from error
            return self._course.best.sample

    def _ended(self) -> bool:
        """Whether the user takes what there is. A cancel of the prompt raises."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        return self._stream.accept.is_set() and self._course.best is not None

    def _load(self, guider: Any, x: Tensor) -> list[torch.nn.Module]:
        """All networks of the search on their devices, the model's first."""
        patcher, others = guider.model_patcher, self._studio.patchers
        needed = _GRAPH * (patcher.memory_required([2 * len(x), *x.shape[1:]]) + self._studio.memory(x))
        comfy.model_management.load_models_gpu([patcher, *others], memory_required=needed, force_full_load=True)
        for name, loaded in (("model", patcher), *(("vae or clip_vision", other) for other in others)):
            if (reason := reason_against_loaded(loaded)) is not None:
                raise InvalidInput(name, f"no gradient can be taken through it: {reason}")
        additional = [loaded.model for loaded in guider.loaded_models]
        networks = [guider.inner_model, *additional, *(other.model for other in others)]
        return list({id(network): network for network in networks if isinstance(network, torch.nn.Module)}.values())

    def _denoiser(self, model: Any, extra_args: dict[str, Any], items: int) -> tuple[Callable[..., Tensor], Any]:
        """The model call, and the conditioning to vary [B, T, D], if any."""
        call = _Call.of(model, extra_args)
        if self._prompt is None:
            return call, None
        prompt = normal(self._prompt).clone()
        (entry,) = call.guider.conds["positive"]
        key = _place_of(prompt, entry["model_conds"])

        def conditioned(x: Tensor, sigma: float, condition: Tensor) -> Tensor:
            kept = entry["model_conds"]
            varied = {**entry, "model_conds": {**kept, key: kept[key]._copy_with(condition)}}
            call.guider.conds = {**call.guider.conds, "positive": [varied]}
            return call(x, sigma)

        return conditioned, prompt.to(entry["model_conds"][key].cond).expand(items, *prompt.shape[1:]).clone()


@dataclass(frozen=True, eq=False)
class _Call:
    """The sampler's model call, on inputs that can be part of a graph."""

    model: Any
    guider: Any
    arguments: dict[str, Any]

    @staticmethod
    def of(model: Any, extra_args: dict[str, Any]) -> _Call:
        """From what the host hands a sampler function; that stays as it is."""
        guider = copy.copy(model.inner_model)
        guider.conds = mapped(guider.conds, _cloned)
        sampler_model = copy.copy(model)
        sampler_model.inner_model = guider
        for name in ("sigmas", "latent_image", "noise"):
            setattr(sampler_model, name, mapped(getattr(model, name), _cloned))
        options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        options["transformer_options"] = mapped(options["transformer_options"], normal)
        return _Call(sampler_model, guider, {**extra_args, "model_options": options})

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.model(x, x.new_full((len(x),), sigma), **self.arguments)


def _cloned(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


def _place_of(prompt: Tensor, model_conds: dict[str, Any]) -> str:
    """Where the model takes the prompt's embedding."""
    for key, cond in model_conds.items():
        given = getattr(cond, "cond", None)
        if isinstance(given, Tensor) and given.shape == prompt.shape and torch.equal(given.to(prompt), prompt):
            return key
    raise InvalidInput("positive", "this model does not take the prompt's embedding as it is; optimise the start")


def _check_latent(latent: dict[str, Any]) -> None:
    if latent["samples"].is_nested:
        raise InvalidInput("latent", "of several parts (video with sound) cannot be optimised")
    if "noise_mask" in latent:
        raise InvalidInput("latent", "has a noise mask: a part of it would stay as it is; remove the mask")


def _check_prompt(positive: Any) -> None:
    if len(positive) != 1:
        raise InvalidInput("positive", f"has {len(positive)} parts; an embedding can be optimised where it has one")


def _explained(error: Exception) -> Exception:
    """The error, or where a part of the graph takes no gradient, what to do about it."""
    text = str(error)
    if isinstance(error, comfy.model_management.OOM_EXCEPTION):
        return ValueError(
            "SDO ran out of memory: the graph of one model evaluation (and of the VAE) has to fit; take a smaller "
            f"picture or batch ({text})"
        )
    if "nference tensor" in text or "does not require grad" in text or "autograd" in text or "inplace" in text:
        return ValueError(
            "no gradient can be taken through this model as it is patched: take off patches and attention "
            f"replacements one by one to find which ({text})"
        )
    return error


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a search depends on; the host hands the same objects to a node again while nothing before it changes."""

    objects: tuple[weakref.ref[Any], ...]
    start: Tensor
    settings: Settings

    @staticmethod
    def of(model: ModelPatcher, wish: Wish, positive: Any, negative: Any, start: Tensor, settings: Settings) -> _Inputs:
        tensors = (part[0] for prompt in (positive, negative) for part in prompt)
        return _Inputs(tuple(map(weakref.ref, (model.model, wish, *tensors))), start, settings)

    def same_as(self, other: _Inputs) -> bool:
        return (
            self.settings == other.settings
            and len(self.objects) == len(other.objects)
            and all(a() is not None and a() is b() for a, b in zip(self.objects, other.objects, strict=True))
            and torch.equal(self.start, other.start)
        )


class _Left:
    """What cancelled searches had found, by node, until the next run takes it."""

    def __init__(self) -> None:
        self._by_node: dict[str, tuple[_Inputs, _Best]] = {}

    def put(self, inputs: _Inputs, best: _Best) -> None:
        self._by_node.pop(_node(), None)
        self._by_node[_node()] = inputs, best
        while len(self._by_node) > _KEPT:
            self._by_node.pop(next(iter(self._by_node)))

    def take(self, inputs: _Inputs) -> _Best | None:
        """What the last search of this node left, if it was of the same inputs."""
        left = self._by_node.pop(_node(), None)
        return left[1] if left is not None and left[0].same_as(inputs) else None


_LEFT = _Left()


def _node() -> str:
    context = get_executing_context()
    return "" if context is None else context.node_id
