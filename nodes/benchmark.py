"""The node that measures the host's own sampler and ours, on the user's model, prompt, size and devices."""

from __future__ import annotations

import json
import time
from typing import Any

from comfy_api.latest import io, ui

from ..chords_core import InvalidInput
from .benchmark_report import comparison_of, report_of, verdict_of_result
from .host.benchmark.runner import run_benchmark
from .host.devices.request import DeviceRequest
from .host.node_text import failure_shown, show_text
from .host.page import page_of_prompt
from .host.sampling.ksampler import KSamplerInputs
from .inputs import CATEGORY, devices_input, ksampler_inputs
from .plots.comparison import draw_comparison
from .plots.image import as_image
from .plots.language import drawn_in
from .plots.palette import drawn_on

_MAX_CORES = 64


class ChordsBenchmark(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsBenchmark",
            display_name="CHORDS Benchmark",
            category=CATEGORY,
            description="Is CHORDS worth it for you? Samples your picture with KSampler and with several settings of "
            "KSampler (CHORDS), shows speed and difference side by side, and recommends a setting. Takes as long as "
            "twenty to forty pictures. The measured times are kept.",
            search_aliases=["chords", "benchmark", "compare", "speed", "profile"],
            is_output_node=True,
            inputs=[
                *ksampler_inputs(),
                io.Vae.Input("vae", tooltip="Decodes the results, to compare the pictures."),
                devices_input(),
                io.String.Input(
                    "cores",
                    optional=True,
                    default="",
                    tooltip="The numbers of cores to try, for example 2, 4, 8: each with the secant window, and "
                    "the largest also with CHORDS. Empty: the numbers that could be faster on your devices.",
                ),
                io.Int.Input(
                    "repeats",
                    optional=True,
                    default=3,
                    min=1,
                    max=20,
                    tooltip="The number of timed runs of each setting. The settings take turns, and the median counts.",
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
        """A different value each time: how fast the machine is today is not an input, so the node always runs again."""
        return time.time()

    @classmethod
    def execute(
        cls, vae: Any, devices: DeviceRequest | None = None, cores: str = "", repeats: int = 3, **inputs: Any
    ) -> io.NodeOutput:
        counts, given = parse_cores(cores), KSamplerInputs(**inputs)
        with failure_shown():
            result = run_benchmark(given, vae, devices, counts, repeats)
        figures = report_of(result, given)
        page = page_of_prompt()
        with drawn_in(page.language), drawn_on(light=page.light):
            image = as_image(draw_comparison(comparison_of(result, given)))
        show_text(figures["advice"], verdict_of_result(result).card)
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
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= _MAX_CORES):
            raise InvalidInput(
                "cores", f'numbers from 1 to {_MAX_CORES} with commas between them, such as "2, 4, 8", not {word!r}'
            )
        counts.add(int(word))
    return sorted(counts)
