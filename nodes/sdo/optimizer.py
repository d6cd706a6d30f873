"""The SDO Latent Optimizer: find the initial noise whose picture meets an objective."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ..host.page import page_of_prompt
from ..host.sampling.names import STEP_SAMPLERS, scheduler_names
from ..host.sdo.optimizer import OptimizationResult, optimise
from ..host.sdo.options import OptimizerOptions
from ..host.sdo.progress import numbers
from ..host.streaming.previews import to_picture
from ..inputs import CATEGORY, Objective
from ..plots.convergence import Course, draw_curve
from ..plots.image import as_image
from ..plots.palette import drawn_on

_SEED_MAX = 0xFFFFFFFFFFFFFFFF
_NOISE, _PROMPT = "initial noise", "positive prompt"
_FORGET, _KEEP = "forget", "keep the best"


class SDOLatentOptimizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDOLatentOptimizer",
            display_name="SDO Latent Optimizer",
            category=f"{CATEGORY}/SDO",
            description="Finds the initial noise whose picture meets an objective (an SDO Objective) while the model "
            "follows the prompt. It needs the memory of one sampling step, for any number of steps. Connect the "
            "initial noise to any sampler with its own noise off (add_noise: disable), together with the model from "
            "here: the result is exactly the sample shown.",
            search_aliases=["sdo", "optimize noise", "latent optimization", "guidance", "steer", "initial noise"],
            inputs=[*_required_inputs(), *_sampling_inputs(), *_search_inputs(), *_advanced_inputs()],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        objective: Any,
        seed: int,
        cfg: float,
        iterations: int,
        lr: float,
        vae: Any = None,
        steps: int = 20,
        sampler_name: str = "euler",
        scheduler: str = "simple",
        denoise: float = 1.0,
        candidates: int = 1,
        optimize: str = _NOISE,
        refresh: int = 0,
        keep: str = "spread",
        regularise: str = "norm",
        patience: int = 20,
        gradient: str = "shortcut",
        when_cancelled: str = _FORGET,
    ) -> io.NodeOutput:
        options = OptimizerOptions(
            iterations=iterations,
            lr=lr,
            steps=steps,
            sampler_name=sampler_name,
            scheduler=scheduler,
            denoise=denoise,
            cfg=cfg,
            seed=seed,
            candidates=candidates,
            gradient=gradient,
            refresh=refresh or "adaptive",
            keep=keep,
            regularise=regularise,
            patience=patience or None,
            condition=optimize == _PROMPT,
        )
        result = optimise(model, positive, negative, vae, latent, objective, options, when_cancelled == _KEEP)
        figures = report(result, options)
        with drawn_on(light=page_of_prompt().light):
            curve = as_image(draw_curve(_curve(result, options)))
        # What a latent says of its origin goes on with it, apart from the size of an empty latent.
        kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio_")}
        return io.NodeOutput(
            {**kept, "samples": result.initial_noise},
            {**kept, "samples": result.sample},
            curve,
            json.dumps(figures, indent=2, allow_nan=False),
            result.model,
            result.positive,
            ui={"text": [figures["message"]], "sdo": [figures]},
        )


def _required_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model used for denoising. It must fit in the device's memory as a whole."),
        io.Conditioning.Input("positive", tooltip="The conditioning describing what should be in the picture."),
        io.Conditioning.Input("negative", tooltip="The conditioning describing what should not be in the picture."),
        io.Latent.Input(
            "latent", tooltip="An empty latent of the picture's size, or the latent of a picture and denoise below 1."
        ),
        Objective.Input(
            "objective", tooltip="What the picture should be like, from an SDO Objective node. Lower values are better."
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=_SEED_MAX,
            control_after_generate=True,
            tooltip="The seed of the noise that the search begins with.",
        ),
        io.Float.Input(
            "cfg",
            default=4.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="The Classifier-Free Guidance scale: a higher value follows the prompt more closely.",
        ),
        io.Int.Input(
            "iterations",
            default=30,
            min=1,
            max=10000,
            tooltip="How many times the noise is changed. The search ends earlier when nothing improves any more.",
        ),
        io.Float.Input(
            "lr",
            default=0.05,
            min=0.0001,
            max=1.0,
            step=0.005,
            round=0.0001,
            tooltip="How much one iteration changes the noise, relative to its size. Small values are safe, large "
            "values are fast but may miss the best.",
        ),
    ]


def _sampling_inputs() -> list[io.Input]:
    return [
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Decodes the picture for the objective. Not needed for objectives of the latent alone.",
        ),
        io.Int.Input(
            "steps",
            optional=True,
            default=20,
            min=1,
            max=10000,
            tooltip="The number of steps used in the denoising process.",
        ),
        io.Combo.Input(
            "sampler_name",
            optional=True,
            options=list(STEP_SAMPLERS),
            default="euler",
            tooltip="The sampler that the noise is for. Use the same one afterwards.",
        ),
        io.Combo.Input(
            "scheduler",
            optional=True,
            options=scheduler_names(),
            default="simple",
            tooltip="How noise is gradually removed over the steps. Use the same one afterwards.",
        ),
        io.Float.Input(
            "denoise",
            optional=True,
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="The amount of denoising. Values below 1 keep the structure of the picture in the latent.",
        ),
    ]


def _search_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "candidates",
            optional=True,
            default=1,
            min=1,
            max=1000,
            tooltip="How many seeds to try, from the given one on; the search begins with the best. Try several where "
            "the objective is met by only one of a few things that the model may draw: no gradient leads from one to "
            "another.",
        ),
        io.Combo.Input(
            "optimize",
            optional=True,
            options=[_NOISE, _PROMPT],
            default=_NOISE,
            tooltip="What is changed: the noise that sampling begins with, or the embedding of the positive prompt, "
            "which is then the output POSITIVE.",
        ),
    ]


def _advanced_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "refresh",
            optional=True,
            default=0,
            min=0,
            max=1000,
            advanced=True,
            tooltip="All steps are sampled every that many iterations, and predicted in between. 1 is slow and "
            "precise. 0 adapts the number to how good the predictions are.",
        ),
        io.Combo.Input(
            "keep",
            optional=True,
            options=["spread", "last"],
            default="spread",
            advanced=True,
            tooltip="Which steps the gradient goes through. spread: three of them, spread over all steps. last: the "
            "last step alone, with fewer model calls in each iteration; its directions are less exact.",
        ),
        io.Combo.Input(
            "regularise",
            optional=True,
            options=["norm", "moments", "none"],
            default="norm",
            advanced=True,
            tooltip="What stays the same in the noise, so that the model can still use it. norm: its size. moments: "
            "its mean and standard deviation. none: nothing.",
        ),
        io.Int.Input(
            "patience",
            optional=True,
            default=20,
            min=0,
            max=10000,
            advanced=True,
            tooltip="The search ends when nothing has improved for that many iterations. 0: never.",
        ),
        io.Combo.Input(
            "gradient",
            optional=True,
            options=["shortcut", "full"],
            default="shortcut",
            advanced=True,
            tooltip="shortcut: through the steps of keep (SDO). full: through all steps, many times slower, for "
            "comparison.",
        ),
        io.Combo.Input(
            "when_cancelled",
            optional=True,
            options=[_FORGET, _KEEP],
            default=_FORGET,
            advanced=True,
            tooltip="forget: a cancelled search leaves nothing. keep the best: the next run with the same inputs "
            "outputs the best that the cancelled search had found, at once. The seed must stay the same: "
            "set it to fixed.",
        ),
    ]


def _outputs() -> list[io.Output]:
    return [
        io.Latent.Output(
            display_name="INITIAL NOISE", tooltip="The best initial noise, for a sampler with add_noise off."
        ),
        io.Latent.Output(display_name="SAMPLE", tooltip="The sampler's result from the initial noise."),
        io.Image.Output(display_name="CURVE", tooltip="The objective over the iterations."),
        io.String.Output(display_name="JSON", tooltip="The same as numbers."),
        io.Model.Output(
            display_name="MODEL",
            tooltip="The model, changed so that it takes the initial noise. Flow models (Flux, SD3, Wan, ...) drop a "
            "latent that is given to a sampler with its noise off; this one keeps it.",
        ),
        io.Conditioning.Output(
            display_name="POSITIVE", tooltip="The positive prompt, optimised if that is what optimize says."
        ),
    ]


def report(result: OptimizationResult, options: OptimizerOptions) -> dict[str, Any]:
    """An optimisation as JSON.

    - ``message``: the result in a line;
    - ``objective``: of each item of the batch, ``first`` (of the given seed) and ``best`` (of the output sample);
    - ``candidates``: the objective of each seed tried, [candidates][batch], and ``seeds``: the chosen one of each item;
      empty and null if there was one seed;
    - ``history`` [iterations][batch]: the objective before each iteration's change, null where it was NaN; ``sampled``:
      whether it is of a sampled trajectory, or predicted from the last one;
    - ``marks``: what went wrong on the way and was corrected, with its iteration; ``stopped``: why it ended early;
    - ``evaluations``: model calls, where one with a gradient counts as the forward calls that cost as much;
      ``seconds``;
    - ``settings``: as they were given.
    """
    history = result.history
    return {
        "message": result.message,
        "objective": {"first": numbers(history.first), "best": numbers(result.objective)},
        "candidates": [numbers(values) for values in history.candidates],
        "seeds": history.chosen,
        "history": [numbers(values) for values in history.values],
        "sampled": history.sampled,
        "marks": [{"iteration": iteration, "text": text} for iteration, text in history.marks],
        "stopped": result.stopped,
        "evaluations": result.evaluations,
        "seconds": result.seconds,
        "settings": asdict(options),
    }


def _curve(result: OptimizationResult, options: OptimizerOptions) -> Course:
    """What the curve shows."""
    history = result.history
    first, best = float(history.first.mean()), float(result.objective.mean())
    figures = (
        ("iterations", str(len(history.values))),
        ("model calls", str(result.evaluations)),
        ("seconds", f"{result.seconds:.1f}"),
        ("at first", f"{first:.4g}"),
        ("best", f"{best:.4g}"),
    )
    labels = ("at first", "best")
    return Course(
        title="SDO: the prompt's embedding optimised" if options.condition else "SDO: the initial noise optimised",
        history=tuple(tuple(values.tolist()) for values in history.values),
        sampled=tuple(history.sampled),
        best=tuple(result.objective.tolist()),
        iterations=options.iterations,
        marks=tuple(history.marks),
        stopped=result.stopped,
        figures=figures,
        pictures=tuple((label, to_picture(picture)) for label, picture in zip(labels, result.pictures, strict=False)),
    )
