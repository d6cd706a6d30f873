"""The workflows that come with the pack: the server takes every one, the demo ones draw what their notes say."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_ins
from _env import venv_python
from _server import ComfyServer
from client import ClientError, ComfyClient, Run
from PIL import Image
from swap import KINDS, SOCKETS, WIDGETS

from chords_core import AdaptivePlan, Plan, plan

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
API = sorted(path.stem for path in (FOLDER / "api").glob("*.json"))
STEPS = {  # of the samplers of each, one after the other, and whether they are guided
    "sdxl": ([25], True),
    "sd3.5_large": ([20], True),
    "flux_dev": ([20], False),
    "wan2.2_5b_video": ([20], True),
    "wan2.2_14b_video": ([10, 10], True),
    "qwen_image": ([20], True),
    "z_image": ([25], True),
}
NEAR, FAST = 0.01, 0.03  # the tolerances of these fidelities
LARGEST = 60_000  # bytes of a thumbnail
Json = dict[str, Any]


def _read(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def with_stand_ins(comfy_host: Path, on_cpu: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    """A client of a ComfyUI that has a file of every name the workflows ask for."""
    arguments = stand_ins.make(tmp_path_factory.mktemp("stand-ins"), map(_read, FOLDER.rglob("*.json")))
    python = str(venv_python())
    with ComfyServer(comfy_host, threads=1, cpu=on_cpu, python=python, arguments=arguments) as running:
        yield running.client()


def test_the_server_takes_every_workflow_for_the_api(with_stand_ins: ComfyClient) -> None:
    refused = {}
    for name in API:
        try:
            answer = with_stand_ins.submit(_read(FOLDER / "api" / f"{name}.json"))
        except ClientError as error:
            refused[name] = str(error)
            continue
        with_stand_ins.post("/queue", {"delete": [answer["prompt_id"]]})
        with_stand_ins.post("/interrupt", {})
        if answer.get("node_errors"):
            refused[name] = answer["node_errors"]
    assert not refused


def test_without_its_models_the_server_says_which_are_missing(client: ComfyClient) -> None:
    """So that the test above means something."""
    with pytest.raises(ClientError, match="z_image_bf16.safetensors"):
        client.submit(_read(FOLDER / "api" / "z_image.json"))


def test_the_swap_tool_knows_our_nodes(client: ComfyClient) -> None:
    """What it adds is what our nodes have beyond the stock ones, in that order and with those defaults."""
    nodes = client.get_json("/object_info")
    for kind in KINDS:
        stock, ours = (
            {**node["input"]["required"], **node["input"].get("optional", {})}
            for node in (
                nodes[kind.stock],
                nodes[kind.ours],
            )
        )
        assert list(ours)[: len(stock)] == list(stock)
        added = {name: ours[name] for name in list(ours)[len(stock) :]}
        widgets = {name: spec[1]["default"] for name, spec in added.items() if name not in SOCKETS}
        assert list(widgets.items()) == [(name, default) for name, (_, default) in WIDGETS.items()]
        assert {name: spec[0] for name, spec in added.items() if name not in WIDGETS} == SOCKETS
        assert [name for name in added if name in SOCKETS] == list(SOCKETS)
        assert nodes[kind.ours]["display_name"] == kind.our_title
        assert nodes[kind.ours]["output_name"] == nodes[kind.stock]["output_name"] + ["CHORDS_RUN"] * kind.gives_run
        random = sum(bool(spec[1].get("control_after_generate")) for spec in stock.values() if len(spec) > 1)
        plain = [spec for spec in stock.values() if isinstance(spec[0], list) or spec[0] in ("INT", "FLOAT", "COMBO")]
        assert kind.values == len(plain) + random


# ---- those of the demo model


def _pictures(client: ComfyClient, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The one to start from, and the one saved."""
    pictures = []
    for kind in ("temp", "output"):
        (image,) = [i for out in run.outputs.values() for i in out.get("images", []) if i["type"] == kind]
        pictures.append(np.asarray(Image.open(io.BytesIO(client.view(image))).convert("RGB"), dtype=np.float64))
    return pictures[0], pictures[1]


def _is(picture: np.ndarray, red: bool, green: bool, blue: bool) -> np.ndarray:
    """Where a picture has a pure colour, by channel above or below the middle."""
    return ((picture > 127) == np.array([red, green, blue])).all(-1)


def test_img2img_keeps_the_shapes_and_changes_the_colours(client: ComfyClient) -> None:
    before, after = _pictures(client, client.run(_read(FOLDER / "api" / "chords_img2img.json")))
    was, is_now = _is(before, True, False, False), _is(after, False, True, False)  # the circle: red, then green
    assert was.sum() > 1000
    assert (was & is_now).sum() > 0.9 * (was | is_now).sum()
    star = _is(after, True, True, True)
    assert star.sum() > 100 and (_is(before, True, True, False) & star).sum() > 0.7 * star.sum()  # yellow, then white


def test_inpaint_draws_in_the_right_half_only(client: ComfyClient) -> None:
    before, after = _pictures(client, client.run(_read(FOLDER / "api" / "chords_inpaint.json")))
    apart = np.abs(before - after).mean(-1)
    assert apart[:, :56].mean() < 3  # less what the autoencoder loses, and what bleeds over the edge
    assert _is(before, True, True, False)[:, 64:].sum() > 100 and _is(after, True, True, False).sum() == 0
    green = (after[..., 1] > 100) & (after[..., 0] < 90) & (after[..., 2] < 110)
    assert green[:, 64:].sum() > 600 and green[:, :56].sum() == 0


def test_few_steps_gives_the_pictures_of_the_sampler_beside_it(client: ComfyClient) -> None:
    """Bit for bit, with the devices sharing each call: 4 steps, no guidance, a sampler with noise of its own."""
    prompt = _read(FOLDER / "api" / "chords_few_steps.json")
    inputs = prompt["7"]["inputs"]
    assert (inputs["steps"], inputs["cfg"], inputs["sampler_name"]) == (4, 1.0, "lcm")
    assert prompt["6"]["inputs"].items() <= inputs.items()
    run = client.run(prompt)
    assert run.outputs["7"]["chords"][0]["split"] == "tokens 2"
    stock, shared = (
        [np.asarray(Image.open(io.BytesIO(client.view(image))).convert("RGB")) for image in run.outputs[node]["images"]]
        for node in ("9", "11")
    )
    assert len(stock) == 16 and all(map(np.array_equal, stock, shared))
    for picture in shared:  # a red circle on the left and a yellow star on the right, on blue
        circle, star = _is(picture, True, False, False), _is(picture, True, True, False)
        assert circle[:, :64].sum() > 1000 and circle[:, 72:].sum() < 100
        assert star[:, 64:].sum() > 600 and star[:, :56].sum() < 100
        assert _is(picture, False, False, True).sum() > 8000


# ---- the files


def test_every_workflow_has_its_twin_and_its_picture() -> None:
    assert set(NAMES) <= set(API)
    for name in NAMES:
        path = FOLDER / f"{name}.jpg"
        assert path.stat().st_size < LARGEST
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and min(picture.size) >= 400
            assert np.asarray(picture.convert("RGB"), dtype=float).std() > 10


@pytest.mark.parametrize("name", STEPS)
def test_the_note_tells_what_to_download_and_what_to_expect(name: str) -> None:
    workflow = _read(FOLDER / f"{name}.json")
    (note,) = [n for n in workflow["nodes"] if n.get("title") == "What to download, what to expect"]
    text = note["widgets_values"][0]
    for folder, file in stand_ins.files(_read(FOLDER / "api" / f"{name}.json")):
        assert re.search(rf"- {folder}: \[{re.escape(file)}\]\(https://huggingface.co/\S+/{re.escape(file)}\)", text)
    steps, guided = STEPS[name]
    solver = _samplers(name)[0]["sampler_name"]
    table = "\n".join(["| GPUs | fidelity: auto | near | fast |", "|---|---|---|---|", *_rows(steps, guided, solver)])
    assert table in text, f"what the planner says now:\n{table}"
    assert "not yet measured on this model" in text


def _rows(steps: list[int], guided: bool, solver: str) -> list[str]:
    """Model calls in a row by number of GPUs; under guidance they work in pairs. ``auto`` is KSampler on one GPU, and
    ``near`` on several."""
    rows = []
    for gpus in (1, 2, 4, 8):
        lanes = max(1, gpus // 2) if guided else gpus
        shared = ", shared" if guided and gpus > 1 else ""
        near, fast = (_calls_in_a_row(_plans(steps, lanes, off, solver)) + shared for off in (NEAR, FAST))
        rows.append(f"| {gpus} | {sum(steps) if gpus == 1 else near} | {near} | {fast} |")
    return rows


def _plans(steps: list[int], lanes: int, tolerance: float, solver: str) -> list[Plan]:
    return [plan(count, lanes, tolerance=tolerance, solver=solver) for count in steps]


def _calls_in_a_row(plans: list[Plan]) -> str:
    """Of plans one after the other; about so many, where the picture decides."""
    about = "about " if any(isinstance(chosen, AdaptivePlan) for chosen in plans) else ""
    return f"{about}{sum(chosen.depth for chosen in plans)}"


def _samplers(name: str) -> list[Json]:
    """The inputs of ours in a workflow for the API."""
    prompt = _read(FOLDER / "api" / f"{name}.json")
    return [node["inputs"] for node in prompt.values() if node["class_type"].startswith("ChordsKSampler")]


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_the_note_counts_are_those_of_the_workflow(name: str) -> None:
    """In the Wan 14B graph they come by way of switches: two samplers, ten steps each."""
    prompt, samplers = _read(FOLDER / "api" / f"{name}.json"), _samplers(name)
    total, guided = sum(STEPS[name][0]), STEPS[name][1]
    assert len(samplers) == len(STEPS[name][0])
    for inputs in samplers:
        assert _value(prompt, inputs["steps"]) == total
        assert (_value(prompt, inputs["cfg"]) > 1) == guided


def _value(prompt: Json, value: Any) -> Any:
    """What an input gets, through primitives and switches that are off."""
    while isinstance(value, list):
        inputs = prompt[value[0]]["inputs"]
        value = inputs["on_false"] if "on_false" in inputs else inputs["value"]
    return value


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.json")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_nothing_of_a_machine_is_in_the_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not any(word in text for word in ("/tmp", "/home/", "/root", "127.0.0.1", "ComfyUI_temp", "\\\\"))


@pytest.mark.parametrize("name", API)
def test_a_workflow_starts_from_what_the_node_chooses_by_itself(name: str) -> None:
    """A number of cores is there only to have results to watch on any machine, and a method is never named."""
    for inputs in _samplers(name):
        exact = name in ("sdo_to_chords", "sdo_lora_to_chords")  # they draw the very picture of the stock sampler
        watched = exact or name == "chords_streaming"
        assert (inputs["fidelity"], inputs["cores"]) == ("exact" if exact else "auto", 4 if watched else 0)
        assert (inputs["method"], inputs["accept"]) == ("auto", "auto")
