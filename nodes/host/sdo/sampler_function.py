"""SDO as the host calls it: a sampler function that searches where a sampler would sample."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....chords_core import InvalidInput, NonFiniteDenoised, OptimizationCancelled, choose_start, optimize_latent
from ....chords_core.sdo.gradients import evaluate
from ..compatibility.reasons import reason_against_repeats
from ..sampling.sampler import STEP_SAMPLERS
from ..streaming.stream import RunStream
from ..tree import mapped
from .autograd import differentiable, normal, reason_against, reason_against_loaded
from .context import Look, Scene, Studio, Wish
from .initial_noise import first_state
from .progress import Course, Record

_GRAPH = 3.0  # times the memory of an evaluation that the graph of one takes, its blocks checkpointed: a guess
_NAMES = {"denoise": "model", "x": "latent", "condition": "positive"}  # of the core's arguments, as the node's inputs


@dataclass(frozen=True)
class Settings:
    """How to search. ``candidates``: seeds, from ``seed`` on, whose best the search begins with; ``condition``: vary
    the positive prompt's embedding instead of the start; the others as in `chords_core.optimize_latent`."""

    iterations: int
    lr: float
    steps: int
    sampler_name: str
    scheduler: str
    denoise: float
    cfg: float
    seed: int
    candidates: int
    gradient: str
    refresh: int | str
    keep: str | None
    regularise: str
    patience: int | None
    condition: bool

    @property
    def seeds(self) -> list[int]:
        """Of the noises to choose from."""
        return [(self.seed + number) % 2**64 for number in range(self.candidates)]


@dataclass(frozen=True, eq=False)
class Best:
    """The best of a search: the state at the first sigma, or the conditioning [B, T, D], on the CPU; what happened;
    and why it ended early, if it did."""

    x: Tensor
    record: Record
    stopped: str | None


class Gaze:
    """The objective of a state at the end of the schedule. ``seen``: the pictures it looked at last."""

    def __init__(self, look: Look, studio: Studio, to_latent: Callable[[Tensor], Tensor]) -> None:
        self._look, self._studio, self._to_latent = look, studio, to_latent
        self.seen: Tensor | None = None

    def __call__(self, sample: Tensor) -> Tensor:
        scene = Scene(self._to_latent(sample), self._studio.decode)
        values = self._look(scene)
        self.seen = scene.decoded
        return values


class Search:
    """What the host calls as a sampler. It leaves what it found in ``best``.

    Args:
        model: takes the starts, see `starts.taking_starts`.
        wish, studio: the objective, and the models it looks with.
        positive: the host's conditioning.
        starts: LATENT samples to choose from; the first is what the host is given.
        stream: where events go; its ``accept`` ends the search.
    """

    def __init__(
        self,
        model: ModelPatcher,
        wish: Wish,
        studio: Studio,
        settings: Settings,
        positive: Any,
        starts: list[Tensor],
        stream: RunStream,
    ) -> None:
        self._model, self._wish, self._studio, self._settings = model, wish, studio, settings
        self._prompt = positive[0][0] if settings.condition else None
        self._starts, self._stream = starts, stream
        self._course: Course | None = None
        self.best: Best | None = None

    def so_far(self, stopped: str) -> Best | None:
        """What there is of a search that was ended, if a trajectory had been sampled."""
        course = self._course
        if course is None or course.best is None:
            return None
        iteration = len(course.record.history)
        ended = f"{stopped} after {iteration} iteration{'s' if iteration != 1 else ''}"
        return Best(course.best.x.cpu(), course.record, ended)

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], **_: Any) -> Tensor:
        guider = model.inner_model
        reason = reason_against_repeats(guider, extra_args["model_options"])
        if reason is not None:
            raise InvalidInput("model", f"its steps cannot be repeated out of order: {reason}")
        try:
            self._load(guider, x)
            look = self._wish.bind(self._studio)
            networks = self._load(guider, x)  # again, for encoding a reference may have moved one
            with differentiable(networks):
                return self._search(model, normal(x).clone(), normal(sigmas).clone(), extra_args, look)
        except InvalidInput as error:
            if error.name not in _NAMES:
                raise
            raise InvalidInput(_NAMES[error.name], str(error).removeprefix(f"{error.name}: ")) from error
        except (NonFiniteDenoised, RuntimeError, LookupError, TypeError) as error:
            explained = _explained(error)
            if explained is None:
                raise
            raise explained from error

    def _search(self, model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any], look: Look) -> Tensor:
        settings, base, last = self._settings, model.inner_model.inner_model, sigmas[-1]
        denoise, condition = self._denoiser(model, extra_args, len(x))

        def to_latent(state: Tensor) -> Tensor:
            return base.process_latent_out(base.model_sampling.inverse_noise_scaling(last, state).float())

        gaze = Gaze(look, self._studio, to_latent)
        with torch.no_grad():
            evaluate(gaze, x)  # what is wrong with the objective is said before the model is called
        course = self._course = Course(self._stream, settings.iterations, base.latent_format, lambda: gaze.seen)
        try:
            if settings.candidates > 1:
                x = self._choose(denoise, x, sigmas, gaze)
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
                solver=STEP_SAMPLERS[settings.sampler_name],
                on_event=course,
                cancel=self._ended,
                condition=condition,
            )
        except OptimizationCancelled:
            self.best = self.so_far("accepted")
            assert course.best is not None
            return course.best.sample
        course.record.evaluations = found.evaluations
        best = found.x if found.condition is None else found.condition
        self.best = Best(best.cpu(), course.record, found.stopped)
        return found.sample

    def _choose(self, denoise: Callable[..., Tensor], x: Tensor, sigmas: Tensor, gaze: Gaze) -> Tensor:
        """The best start of each item."""
        course, seeds = self._course, self._settings.seeds
        assert course is not None
        others = (first_state(self._model, torch.zeros_like(start), start, sigmas.cpu()) for start in self._starts[1:])
        found = choose_start(
            denoise,
            torch.stack([x, *(other.to(x) for other in others)]),
            sigmas,
            gaze,
            solver=STEP_SAMPLERS[self._settings.sampler_name],
            on_sampled=lambda number, values: course.candidate(number, len(seeds), values),
            cancel=_interrupted,
        )
        course.record.chosen = tuple(seeds[number] for number in found.choice.tolist())
        return found.x

    def _ended(self) -> bool:
        """Whether the user takes what there is. A cancel of the prompt raises."""
        _interrupted()
        return self._stream.accept.is_set() and self._course is not None and self._course.best is not None

    def _load(self, guider: Any, x: Tensor) -> list[torch.nn.Module]:
        """All networks of the search on their devices, the model's first."""
        patcher, own = guider.model_patcher, self._studio.patchers
        needed = _GRAPH * (patcher.memory_required([2 * len(x), *x.shape[1:]]) + self._studio.memory(x))
        comfy.model_management.load_models_gpu([patcher, *own], memory_required=needed, force_full_load=True)
        additional = [loaded for loaded in guider.loaded_models if loaded is not patcher]
        for name, loaded in (
            ("model", patcher),
            *(("vae or clip_vision", other) for other in own),
            *(("positive or negative", other) for other in additional),
        ):
            if (reason := reason_against(loaded) or reason_against_loaded(loaded)) is not None:
                raise InvalidInput(name, f"no gradient can be taken through a model of it: {reason}")
        networks = [guider.inner_model, *(other.model for other in (*additional, *own))]
        return list({id(network): network for network in networks if isinstance(network, torch.nn.Module)}.values())

    def _denoiser(self, model: Any, extra_args: dict[str, Any], items: int) -> tuple[Callable[..., Tensor], Any]:
        """The model call, and the conditioning to vary [B, T, D], if any."""
        call = Call.of(model, extra_args)
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
class Call:
    """The sampler's model call, on inputs that can be part of a graph."""

    model: Any
    guider: Any
    arguments: dict[str, Any]

    @staticmethod
    def of(model: Any, extra_args: dict[str, Any]) -> Call:
        """From what the host hands a sampler function; that stays as it is."""
        guider = copy.copy(model.inner_model)
        guider.conds = mapped(guider.conds, _cloned)
        sampler_model = copy.copy(model)
        sampler_model.inner_model = guider
        for name in ("sigmas", "latent_image", "noise"):
            setattr(sampler_model, name, mapped(getattr(model, name), _cloned))
        options = comfy.model_patcher.create_model_options_clone(extra_args["model_options"])
        options["transformer_options"] = mapped(options["transformer_options"], normal)
        return Call(sampler_model, guider, {**extra_args, "model_options": options})

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        return self.model(x, x.new_full((len(x),), sigma), **self.arguments)


def _interrupted() -> bool:
    comfy.model_management.throw_exception_if_processing_interrupted()
    return False


def _cloned(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


def _place_of(prompt: Tensor, model_conds: dict[str, Any]) -> str:
    """Where the model takes the prompt's embedding."""
    for key, cond in model_conds.items():
        given = getattr(cond, "cond", None)
        if isinstance(given, Tensor) and given.shape == prompt.shape and torch.equal(given.to(prompt), prompt):
            return key
    raise InvalidInput("positive", "this model does not take the prompt's embedding as it is; optimise the start")


def _explained(error: Exception) -> Exception | None:
    """What to do about an error of the host's, where that is known."""
    text = str(error)
    if isinstance(error, comfy.model_management.OOM_EXCEPTION):
        return ValueError(
            "out of memory: the models of the search and the graph of one evaluation have to fit on the device "
            f"together; take a smaller picture, batch or model ({text})"
        )
    if "nference tensor" in text or "does not require grad" in text or "autograd" in text or "inplace" in text:
        return ValueError(
            "no gradient can be taken through this model as it is patched: take off patches and attention "
            f"replacements one by one to find which ({text})"
        )
    return None
