"""Which of several measured settings to recommend, and why. Needs no host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .host.phrases import Card, Phrase

CLOSE = 0.02  # relative RMSE of the latent; below it few people see a difference
MIN_GAIN = 0.05  # share of the time; smaller differences are chance
_MAX_SPREAD = 1.5  # slowest over fastest run of KSampler; a larger ratio means that other programs were running

RULE = (
    f"the fastest setting whose latent differs from KSampler's by less than {CLOSE:.0%} (relative RMS), which takes at "
    f"least {MIN_GAIN:.0%} less time, and each of whose runs was faster than each of KSampler's; else KSampler"
)

_STAY = Phrase("Stay with KSampler")


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
        typical: the seconds that count for the speed; None: the median of the times. Where each run belongs to one of
            KSampler's, the median of the ratios says more.
    """

    name: str
    times: tuple[float, ...]
    first: float
    rmse: float
    psnr: float
    saves: bool = True
    message: str = ""
    typical: float | None = None

    @property
    def seconds(self) -> float:
        return median(self.times) if self.typical is None else self.typical

    def factor(self, stock: Entry) -> str:
        """How many times as fast as KSampler it was, as in "1.32"."""
        return f"{stock.seconds / self.seconds:.2f}"

    def overlaps(self, stock: Entry) -> bool:
        """Whether one of its runs took as long as one of KSampler's, or longer."""
        return max(self.times) >= min(stock.times)


@dataclass(frozen=True)
class Verdict:
    """What comes of a benchmark.

    Attributes:
        place: of the recommended entry.
        headline: the verdict in a few words.
        reasons: it in sentences.
    """

    place: int
    headline: str
    reasons: tuple[str, ...]

    @property
    def advice(self) -> str:
        """The reasons as a text."""
        return " ".join(self.reasons)

    @property
    def card(self) -> Card:
        """The verdict on the node."""
        return Card((self.headline,), self.reasons)


def advise(entries: Sequence[Entry]) -> tuple[int, str]:
    """The place of the entry that `RULE` recommends, and the reason in words. The first entry is KSampler's."""
    verdict = verdict_of(entries)
    return verdict.place, verdict.advice


def verdict_of(entries: Sequence[Entry]) -> Verdict:
    """The verdict by `RULE`. It says nothing that the times contradict. The first entry is KSampler's."""
    stock = entries[0]
    verdict = _verdict(stock, entries[1:])
    return Verdict(verdict.place, verdict.headline, (*verdict.reasons, *_warnings(stock, verdict)))


def _verdict(stock: Entry, ours: Sequence[Entry]) -> Verdict:
    shorter = [entry for entry in ours if entry.seconds <= (1 - MIN_GAIN) * stock.seconds]
    saving = sorted((entry for entry in shorter if entry.saves), key=lambda entry: entry.seconds)
    close = [entry for entry in saving if entry.rmse < CLOSE]
    settled = [entry for entry in close if not entry.overlaps(stock)]
    if settled:
        return _take(settled[0], stock, ours, close)
    if close:
        return _not_settled(close[0], stock)
    if saving:
        return _not_close(saving, stock)
    if shorter:  # it does what KSampler does, so that something else made the difference
        return _by_chance(min(shorter, key=lambda entry: entry.seconds), stock)
    return _nothing_gained(stock, ours)


def _take(best: Entry, stock: Entry, ours: Sequence[Entry], close: Sequence[Entry]) -> Verdict:
    factor, name = best.factor(stock), best.name
    headline = Phrase("{name}: {factor}x as fast", name=name, factor=factor)
    reasons = [
        Phrase(
            "Take {name}: {factor}x as fast as KSampler, and {difference}.",
            name=name,
            factor=factor,
            difference=difference(best.rmse),
        )
    ]
    if close[0] is not best:
        looked, maybe = close[0].name, close[0].factor(stock)
        reasons.append(Phrase("{name} looked {factor}x as fast, but its runs overlap.", name=looked, factor=maybe))
    return Verdict(1 + ours.index(best), headline, tuple(reasons))


def _not_settled(entry: Entry, stock: Entry) -> Verdict:
    reason = Phrase(
        "{name} looked {factor}x as fast, but runs overlap: more repeats, or an idle machine.",
        name=entry.name,
        factor=entry.factor(stock),
    )
    return Verdict(0, Phrase("Not settled: runs overlap"), (reason,))


def _not_close(saving: Sequence[Entry], stock: Entry) -> Verdict:
    finite = [entry for entry in saving if entry.rmse == entry.rmse]
    near = min(finite or saving, key=lambda entry: entry.rmse if finite else entry.seconds)
    reason = Phrase(
        "KSampler: what looked faster differs by {percent} % or more. Nearest: {name}, {factor}x as fast, "
        "{difference}.",
        percent=f"{100 * CLOSE:g}",
        name=near.name,
        factor=near.factor(stock),
        difference=difference(near.rmse),
    )
    return Verdict(0, _STAY, (reason,))


def _by_chance(entry: Entry, stock: Entry) -> Verdict:
    reason = Phrase(
        "KSampler: {name} does the same, and looked {factor}x as fast by chance: more repeats, or an idle machine.",
        name=entry.name,
        factor=entry.factor(stock),
    )
    told = [Phrase("It says: {message}.", message=entry.message)] if entry.message else []
    return Verdict(0, _STAY, (reason, *told))


def _nothing_gained(stock: Entry, ours: Sequence[Entry]) -> Verdict:
    saving = [entry for entry in ours if entry.saves]
    if saving:
        best = min(saving, key=lambda entry: entry.seconds)
        why: str = Phrase(
            "nothing was faster by {percent} % or more ({name} was {factor}x as fast)",
            percent=f"{100 * MIN_GAIN:g}",
            name=best.name,
            factor=best.factor(stock),
        )
    else:
        why = next((entry.message for entry in ours), None) or Phrase("nothing else was tried")
    return Verdict(0, _STAY, (Phrase("KSampler, nothing is gained here: {why}.", why=why),))


def _warnings(stock: Entry, verdict: Verdict) -> list[str]:
    fastest, slowest = min(stock.times), max(stock.times)
    if slowest > _MAX_SPREAD * fastest:
        return [
            Phrase(
                "KSampler's own runs took {fastest} to {slowest} s: measure while nothing else is running.",
                fastest=f"{fastest:.3g}",
                slowest=f"{slowest:.3g}",
            )
        ]
    if len(stock.times) == 1 and verdict.place:
        return [Phrase("Each was timed once: more repeats show whether it is chance.")]
    return []


def difference(rmse: float) -> Phrase:
    """A relative RMSE in words."""
    if rmse != rmse:
        return Phrase("at a difference that is no number")
    if rmse == 0:
        return Phrase("equal to its result, bit for bit")
    if rmse < 1e-4:
        return Phrase("equal to its result, apart from rounding")
    return Phrase("{percent} % from its result", percent=f"{100 * rmse:.2g}")
