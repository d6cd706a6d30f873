"""The interactive page of docs/how-it-works.md in Chromium: it opens from a file, and each control changes its figures.

What it computes is compared with `chords_core` in tests/tools/test_interactive_methods.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request

FIGURES = ("compare", "schedule", "timeline", "error", "plane")
DRAWN = FIGURES[1:]
RANGES = ("cores", "steps", "guidance", "devices", "speed", "slow", "moment")


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """This page needs no ComfyUI, so none is started."""


@pytest.fixture(autouse=True)
def _log_of_this_test() -> None:
    """There is no server, so there is no log."""


@pytest.fixture(params=["light", "dark"])
def theme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def width() -> int:
    return 1200


@pytest.fixture
def locale() -> str:
    return "en-GB"


@pytest.fixture
def page(browser: Browser, repo: Path, theme: str, width: int, locale: str) -> Iterator[Page]:
    """The page from its file, without network; it must not fail, nor ask for anything but its own files."""
    scheme: Any = theme
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        locale=locale,
        offline=True,
        reduced_motion="reduce",
    )
    tab = context.new_page()
    faults: list[str] = []
    asked: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            faults.append(message.text)

    def note(request: Request) -> None:
        asked.append(request.url)

    tab.on("console", hear)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", note)
    folder = (repo / "docs" / "interactive").as_uri()
    tab.goto(f"{folder}/index.html")
    tab.wait_for_selector("#plane svg")
    yield tab
    context.close()
    assert not faults
    assert all(url.startswith(folder) for url in asked), asked


def _figures(page: Page) -> dict[str, str]:
    return {name: page.locator(f"#{name} .plot").inner_html() for name in FIGURES}


def _calls(page: Page, method: str) -> int:
    """The calls in a row of a method, from the first figure."""
    row = page.locator("#compare tbody tr").filter(has_text=method)
    return int(row.locator("td").first.inner_text())


def _set(page: Page, control: str, value: float) -> None:
    page.locator(f"#{control}").fill(f"{value:g}")


def test_each_control_changes_the_figures_that_it_is_about(page: Page) -> None:
    changes: dict[str, tuple[float | str, set[str]]] = {
        "steps": (30, set(FIGURES)),
        "cores": (7, set(FIGURES)),
        "guidance": (6, set(FIGURES)),
        "devices": (2, {"compare", "timeline"}),
        "speed": (-1, {"compare", "timeline"}),
        "slow": (3, {"compare", "timeline"}),
        "link": ("ethernet1", {"compare", "timeline"}),
        "model": ("video", {"compare", "timeline"}),
        "moment": (4, {"schedule", "error", "plane"}),
    }
    for control, (value, changed) in changes.items():
        page.locator("#reset").click()
        page.wait_for_function("document.querySelector('#steps').value === '20'")
        page.evaluate("new Promise((done) => setTimeout(done))")  # the page computes after the event, in its own timer
        before = _figures(page)
        if isinstance(value, str):
            page.locator(f"#{control}").select_option(value)
        else:
            _set(page, control, value)
        after = _figures(page)
        missing = {name for name in changed if before[name] == after[name]}
        assert not missing, f"{control} does not change {missing}"
    before = _figures(page)
    page.locator("#noise").click()
    assert {name for name in FIGURES if before[name] != _figures(page)[name]} >= {"error", "plane"}


def test_each_method_and_fidelity_has_its_figures(page: Page) -> None:
    seen = []
    for method in ("chords", "window", "fewer", "split"):
        page.locator(f'input[name="method"][value="{method}"]').check()
        seen.append(tuple(_figures(page).values()))
        assert page.locator("#compare tr.chosen").count() == 1
        assert all(page.locator(f"#{name} svg").get_attribute("aria-label") for name in DRAWN)
        assert "NaN" not in "".join(seen[-1]) and "undefined" not in "".join(seen[-1])
    assert len(set(seen)) == len(seen)
    page.locator('input[name="method"][value="window"]').check()
    near = _calls(page, "Secant window")
    page.locator('input[name="fidelity"][value="0.03"]').check()
    assert _calls(page, "Secant window") <= near


def test_what_the_figures_teach(page: Page) -> None:
    """More guidance takes the window more calls; more cores take fewer; a slow link takes more time, not calls."""
    assert _calls(page, "KSampler") == 20 and _calls(page, "Token split") == 20
    _set(page, "cores", 2)
    two = _calls(page, "Secant window")
    _set(page, "cores", 8)
    assert _calls(page, "Secant window") < two < 20
    _set(page, "cores", 4)
    _set(page, "guidance", 1)
    easy = _calls(page, "Secant window")
    _set(page, "guidance", 8)
    assert _calls(page, "Secant window") > easy
    calls = [_calls(page, method) for method in ("CHORDS", "Secant window", "Fewer calls")]
    seconds = page.locator("#compare tr.chosen td").last.inner_text()
    page.locator("#link").select_option("ethernet1")
    assert [_calls(page, method) for method in ("CHORDS", "Secant window", "Fewer calls")] == calls
    assert page.locator("#compare tr.chosen td").last.inner_text() != seconds


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_the_keyboard_is_enough(page: Page) -> None:
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert reached >= {"theme", "method", "cores", "fidelity", "steps", "guidance", "noise", "devices", "speed", "link"}
    page.locator("#steps").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator('output[for="steps"]').inner_text() == "21"
    page.locator('input[name="method"]:checked').focus()
    page.keyboard.press("ArrowLeft")
    assert "CHORDS" in page.locator("#summary").inner_text()
    page.locator('input[name="method"][value="split"]').check()
    _set(page, "steps", 50)  # one frame for each: it does not end by itself meanwhile
    page.locator("#play").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("Number(document.querySelector('#moment').value) >= 3")
    page.keyboard.press("Enter")
    assert page.locator("#play").inner_text() == "Play"
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    for method in ("chords", "window", "fewer", "split"):
        page.locator(f'input[name="method"][value="{method}"]').check()
        for steps in (4, 50):
            _set(page, "steps", steps)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.locator(".plot svg").evaluate_all("(all) => all.map((each) => each.getBoundingClientRect().width)")
    assert len(boxes) == len(DRAWN) and all(250 <= box <= width for box in boxes)


@pytest.mark.parametrize("theme", ["light"], indirect=True)
def test_the_ends_of_each_control_can_be_drawn(page: Page) -> None:
    for control in RANGES:
        for end in ("min", "max"):
            page.locator('input[name="method"][value="window"]').check()
            _set(page, control, float(page.locator(f"#{control}").get_attribute(end) or "nan"))
            for method in ("chords", "window", "fewer", "split"):
                page.locator(f'input[name="method"][value="{method}"]').check()
                drawn = "".join(_figures(page).values())
                assert "NaN" not in drawn and "Infinity" not in drawn, (control, end, method)


MISSES = """
window.missing = new Set();
CHORDS.TEXTS = new Proxy(CHORDS.TEXTS, { get: (texts, text) => texts[text] ?? (window.missing.add(text), undefined) });
0  // not the table: it would be read for the answer
"""


@pytest.mark.parametrize("theme", ["light"], indirect=True)
@pytest.mark.parametrize(("locale", "code"), [("ja-JP", "ja"), ("zh-TW", "zh"), ("de-DE", "en")])
def test_the_page_is_in_the_language_of_the_browser_and_no_text_is_missing(page: Page, code: str) -> None:
    """Then in each other one, as the reader chooses."""
    heading = {"en": "Fewer model calls", "ja": "直列のモデル呼び出し", "zh": "减少串行的模型调用"}
    assert page.locator("#language").input_value() == code and page.locator("h1").inner_text().startswith(heading[code])
    page.evaluate(MISSES)
    for other in (*(each for each in heading if each != code), code):
        page.locator("#language").select_option(other)
        assert page.locator("html").get_attribute("lang")[:2] == other
        assert page.locator("h1").inner_text().startswith(heading[other]) and page.title().startswith(heading[other])
        for method in ("split", "chords", "window", "fewer"):
            page.locator(f'input[name="method"][value="{method}"]').check()
            for link, moment in (("nvlink", 1), ("ethernet1", 0)):
                page.locator("#link").select_option(link)
                _set(page, "moment", moment)
                said = page.locator("#summary").inner_text() + page.locator("figure .text").all_inner_texts()[-1]
                assert "{" not in said and ("KSampler" in page.locator("body").inner_text()) == (other == "en")
    assert page.evaluate("[...window.missing]") == []
