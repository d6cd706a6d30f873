"""Is it worth it? The host's own sampler and ours, measured on the user's own model, prompt, size and devices."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, replace
from typing import Any

from comfy_api.latest import io, ui

from ..chords_core import InvalidInput
from .host.benchmark import Benchmark, Outcome, Row, Task, run_benchmark
from .host.devices.request import DeviceRequest
from .host.sampling.run_record import tell
from .inputs import CATEGORY, Devices
from .plots.comparison import Comparison, Shown, decibels, draw_comparison, percent
from .plots.drawing import duration
from .plots.image import as_image
from .recommendation import RULE, Entry, advise
from .samplers import ChordsKSampler

_MOST_CORES = 64


class ChordsBenchmark(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsBenchmark",
            display_name="CHORDS Benchmark",
            category=CATEGORY,
            description="Is CHORDS worth it for you? Samples your picture with KSampler and with several settings of "
            "KSampler (CHORDS), and shows speed and difference side by side, with a recommendation. Takes the time of "
            "some twenty to forty pictures. What was measured is kept.",
            search_aliases=["chords", "benchmark", "compare", "speed", "profile"],
            is_output_node=True,
            inputs=[
                *(given for given in ChordsKSampler.define_schema().inputs if not given.optional),  # KSampler's
                io.Vae.Input("vae", tooltip="Decodes the results, to compare the pictures."),
                Devices.Input(
                    "devices",
                    optional=True,
                    tooltip="From a CHORDS Devices node. Without it, all devices ComfyUI sees are used.",
                ),
                io.String.Input(
                    "cores",
                    optional=True,
                    default="",
                    tooltip="Numbers of cores to try, such as 2, 4, 8: each as a window, the most with CHORDS, too. "
                    "Empty: what the devices could gain from.",
                ),
                io.Int.Input(
                    "repeats",
                    optional=True,
                    default=3,
                    min=1,
                    max=20,
                    tooltip="Timed runs of each setting, in turn, of which the median counts.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The comparison as a picture."),
                io.String.Output(display_name="JSON", tooltip="The same in figures."),
            ],
        )

    @classmethod
    def validate_inputs(cls, cores: str | None = None) -> bool | str:
        """Before anything is loaded, where the input is not connected."""
        try:
            parse_cores(cores or "")
        except InvalidInput as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> float:
        """What the machine does today is no input, so each time is measured anew."""
        return time.time()

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float,
        vae: Any,
        devices: DeviceRequest | None = None,
        cores: str = "",
        repeats: int = 3,
    ) -> io.NodeOutput:
        counts = parse_cores(cores)
        task = Task(model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent_image, denoise)
        measured = run_benchmark(task, vae, devices, counts, repeats)
        figures = report(measured, task)
        image = as_image(draw_comparison(_comparison(measured, task)))
        tell(figures["advice"])
        shown = {"text": [figures["advice"]], "benchmark": [figures]}
        text = json.dumps(figures, indent=2, allow_nan=False)
        return io.NodeOutput(image, text, ui={**ui.PreviewImage(image, cls=cls).as_dict(), **shown})


def parse_cores(text: str) -> list[int]:
    """Numbers separated by commas, each once, in ascending order.

    Raises:
        InvalidInput: for anything else.
    """
    counts = set()
    for word in text.replace(",", " ").split():
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= _MOST_CORES):
            raise InvalidInput(
                "cores", f'numbers from 1 to {_MOST_CORES} with commas between them, such as "2, 4, 8", not {word!r}'
            )
        counts.add(int(word))
    return sorted(counts)


def report(measured: Benchmark, task: Task) -> dict[str, Any]:
    """A benchmark as JSON; docs/benchmark.md says what each field means."""
    place, advice = advise(_entries(measured))
    best = measured.rows[place]
    return {
        "advice": advice,
        "rule": RULE,
        "recommended": {"row": place, "name": best.name, **_node(best)},
        "task": {
            "model": measured.key.model,
            "dtype": measured.key.dtype,
            "latent": list(measured.key.latent),
            "devices": list(measured.key.devices),
            "sampler_name": task.sampler_name,
            "scheduler": task.scheduler,
            "steps": task.steps,
            "cfg": task.cfg,
            "denoise": task.denoise,
            "seed": task.seed,
        },
        "runs": measured.runs,
        "seconds": measured.seconds,
        "rows": [_row(row, measured.rows[0]) for row in measured.rows],
    }


def _row(row: Row, stock: Row) -> dict[str, Any]:
    summary = row.run.summary() if row.run else {}
    return {
        "name": row.name,
        **_node(row),
        "seconds": row.accepted.seconds,
        "all_seconds": list(row.seconds),
        "speedup": stock.accepted.seconds / row.accepted.seconds,
        "first": _outcome(row.first),
        "accepted": _outcome(row.accepted),
        "hits": _hits(row),
        **{key: summary.get(key) for key in ("method", "cores", "starts", "evaluations", "devices", "message")},
        "lost_lanes": summary.get("lost_lanes", []),
    }


def _node(row: Row) -> dict[str, Any]:
    """The node that does this, and its inputs beyond KSampler's."""
    if row.setting is None:
        return {"node": "KSampler", "inputs": {}}
    return {"node": "ChordsKSampler", "inputs": asdict(row.setting)}


def _outcome(outcome: Outcome) -> dict[str, Any]:
    fidelity = {name: _number(value) for name, value in asdict(outcome.fidelity).items()}
    return {"core": outcome.core, "depth": outcome.depth, "seconds": outcome.seconds, **fidelity}


def _hits(row: Row) -> list[dict[str, Any]]:
    if row.run is None or row.run.timeline is None:
        return []
    return [
        {"core": mark.core, "depth": mark.depth, "seconds": mark.seconds, "rmse": _number(rmse)}
        for mark, rmse in zip(row.run.timeline.hits, row.hits, strict=True)
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- the picture


def _entries(measured: Benchmark) -> list[Entry]:
    return [
        Entry(
            row.name,
            row.seconds,
            row.first.seconds,
            row.accepted.fidelity.rmse,
            row.accepted.fidelity.psnr,
            row.saves(measured.rows[0].accepted.depth),
            row.run.message if row.run else "",
        )
        for row in measured.rows
    ]


def _comparison(measured: Benchmark, task: Task) -> Comparison:
    entries, key = _entries(measured), measured.key
    place, advice = advise(entries)
    size = "x".join(map(str, key.latent))
    devices = ", ".join(key.devices)
    repeats = len(measured.rows[0].seconds)
    timed = f"medians of {repeats} runs each" if repeats > 1 else "one timed run each"
    about = (
        f"{key.model} ({key.dtype}), latent {size}, {task.sampler_name}, {task.steps} steps, cfg {task.cfg:g}, on "
        f"{devices}; {timed}"
    )
    return Comparison(about, tuple(entries), place, advice, _pictures(measured, place))


def _pictures(measured: Benchmark, best: int) -> tuple[Shown, ...]:
    """Every picture once, with the names of all whose result it is."""
    shown: dict[bytes, Shown] = {}
    for place, row in enumerate(measured.rows):
        outcomes = [row.accepted] if row.first is row.accepted else [row.first, row.accepted]
        for outcome in outcomes:
            result = outcome is row.accepted
            label = row.name if result else f"{row.name}: its first"
            known = shown.get(pixels := outcome.picture.tobytes())
            if known is None:
                detail = _detail(outcome) if place else duration(outcome.seconds)
                shown[pixels] = Shown(label, detail, outcome.picture, result and place == best)
            elif result:
                shown[pixels] = replace(known, also=(*known.also, label), best=known.best or place == best)
    return tuple(shown.values())


def _detail(outcome: Outcome) -> str:
    fidelity = outcome.fidelity
    return f"{duration(outcome.seconds)}  ·  {percent(fidelity.rmse)}  ·  {decibels(fidelity.psnr)}"
