"""The picture of an optimisation: everything is in its place, for any values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from PIL import Image, ImageChops


@pytest.fixture(scope="module")
def curve(node_module: Callable[[str], ModuleType]) -> ModuleType:
    return node_module("plots.convergence")


def course(curve: ModuleType, history: Sequence[Any], **changes: Any) -> Any:
    """A course of sampled values, of one item where they are numbers; its result is the best of them."""
    rows = tuple(values if isinstance(values, tuple) else (values,) for values in history)
    best = tuple(min((value for value in item if value == value), default=math.nan) for item in zip(*rows, strict=True))
    plain = curve.Course("SDO", rows, (True,) * len(rows), best, len(rows))
    return replace(plain, **changes)


def diamonds(curve: ModuleType, picture: Image.Image) -> list[tuple[float, float]]:
    """The centres of the results in the plot, from the left: gold and higher than any letter or sign beside it."""
    # Their edges are mixed with what is behind them.
    apart = ImageChops.difference(picture, Image.new("RGB", picture.size, curve.palette().gold)).convert("L").tobytes()
    gold = {(place % picture.width, place // picture.width) for place, value in enumerate(apart) if value == 0}
    centres = []
    while gold:
        found, ways = [], [gold.pop()]
        while ways:
            x, y = ways.pop()
            found.append((x, y))
            around = {(x + right, y + down) for right in (-1, 0, 1) for down in (-1, 0, 1)} & gold
            gold -= around
            ways += around
        (left, top), (right, bottom) = (tuple(way(axis) for axis in zip(*found, strict=True)) for way in (min, max))
        if bottom - top >= 13 and right - left >= 13:
            centres.append(((left + right) / 2, (top + bottom) / 2))
    return sorted(centres)


# --- the result stands where it belongs


@pytest.mark.parametrize("sampled", [True, False])
def test_the_result_stands_at_its_iteration(curve: ModuleType, sampled: bool) -> None:
    """The same values in another order: the same height, and from iteration to iteration the same way."""
    histories = [(2, 8, 5, 10), (10, 2, 8, 5), (10, 5, 2, 8), (10, 8, 5, 2)]
    places = []
    for at, history in enumerate(histories):
        marked = tuple(sampled or iteration in (0, at) for iteration in range(4))
        (place,) = diamonds(curve, curve.draw_curve(course(curve, history, sampled=marked)))
        places.append(place)
    (first, height), step = places[0], places[1][0] - places[0][0]
    assert step > 100
    for iteration, (x, y) in enumerate(places):
        assert abs(x - first - iteration * step) <= 2 and abs(y - height) <= 1


def test_a_result_of_the_last_update_stands_at_the_end(curve: ModuleType) -> None:
    """No iteration has seen it: it is from the check after the last."""
    histories = [(2.0, 10.0), (10.0, 2.0), (10.0, 8.0)]
    places = [diamonds(curve, curve.draw_curve(course(curve, history, best=(2.0,)))) for history in histories]
    ((first, height),), ((second, _),), ((end, same),) = places
    assert abs(end - second - (second - first)) <= 2 and abs(same - height) <= 1


def test_a_carried_value_is_no_result(curve: ModuleType) -> None:
    """A prediction lower than all that was sampled changes neither the place nor the strong line."""
    history, sampled = (10.0, 8.0, 1.0, 5.0), (True, True, False, True)
    (place,) = diamonds(curve, curve.draw_curve(course(curve, history, sampled=sampled, best=(5.0,))))
    (believed,) = diamonds(curve, curve.draw_curve(course(curve, history)))
    assert place[0] > believed[0] + 100 and place[1] < believed[1] - 100


def test_heights_are_in_proportion(curve: ModuleType) -> None:
    """Of each item its own result; what lies halfway between two values is drawn halfway."""
    history = [(10.0, 10.0, 10.0), (11.0, 6.0, 12.0), (11.0, 12.0, 2.0)]
    places = diamonds(curve, curve.draw_curve(course(curve, history)))
    assert len(places) == 3
    (x0, high), (x1, middle), (x2, low) = places
    assert x0 < x1 < x2 and high < middle < low
    assert abs(middle - (high + low) / 2) <= 1


def test_of_many_items_the_mean_is_drawn(curve: ModuleType) -> None:
    history = [tuple(10.0 + item for item in range(9)), tuple(1.0 + item for item in range(9))]
    assert len(diamonds(curve, curve.draw_curve(course(curve, history)))) == 1
    few = [values[:8] for values in history]
    picture = curve.draw_curve(course(curve, few))
    colours = {colour for _, colour in picture.getcolors(maxcolors=1 << 24)}
    assert colours.issuperset(curve.distinct_colours(8))


def test_one_explosion_does_not_flatten_the_others(curve: ModuleType) -> None:
    """The way from the first value to the last keeps most of its height."""
    history = [10.0 - 0.3 * iteration for iteration in range(30)]
    for exploded in (10.0, 1e9, -1e9):
        values = [*history[:15], exploded, *history[16:]]
        sampled = tuple(iteration != 15 for iteration in range(30))
        ((_, top),), ((_, bottom),) = (
            diamonds(curve, curve.draw_curve(course(curve, values, sampled=sampled, best=(best,))))
            for best in (history[0], history[-1])
        )
        assert bottom - top > 200


# --- whatever the values


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (width, height), "white")


NAN, INF = math.nan, math.inf
FALL = [2.0 * 0.9**iteration for iteration in range(40)]
CHANGES: dict[str, tuple[Sequence[Any], dict[str, Any]]] = {
    "plain": (FALL, {}),
    "one iteration": ([0.5], {}),
    "one iteration of many": ([0.5], {"iterations": 1000, "stopped": "the optimisation was cancelled"}),
    "an update of one iteration": ([0.5], {"best": (0.25,)}),
    "none": ([], {"best": (), "iterations": 50}),
    "constant": ([0.25] * 20, {}),
    "zero": ([0.0] * 20, {}),
    "all but the first broken": ([1.0, *[NAN] * 20], {"stopped": "it broke"}),
    "all broken": ([NAN, INF], {}),
    "infinite in between": ([3.0, INF, 2.0, -INF, 1.0], {"best": (1.0,)}),
    "no result": (FALL, {"best": (NAN,)}),
    "negative": ([-0.9 + value / 10 for value in FALL], {}),
    "tiny": ([1e-9 * value for value in FALL], {}),
    "smaller than numbers go": ([5e-324, 0.0, 1e-310], {}),
    "huge": ([-1e308, 1e308, 3e299, -3e299], {}),
    "small changes of a large value": ([1000 + 1e-4 * value for value in FALL], {}),
    "the last bit": ([1.0, 1.0 + 2e-16], {}),
    "through many magnitudes": ([10.0**-iteration for iteration in range(30)], {}),
    "to nothing": ([1.0, 1e-4, 0.0], {}),
    "2 items": ([(value, -value) for value in FALL], {}),
    "8 items alike": ([(value,) * 8 for value in FALL], {}),
    "8 items, one of which falls": ([(1.0,) * 8, (*[1.0] * 7, 0.0)], {}),
    "8 items, stopped": ([(value,) * 8 for value in FALL], {"iterations": 41, "stopped": "nothing has improved"}),
    "64 items": ([tuple(value + item for item in range(64)) for value in FALL], {}),
    "64 items, broken": ([(1.0,) * 64, (NAN,) * 64, (2.0, *[NAN] * 63)], {}),
    "500 iterations": (FALL * 13, {"sampled": (True, False, False, False, False) * 104}),
    "padded after an early stop": (FALL, {"sampled": (True,) * 20, "stopped": "nothing has improved"}),
    "never sampled": (FALL, {"sampled": (False,) * 40}),
    "long texts": (
        FALL,
        {
            "title": "title\n" * 60,
            "stopped": "reason " * 100 + "x" * 500,
            "marks": tuple((3 * at, "item broke\n" * 60) for at in range(20)),
            "figures": (("label " * 20, "1234567890" * 9),) * 7,
            "pictures": (("label\n" * 99, picture(64, 64)), ("x" * 300, picture(10, 3000))),
        },
    ),
    "a mark beyond the end": (FALL, {"marks": ((40, "the last broke"), (999, "what is that"))}),
    "other letters": (FALL, {"title": "Gerät \N{HIGH VOLTAGE SIGN}", "marks": ((1, "\N{HIGH VOLTAGE SIGN}"),)}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_overlaps_or_is_cut_or_faint(curve: ModuleType, written: Any, ground: str, name: str) -> None:
    history, changes = CHANGES[name]
    drawn = curve.draw_curve(course(curve, history, **changes))
    assert drawn.mode == "RGB" and drawn.width == 1400
    written.check()
    for text in written.texts:
        assert "nan" not in text and "inf" not in text.replace("infinite", "").replace("finite", "")
    for edge in (0, drawn.width - 20):
        (count,) = drawn.crop((edge, 0, edge + 20, drawn.height)).getcolors()
        assert count[0] == 20 * drawn.height, "something is in the margin"


def test_marks_are_red_and_told(curve: ModuleType) -> None:
    def has(picture: Image.Image) -> bool:
        return curve.palette().red in {colour for _, colour in picture.getcolors(maxcolors=1 << 24)}

    plain, marked = (curve.draw_curve(course(curve, FALL, marks=marks)) for marks in ((), ((3, "item 0 broke"),)))
    assert not has(plain) and has(marked) and marked.height > plain.height


@pytest.mark.parametrize("size", [(512, 512), (1024, 256), (48, 96), (3000, 2000), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_pictures_keep_their_aspect(curve: ModuleType, size: tuple[int, int], mode: str) -> None:
    """Each whole, as wide to its height as it was."""
    shown = (("first", picture(*size, mode)), ("best", picture(*size, mode)))
    plain, drawn = (curve.draw_curve(course(curve, [], best=(), pictures=pictures)) for pictures in ((), shown))
    part = drawn.crop((0, plain.height, 1400, drawn.height))
    white = part.convert("L").point(lambda value: 255 * (value == 255))
    left, top, right, bottom = white.getbbox()
    # Two in a row, of the same size.
    middle = white.crop((0, (top + bottom) // 2, 1400, (top + bottom) // 2 + 1))
    width = middle.histogram()[255] / 2
    assert width / (bottom - top) == pytest.approx(size[0] / size[1], rel=0.02, abs=0.3 * (size == (1, 1)))
    assert right <= 1400 - 32 and bottom <= part.height - 32
