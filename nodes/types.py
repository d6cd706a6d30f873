"""The pack's own socket types and the inputs several nodes share."""

from comfy_api.latest import io

from ..chords_core import ACCEPTS, CALLS, PARALLEL_METHODS

CATEGORY = "CHORDS"

Devices = io.Custom("CHORDS_DEVICES")
Run = io.Custom("CHORDS_RUN")
Objective = io.Custom("SDO_OBJECTIVE")


def parallel_inputs() -> list[io.Input]:
    """What the CHORDS samplers take beyond the stock ones.

    They are optional because the host refuses an API graph that lacks a required input, even one with a
    default, and a graph made for the stock node has none of these.
    """
    return [
        io.Int.Input(
            "cores",
            optional=True,
            default=0,
            min=0,
            max=64,
            tooltip="How many solvers work on the picture at once. 0 chooses what is fastest on the devices "
            "there are, one core where nothing is gained. A number fixes the picture on every machine.",
        ),
        io.Combo.Input(
            "accept",
            optional=True,
            options=list(ACCEPTS),
            default="auto",
            tooltip="Which result ends the run: the first to arrive is the fastest, each later one is closer to "
            "what one core gives, exact is that very result. auto takes the first.",
        ),
        io.Combo.Input(
            "calls",
            optional=True,
            options=list(CALLS),
            default=CALLS[0],
            tooltip="At how many of the steps the model is called. auto takes so few that the picture is still about "
            "the same (13 calls for 20 steps, 18 for 50), even on one device; what the model would say at the other "
            "steps is interpolated. every step asks it each time, as KSampler does; so does accept exact.",
        ),
        io.Combo.Input(
            "method",
            optional=True,
            options=list(PARALLEL_METHODS),
            default="auto",
            tooltip="How the cores work together. CHORDS: from staggered starts, each correcting the next, with exact "
            "results at the end. secant window: at neighbouring steps, the whole path solved again each time; closer "
            "and sooner. auto: the window where cores is 0, CHORDS for a number.",
        ),
        Devices.Input(
            "devices",
            optional=True,
            tooltip="From a CHORDS Devices node. Without it, all devices ComfyUI sees are used.",
        ),
        io.Vae.Input(
            "preview_vae",
            optional=True,
            tooltip="Connected, this VAE decodes each result as it arrives, where there is memory for it, instead of "
            "ComfyUI's quick preview. It works beside the sampling but on the same device.",
        ),
    ]
