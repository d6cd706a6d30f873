"""The SDO workflows in the browser: they load completely, keep their values, and the optimizer shows its progress."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from _templates import BY_API
from client import ComfyClient
from frontend import OURS, Frontend, in_the_newest_too

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = ["sdo_blue_background", "sdo_look_like", "sdo_to_chords", "sdo_lora_blue_background", "sdo_lora_to_chords"]
SEEDS = iter(range(1000, 10_000))
WIDGETS = """
return Object.fromEntries(graph.nodes.map((node) => [
  node.id, (node.widgets ?? []).filter((w) => w.serialize !== false).map((w) => [w.name, w.value]),
]));
"""
OPTIMIZER = "const node = graph.nodes.find((node) => node.type === 'SDOLatentOptimizer');"


@pytest.fixture(scope="module")
def frontend(shared_frontend: Frontend) -> Frontend:
    """One page for all tests here: each of them opens its own workflow."""
    return shared_frontend


def _bare(prompt: dict[str, Any]) -> dict[str, Any]:
    return {name: {"class_type": node["class_type"], "inputs": node["inputs"]} for name, node in prompt.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_loads_and_keeps_its_values(frontend: Frontend, tmp_path: Path, name: str) -> None:
    errors: list[str] = []

    def note(message: Any) -> None:
        if message.type == "error" and OURS in f"{message.location.get('url')} {message.text}":
            errors.append(message.text)

    frontend.page.on("console", note)
    path = BY_API[name].path
    frontend.load_file(path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert frontend.evaluate("return graph.nodes.length") == len(saved["nodes"])
    unknown = "return graph.nodes.filter((n) => n.has_errors || !(n.type in LiteGraph.registered_node_types)).length"
    assert frontend.evaluate(unknown) == 0
    twin = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    assert _bare(frontend.evaluate("return (await app.graphToPrompt()).output")) == _bare(twin)

    values = frontend.evaluate(WIDGETS)
    again = tmp_path / f"{name}.json"
    again.write_text(json.dumps(frontend.evaluate("return graph.serialize()")), encoding="utf-8")
    frontend.page.reload()
    frontend.wait_until_ready()
    frontend.load_file(again)
    assert frontend.evaluate(WIDGETS) == values
    assert _bare(frontend.evaluate("return (await app.graphToPrompt()).output")) == _bare(twin)
    frontend.page.remove_listener("console", note)
    assert not errors


@in_the_newest_too
def test_the_optimizer_shows_its_picture_and_its_text(frontend: Frontend, client: ComfyClient) -> None:
    frontend.load_file(BY_API["sdo_blue_background"].path)
    node = frontend.evaluate(f"{OPTIMIZER} return node.id")
    frontend.set_widget(node, "seed", next(SEEDS))
    frontend.set_widget(node, "iterations", 2)
    prompt = frontend.start()

    card = frontend.page.locator(".chords-text")

    def text() -> str | None:
        return card.get_attribute("title")

    frontend.until(text, "the optimizer says something")
    curve = frontend.evaluate("return graph.nodes.find((n) => n.title === 'Curve').id")
    for shows in (node, curve):
        frontend.until(lambda shows=shows: frontend.picture_width(shows) > 0, f"node {shows} shows a picture")
    history = client.wait(prompt)
    assert history["status"]["status_str"] == "success"
    assert history["outputs"][str(node)]["sdo"][0]["objective"]["best"]
    frontend.until(lambda: [text().replace("\n", "; ")] == history["outputs"][str(node)]["text"], "the text stays")
