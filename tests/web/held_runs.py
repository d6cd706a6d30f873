"""The workflow file of CHORDS Stream Preview in the browser: runs that are held in their middle, and their results."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
from _templates import BY_API
from client import ComfyClient
from frontend import Frontend, Panel
from PIL import Image

WORKFLOW, API_WORKFLOW = BY_API["chords_streaming"].path, BY_API["chords_streaming"].api_path
CORES = 4
SAMPLER, PREVIEW, SAVED = 6, 7, 9  # nodes of the workflow file
HOLD = """
const [sampler, held] = [graph.getNodeById(argument[0]), LiteGraph.createNode("TestHeldModel")];
graph.add(held);
held.pos = [sampler.pos[0], sampler.pos[1] - 200];
held.widgets[0].value = argument[1];
held.widgets[1].value = argument[2];
sampler.getInputNode(0).connect(0, held, "model");
held.connect(0, sampler, "model");
"""
SEEDS = iter(range(1000, 10_000))
STRIP = ["draft", "result 1", "result 2", "result 3", "result 4"]


def open_workflow(frontend: Frontend, held_after: int | None = None, accept: str = "exact") -> Panel:
    """Open the workflow file, with one result for each core. The host does not repeat a run that it knows, so that each
    test has another seed. ``held_after``: so many results, after which the run waits until the test lets it go on."""
    frontend.open_file(WORKFLOW)
    seed = next(SEEDS)
    frontend.set_widget(SAMPLER, "seed", seed)
    frontend.set_widget(SAMPLER, "accept", accept)
    if held_after is not None:
        frontend.evaluate(HOLD, [SAMPLER, held_after, seed])
    return frontend.panel()


def let_go(client: ComfyClient, held_after: int | None = None) -> None:
    """The held run continues, until it has so many results, or to the end."""
    client.post("/chords_test/let_go", {"results": held_after} if held_after else {})


def accept_in_the_middle(frontend: Frontend, panel: Panel, client: ComfyClient) -> None:
    """Click Accept in the middle of a held run, which then ends."""
    with frontend.page.expect_response("**/chords/accept") as answer:
        panel.click(panel.button)
    assert answer.value.ok
    let_go(client)


def events(client: ComfyClient, prompt_id: str, kind: str) -> list[dict[str, Any]]:
    return [event for event in client.get_json(f"/chords/runs/{prompt_id}")["events"] if event["kind"] == kind]


def pictures(client: ComfyClient, history: dict[str, Any], node: int) -> list[np.ndarray]:
    images = history["outputs"][str(node)]["images"]
    return [np.asarray(Image.open(io.BytesIO(client.view(image))).convert("RGB")) for image in images]


def differ(pictures: list[np.ndarray]) -> bool:
    """Whether each picture shows something, and differs from the next one."""
    pictures = [picture[:40, :40] for picture in pictures]  # on the screen their sizes differ by rounding
    pairs = zip(pictures, pictures[1:], strict=False)
    return all(picture.std() > 5 for picture in pictures) and all(np.abs(a - b).mean() > 0.2 for a, b in pairs)


def latent_is_the_hit(client: ComfyClient, prompt: str, index: int, saved: np.ndarray) -> None:
    """A run to the end with the same seed has the saved picture as its hit of that index."""
    complete = copy.deepcopy(client.history(prompt)["prompt"][2])
    complete["salt"] = {"class_type": "ChordsDemoPrompt", "inputs": {"text": ""}}  # else the host takes the run it has
    complete[str(SAMPLER)]["inputs"]["negative"] = ["salt", 0]
    for node in complete.values():
        if node["class_type"] == "TestHeldModel":
            node["inputs"]["results"] = CORES  # this run is not held
    history = client.run(complete).history
    assert np.array_equal(saved, pictures(client, history, PREVIEW)[index])
