"""Pictures on a dark ground and on a light one: the same content, and all that is written can be read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from tests.plots.conftest import MIN_CONTRAST, contrast
from tests.plots.recorded_runs import PICTURES


@pytest.fixture(scope="module")
def palette(node_module: Callable[[str], ModuleType]) -> ModuleType:
    return node_module("plots.palette")


@pytest.fixture(scope="module")
def draws(node_module: Callable[[str], ModuleType]) -> dict[str, Callable[[], Image.Image]]:
    """Draws a picture of each kind."""
    timeline, convergence = node_module("plots.timeline"), node_module("plots.convergence")
    comparison, entry = node_module("plots.comparison"), node_module("recommendation").Entry
    run = PICTURES["a lost lane"]()
    history = tuple((2.0 * 0.9**iteration,) for iteration in range(12))
    course = convergence.Course("SDO", history, (True, False) * 6, history[-2], 20, ((3, "broke"),), "no reason")
    entries = (entry("KSampler", (9.0, 10.0), 9.0, 0.0, 40.0), entry("window", (4.0,), 1.0, 0.01, 40.0))
    compared = comparison.Comparison("a model", entries, 1, "window: 2.38x as fast", "it is fast", ())
    return {
        "timeline": lambda: timeline.draw_timeline(run),
        "convergence": lambda: convergence.draw_curve(course),
        "comparison": lambda: comparison.draw_comparison(compared),
    }


KINDS = ("timeline", "convergence", "comparison")


@pytest.mark.parametrize("kind", KINDS)
def test_a_light_picture_says_the_same_on_a_light_ground(
    palette: ModuleType, draws: dict[str, Callable[[], Image.Image]], written: Any, kind: str
) -> None:
    dark = draws[kind]()
    told = written.texts
    with palette.drawn_on(light=True):
        light = draws[kind]()
    assert written.texts == told * 2 and light.size == dark.size
    for picture, dominant, ground in ((dark, palette.DARK, 0), (light, palette.LIGHT, 255)):
        colours = {colour: count for count, colour in picture.getcolors(1 << 24)}
        grounds = colours[dominant.background] + colours[dominant.card]
        assert grounds > 0.5 * picture.width * picture.height
        assert all(abs(ground - part) < 40 for part in (*dominant.background, *dominant.card))
        assert colours[dominant.gold] and colours[dominant.text] and colours[dominant.dim]


@pytest.mark.parametrize("kind", KINDS)
def test_outside_of_the_block_pictures_are_dark(
    palette: ModuleType, draws: dict[str, Callable[[], Image.Image]], kind: str
) -> None:
    """Also in other threads at the same time, and after an error."""
    dark, found = draws[kind](), []
    with pytest.raises(ZeroDivisionError), palette.drawn_on(light=True):
        thread = threading.Thread(target=lambda: found.append(draws[kind]()))
        thread.start()
        thread.join()
        raise ZeroDivisionError
    assert [picture.tobytes() for picture in (*found, draws[kind]())] == [dark.tobytes()] * 2


def test_all_colours_of_text_can_be_read(palette: ModuleType, ground: str) -> None:
    """On all that is behind them; the colours of lanes also behind a number."""
    colours = palette.palette()
    tints = [palette.faded(colours.gold, share) for share in (0.07, 0.09)]
    for text in (colours.text, colours.dim, colours.gold, colours.red):
        for behind in (colours.background, colours.card, *tints):
            assert contrast(text, behind) >= MIN_CONTRAST
    assert contrast(colours.gain, tints[0]) >= MIN_CONTRAST
    for lanes in range(1, 65):
        for lane in palette.distinct_colours(lanes):
            assert min(contrast(lane, colours.background), contrast(lane, colours.card)) >= MIN_CONTRAST


def test_lanes_are_told_apart(palette: ModuleType, ground: str) -> None:
    for count in range(1, 65):
        assert len(set(palette.distinct_colours(count))) == count
