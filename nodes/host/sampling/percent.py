"""Estimated distances in words. Needs nothing, so that pictures and messages share it."""

SMALLEST = 0.001
"""Nobody sees a smaller relative difference, and its estimate is rough."""


def one_digit(estimate: float) -> str:
    """An estimated relative difference in percent, as in "0.4". It is only right within a factor of 3, so that one
    digit says it all."""
    return f"{float(f'{100 * estimate:.1g}'):g}"
