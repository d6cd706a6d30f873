"""Estimated distances in words. Needs nothing, so that pictures and messages share it."""

SMALLEST = 0.001
"""Nobody sees a smaller relative difference, and its estimate is rough."""


def in_percent(estimate: float) -> str:
    """An estimated relative difference, as in "about 0.4 %": it is only right within a factor of 3, so that one digit
    says it all."""
    if estimate < SMALLEST:
        return f"less than {100 * SMALLEST:g} %"
    return f"about {one_digit(estimate)} %"


def one_digit(estimate: float) -> str:
    """An estimated relative difference in percent, as in "0.4"."""
    return f"{float(f'{100 * estimate:.1g}'):g}"
