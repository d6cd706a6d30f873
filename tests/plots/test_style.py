"""Plots leave matplotlib as it is for other packs, do not depend on its settings, and say how to install it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest
from matplotlib import style as mpl_style
from PIL import Image

HISTORY = tuple((2.0 * 0.9**iteration,) for iteration in range(12))


@pytest.fixture(scope="module")
def draw(node_module: Callable[[str], ModuleType]) -> Callable[[], list[Image.Image]]:
    """Draws a convergence and a comparison with a sign of each kind."""
    convergence, comparison = node_module("plots.convergence"), node_module("plots.comparison")
    entry = node_module("recommendation").Entry
    entries = (entry("KSampler $x$", (9.0, 10.0), 9.0, 0.0, 40.0), entry("window", (4.0,), 1.0, 0.01, 40.0))
    course = convergence.Course("SDO", HISTORY, (True, False) * 6, HISTORY[-2], 20, ((3, "broke"),), "no reason")
    compared = comparison.Comparison("a model", entries, 1, "window: 2.38x as fast", "it is fast", ())
    return lambda: [convergence.draw_curve(course), comparison.draw_comparison(compared)]


@pytest.mark.parametrize("other", ["dark_background", "ggplot", "fivethirtyeight", "Solarize_Light2", "custom"])
def test_the_settings_of_other_packs_change_nothing(draw: Callable[[], list[Image.Image]], other: str) -> None:
    expected = [drawn.tobytes() for drawn in draw()]
    custom = {"font.size": 40, "lines.linewidth": 9, "axes.unicode_minus": False, "legend.fancybox": False}
    with mpl_style.context(custom | {"figure.dpi": 30, "savefig.dpi": 20} if other == "custom" else other):
        assert [drawn.tobytes() for drawn in draw()] == expected


def test_settings_and_pyplot_are_left_alone(draw: Callable[[], list[Image.Image]], repo: Path) -> None:
    before = dict(matplotlib.rcParams)
    draw()
    assert dict(matplotlib.rcParams) == before
    program = (
        "import sys, types; package = types.ModuleType('pack'); package.__path__ = ['nodes']; "
        "sys.modules['pack'] = package; from pack.plots import style; "
        "assert 'matplotlib' not in sys.modules; style.render(style.new_figure(9, 9)); "
        "assert 'matplotlib.figure' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=repo, check=True)


def test_threads_draw_side_by_side(draw: Callable[[], list[Image.Image]]) -> None:
    expected = [drawn.tobytes() for drawn in draw()]
    found: list[list[bytes]] = []
    threads = [threading.Thread(target=lambda: found.append([drawn.tobytes() for drawn in draw()])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_without_matplotlib_the_picture_says_how_to_install_it(
    draw: Callable[[], list[Image.Image]], written: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other parts of the picture are there: a long search is not lost for want of a plot."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    draw()
    told = " ".join(written.texts)  # type: ignore[attr-defined]
    assert told.count("needs matplotlib") == told.count("pip install -r requirements.txt") == 2
    assert "SDO" in told and "it is fast" in told and "iteration 3: broke" in told
