"""Which settings a benchmark tries. Pure; needs no host."""

from __future__ import annotations

from collections.abc import Sequence

from ....chords_core import plan
from ..phrases import Phrase, counted_phrase, listed
from ..sampling.options import NEAR, Fidelity, SamplerOptions

AUTOMATIC = SamplerOptions()


def sweep(counts: Sequence[int]) -> list[SamplerOptions]:
    """The settings to try, for numbers of cores ``counts``.

    - what the node chooses by itself;
    - ``near`` on one core and on each number, and ``fast`` on one core and on the largest number;
    - CHORDS on the largest number: to its first result, to the one that it ends with by itself, and to the exact one,
      which is no faster but shows results before.

    Without a number, there is one device: ``near`` and ``fast`` may then evaluate several steps in one model call.
    """
    if not counts:
        return [AUTOMATIC, _on(0, "near"), _on(0, "fast")]
    largest = max(counts, default=1)
    settings = [AUTOMATIC, *(_on(cores, "near") for cores in sorted({1, *counts}))]
    settings += [_on(cores, "fast") for cores in sorted({1, largest})]
    if largest > 1:
        settings += [SamplerOptions(largest, accept, method="chords") for accept in (1, None, "exact")]
    return settings


def to_warm_up(settings: Sequence[SamplerOptions]) -> list[SamplerOptions | None]:
    """One run of each number of cores, which loads and copies models, and tries rows; None: the host's own sampler."""
    windows = (each for each in settings if each.cores != 1 and each.fidelity == "near")
    return [None, AUTOMATIC, *windows]


def gaining(steps: int, lanes: int, solver: str) -> list[int]:
    """The numbers of cores that gain something on so many lanes: all of them, and powers of two below."""
    counts = sorted({lanes, *(1 << power for power in range(1, lanes.bit_length()))})
    return [cores for cores in counts if plan(steps, cores, tolerance=NEAR, solver=solver).cores > 1]


def name_of(options: SamplerOptions | None) -> str:
    """A setting in a few words; None: the host's own sampler."""
    if options is None:
        return "KSampler"
    if options.cores == 0:
        return Phrase("automatic") if options.fidelity == "auto" else options.fidelity
    cores = counted_phrase(options.cores, "1 core", "{count} cores")
    if options.method != "chords":
        return listed([cores, options.fidelity])
    results = {1: Phrase("first result"), "exact": Phrase("exact")}
    return listed([cores, "CHORDS", *([results[options.accept]] if options.accept in results else [])])


def _on(cores: int, fidelity: Fidelity) -> SamplerOptions:
    """A window of so many cores, or one core alone; 0: what is faster on one device."""
    return SamplerOptions(cores, fidelity=fidelity)
