"""The mathematics of a convergence plot: the curve of each item, the range of values to show, numbers in words.

Needs NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

MAX_LINES = 8  # items of a batch with a line of their own; of more items the mean and the range are drawn

_HUGE, _TINY = 1e300, 1e-280  # a larger value cannot be drawn; a smaller difference is none


@dataclass(frozen=True, eq=False)
class Curve:
    """The values of one item, or the mean over many items, at each of N iterations.

    ``values`` [N]: the objective, NaN where there is none. ``best_so_far`` [N]: the best of the sampled values, NaN
    before the first of them. ``result``: the objective of the result, NaN if unknown. ``found``: the iteration of the
    result; N if it is from the end. ``lows``, ``highs`` [N]: the range over many items, empty for one item.
    """

    name: str
    values: Values
    best_so_far: Values
    result: float
    found: int
    lows: Values
    highs: Values

    @property
    def shown(self) -> Values:
        """All values that can be drawn."""
        return _known(np.concatenate((self.values, self.best_so_far, [self.result], self.lows, self.highs)))

    @property
    def needed(self) -> Values:
        """The values that the plot always shows: the first one, the best so far, and the result."""
        return _known(np.concatenate((self.values[:1], self.best_so_far, [self.result])))


def make_curves(history: Sequence[Sequence[float]], sampled: Sequence[bool], best: Sequence[float]) -> list[Curve]:
    """One curve for each item, or one curve of means for more than `MAX_LINES` items.

    ``history``: N rows, the objective of each item; ``sampled`` [N]: whether a row is measured and not predicted;
    ``best``: the objective of each item's result. Values that cannot be drawn, and missing ones, count as NaN.
    """
    items = max([len(best), *(len(row) for row in history)], default=0)
    values = np.array([_row(row, items) for row in history], dtype=np.float64).reshape(len(history), items)
    measured = np.where(np.array(sampled, dtype=bool)[:, None], values, math.nan)
    best_so_far = np.fmin.accumulate(measured, axis=0) if len(values) else values
    results = _row(best, items)
    if items > MAX_LINES:
        lows, highs = _reduce(np.fmin, values), _reduce(np.fmax, values)
        return [Curve("mean", _mean(values), _mean(best_so_far), float(_mean(results)), len(values), lows, highs)]
    nothing = np.empty(0)
    return [
        Curve(
            f"item {item}" if items > 1 else "",
            values[:, item],
            best_so_far[:, item],
            float(results[item]),
            _iteration_of_result(measured[:, item], float(results[item])),
            nothing,
            nothing,
        )
        for item in range(items)
    ]


@dataclass(frozen=True)
class Range:
    """The values that the plot shows, from ``low`` to ``high``; ``log``: on a logarithmic scale."""

    low: float
    high: float
    log: bool

    def beyond(self, values: Values) -> NDArray[np.int64]:
        """1 where a value is above the range, -1 where it is below, else 0."""
        return (values > self.high).astype(np.int64) - (values < self.low)


def value_range(curves: Sequence[Curve]) -> Range:
    """From the lowest to the highest value, with some margin, but without single values that are far away.

    It is logarithmic if all values are positive and the important ones differ by a factor of 1000 or more.
    """
    shown = np.sort(np.concatenate([curve.shown for curve in curves]))
    needed = np.concatenate([curve.needed for curve in curves])
    needed = needed if needed.size else shown
    log = bool(shown[0] > _TINY and needed.max() / needed.min() >= 1000)
    if log:
        shown, needed = np.log10(shown), np.log10(needed)
    low, high = _without_outliers(shown, needed)
    if high - low <= max(_TINY, 1e-9 * max(abs(low), abs(high))):  # all values are equal
        margin = 0.1 * abs(low) if abs(low) > _TINY else 1.0
    else:
        margin = 0.06 * (high - low)
    low, high = low - margin, high + margin
    return Range(10.0 ** max(low, -300.0), 10.0 ** min(high, 300.0), True) if log else Range(low, high, False)


def write(value: float, shown: Range, step: float, more: int = 0) -> str:
    """``value`` in words, with the digits that tell apart two ticks at a distance of ``step``, and ``more`` digits."""
    if shown.log:
        return _short_exponent(f"{value:.{more + 1}g}" if more else f"{value:g}")
    reach = max(abs(shown.low), abs(shown.high))
    power, digits = math.floor(math.log10(reach)), math.floor(math.log10(step) + 1e-9)
    if -4 < power < 6:
        return _without_signed_zero(f"{value:.{max(0, more - digits)}f}")
    mantissa = f"{value / 10.0**power:.{max(0, power - digits) + more}f}"
    return _without_signed_zero(mantissa) + (f"e{power}" if value else "")


def spread_apart(places: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Ascending ``places`` moved as little as needed to lie ``distance`` apart, between ``low`` and ``high``."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + distance if moved else low))
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], moved[index + 1] - distance if index + 1 < len(moved) else high)
    return moved


def alone(values: Values) -> NDArray[np.bool_]:
    """Where a value has no neighbour: a line through the values does not show it."""
    known = np.pad(~np.isnan(values), 1)
    return known[1:-1] & ~known[:-2] & ~known[2:]


def _row(values: Sequence[float], items: int) -> Values:
    row = np.full(items, math.nan)
    row[: len(values)] = values
    row[~(np.abs(row) < _HUGE)] = math.nan
    return row


def _known(values: Values) -> Values:
    return values[~np.isnan(values)]


def _reduce(function: np.ufunc, values: Values) -> Values:
    """fmin or fmax over the items."""
    return np.asarray(function.reduce(values, axis=1), dtype=np.float64)


def _mean(values: Values) -> Values:
    """Over the items, without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    count = known.sum(-1)
    scaled = np.where(known, values, 0.0) / np.maximum(count, 1)[..., None]  # divided first: a sum may be too large
    return np.where(count > 0, scaled.sum(-1), math.nan)


def _iteration_of_result(measured: Values, result: float) -> int:
    """The iteration with the best measured value if that is the result, else the end.

    A result may differ from it in its last bits, for items may be sampled together once more.
    """
    known = _known(measured)
    if not known.size:
        return len(measured)
    best = float(known.min())
    close = abs(result - best) <= 1e-3 * (float(known[0]) - best) + 1e-6 * abs(best)
    return int(np.nanargmin(measured)) if close else len(measured)


def _without_outliers(shown: Values, needed: Values) -> tuple[float, float]:
    """The range of the ascending values ``shown``.

    The tenth of the values at each end extends the range by its own width at most. If they lie further away, the
    range ends at 0.3 of its width beyond the others: the plot then only shows that they are further away.
    """
    tenth = round(0.1 * (len(shown) - 1))
    low, high = min(shown[tenth], needed.min()), max(shown[-1 - tenth], needed.max())
    usual = high - low
    low = shown[0] if low - shown[0] <= usual or not usual else low - 0.3 * usual
    high = shown[-1] if shown[-1] - high <= usual or not usual else high + 0.3 * usual
    return float(low), float(high)


def _without_signed_zero(number: str) -> str:
    return number[1:] if number.startswith("-") and not number.strip("-0.") else number


def _short_exponent(number: str) -> str:
    """1e-05 as 1e-5."""
    digits, e, power = number.partition("e")
    return f"{digits}e{int(power)}" if e else digits
