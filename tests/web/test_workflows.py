"""The workflows that come with the pack, and the official ones with our samplers swapped in, in the browser."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _server import ComfyServer
from _templates import BY_API, TEMPLATES
from client import ClientError, ComfyClient
from frontend import OURS, VIEWPORT, Frontend, in_the_newest_too
from servers import Servers
from swap import BY_OURS, WIDGETS, is_saved, swap

sys.path.append(str(Path(__file__).resolve().parents[1] / "host"))

import stand_ins

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
NAMES = [template.api for template in TEMPLATES]
PACKAGE = "comfyui_workflow_templates_json"
MADE_FROM = {
    "sdxl": "image_sdxl_simple",
    "sd3.5_large": "sd3.5_simple_example",
    "flux_dev": "flux_dev_full_text_to_image",
    "wan2.2_5b_video": "video_wan2_2_5B_ti2v",
    "wan2.2_14b_video": "video_wan2_2_14B_t2v",
    "qwen_image": "image_qwen_image",
    "z_image": "image_z_image",
    "qwen_image_edit": "image_qwen_image_edit_2511",
    "wan2.2_14b_4_steps": "video_wan2_2_14B_i2v",
    "hunyuan_video_1.5": "video_hunyuan_video_1.5_720p_t2v",
    "ltx_2": "video_ltx2_t2v",
    "z_image_turbo": "image_z_image_turbo",
    "flux_2": "image_flux2_text_to_image",
}
SWITCHED_ON = {"wan2.2_14b_4_steps": "129:131"}
"""The switches of templates that are on in ours, by the node of the prompt."""
# One or two of each family whose nodes this ComfyUI has. Among them: KSampler, KSamplerAdvanced, SamplerCustom and
# SamplerCustomAdvanced; plain graphs, subgraphs and primitives that set a widget; broken links; old and new files.
OFFICIAL = [
    *sorted(MADE_FROM.values()),
    "3d_hunyuan3d_multiview_to_model",
    "audio_ace_step_1_5_checkpoint",
    "audio_stable_audio_example",
    "flux_redux_model_example",
    "hidream_e1_full",
    "hidream_i1_full",
    "hunyuan_video_text_to_video",
    "image_chroma_text_to_image",
    "image_ernie_image",
    "image_kandinsky5_t2i",
    "image_longcat_text_to_image",
    "image_lotus_depth_v1_1",
    "image_netayume_lumina_t2i",
    "image_omnigen2_t2i",
    "image_ovis_text_to_image",
    "image_qwen_Image_2512",
    "image_to_video_wan",
    "ltxv_text_to_video",
    "sd3.5_large_canny_controlnet_example",
    "sdxl_simple_example",
    "sdxlturbo_example",
]
VALUES = """
return [graph, ...graph.subgraphs.values()].flatMap((graph) => graph.nodes.map((node) => [
  node.id, node.type, (node.widgets ?? []).filter((w) => w.serialize !== false).map((w) => [w.name, w.value]),
]));
"""
MISSING = """
return [graph, ...graph.subgraphs.values()].flatMap((graph) => graph.nodes)
  .filter((n) => n.has_errors || !(n.type in LiteGraph.registered_node_types)).map((n) => n.type);
"""
Json = dict[str, Any]


@pytest.fixture(scope="module")
def official() -> dict[str, Json]:
    """The official workflows above by name."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        pytest.fail(f"{PACKAGE} is missing: run python scripts/test.py --setup-only", pytrace=False)
    (folder,) = found.submodule_search_locations
    return {name: _read(Path(folder) / "templates" / f"{name}.json") for name in OFFICIAL}


@pytest.fixture(scope="module")
def stand_in_files(official: dict[str, Json], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a file for every name that these workflows ask for, and ComfyUI's arguments for it."""
    folder = tmp_path_factory.mktemp("stand-ins")
    return folder, stand_ins.make(folder, [*map(_read, FOLDER.glob("*.json")), *official.values()])


@pytest.fixture(scope="module")
def servers(comfy_host: Path, stand_in_files: tuple[Path, list[str]]) -> Iterator[Servers]:
    """Live ComfyUIs with these files."""
    with Servers(comfy_host, stand_in_files[1]) as running:
        yield running


@pytest.fixture(scope="module")
def server(servers: Servers, frontend_name: str, stand_in_files: tuple[Path, list[str]]) -> ComfyServer:
    running = servers.with_frontend(frontend_name)
    shutil.copytree(stand_in_files[0] / "input", running.folder / "input", dirs_exist_ok=True)
    return running


@pytest.fixture(scope="module")
def frontend(shared_frontend: Frontend) -> Frontend:
    """One page for all tests here: each of them opens its own workflows."""
    return shared_frontend


@pytest.fixture(scope="module")
def client(server: ComfyServer) -> ComfyClient:
    return server.client()


def _read(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


def _prompt(frontend: Frontend) -> Json:
    return frontend.evaluate("return (await app.graphToPrompt()).output")


def _bare(prompt: Json) -> Json:
    """The classes and inputs of a prompt. Our own inputs are added where they have their defaults."""
    ours = {name: default for name, (_, default) in WIDGETS.items()}
    devices = {"split": "auto", "ray_address": "", "ray_workers": 0}
    bare = {}
    for name, node in prompt.items():
        kind = node["class_type"]
        defaults = ours if kind in BY_OURS else devices if kind == "ChordsDevices" else {}
        bare[name] = {"class_type": kind, "inputs": {**defaults, **node["inputs"]}}
    return bare


def _refusal(client: ComfyClient, prompt: Json) -> str | None:
    """Why the server refuses a prompt; None if it does not. The prompt is then cancelled: the model files are empty."""
    try:
        answer = client.submit(prompt)
    except ClientError as error:
        return str(error)
    client.post("/queue", {"delete": [answer["prompt_id"]]})
    client.post("/interrupt", {})
    return json.dumps(answer["node_errors"]) if answer.get("node_errors") else None


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("sdo_")])  # those: test_sdo.py
def test_a_workflow_loads_completely_and_is_the_same_after_a_save_and_a_reload(
    frontend: Frontend, tmp_path: Path, name: str
) -> None:
    errors: list[str] = []

    def note(message: Any) -> None:
        if message.type == "error" and OURS in f"{message.location.get('url')} {message.text}":
            errors.append(message.text)

    frontend.page.on("console", note)
    path = BY_API[name].path
    frontend.load_file(path)
    assert frontend.evaluate("return graph.nodes.length") == len(_read(path)["nodes"])
    assert frontend.evaluate(MISSING) == []
    twin = _bare(_read(FOLDER / "api" / f"{name}.json"))
    assert _bare(_prompt(frontend)) == twin

    values = frontend.evaluate(VALUES)
    again = tmp_path / f"{name}.json"
    again.write_text(json.dumps(frontend.evaluate("return graph.serialize()")), encoding="utf-8")
    frontend.page.reload()
    frontend.wait_until_ready()
    frontend.load_file(again)
    assert frontend.evaluate(VALUES) == values
    assert _bare(_prompt(frontend)) == twin
    frontend.page.remove_listener("console", note)
    assert not errors


@in_the_newest_too
def test_each_workflow_opens_and_no_node_covers_another(frontend: Frontend) -> None:
    """Nodes grow where they have no room for what they show."""
    frontend.page.set_viewport_size({"width": 3600, "height": 2400})  # so that all nodes are drawn
    covered = []
    for name in NAMES:
        path = BY_API[name].path
        frontend.load_file(path)
        assert frontend.evaluate("return graph.nodes.length") == len(_read(path)["nodes"]), name
        assert frontend.evaluate(MISSING) == [], name
        assert _bare(_prompt(frontend)) == _bare(_read(FOLDER / "api" / f"{name}.json")), name
        frontend.evaluate("app.canvas.ds.scale = 0.6; app.canvas.draw(true, true)")
        boxes = frontend.boxes()
        for i, (x, y, width, height) in enumerate(boxes):
            for left, top, wide, high in boxes[:i]:
                apart = x >= left + wide or left >= x + width or y >= top + high or top >= y + height
                if not apart:
                    covered.append((name, (x, y, width, height), (left, top, wide, high)))
    frontend.page.set_viewport_size(VIEWPORT)
    assert not covered


def test_the_template_browser_shows_them_all_with_a_picture(frontend: Frontend, client: ComfyClient) -> None:
    first = TEMPLATES[0].name
    (found,) = [names for names in client.get_json("/workflow_templates").values() if first in names]
    assert sorted(found) == [template.name for template in TEMPLATES]  # and none of the API workflows
    page = frontend.page
    page.get_by_role("button", name="Templates").first.click()
    page.get_by_text("ComfyUI-CHORDS").first.click()
    for template in TEMPLATES:
        card = page.get_by_test_id(f"template-workflow-{template.name}")
        card.scroll_into_view_if_needed()
        picture = card.locator("img").first
        picture.wait_for()
        frontend.until(
            lambda picture=picture: picture.evaluate("(i) => i.naturalWidth") >= 400, f"{template.name} has a picture"
        )
    frontend.evaluate("graph.extra.notYetReplaced = true")
    page.get_by_test_id(f"template-workflow-{BY_API['chords_inpaint'].name}").click()
    page.wait_for_function("() => !window.comfyAPI.app.app.rootGraph.extra.notYetReplaced")
    assert _bare(_prompt(frontend)) == _bare(_read(FOLDER / "api" / "chords_inpaint.json"))


def test_official_workflows_give_the_same_prompt_apart_from_the_swap(
    frontend: Frontend, client: ComfyClient, official: dict[str, Json], tmp_path: Path
) -> None:
    """The prompt of the swapped graph equals the swapped prompt of the graph, and the server accepts it."""
    for name, stock in official.items():
        assert is_saved(stock), name
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(stock), encoding="utf-8")
        frontend.load_file(path)
        expected = swap(_prompt(frontend))
        assert expected.done, name
        path.write_text(json.dumps(swap(stock).workflow), encoding="utf-8")
        frontend.load_file(path)
        assert frontend.evaluate(MISSING) == [], name
        prompt = _prompt(frontend)
        assert _bare(prompt) == _bare(expected.workflow), name
        assert all(set(WIDGETS) <= set(n["inputs"]) for n in prompt.values() if n["class_type"] in BY_OURS), name
        assert _refusal(client, prompt) is None, name
        if name in MADE_FROM.values():
            (ours,) = [key for key, value in MADE_FROM.items() if value == name]
            if ours in SWITCHED_ON:
                assert prompt[SWITCHED_ON[ours]]["inputs"] == {"value": False}
                prompt[SWITCHED_ON[ours]]["inputs"]["value"] = True
            assert _bare(_read(FOLDER / "api" / f"{ours}.json")) == _bare(prompt), ours


def test_what_a_subgraph_shows_outside_reaches_our_sampler(
    frontend: Frontend, official: dict[str, Json], tmp_path: Path
) -> None:
    path = tmp_path / "swapped.json"
    path.write_text(json.dumps(swap(official["image_z_image"]).workflow), encoding="utf-8")
    frontend.load_file(path)
    (outer,) = frontend.evaluate("return graph.nodes.filter((n) => n.isSubgraphNode?.()).map((n) => n.id)")
    # the names under which the node of the subgraph shows them
    names = frontend.evaluate(
        "return graph.getNodeById(argument).widgets.map((w) => [w.label ?? w.name, w.name])", outer
    )
    shown = dict(names)
    frontend.set_widget(outer, shown["steps"], 33)
    frontend.set_widget(outer, shown["cfg"], 3.5)
    (sampler,) = [n for n in _prompt(frontend).values() if n["class_type"] == "ChordsKSampler"]
    assert (sampler["inputs"]["steps"], sampler["inputs"]["cfg"]) == (33, 3.5)


@pytest.mark.parametrize("name", ["flux_2", "flux_dev", "qwen_image", "qwen_image_edit", "z_image", "z_image_turbo"])
def test_fidelity_can_be_set_from_outside_the_subgraph(frontend: Frontend, name: str) -> None:
    frontend.load_file(BY_API[name].path)
    (outer,) = frontend.evaluate("return graph.nodes.filter((n) => n.isSubgraphNode?.()).map((n) => n.id)")
    frontend.set_widget(outer, "fidelity", "near")
    (sampler,) = [n for n in _prompt(frontend).values() if n["class_type"] in BY_OURS]
    assert sampler["inputs"]["fidelity"] == "near"


@pytest.mark.parametrize("name", ["chords_demo", "chords_few_steps", "chords_img2img", "chords_inpaint"])
def test_a_demo_workflow_runs_at_the_press_of_a_button(frontend: Frontend, client: ComfyClient, name: str) -> None:
    frontend.load_file(BY_API[name].path)
    run = client.wait(frontend.start())
    assert run["status"]["status_str"] == "success"
    shown = "return graph.nodes.find((n) => n.type === 'SaveImage').imgs?.[0]?.naturalWidth ?? 0"
    frontend.until(lambda: frontend.evaluate(shown) == 128, "the picture is shown")
