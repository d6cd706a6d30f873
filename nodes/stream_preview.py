"""The node that shows the results of a run as they come."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .host.sampling.run_record import ChordsRun
from .host.streaming.hits import hit_images, hit_latents
from .inputs import CATEGORY, Run


class ChordsStreamPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsStreamPreview",
            display_name="CHORDS Stream Preview",
            category=CATEGORY,
            description="Shows each result of a CHORDS sampler while it runs. A click on Accept ends the run with the "
            "result that is shown. On several cores there is a result after each round of model calls. Outputs every "
            "result, the accepted one last.",
            search_aliases=["chords", "preview", "streaming", "accept"],
            is_output_node=True,
            inputs=[
                Run.Input("run", tooltip="From a CHORDS sampler."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Decodes the results when the run has ended. Without it, they are shown in rough colours.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="Every result decoded, the accepted one last."),
                io.Latent.Output(display_name="LATENT", tooltip="Every result, the accepted one last."),
            ],
        )

    @classmethod
    def execute(cls, run: ChordsRun, vae: Any = None) -> io.NodeOutput:
        images = hit_images(run, vae)
        shown = {**ui.PreviewImage(images, cls=cls).as_dict(), "chords": [run.summary()]}
        return io.NodeOutput(images, hit_latents(run), ui=shown)
