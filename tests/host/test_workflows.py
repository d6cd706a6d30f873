"""The workflows that come with the pack: the server takes every one, the demo ones draw what their notes say."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_ins
from _env import venv_python
from _server import ComfyServer
from _templates import BY_API, TEMPLATES
from client import ClientError, ComfyClient, Run
from PIL import Image
from swap import BY_OURS, KINDS, SOCKETS, WIDGETS

from chords_core import SOLVERS, AdaptivePlan, Plan, SequentialPlan, plan

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
API = sorted(path.stem for path in (FOLDER / "api").glob("*.json"))
STEPS = {  # of the samplers of each, one after the other, and whether they are guided
    "sdxl": ([25], True),
    "sd3.5_large": ([20], True),
    "flux_dev": ([20], False),
    "wan2.2_5b_video": ([20], True),
    "wan2.2_14b_video": ([10, 10], True),
    "qwen_image": ([20], True),
    "z_image": ([25], True),
    "qwen_image_edit": ([40], True),
    "hunyuan_video_1.5": ([20], True),
    "flux_2": ([20], False),
}
EVERY_STEP = {  # those of which every step is called, in order: too few steps, or noise at each step
    "z_image_turbo": ([8], False),
    "wan2.2_14b_4_steps": ([2, 2], False),
    "ltx_2": ([20, 3], None),  # the first with guidance
}
NEAR, FAST = 0.01, 0.03  # the tolerances of these fidelities
LARGEST = 60_000  # bytes of a thumbnail
Json = dict[str, Any]


def _read(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def with_stand_ins(comfy_host: Path, on_cpu: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    """A client of a ComfyUI that has a file of every name the workflows ask for."""
    folder = tmp_path_factory.mktemp("stand-ins")
    arguments = stand_ins.make(folder, map(_read, FOLDER.rglob("*.json")))
    python = str(venv_python())
    with ComfyServer(comfy_host, threads=1, cpu=on_cpu, python=python, arguments=arguments) as running:
        shutil.copytree(folder / "input", running.folder / "input", dirs_exist_ok=True)
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
    assert {template.api for template in TEMPLATES} <= set(API)
    for kind, names in (("json", {t.path for t in TEMPLATES}), ("jpg", {t.thumbnail for t in TEMPLATES})):
        assert set(FOLDER.glob(f"*.{kind}")) == names
    for template in TEMPLATES:
        assert template.thumbnail.stat().st_size < LARGEST
        with Image.open(template.thumbnail) as picture:
            assert picture.format == "JPEG" and min(picture.size) >= 400
            assert np.asarray(picture.convert("RGB"), dtype=float).std() > 10


def test_templates_sort_by_their_numbers_and_their_names_have_room() -> None:
    names = [template.name for template in TEMPLATES]
    assert names[0] == "01 Start here, no download"
    assert [name[:3] for name in names] == [f"{number:02} " for number in range(1, len(names) + 1)]
    assert max(map(len, names)) <= 33  # a card of the template browser shows about as many


def _note(name: str) -> str:
    """What a workflow says about itself. It names each file to download, with its folder."""
    (note,) = [n for n in _read(BY_API[name].path)["nodes"] if n.get("title") == "What to download, what to expect"]
    text = note["widgets_values"][0]
    for folder, file in stand_ins.files(_read(FOLDER / "api" / f"{name}.json")):
        link = rf"- {folder}: \[{re.escape(file)}\]\(https://huggingface.co/\S+/{re.escape(file)}\)"
        assert folder == "input" or re.search(link, text), (folder, file)
    assert "not yet measured on this model" in text
    return text


@pytest.mark.parametrize("name", STEPS)
def test_the_note_tells_what_to_download_and_what_to_expect(name: str) -> None:
    text = _note(name)
    steps, guided = STEPS[name]
    solver = _samplers(name)[0]["sampler_name"]
    table = "\n".join(["| GPUs | fidelity: auto | near | fast |", "|---|---|---|---|", *_rows(steps, guided, solver)])
    assert table in text, f"what the planner says now:\n{table}"


@pytest.mark.parametrize("name", EVERY_STEP)
def test_the_note_tells_that_every_step_is_called(name: str) -> None:
    """Several devices share the calls then. The note promises no more."""
    text, (steps, _) = _note(name), EVERY_STEP[name]
    assert f"All {sum(steps)} model calls" in text and "`fidelity` changes nothing" in text
    assert "Several GPUs share each call" in text and "With one GPU it runs as KSampler" in text
    for count, inputs in zip(steps, _samplers(name), strict=True):
        solver = inputs["sampler_name"]
        if solver in SOLVERS:
            assert all(type(plan(count, n, tolerance=FAST, solver=solver)) is SequentialPlan for n in (1, 2, 4, 8))
        else:
            assert solver == "euler_ancestral"


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
    return [node["inputs"] for node in prompt.values() if node["class_type"] in BY_OURS]


def test_templates_and_thumbnails_name_the_steps_of_the_workflow() -> None:
    named = {}
    for template in TEMPLATES:
        texts = f"{template.name}, {template.title}, {template.subtitle}"
        if template.api in STEPS | EVERY_STEP and (found := re.findall(r"(\d+) steps", texts)):
            named[template.api] = set(map(int, found))
    assert len(named) == 12
    assert named == {name: {sum((STEPS | EVERY_STEP)[name][0])} for name in named}


@pytest.mark.parametrize("name", [*STEPS, *EVERY_STEP])
def test_the_steps_the_note_counts_are_those_of_the_workflow(name: str) -> None:
    """In some they come by way of switches. Two samplers one after the other have a part of the steps each."""
    counts, guided = (STEPS | EVERY_STEP)[name]
    assert len(_samplers(name)) == len(counts)
    runs = sorted(_runs(name), reverse=True)
    if name == "ltx_2":
        assert runs == [(20, 4), (3, 1)]
    elif "cfg" in _samplers(name)[0]:  # KSampler Advanced has the steps of both, and the range that is its own
        assert {steps for steps, _ in runs} == {sum(counts)}
    else:
        assert [steps for steps, _ in runs] == counts
    assert guided is None or all((cfg > 1) == guided for _, cfg in runs)


def _runs(name: str) -> list[tuple[float, float]]:
    """The steps and the CFG of each sampling."""
    prompt = _read(FOLDER / "api" / f"{name}.json")
    runs = []
    for node in prompt.values():
        inputs = node["inputs"]
        if node["class_type"].startswith("ChordsKSampler"):
            runs.append((_value(prompt, inputs["steps"]), _value(prompt, inputs["cfg"])))
        elif node["class_type"] == "SamplerCustomAdvanced":
            sigmas, guider = (prompt[inputs[key][0]]["inputs"] for key in ("sigmas", "guider"))
            steps = _value(prompt, sigmas["steps"]) if "steps" in sigmas else len(sigmas["sigmas"].split(",")) - 1
            runs.append((steps, guider.get("cfg", 1)))
    return runs


def _value(prompt: Json, value: Any) -> Any:
    """What an input gets, through primitives and switches."""
    while isinstance(value, list):
        inputs = prompt[value[0]]["inputs"]
        chosen = "on_true" if _value(prompt, inputs.get("switch")) else "on_false"
        value = inputs[chosen] if chosen in inputs else inputs["value"]
    return value


def test_the_lora_for_few_steps_is_switched_on_in_its_workflow_only() -> None:
    for name, loras in {"wan2.2_14b_4_steps": 2, "wan2.2_14b_video": 0}.items():
        prompt = _read(FOLDER / "api" / f"{name}.json")
        models = [prompt[inputs["model"][0]]["inputs"]["model"] for inputs in _samplers(name)]
        assert [_source(prompt, model) for model in models].count("LoraLoaderModelOnly") == loras


def _source(prompt: Json, link: Any) -> str:
    """The class of the node whose output a link carries, through switches."""
    node = prompt[link[0]]
    while node["class_type"] == "ComfySwitchNode":
        chosen = "on_true" if _value(prompt, node["inputs"]["switch"]) else "on_false"
        node = prompt[node["inputs"][chosen][0]]
    return node["class_type"]


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
