"""What nodes show in the language of the page, and the size that new nodes have."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _templates import BY_API
from client import ComfyClient
from frontend import Frontend, in_both_frontends

OpenFrontend = Callable[..., Frontend]

KANA = re.compile("[\u3040-\u30ff]")
ADD_REPORT = """
const sampler = graph.nodes.find((node) => node.type === "ChordsKSampler");
const report = LiteGraph.createNode("ChordsReport");
graph.add(report);
report.pos = [sampler.pos[0] + 900, sampler.pos[1]];
sampler.connect(1, report, 0);
const benchmark = LiteGraph.createNode("ChordsBenchmark");
const sizes = [[...report.size], [...benchmark.size]];
sampler.widgets.find((widget) => widget.name === "steps").value = 12;
return [report.id, sizes];
"""

TWO_SENTENCES = """
const detail = {
  workflow_id: graph.id,
  node_id: String(graph.nodes.find((node) => node.type === "ChordsKSampler").id),
  class_type: "ChordsKSampler",
  number: Number.MAX_SAFE_INTEGER,
  card: {
    title: [],
    detail: [["It says: {message}.", { message: "cuda:0" }], "cuda:0", ["nothing else was tried", {}]],
    advice: [],
  },
};
window.comfyAPI.api.api.dispatchEvent(new CustomEvent("chords_text", { detail }));
"""


@pytest.fixture
def frontend(open_frontend: OpenFrontend, client: ComfyClient) -> Iterator[Frontend]:
    yield open_frontend(**{"Comfy.Locale": "ja"})
    client.post("/settings/Comfy.Locale", "en")


@in_both_frontends
def test_the_card_is_in_the_language_of_the_page_and_new_nodes_have_room(frontend: Frontend, tmp_path: Path) -> None:
    """Pictures are Japanese where the machine has a font: see tests/plots/test_language.py."""
    with frontend.page.expect_request(lambda request: "/chords/page" in request.url) as told:
        frontend.page.reload()
    body = told.value.post_data_json
    assert body["language"] == "ja" and body["client_id"]
    frontend.wait_until_ready()
    workflow = json.loads(BY_API["chords_demo"].path.read_text(encoding="utf-8"))
    path = tmp_path / "japanese.json"
    path.write_text(json.dumps({**workflow, "id": str(uuid.uuid4())}), encoding="utf-8")
    frontend.load_file(path)
    report, (report_size, benchmark_size) = frontend.evaluate(ADD_REPORT)
    assert report_size == [560, 480] and benchmark_size == [640, 760]
    card = frontend.page.locator(".chords-text").first

    def text() -> str:
        return card.get_attribute("title") or ""

    frontend.run()
    frontend.until(lambda: frontend.picture_width(report) == 1400, "the report is drawn", 180)
    frontend.until(lambda: re.match(r"(直列の)?呼び出し\d+/12回|12ステップ", text()), "the card has its result")
    title, detail = text().split("\n")[:2]
    assert "cpu" in detail and KANA.search(detail)
    assert not re.search(r"\b(calls|fewer|devices|picture|and)\b", title + detail)
    frontend.evaluate(TWO_SENTENCES)
    assert text() == "理由：cuda:0。cuda:0。ほかの設定は試していません"
