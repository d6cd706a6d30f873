"""The names of samplers and schedulers, as the host has them."""

from __future__ import annotations

import comfy.samplers


def sampler_names() -> list[str]:
    """The host's samplers, with those that other packs have added."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    """The host's schedulers, with those that other packs have added."""
    return list(comfy.samplers.KSampler.SCHEDULERS)
