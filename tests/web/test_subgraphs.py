"""The blueprints of subgraphs/ in the browser: found in the node library, put into a graph, and run."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from client import ComfyClient
from frontend import Frontend
from PIL import Image

TEXT_TO_IMAGE = "Text to Image (CHORDS)"
SAMPLE = "Sample on Chosen Devices (CHORDS)"
STEER = "Steer and Sample (SDO, CHORDS)"
AROUND = """
const make = (type, values) => {
  const node = LiteGraph.createNode(type);
  graph.add(node);
  for (const [name, value] of Object.entries(values)) node.widgets.find((w) => w.name === name).value = value;
  return node;
};
const connect = (from, output, to, input) => from.connect(output, to, to.inputs.findIndex((i) => i.name === input));
const [sampling] = graph.nodes.filter((node) => node.isSubgraphNode?.());
const demo = make("ChordsDemoModel", {});
const text = make("ChordsDemoPrompt", { text: "a big red circle in the center, blue background" });
const empty = make("ChordsDemoPrompt", { text: "" });
const latent = make("EmptyLatentImage", { width: 128, height: 128, batch_size: 1 });
const decode = make("VAEDecode", {});
const save = make("SaveImage", { filename_prefix: "blueprint" });
connect(demo, 0, sampling, "model");
connect(text, 0, sampling, "positive");
connect(empty, 0, sampling, "negative");
connect(latent, 0, sampling, argument);
connect(sampling, 0, decode, "samples");
connect(demo, 1, decode, "vae");
connect(decode, 0, save, "images");
if (sampling.inputs.some((input) => input.name === "objective")) {
  connect(make("SDOObjectiveColour", {}), 0, sampling, "objective");
  connect(demo, 1, sampling, "vae");
}
"""
"""Puts the demo model's nodes around the only subgraph."""
Json = dict[str, Any]


def _added(frontend: Frontend, name: str) -> int:
    """The id of the subgraph's node that the node library adds to an empty graph."""
    page = frontend.page
    frontend.evaluate("graph.clear()")
    page.keyboard.press("n")
    search = page.get_by_placeholder("Search").first
    search.fill(name)
    page.get_by_text(name, exact=True).first.click()
    page.mouse.click(900, 400)  # where it is to be
    find = "return graph.nodes.filter((node) => node.isSubgraphNode?.()).map((node) => node.id)"
    (added,) = frontend.until(lambda: frontend.evaluate(find), f"{name} is in the graph")
    page.keyboard.press("n")  # close the library
    return added


def _prompt(frontend: Frontend) -> Json:
    return frontend.evaluate("return (await app.graphToPrompt()).output")


def _of_class(prompt: Json, kind: str) -> Json:
    (inputs,) = (node["inputs"] for node in prompt.values() if node["class_type"] == kind)
    return inputs


def _ended(frontend: Frontend, client: ComfyClient) -> Json:
    """Press Run; the record of the run when it is over."""
    run = client.wait(frontend.start())
    assert run["status"]["status_str"] == "success"
    return run


def _picture(client: ComfyClient, run: Json) -> np.ndarray:
    (image,) = [i for out in run["outputs"].values() for i in out.get("images", []) if i["type"] == "output"]
    return np.asarray(Image.open(io.BytesIO(client.view(image))).convert("RGB"), dtype=float)


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, SAMPLE, STEER])
def test_the_library_adds_it_to_a_graph(frontend: Frontend, client: ComfyClient, name: str) -> None:
    """Each node in it has all inputs that it requires, apart from those that the subgraph takes from outside."""
    added = _added(frontend, name)
    outer = frontend.evaluate(
        "return graph.getNodeById(argument).inputs.filter((i) => !i.widget).map((i) => i.name)", added
    )
    nodes, prompt = client.object_info(), _prompt(frontend)
    assert len(prompt) >= 2
    for node in prompt.values():
        required = set(nodes[node["class_type"]]["input"]["required"])
        assert required - set(outer) <= set(node["inputs"]), node["class_type"]


def test_a_sampling_runs_on_the_devices_that_it_shows(frontend: Frontend, client: ComfyClient) -> None:
    added = _added(frontend, SAMPLE)
    frontend.evaluate(AROUND, "latent_image")
    for name, value in {"cpu_lanes": 2, "split": "tokens", "cfg": 3.5, "steps": 8}.items():
        frontend.set_widget(added, name, value)
    inputs = _of_class(_prompt(frontend), "ChordsDevices")
    assert (inputs["cpu_lanes"], inputs["split"]) == (2, "tokens")
    run = _ended(frontend, client)
    (told,) = [out["chords"][0] for out in run["outputs"].values() if "chords" in out]
    assert told["split"] == "tokens 2"
    red, green, blue = _picture(client, run)[64, 64]
    assert red > 150 and max(green, blue) < 110


def test_steering_and_sampling_have_the_same_settings(frontend: Frontend, client: ComfyClient) -> None:
    added = _added(frontend, STEER)
    frontend.evaluate(AROUND, "latent")
    shown = {"steps": 10, "cfg": 3, "scheduler": "normal", "sampler_name": "euler"}
    for name, value in {**shown, "iterations": 2}.items():
        frontend.set_widget(added, name, value)
    prompt = _prompt(frontend)
    for kind in ("SDOLatentOptimizer", "ChordsKSamplerAdvanced"):
        assert shown.items() <= _of_class(prompt, kind).items()
    assert _of_class(prompt, "SDOLatentOptimizer")["iterations"] == 2
    run = _ended(frontend, client)
    assert any("sdo" in out for out in run["outputs"].values())
    assert _picture(client, run).std() > 10
