"""Which settings a benchmark tries. Pure; needs no host."""

from __future__ import annotations

from collections.abc import Sequence

from ....chords_core import CHORDS, EVERY_STEP, SECANT, plan
from ..sampling.options import SamplerOptions

AUTOMATIC = SamplerOptions()
_FEWER_CALLS = "auto"


def sweep(steps: int, counts: Sequence[int]) -> list[SamplerOptions]:
    """The settings to try, for numbers of cores ``counts``.

    - what the node chooses by itself;
    - a window of each number of cores;
    - CHORDS on the largest number: to its first result, to the one that it ends with by itself, and to the exact one,
      which is no faster but shows results before;
    - one core and each number with the model called at fewer steps, if that saves calls.

    Methods are named, because with some samplers "auto" takes one core.
    """
    settings = [AUTOMATIC, *(_on(cores) for cores in counts)]
    largest = max(counts, default=0)
    if largest > 1:
        settings += [SamplerOptions(largest, accept, method=CHORDS) for accept in ("first", "auto", "exact")]
    if plan(steps, 1, calls=_FEWER_CALLS).speedup > 1:
        settings += [_on(cores, _FEWER_CALLS) for cores in sorted({1, *counts})]
    return settings


def to_warm_up(settings: Sequence[SamplerOptions]) -> list[SamplerOptions | None]:
    """One run of each number of cores, which loads and copies models; None: the host's own sampler."""
    windows = (each for each in settings if _is_window(each) and each.calls == EVERY_STEP)
    return [None, AUTOMATIC, *windows]


def gaining(steps: int, lanes: int, solver: str) -> list[int]:
    """The numbers of cores that gain something on so many lanes: all of them, and powers of two below."""
    counts = sorted({lanes, *(1 << power for power in range(1, lanes.bit_length()))})
    return [cores for cores in counts if plan(steps, cores, method=SECANT, solver=solver).cores > 1]


def name_of(options: SamplerOptions | None) -> str:
    """A setting in a few words; None: the host's own sampler."""
    if options is None:
        return "KSampler"
    if options.cores == 0:
        return "automatic"
    cores = "1 core" if options.cores == 1 else f"{options.cores} cores"
    if options.calls != EVERY_STEP:
        return f"{cores}, fewer calls"
    if options.cores == 1:
        return cores
    if options.method == SECANT:
        return f"{cores}, window"
    which = {"first": ", first result", "auto": ""}
    return f"{cores}, CHORDS{which.get(options.accept, f', {options.accept}')}"


def _on(cores: int, calls: str = EVERY_STEP) -> SamplerOptions:
    """A window of so many cores; one core alone."""
    return SamplerOptions(cores, calls=calls, method=SECANT if cores > 1 else "auto")


def _is_window(options: SamplerOptions) -> bool:
    return options.cores > 1 and options.method == SECANT
