"""SDO: find the start whose picture fulfils a wish."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ..host.sampling.sampler import STEP_SAMPLERS, scheduler_names
from ..host.sdo.optimizer import Found, optimise
from ..host.sdo.progress import numbers
from ..host.sdo.sampler_function import Settings
from ..host.streaming.previews import to_picture
from ..inputs import CATEGORY, Objective
from ..plots.convergence import Course, draw_curve
from ..plots.image import as_image

_SEED_MAX = 0xFFFFFFFFFFFFFFFF
_START, _PROMPT = "starting noise", "positive prompt"
_FORGET, _KEEP = "forget", "keep the best"


class SDOLatentOptimizer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDOLatentOptimizer",
            display_name="SDO Latent Optimizer",
            category=f"{CATEGORY}/SDO",
            description="Finds the starting noise whose picture fulfils a wish (an SDO Objective) while the model "
            "draws what the prompt says. It needs the memory of one sampling step, however many there are. The start "
            "goes into any sampler with its noise off (add_noise: disable) and the model from here, and gives the "
            "very sample shown.",
            search_aliases=["sdo", "optimize noise", "latent optimization", "guidance", "steer", "initial noise"],
            inputs=[
                io.Model.Input("model", tooltip="The model that draws. It must fit in the device's memory as a whole."),
                io.Conditioning.Input("positive", tooltip="What the picture shall show."),
                io.Conditioning.Input("negative", tooltip="What it shall not show."),
                io.Latent.Input(
                    "latent", tooltip="An empty latent of the picture's size, or a picture's with denoise."
                ),
                Objective.Input("objective", tooltip="The wish, from an SDO Objective node. Lower is better."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=_SEED_MAX,
                    control_after_generate=True,
                    tooltip="The seed of the noise the search begins with.",
                ),
                io.Float.Input(
                    "cfg",
                    default=4.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Classifier-free guidance: higher follows the prompt more closely.",
                ),
                io.Int.Input(
                    "iterations",
                    default=30,
                    min=1,
                    max=10000,
                    tooltip="How often the start is changed. It ends sooner when nothing improves any more.",
                ),
                io.Float.Input(
                    "lr",
                    default=0.05,
                    min=0.0001,
                    max=1.0,
                    step=0.005,
                    round=0.0001,
                    tooltip="How much an iteration changes the start, relative to the noise: small is safe, large is "
                    "fast and may lose its way.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Shows the objective the picture. Not needed for objectives of the latent alone.",
                ),
                io.Int.Input(
                    "steps", optional=True, default=20, min=1, max=10000, tooltip="Steps of the denoising process."
                ),
                io.Combo.Input(
                    "sampler_name",
                    optional=True,
                    options=list(STEP_SAMPLERS),
                    default="euler",
                    tooltip="The sampler the start is for.",
                ),
                io.Combo.Input(
                    "scheduler",
                    optional=True,
                    options=scheduler_names(),
                    default="simple",
                    tooltip="How noise is removed over the steps.",
                ),
                io.Float.Input(
                    "denoise",
                    optional=True,
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the latent is replaced; below 1 keeps the structure of the picture put in.",
                ),
                io.Int.Input(
                    "candidates",
                    optional=True,
                    default=1,
                    min=1,
                    max=1000,
                    tooltip="Seeds to try, from the given one on; the search begins with the best of them. Take some "
                    "where the wish is one of several things the model may draw, to which no gradient leads.",
                ),
                io.Combo.Input(
                    "optimize",
                    optional=True,
                    options=[_START, _PROMPT],
                    default=_START,
                    tooltip="What is changed: the noise the picture grows from, or the embedding of the prompt, which "
                    "then comes out as CONDITIONING.",
                ),
                io.Int.Input(
                    "refresh",
                    optional=True,
                    default=0,
                    min=0,
                    max=1000,
                    advanced=True,
                    tooltip="All steps are sampled anew every that many iterations, and predicted in between: 1 is "
                    "slow and precise. 0 decides by how well the predictions come true.",
                ),
                io.Combo.Input(
                    "keep",
                    optional=True,
                    options=["auto", "last", "spread"],
                    default="auto",
                    advanced=True,
                    tooltip="Which step the gradient goes through: the last, or another each time, which is better at "
                    "large changes, such as another background, and worse at details. auto: the last for the noise, "
                    "spread for the prompt.",
                ),
                io.Combo.Input(
                    "regularise",
                    optional=True,
                    options=["norm", "moments", "none"],
                    default="norm",
                    advanced=True,
                    tooltip="What of the noise is kept, so that it stays one the model can begin with: its size, its "
                    "mean and deviation, or nothing.",
                ),
                io.Int.Input(
                    "patience",
                    optional=True,
                    default=20,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="End when nothing has improved for that many iterations. 0: never.",
                ),
                io.Combo.Input(
                    "gradient",
                    optional=True,
                    options=["shortcut", "full"],
                    default="shortcut",
                    advanced=True,
                    tooltip="shortcut: through one step (SDO). full: through all steps, many times slower, to compare.",
                ),
                io.Combo.Input(
                    "when_cancelled",
                    optional=True,
                    options=[_FORGET, _KEEP],
                    default=_FORGET,
                    advanced=True,
                    tooltip="keep the best: after a cancel, the next run with the same inputs puts out the best that "
                    "was found, at once.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="START", tooltip="The start, for a sampler with add_noise off."),
                io.Latent.Output(display_name="SAMPLE", tooltip="What the sampler makes of the start."),
                io.Image.Output(display_name="CURVE", tooltip="The objective over the iterations."),
                io.String.Output(display_name="JSON", tooltip="The same in figures."),
                io.Model.Output(
                    display_name="MODEL",
                    tooltip="The model as it takes the start: flow models (Flux, SD3, Wan, ...) drop what is put into "
                    "a sampler with its noise off, this one does not.",
                ),
                io.Conditioning.Output(
                    display_name="POSITIVE", tooltip="The positive prompt, changed where that is what was optimised."
                ),
            ],
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
        optimize: str = _START,
        refresh: int = 0,
        keep: str = "auto",
        regularise: str = "norm",
        patience: int = 20,
        gradient: str = "shortcut",
        when_cancelled: str = _FORGET,
    ) -> io.NodeOutput:
        settings = Settings(
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
            keep=None if keep == "auto" else keep,
            regularise=regularise,
            patience=patience or None,
            condition=optimize == _PROMPT,
        )
        found = optimise(model, positive, negative, vae, latent, objective, settings, when_cancelled == _KEEP)
        figures = report(found, settings)
        kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio_")}
        return io.NodeOutput(
            {**kept, "samples": found.start},
            {**kept, "samples": found.sample},
            as_image(draw_curve(_course(found, settings))),
            json.dumps(figures, indent=2, allow_nan=False),
            found.model,
            found.positive,
            ui={"text": [figures["message"]], "sdo": [figures]},
        )


def report(found: Found, settings: Settings) -> dict[str, Any]:
    """An optimisation as JSON:

    - ``message``: the outcome in a line;
    - ``objective``: of each item of the batch, ``first`` (of the seed given) and ``best`` (of the sample put out);
    - ``candidates``: the objective of each seed tried [candidates][batch], and ``seeds``: the one taken of each item;
      empty and null where there was one;
    - ``history`` [iterations][batch]: before each iteration's change, null where it was NaN; ``sampled``: whether of a
      sampled trajectory, or as predicted from the last;
    - ``marks``: what went wrong on the way and was mended, with its iteration; ``stopped``: why it ended early;
    - ``evaluations``: model calls, one with a gradient counted as the forward calls that cost as much; ``seconds``;
    - ``settings``: as they were given.
    """
    record = found.record
    return {
        "message": found.message,
        "objective": {"first": numbers(record.first), "best": numbers(found.objective)},
        "candidates": [numbers(values) for values in record.candidates],
        "seeds": record.chosen,
        "history": [numbers(values) for values in record.history],
        "sampled": record.sampled,
        "marks": [{"iteration": iteration, "text": text} for iteration, text in record.marks],
        "stopped": found.stopped,
        "evaluations": found.evaluations,
        "seconds": found.seconds,
        "settings": asdict(settings),
    }


def _course(found: Found, settings: Settings) -> Course:
    """What the curve is drawn of."""
    record = found.record
    first, best = float(record.first.mean()), float(found.objective.mean())
    figures = (
        ("iterations", str(len(record.history))),
        ("model calls", str(found.evaluations)),
        ("seconds", f"{found.seconds:.1f}"),
        ("at first", f"{first:.4g}"),
        ("best", f"{best:.4g}"),
    )
    return Course(
        title="SDO: " + ("the prompt's embedding" if settings.condition else "the start") + " optimised",
        history=tuple(tuple(values.tolist()) for values in record.history),
        sampled=tuple(record.sampled),
        best=tuple(found.objective.tolist()),
        iterations=settings.iterations,
        marks=tuple(record.marks),
        stopped=found.stopped,
        figures=figures,
        pictures=tuple(
            (label, to_picture(picture)) for label, picture in zip(("at first", "best"), found.pictures, strict=False)
        ),
    )
