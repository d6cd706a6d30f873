"""Names and help pages in the browser, in the frontend's language, with the picture of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from client import ComfyClient
from frontend import Frontend

import locales
from locales import HEADINGS, LANGUAGES

NODE = "ChordsDevices"
SELECT = """
graph.clear();
const node = LiteGraph.createNode(argument);
graph.add(node);
app.canvas.selectNode(node);
"""
SHOWN = """
const node = LiteGraph.createNode(argument);
const given = [...node.inputs, ...(node.widgets ?? [])];
return {
  title: node.title,
  inputs: Object.fromEntries(given.map((input) => [input.name, input.localized_name ?? input.label])),
  outputs: node.outputs.map((o) => o.label ?? o.localized_name ?? o.name),
};
"""
# What the canvas tells the page after a double click. The click itself is no double click where the machine is slow.
DOUBLE_CLICK = """
const detail = { subType: "empty-double-click", originalEvent: null };
document.dispatchEvent(new CustomEvent("litegraph:canvas", { detail }));
"""
in_both_frontends = pytest.mark.parametrize(
    ("frontend_name", "language"),
    [*(("pinned", language) for language in LANGUAGES), ("newest", "ja")],
    indirect=True,
)
LOADED = "(images) => images.map((i) => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 50)"


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest, client: ComfyClient) -> Iterator[str]:
    yield request.param
    client.post("/settings/Comfy.Locale", "en")


@pytest.fixture(scope="module")
def frontend(open_shared_frontend: Callable[..., Frontend], language: str) -> Frontend:
    """One page for each language."""
    return open_shared_frontend(**{"Comfy.Locale": language})


@in_both_frontends
def test_nodes_are_named_in_the_language(frontend: Frontend, language: str) -> None:
    for node, texts in locales.read_texts(language).items():
        shown = frontend.evaluate(SHOWN, node)
        assert shown["title"] == texts["display_name"]
        # The frontend names the items of an input that grows by itself.
        growing = {name.split(".")[0] for name in shown["inputs"] if "." in name}
        names = {name: text["name"] for name, text in texts.get("inputs", {}).items() if name not in growing}
        assert {name: shown["inputs"].get(name) for name in names} == names


@in_both_frontends
def test_the_search_shows_the_sampler_among_the_first(frontend: Frontend, language: str) -> None:
    """The frontend sorts by names: equal to the query, then beginning with it; of those the popular, then the short.

    So the host's own three come first for KSampler's name, and for "chords" our nodes with shorter ids.
    """
    frontend.evaluate("graph.clear()")
    name = locales.read_texts(language)["ChordsKSampler"]["display_name"]
    found = frontend.page.get_by_role("option")
    for query in ("chords", "ksampler", name.removesuffix(" (CHORDS)")):
        frontend.evaluate(DOUBLE_CLICK)
        frontend.page.locator("[role=dialog] input:focus").wait_for()
        frontend.page.keyboard.insert_text(query)
        frontend.until(lambda: any(name in text for text in found.all_inner_texts()[:4]), f"{query} finds {name}")
        frontend.page.keyboard.press("Escape")
        found.first.wait_for(state="detached")


def test_our_types_are_named_in_the_language(frontend: Frontend, language: str) -> None:
    types = locales.read_texts(language, "main")["dataTypes"]
    assert frontend.evaluate(SHOWN, NODE)["outputs"] == [types["CHORDS_DEVICE_SET"]]
    assert frontend.evaluate(SHOWN, "ChordsKSampler")["outputs"][1] == types["CHORDS_RUN"]


@in_both_frontends
def test_the_help_panel_shows_the_page_and_its_picture(frontend: Frontend, language: str) -> None:
    frontend.evaluate(SELECT, NODE)
    frontend.page.get_by_test_id("info-button").click()
    content = frontend.page.locator(".node-help-content")
    texts = locales.read_texts(language)[NODE]
    title = content.get_by_role("heading", name=texts["display_name"], level=1)
    title.wait_for()
    assert content.locator("h2").all_text_contents() == list(HEADINGS[language])
    for text in texts["inputs"].values():
        assert text["tooltip"] in content.text_content()
    pictures = content.locator("img")
    frontend.until(lambda: pictures.evaluate_all(LOADED) == [True], "the picture is shown")


def test_the_texts_of_the_stream_panel_are_in_the_language(frontend: Frontend, language: str) -> None:
    frontend.evaluate(SELECT, "ChordsStreamPreview")
    words = locales.read_texts(language, "main")["chords"]
    panel = frontend.panel()
    frontend.until(lambda: panel.button.text_content() == words["Accept"], "the button is named")
    assert panel.status == words["Results appear here while the sampler works."]
