"""Which settings a benchmark tries. Pure; needs no host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ....chords_core import choose_calls, plan
from ..sampling.options import SamplerOptions

AUTOMATIC = SamplerOptions()


def sweep(steps: int, counts: Sequence[int]) -> list[SamplerOptions]:
    """The settings to try, for numbers of cores ``counts``.

    - what the node chooses by itself;
    - a window of each number of cores;
    - CHORDS on the largest number: to its first result, to the one that it ends with by itself, and to the exact one,
      which is no faster but shows results before;
    - one core and each number with the model called at fewer steps, if that saves calls.

    Methods are named, because with some samplers the automatic choice is one core.
    """
    settings = [AUTOMATIC, *(_on(cores) for cores in counts)]
    largest = max(counts, default=0)
    if largest > 1:
        settings += [SamplerOptions(largest, accept, method="chords") for accept in (1, None, "exact")]
    if choose_calls(steps) is not None:
        settings += [replace(_on(cores), one_call_in="auto") for cores in sorted({1, *counts})]
    return settings


def to_warm_up(settings: Sequence[SamplerOptions]) -> list[SamplerOptions | None]:
    """One run of each number of cores, which loads and copies models; None: the host's own sampler."""
    windows = (each for each in settings if _is_window(each) and each.one_call_in is None)
    return [None, AUTOMATIC, *windows]


def gaining(steps: int, lanes: int, solver: str) -> list[int]:
    """The numbers of cores that gain something on so many lanes: all of them, and powers of two below."""
    counts = sorted({lanes, *(1 << power for power in range(1, lanes.bit_length()))})
    return [cores for cores in counts if plan(steps, cores, method="secant", solver=solver).cores > 1]


def name_of(options: SamplerOptions | None) -> str:
    """A setting in a few words; None: the host's own sampler."""
    if options is None:
        return "KSampler"
    if options.cores == 0:
        return "automatic"
    cores = "1 core" if options.cores == 1 else f"{options.cores} cores"
    if options.one_call_in is not None:
        return f"{cores}, fewer calls"
    if options.cores == 1:
        return cores
    if _is_window(options):
        return f"{cores}, window"
    which = {1: ", first result", "exact": ", exact"}
    return f"{cores}, CHORDS{which.get(options.accept or 0, '')}"


def _on(cores: int) -> SamplerOptions:
    """A window of so many cores; one core alone."""
    return SamplerOptions(cores, method="secant" if cores > 1 else None)


def _is_window(options: SamplerOptions) -> bool:
    return options.cores > 1 and options.method == "secant"
