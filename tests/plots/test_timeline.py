"""The timeline of a run as a picture: everything is in its place, and the signs are there."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from tests.plots.recorded_runs import PICTURES, recorded_run


@pytest.fixture(scope="module")
def timeline(node_module: Callable[[str], ModuleType]) -> ModuleType:
    return node_module("plots.timeline")


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_in_the_picture_overlaps_or_is_cut_or_faint(
    timeline: ModuleType, written: Any, ground: str, name: str
) -> None:
    picture = timeline.draw_timeline(PICTURES[name]())
    assert picture.mode == "RGB" and picture.width == 1400
    written.check()


def test_the_picture_tells_what_was_lost(timeline: ModuleType) -> None:
    """Red is for lost lanes, gold for the result."""

    def has(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
        return colour in {found for _, found in picture.getcolors(maxcolors=1 << 24)}

    whole, lost = timeline.draw_timeline(recorded_run(20, 4)), timeline.draw_timeline(recorded_run(20, 4, lose=True))
    assert not has(whole, timeline.palette().red) and has(lost, timeline.palette().red)
    assert has(whole, timeline.palette().gold)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("4 cores", "numbered by step"),
        ("a window of 8 cores", "numbered by step"),
        ("ended early", "ended early, by request"),
    ],
)
def test_the_words_beside_the_rounds(timeline: ModuleType, name: str, told: str) -> None:
    run = PICTURES[name]()
    about = timeline._about_rounds(run, numbered=True)
    assert told in about and ("request" in about) == run.by_request
