"""The pack's own socket types and the inputs several nodes share."""

from comfy_api.latest import io

from .host.sampling.options import ACCEPTS, CALLS, METHODS

CATEGORY = "CHORDS"

Devices = io.Custom("CHORDS_DEVICE_SET")
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
            tooltip="How many solvers work on the picture at once. 0 chooses what is fastest on the devices there "
            "are, one core where nothing is gained. A number fixes the picture on every machine; with fewer "
            "devices the cores take turns, slower than KSampler.",
        ),
        io.Combo.Input(
            "accept",
            optional=True,
            options=list(ACCEPTS),
            default="auto",
            tooltip="Which result ends the run. auto: a window ends once it measures that its result is close to "
            "KSampler's; CHORDS ends with the first result that differs by at most 5 % from the one before, at "
            "worst with the exact one. first: CHORDS ends with the first to arrive. second, third: later, and "
            "closer. exact: what KSampler gives.",
        ),
        io.Combo.Input(
            "calls",
            optional=True,
            options=list(CALLS),
            default=CALLS[0],
            tooltip="At how many of the steps the model is called. auto: so few that the picture is still about "
            "the same (13 for 20 steps, 18 for 50, on one device, too); its answers at the other steps are "
            "interpolated. every step: at each, as in KSampler; the same with accept at exact and with CHORDS on "
            "several cores.",
        ),
        io.Combo.Input(
            "method",
            optional=True,
            options=list(METHODS),
            default="auto",
            tooltip="How the cores work together. auto: the secant window, or one core with samplers whose window "
            "is not close enough (uni_pc, uni_pc_bh2). secant window: each round asks the model at neighbouring "
            "steps and solves the whole path again, until little moves any more. CHORDS: from staggered starts, "
            "each core corrects the next; the last result is exactly KSampler's.",
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
