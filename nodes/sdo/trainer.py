"""The SDO LoRA Trainer: a LoRA with which any seed gives pictures that meet an objective."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from comfy_api.latest import io

from ..host.page import page_of_prompt
from ..host.sdo.progress import numbers
from ..host.sdo.training.options import TrainerOptions, parse_keep
from ..host.sdo.training.prompts import collect_prompts, prompt_lines
from ..host.sdo.training.trainer import TrainingInputs, TrainingResult, train
from ..host.streaming.previews import to_picture
from ..inputs import CATEGORY
from ..plots.convergence import Course, draw_curve
from ..plots.image import as_image
from ..plots.palette import drawn_on
from .trainer_inputs import FORGET, KEEP, LoraModel, advanced_inputs, prompt_inputs, required_inputs, sampling_inputs


class SDOTrainLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SDOTrainLoRA",
            display_name="SDO LoRA Trainer",
            category=f"{CATEGORY}/SDO",
            description="Trains a LoRA with which the model's pictures meet an objective (an SDO Objective) for any "
            "seed. It needs no pictures to learn from, and the memory of one sampling step of one picture, for any "
            "number of steps and pictures. Save the LoRA with Save LoRA Weights and use it with any of "
            "ComfyUI's LoRA loaders.",
            search_aliases=["sdo", "train lora", "lora", "alignment", "reward", "fine-tune", "draft", "refl"],
            inputs=[*required_inputs(), *prompt_inputs(), *sampling_inputs(), *advanced_inputs()],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        objective: Any,
        negative: Any,
        latent: dict[str, Any],
        seed: int,
        cfg: float,
        rank: int,
        layers: str,
        iterations: int,
        lr: float,
        batch: int,
        vae: Any = None,
        positive: dict[str, Any] | None = None,
        clip: Any = None,
        prompts: str = "",
        lora: Any = None,
        steps: int = 20,
        sampler_name: str = "euler",
        scheduler: str = "simple",
        pattern: str = "",
        fidelity: str = "near",
        hold: float = 0.3,
        keep: str = "auto",
        patience: int = 50,
        gradient: str = "shortcut",
        pictures: int = 4,
        when_cancelled: str = FORGET,
    ) -> io.NodeOutput:
        options = TrainerOptions(
            rank=rank,
            layers=layers,
            pattern=pattern,
            iterations=iterations,
            lr=lr,
            batch=batch,
            steps=steps,
            sampler_name=sampler_name,
            scheduler=scheduler,
            cfg=cfg,
            seed=seed,
            fidelity=fidelity,
            hold=hold,
            keep=parse_keep(keep),
            patience=patience or None,
            gradient=gradient,
            pictures=pictures,
            lines=prompt_lines(prompts),
        )
        given = collect_prompts(positive or {}, clip, options.lines, negative)
        origins = (negative, *(positive or {}).values())
        inputs = TrainingInputs(model, given, vae, latent, objective, lora, origins, options, clip)
        result = train(inputs, when_cancelled == KEEP)
        figures = report(result, options)
        with drawn_on(light=page_of_prompt().light):
            curve = as_image(draw_curve(_curve(result, options)))
        return io.NodeOutput(
            result.model,
            result.file,
            curve,
            result.shown.pictures,
            json.dumps(figures, indent=2, allow_nan=False),
            ui={"text": [figures["message"]], "sdo": [figures]},
        )


def _outputs() -> list[io.Output]:
    return [
        io.Model.Output(display_name="MODEL", tooltip="The model with the LoRA on, for any sampler."),
        LoraModel.Output(
            display_name="LORA", tooltip="The LoRA alone, for Save LoRA Weights, for Load LoRA Model, or to go on from."
        ),
        io.Image.Output(display_name="CURVE", tooltip="The mean objective of each iteration's pictures."),
        io.Image.Output(
            display_name="BEFORE AND AFTER",
            tooltip="Pictures of seeds that the training did not use: each without the LoRA and with it, side by side.",
        ),
        io.String.Output(display_name="JSON", tooltip="The result as numbers."),
    ]


def report(result: TrainingResult, options: TrainerOptions) -> dict[str, Any]:
    """A training as JSON.

    - ``message``: the result in a line;
    - ``objective``: of each of the pictures that were not trained on, ``before`` (without the LoRA) and ``after``;
      their ``seeds`` and ``prompts``; all empty where these pictures failed;
    - ``history`` [iterations][batch]: the objective of each iteration's pictures before its update, null where an
      update was rolled back; ``means``: the mean over the last batches; ``drift``: how far the model's predictions
      were from those without the LoRA, relative, null where that was not measured;
    - ``best``: the iteration whose LoRA is the result, from 0; ``marks``: what went wrong on the way and was corrected,
      with its iteration; ``stopped``: why it ended early;
    - ``layers``, ``rank``: which layers the LoRA updates, and its largest rank;
    - ``evaluations``: model calls of the training, each of a whole batch, where one with a gradient counts as the
      forward calls that cost as much; ``seconds``: pictures included;
    - ``settings``: as they were given.
    """
    history, shown = result.history, result.shown
    return {
        "message": result.message,
        "objective": {"before": numbers(shown.before), "after": numbers(shown.after)},
        "seeds": options.picture_seeds[: len(shown.before)],
        "prompts": list(shown.prompts),
        "history": [numbers(values) for values in history.values],
        "means": history.means,
        "drift": history.drift,
        "best": history.best,
        "marks": [{"iteration": iteration, "text": text} for iteration, text in history.marks],
        "stopped": result.stopped,
        "layers": list(result.layers),
        "rank": result.rank,
        "evaluations": result.evaluations,
        "seconds": result.seconds,
        "settings": asdict(options),
    }


def _curve(result: TrainingResult, options: TrainerOptions) -> Course:
    """What the curve shows: the means of the batches, which differ in their noise."""
    history = result.history
    means = [float(values.float().mean()) for values in history.values]
    figures = (
        ("iterations", str(len(means))),
        ("model calls, of a batch", str(result.evaluations)),
        ("seconds", f"{result.seconds:.1f}"),
        *(
            (f"other seeds, {when}", f"{float(values.mean()):.4g}")
            for when, values in (("before", result.shown.before), ("after", result.shown.after))
            if len(values)
        ),
    )
    labels = ("without the LoRA", "with the LoRA")
    best = min(history.best, len(means) - 1)
    return Course(
        title=f"SDO: a LoRA trained, mean of {options.batch} pictures an iteration",
        history=tuple((mean,) for mean in means),
        sampled=tuple(True for _ in means),
        best=(means[best],),
        iterations=options.iterations,
        marks=tuple(history.marks),
        stopped=result.stopped,
        figures=figures,
        pictures=tuple((label, to_picture(picture)) for label, picture in zip(labels, result.shown.pair, strict=False)),
    )
