"""The text on the node that runs: it stays after the run and when the page is loaded again, in every frontend."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from _templates import BY_API
from client import ComfyClient
from frontend import Frontend, in_both_frontends, in_every_frontend, in_the_newest_too
from playwright.sync_api import Locator

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
WORKFLOW = BY_API["chords_demo"].path
SEEDS = iter(range(50_000, 60_000))
NODES = ["ChordsKSampler", "ChordsKSamplerAdvanced", "ChordsBenchmark", "SDOLatentOptimizer", "SDOTrainLoRA"]
STOCK = {"ChordsKSampler": "KSampler", "ChordsSampler": "KSamplerSelect"}
ADD = """
graph.clear();
const node = LiteGraph.createNode(argument);
graph.add(node);
node.pos = [300, 200];
app.canvas.ds.scale = 1;
app.canvas.ds.offset.splice?.(0, 2, 0, 0);
app.canvas.selectNode(node);
app.canvas.draw(true, true);
return node.id;
"""
SIZE = "return [...graph.getNodeById(argument).size]"
CUSTOM = """
const sampler = graph.nodes.find((node) => node.type === "ChordsKSampler");
const inputs = sampler.inputs.map((input) => [input.name, graph.getLink(input.link)]).filter(([, link]) => link);
const add = (type) => {
  const node = LiteGraph.createNode(type);
  graph.add(node);
  node.pos = [sampler.pos[0], sampler.pos[1] + 700 + 40 * graph.nodes.length];
  return node;
};
const custom = add("SamplerCustom");
for (const [name, { origin_id, origin_slot }] of inputs) {
  graph.getNodeById(origin_id).connect(origin_slot, custom, name);
}
const model = inputs.find(([name]) => name === "model")[1];
const scheduler = add("BasicScheduler");
graph.getNodeById(model.origin_id).connect(model.origin_slot, scheduler, "model");
scheduler.connect(0, custom, "sigmas");
add("ChordsSampler").connect(0, custom, "sampler");
for (const link of [...sampler.outputs[0].links]) {
  const { target_id, target_slot } = graph.getLink(link);
  custom.connect(0, graph.getNodeById(target_id), target_slot);
}
custom.pos = [...sampler.pos];
graph.remove(sampler);
custom.widgets.find((widget) => widget.name === "noise_seed").value = argument;
return custom.id;
"""


@pytest.fixture(scope="module")
def frontend(shared_frontend: Frontend) -> Frontend:
    """One page for all tests here: each of them opens its own workflow."""
    return shared_frontend


def _card(frontend: Frontend, which: int = 0) -> Locator:
    return frontend.page.locator(".chords-text").nth(which)


def _text(card: Locator) -> str:
    """The whole text of a card: it is shown where the pointer is."""
    return card.get_attribute("title") or ""


def _shown(card: dict[str, list[Any]]) -> str:
    """The whole text of a card in English, from what the server has."""
    lines = [", ".join(map(_english, card["title"])), "; ".join(map(_english, card["detail"]))]
    if card["advice"]:
        lines.append(f"Tip: {'; '.join(map(_english, card['advice']))}")
    return "\n".join(filter(None, lines))


def _english(text: Any) -> str:
    if not isinstance(text, list):
        return str(text)
    template, values = text
    return template.format(**{name: _english(value) for name, value in values.items()})


def _wait_for_text(frontend: Frontend, client: ComfyClient, sampler: int) -> str:
    """Wait until the card of a sampler shows what the server has kept of it, and return it."""
    workflow = frontend.evaluate("return graph.id")
    texts = client.get_json(f"/chords/texts/{workflow}")["texts"]
    (card,) = [text["card"] for text in texts if text["node_id"] == str(sampler)]
    frontend.until(lambda: _text(_card(frontend)) == _shown(card), "the text is shown")
    return _shown(card)


def _open(frontend: Frontend, folder: Path) -> int:
    """Open the demo workflow as a new one, with another seed than before. Returns its sampler."""
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    frontend.load_file(_written({**workflow, "id": str(uuid.uuid4())}, folder / "first.json"))
    sampler = frontend.evaluate("return graph.nodes.find((node) => node.type === 'ChordsKSampler').id")
    frontend.set_widget(sampler, "control_after_generate", "fixed")
    frontend.set_widget(sampler, "seed", next(SEEDS))
    _card(frontend).wait_for()
    return sampler


def _written(workflow: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(workflow), encoding="utf-8")
    return path


def _run(frontend: Frontend, client: ComfyClient) -> dict[str, Any]:
    """Press Run, and wait until the page has the end of the run. Returns the history."""
    frontend.evaluate(
        "window.ended = 0;"
        "window.comfyAPI.api.api.addEventListener('executing', ({ detail }) => { window.ended += detail === null; })"
    )
    history = client.wait(frontend.start())
    frontend.until(lambda: frontend.page.evaluate("window.ended"), "the page has the end of the run")
    assert history["status"]["status_str"] == "success"
    return history


@in_every_frontend
def test_the_text_stays_after_the_run_and_after_a_reload(
    frontend: Frontend, client: ComfyClient, tmp_path: Path
) -> None:
    sampler = _open(frontend, tmp_path)
    assert (_card(frontend).text_content(), _text(_card(frontend))) == ("no run yet", "")
    height = _card(frontend).bounding_box()["height"]
    size = frontend.evaluate(SIZE, sampler)
    (message,) = _run(frontend, client)["outputs"][str(sampler)]["text"]
    text = _wait_for_text(frontend, client, sampler)
    frontend.page.wait_for_timeout(500)  # in which the frontend takes away what it shows of a run
    shown = _card(frontend)
    assert "\n".join(filter(None, shown.locator("> *").all_text_contents())) == text
    assert re.match(r"\d+ (of \d+ calls|steps, as in KSampler)", text), text
    assert message.startswith(("one core", "4 cores", "2 cores")) and frontend.evaluate(SIZE, sampler) == size
    assert shown.is_visible() and shown.bounding_box()["height"] == pytest.approx(height, abs=1)
    frontend.page.reload()
    frontend.wait_until_ready()
    frontend.until(lambda: _card(frontend).count() and _text(_card(frontend)) == text, "the text is back")


@in_both_frontends
def test_a_sampler_of_the_host_shows_the_text_of_our_sampler(
    frontend: Frontend, client: ComfyClient, tmp_path: Path
) -> None:
    _open(frontend, tmp_path)
    custom = frontend.evaluate(CUSTOM, next(SEEDS))
    assert _card(frontend).count() == 0
    _run(frontend, client)
    frontend.until(lambda: _card(frontend).count() == 1 and _text(_card(frontend)), "the node has a card")
    holder = "return graph.getNodeById(argument).widgets.some((widget) => widget.name === 'chords_text')"
    assert frontend.evaluate(holder, custom)
    assert " on cpu" in _text(_card(frontend)).split("\n")[1]
    prompt = frontend.evaluate("return (await app.graphToPrompt()).output")
    assert "chords_text" not in prompt[str(custom)]["inputs"]


def test_the_text_is_not_shown_in_another_workflow(frontend: Frontend, client: ComfyClient, tmp_path: Path) -> None:
    """It has the same node ids. The workflow that ran, opened again, has its text."""
    sampler = _open(frontend, tmp_path)
    _run(frontend, client)
    text = _wait_for_text(frontend, client, sampler)
    other = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    frontend.load_file(_written({**other, "id": str(uuid.uuid4())}, tmp_path / "second.json"))
    frontend.page.wait_for_timeout(500)
    assert _text(_card(frontend)) == ""
    frontend.page.get_by_text("first", exact=True).first.click()
    frontend.until(lambda: _text(_card(frontend)) == text, "the text is back")


@pytest.mark.parametrize("replaced", [False, True], ids=["our node", "a node of the host"])
def test_the_original_of_a_workflow_has_no_text_of_ours(
    frontend: Frontend, client: ComfyClient, tmp_path: Path, replaced: bool
) -> None:
    """`scripts/swap.py` keeps the ids of the workflow and of its nodes."""
    sampler = _open(frontend, tmp_path)
    if replaced:
        sampler = frontend.evaluate(CUSTOM, next(SEEDS))
    _run(frontend, client)
    frontend.until(lambda: _card(frontend).count() and _text(_card(frontend)), "the node has a text")
    workflow = frontend.evaluate("return graph.serialize()")
    for node in workflow["nodes"]:
        node["type"] = STOCK.get(node["type"], node["type"])
    workflow["nodes"] = [node for node in workflow["nodes"] if node["type"] != "ChordsStreamPreview"]
    workflow["links"] = []
    with frontend.page.expect_response(lambda answer: "/chords/texts/" in answer.url) as answer:
        frontend.load_file(_written(workflow, tmp_path / "original.json"))
    assert str(sampler) in [text["node_id"] for text in answer.value.json()["texts"]]
    frontend.page.wait_for_timeout(500)
    assert _card(frontend).count() == 0


@in_the_newest_too
def test_the_card_is_no_input_of_the_side_panel(frontend: Frontend) -> None:
    """And it is on every node that tells what it does, from the start."""
    for name in [*NODES, "ChordsStreamPreview"]:
        node = frontend.evaluate(ADD, name)
        element = frontend.page.locator(".chords-stream" if name == "ChordsStreamPreview" else ".chords-text")
        element.wait_for()
        assert element.count() == 1
        saved = frontend.evaluate("return graph.serialize().nodes.find((n) => n.id === argument)", node)
        assert "no run yet" not in json.dumps(saved)
        if frontend.has_side_panel:
            panel = frontend.page.get_by_test_id("properties-panel")
            words = "NO INPUTS" if name == "ChordsStreamPreview" else "steps"
            frontend.until(lambda panel=panel, words=words: words in panel.inner_text(), "the panel shows the node")
            assert "chords_" not in panel.inner_text()
