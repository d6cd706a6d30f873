"""The names of the host's samplers and schedulers, and the core's solvers behind them."""

from __future__ import annotations

from collections.abc import Mapping

import comfy.samplers

from ....chords_core import SOLVERS

# By name, not by function: other packs reload the module that holds the functions.
PARALLEL: Mapping[str, str] = {
    "euler": "euler",
    "ddim": "euler",
    "dpmpp_2m": "dpmpp_2m",
    "res_multistep": "res_multistep",
    "uni_pc": "uni_pc",
    "uni_pc_bh2": "uni_pc_bh2",
}
"""The host's samplers that can run in parallel, with the core's solver that gives the same bits."""

STEP_SAMPLERS: Mapping[str, str] = {
    name: solver for name, solver in PARALLEL.items() if SOLVERS[solver].step is not None
}
"""Those with one function a step, so that SDO can optimise through it."""


def sampler_names() -> list[str]:
    """The host's samplers, with those that other packs have added."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    """The host's schedulers, with those that other packs have added."""
    return list(comfy.samplers.KSampler.SCHEDULERS)
