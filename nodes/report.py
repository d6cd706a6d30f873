"""The node that shows a run as a picture and as figures."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from comfy_api.latest import io, ui

from ..chords_core import Timeline
from .host.page import page_of_prompt
from .host.sampling.run_record import ChordsRun
from .inputs import CATEGORY, Run
from .plots.image import as_image
from .plots.language import drawn_in
from .plots.palette import drawn_on
from .plots.timeline import draw_timeline


class ChordsReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ChordsReport",
            display_name="CHORDS Report",
            category=CATEGORY,
            description="Shows what the devices did in a run: which core evaluated which step and when, where cores "
            "were started and corrected, when results came, and how much faster the run was. Also outputs the same as "
            "JSON, for scripts.",
            search_aliases=["chords", "timeline", "profile", "benchmark", "speed"],
            is_output_node=True,
            inputs=[Run.Input("run", tooltip="From a CHORDS sampler.")],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The timeline of the run."),
                io.String.Output(display_name="JSON", tooltip="The figures of the run and of its timeline."),
            ],
        )

    @classmethod
    def execute(cls, run: ChordsRun) -> io.NodeOutput:
        page = page_of_prompt()
        with drawn_in(page.language), drawn_on(light=page.light):
            image = as_image(draw_timeline(run))
        text = json.dumps(report(run), indent=2, allow_nan=False)
        return io.NodeOutput(image, text, ui=ui.PreviewImage(image, cls=cls))


def report(run: ChordsRun) -> dict[str, Any]:
    """The record of a run as JSON: `ChordsRun.summary`, and

    - ``sampling_seconds``: from the first evaluation to the last;
    - ``speedup``: how many times longer one core would have taken, at the pace of this run's model calls. Lanes on one
      processor slow each other down, so that one of them alone may be faster than that. Null for calls of several rows;
    - ``accuracy_estimate``: the change of the last hit from the one before, relative to its RMS;
    - ``lanes``: for each lane its ``device``, the number of ``evaluations``, the mean ``seconds_per_evaluation``, the
      share of the run in which it was ``busy``, and its error if it was ``lost``;
    - ``hits``, ``rectifications`` and ``timeline`` (the evaluations), as in `chords_core.Timeline`.

    If the host's own sampler ran, nothing is known of its evaluations: the figures are null and the lists empty.
    """
    timeline, summary = run.timeline or Timeline(), run.summary()
    return {
        **summary,
        "sampling_seconds": run.timeline.seconds if run.timeline else None,
        "speedup": timeline.speedup(run.plan.steps) if run.rows == 1 else None,
        "accuracy_estimate": timeline.accuracy_estimate,
        "lanes": _lanes(run.lanes, timeline),
        "hits": [asdict(hit) for hit in timeline.hits] or summary["hits"],
        "rectifications": [asdict(mark) for mark in timeline.rectified],
        "timeline": [asdict(evaluation) for evaluation in timeline.evaluations],
    }


def _lanes(devices: tuple[str, ...], timeline: Timeline) -> list[dict[str, Any]]:
    pace, busy = timeline.seconds_per_evaluation(), timeline.busy()
    lost = {mark.lane: mark.error for mark in timeline.lost}
    return [
        {
            "lane": lane,
            "device": device,
            "evaluations": sum(evaluation.lane == lane for evaluation in timeline.evaluations),
            "seconds_per_evaluation": pace.get(lane),
            "busy": busy.get(lane),
            "lost": lost.get(lane),
        }
        for lane, device in enumerate(devices)
    ]
