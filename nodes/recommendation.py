"""Which of several measured settings to recommend, and why. Needs no host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

CLOSE = 0.02  # relative RMSE of the latent; below it few people see a difference
MIN_GAIN = 0.05  # share of the time; smaller differences are chance
_MAX_SPREAD = 1.5  # slowest over fastest run of KSampler; a larger ratio means that other programs were running

RULE = (
    f"the fastest setting whose latent differs from KSampler's by less than {CLOSE:.0%} (relative RMS), which takes at "
    f"least {MIN_GAIN:.0%} less time, and each of whose runs was faster than each of KSampler's; else KSampler"
)


@dataclass(frozen=True)
class Entry:
    """What was measured of a setting.

    Attributes:
        name: the setting in a few words.
        times: seconds to its result, of each run.
        first: seconds to its first picture, the median.
        rmse: of the result's latent, relative.
        psnr: of its picture in dB, infinite if it equals KSampler's.
        saves: whether it makes fewer model calls in a row, or faster ones.
        message: what the sampler said that it does.
    """

    name: str
    times: tuple[float, ...]
    first: float
    rmse: float
    psnr: float
    saves: bool = True
    message: str = ""

    @property
    def seconds(self) -> float:
        return median(self.times)


def advise(entries: Sequence[Entry]) -> tuple[int, str]:
    """The place of the entry that `RULE` recommends, and the reason in words. The first entry is KSampler's."""
    place, why = _recommended(entries)
    fastest, slowest = min(entries[0].times), max(entries[0].times)
    if slowest > _MAX_SPREAD * fastest:
        why += f" But KSampler's own runs took {fastest:.3g} to {slowest:.3g} s: measure while nothing else is running."
    return place, why


def _recommended(entries: Sequence[Entry]) -> tuple[int, str]:
    stock, *ours = entries
    faster = [
        entry
        for entry in ours
        if entry.saves  # otherwise it does what KSampler does, and was faster by chance
        and entry.seconds <= (1 - MIN_GAIN) * stock.seconds
        and max(entry.times) < min(stock.times)
    ]
    close = [entry for entry in faster if entry.rmse < CLOSE]
    if close:
        best = min(close, key=lambda entry: entry.seconds)
        gain = f"{stock.seconds / best.seconds:.2f}x as fast as KSampler"
        return entries.index(best), f"Take {best.name}: {gain}, and {difference(best.rmse)}."
    return 0, f"KSampler, nothing is gained here: {_why_not(stock, ours, faster)}."


def _why_not(stock: Entry, ours: Sequence[Entry], faster: Sequence[Entry]) -> str:
    finite = [entry for entry in faster if entry.rmse == entry.rmse]
    if finite:
        near = min(finite, key=lambda entry: entry.rmse)
        nearest = f"{near.name}, {stock.seconds / near.seconds:.2f}x as fast, {difference(near.rmse)}"
        return f"every faster setting differs by {CLOSE:.0%} or more (nearest: {nearest})"
    saving = [entry for entry in ours if entry.saves]
    if not saving:
        return next((entry.message for entry in ours), "nothing else was tried")
    best = min(saving, key=lambda entry: entry.seconds)
    pace = f"{best.name} was {stock.seconds / best.seconds:.2f}x as fast"
    if best.seconds > (1 - MIN_GAIN) * stock.seconds:
        return f"nothing was faster by {MIN_GAIN:.0%} or more ({pace})"
    return f"{pace} by the median, but not in each run, so that it may be chance"


def difference(rmse: float) -> str:
    """A relative RMSE in words."""
    if rmse == 0:
        return "equal to its result, bit for bit"
    return f"{100 * rmse:.2g} % from its result" if rmse >= 1e-4 else "equal to its result, apart from rounding"
