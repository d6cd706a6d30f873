"""The SDO workflows that come with the pack do what their notes say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _templates import BY_API
from client import ComfyClient, Run
from PIL import Image

from demo.content import matches

NAMES = ["sdo_blue_background", "sdo_look_like", "sdo_to_chords", "sdo_lora_blue_background", "sdo_lora_to_chords"]
BLUE = (0x1F, 0x45, 0xDB)
EDGE = 24  # pixels around the middle that the objective leaves out
NOTE = "MarkdownNote"
Workflow = dict[str, dict[str, Any]]


def _load(repo: Path, name: str) -> Workflow:
    return json.loads((repo / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))


def _node(workflow: Workflow, kind: str, title: str | None = None) -> str:
    """The id of the one node of that class (and title)."""
    (name,) = [
        name
        for name, node in workflow.items()
        if node["class_type"] == kind and title in (None, node["_meta"]["title"])
    ]
    return name


def _pictures(client: ComfyClient, run: Run, node: str) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(client.view(image))).convert("RGB"), dtype=np.float64)
        for image in run.outputs[node]["images"]
    ]


def _picture(client: ComfyClient, run: Run, node: str) -> np.ndarray:
    (picture,) = _pictures(client, run, node)
    return picture


def _objective(run: Run, workflow: Workflow) -> tuple[float, float]:
    """At first and at best."""
    objective = run.outputs[_node(workflow, "SDOLatentOptimizer")]["sdo"][0]["objective"]
    return objective["first"][0], objective["best"][0]


def _from_blue(picture: np.ndarray) -> float:
    """How far the edges are from blue on average, in 0..255."""
    edges = np.ones(picture.shape[:2], dtype=bool)
    edges[EDGE:-EDGE, EDGE:-EDGE] = False
    return float(np.abs(picture[edges] - BLUE).mean())


def test_the_background_becomes_blue(client: ComfyClient, repo: Path) -> None:
    workflow = _load(repo, "sdo_blue_background")
    run = client.run(workflow)
    first, best = _objective(run, workflow)
    assert best < 0.1 * first
    optimised = _picture(client, run, _node(workflow, "PreviewImage", "Optimised"))
    plain = _picture(client, run, _node(workflow, "PreviewImage", "Not optimised"))
    assert _from_blue(optimised) < 20 < 80 < _from_blue(plain)
    star = optimised[60:68, 60:68].mean((0, 1))
    assert star[0] > 200 and star[1] > 180 and star[2] < 100  # still there, and yellow
    assert _picture(client, run, _node(workflow, "PreviewImage", "Curve")).std() > 5


def test_it_looks_like_the_picture(client: ComfyClient, repo: Path) -> None:
    workflow = _load(repo, "sdo_look_like")
    workflow[_node(workflow, "SDOLatentOptimizer")]["inputs"]["iterations"] = 12
    run = client.run(workflow)
    first, best = _objective(run, workflow)
    assert best < 0.5 * first
    target, optimised, plain = (
        _picture(client, run, _node(workflow, "PreviewImage", title))
        for title in ("The picture to look like", "Optimised", "Not optimised")
    )
    apart = [float(np.square((picture - target) / 255).mean()) for picture in (plain, optimised)]
    assert apart == pytest.approx([first, best], abs=0.01)  # the objective is that distance


def test_chords_draws_the_picture_that_was_found(client: ComfyClient, repo: Path) -> None:
    workflow = _load(repo, "sdo_to_chords")
    optimizer, model = _node(workflow, "SDOLatentOptimizer"), _node(workflow, "ChordsDemoModel")
    workflow["sample"] = {"class_type": "VAEDecode", "inputs": {"samples": [optimizer, 1], "vae": [model, 1]}}
    workflow["found"] = {"class_type": "PreviewImage", "inputs": {"images": ["sample", 0]}}
    workflow["sample"]["_meta"] = workflow["found"]["_meta"] = {"title": ""}
    run = client.run(workflow)
    first, best = _objective(run, workflow)
    assert best < 0.1 * first
    saved = _picture(client, run, _node(workflow, "SaveImage"))
    assert np.array_equal(saved, _picture(client, run, "found"))
    assert _from_blue(saved) < 20
    (plan,) = [event for event in run.of_kind("chords") if event["kind"] == "plan" and "method" in event]
    assert (plan["method"], plan["cores"]) == ("chords", 4)


def test_the_lora_makes_the_background_of_any_seed_blue(client: ComfyClient, repo: Path) -> None:
    """With prompts and seeds that it was not trained on; and the things that the prompts name stay."""
    workflow = _load(repo, "sdo_lora_blue_background")
    new = [node["inputs"]["text"] for node in workflow.values() if node["_meta"]["title"].endswith("new prompt")]
    assert not set(new) & {node["inputs"]["text"] for node in _trained_on(workflow)}
    run = client.run(workflow, time_limit=900)
    (figures,) = run.outputs[_node(workflow, "SDOTrainLoRA")]["sdo"]
    assert sum(figures["objective"]["after"]) < 0.1 * sum(figures["objective"]["before"])
    changed, plain = (
        _pictures(client, run, _node(workflow, "PreviewImage", title)) for title in ("With the LoRA", "Without it")
    )
    assert len(changed) == len(plain) == 3 * len(new)
    assert max(map(_from_blue, changed)) < 20 < 60 < min(map(_from_blue, plain))
    named = [matches(torch.from_numpy(p).movedim(-1, 0).float() / 255, new[n // 3]) for n, p in enumerate(changed)]
    assert sum(named) >= 5
    for title in ("Curve", "Before and after"):
        assert all(picture.std() > 5 for picture in _pictures(client, run, _node(workflow, "PreviewImage", title)))


def _trained_on(workflow: Workflow) -> list[dict[str, Any]]:
    """The prompts that are connected to the trainer."""
    inputs = workflow[_node(workflow, "SDOTrainLoRA")]["inputs"]
    return [workflow[value[0]] for name, value in inputs.items() if name.startswith("positive.")]


def test_chords_draws_with_the_lora_what_ksampler_draws_with_it(client: ComfyClient, repo: Path) -> None:
    workflow = _load(repo, "sdo_lora_to_chords")
    trainer, sampler = _node(workflow, "SDOTrainLoRA"), _node(workflow, "ChordsKSampler")
    workflow[trainer]["inputs"] |= {"iterations": 2, "pictures": 1}  # enough for another picture
    inputs = workflow[sampler]["inputs"]
    stock = {name: inputs[name] for name in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")}
    stock |= {name: inputs[name] for name in ("positive", "negative", "latent_image")}
    model = _node(workflow, "ChordsDemoModel")
    for name, chosen in (("with", [trainer, 0]), ("without", [model, 0])):
        workflow[f"{name} sampled"] = {"class_type": "KSampler", "inputs": {**stock, "model": chosen}}
        workflow[f"{name} decoded"] = {
            "class_type": "VAEDecode",
            "inputs": {"samples": [f"{name} sampled", 0], "vae": [model, 1]},
        }
        workflow[name] = {"class_type": "PreviewImage", "inputs": {"images": [f"{name} decoded", 0]}}
    run = client.run(workflow)
    saved = _picture(client, run, _node(workflow, "SaveImage"))
    assert np.array_equal(saved, _picture(client, run, "with"))
    assert not np.array_equal(saved, _picture(client, run, "without"))
    (plan,) = [event for event in run.of_kind("chords") if event["kind"] == "plan" and "method" in event]
    assert (plan["method"], plan["cores"]) == ("chords", 4)


def test_both_lora_workflows_train_the_same_lora(repo: Path) -> None:
    """The host then keeps the LoRA of the first for the second."""

    def whole(workflow: Workflow, value: Any) -> Any:
        """An input, with all that leads to it in place of the links."""
        if not isinstance(value, list):
            return value
        node, output = workflow[value[0]], value[1]
        inputs = {name: whole(workflow, given) for name, given in node["inputs"].items()}
        return node["class_type"], output, inputs

    blue, chords = (_load(repo, name) for name in ("sdo_lora_blue_background", "sdo_lora_to_chords"))
    kind = "SDOTrainLoRA"
    assert whole(blue, [_node(blue, kind), 1]) == whole(chords, [_node(chords, kind), 1])


@pytest.mark.parametrize("name", NAMES)
def test_the_file_for_the_browser_has_the_same_nodes_and_links(repo: Path, name: str) -> None:
    """That widgets have the same values, too, is for the browser to say."""
    twin = _load(repo, name)
    saved = json.loads(BY_API[name].path.read_text(encoding="utf-8"))
    nodes = {str(node["id"]): node for node in saved["nodes"] if node["type"] != NOTE}
    assert {key: node["type"] for key, node in nodes.items()} == {k: node["class_type"] for k, node in twin.items()}
    links = {
        (str(target), nodes[str(target)]["inputs"][slot]["name"]): [str(origin), output]
        for _, origin, output, target, slot, _ in saved["links"]
    }
    linked = {
        (key, label): value
        for key, node in twin.items()
        for label, value in node["inputs"].items()
        if isinstance(value, list)
    }
    assert links == linked
    for key, node in nodes.items():
        values = [value for value in twin[key]["inputs"].values() if not isinstance(value, list)]
        kept = list(node.get("widgets_values") or [])
        for value in values:
            assert value in kept, (key, node["type"], value)
    assert [node["type"] for node in saved["nodes"]].count(NOTE) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_machine_is_in_the_files(name: str) -> None:
    for path in (BY_API[name].path, BY_API[name].api_path):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("/tmp", "/home", "/root", "127.0.0.1", "ComfyUI_temp", "\\\\"))
