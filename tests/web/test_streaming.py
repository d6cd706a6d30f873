"""CHORDS Stream Preview in the browser: the strip grows while the sampler runs, and a click on Accept ends the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client import ComfyClient
from frontend import Frontend, call_count, in_both_frontends, in_the_newest_too, with_nodes_2
from held_runs import (
    API_WORKFLOW,
    CORES,
    PREVIEW,
    SAMPLER,
    SAVED,
    SEEDS,
    STRIP,
    WORKFLOW,
    accept_in_the_middle,
    differ,
    events,
    latent_is_the_hit,
    let_go,
    open_workflow,
    pictures,
)


@in_the_newest_too
def test_the_strip_grows_and_accept_ends_the_run(frontend: Frontend, client: ComfyClient) -> None:
    panel = open_workflow(frontend, 2)
    assert panel.button.is_disabled() and panel.state == "idle"
    prompt = frontend.start()
    for number, name in enumerate(STRIP[:3], start=1):
        frontend.until(lambda number=number: len(panel.drawn()) >= number, f"{number} thumbnails are drawn")
        assert panel.labels[number - 1] == name
        assert client.history(prompt) is None  # still running
    assert len(set(panel.drawn())) == len(panel.drawn())
    assert differ(panel.pixels()[:3])
    assert panel.caption.startswith("result 2 of 4 · core 3")
    accept_in_the_middle(frontend, panel, client)
    history = client.wait(prompt)
    panel.wait_for_state("success")
    (accepted,) = events(client, prompt, "accepted")
    name = STRIP[accepted["index"]]
    assert accepted["by"] == "request" and accepted["index"] == 2
    assert panel.button.text_content() == f"Accepted {name}" and panel.button.is_disabled()
    assert panel.caption.startswith(f"{name} of 4")
    assert call_count(panel.caption) == accepted["depth"] < 30
    assert panel.labels == STRIP[: accepted["index"] + 1]
    (saved,) = pictures(client, history, SAVED)
    assert np.array_equal(saved, pictures(client, history, PREVIEW)[accepted["index"]])
    latent_is_the_hit(client, prompt, accepted["index"], saved)


def test_a_window_has_one_result_in_each_round(frontend: Frontend, client: ComfyClient) -> None:
    """The workflow file without changes. The number of results is not known before, so that the names do not contain
    it."""
    panel = open_workflow(frontend, accept="auto")
    prompt = frontend.start()
    panel.wait_for_state("success")
    (accepted,) = events(client, prompt, "accepted")
    last, rounds = accepted["index"], accepted["depth"]
    assert last == rounds - 1 and 4 < rounds < 30
    frontend.until(lambda: len(panel.drawn()) == rounds, "all thumbnails are drawn")
    assert panel.labels == ["draft", *(f"result {index}" for index in range(1, rounds))]
    assert panel.caption.startswith(f"result {last} · {rounds} calls · ")
    assert panel.status.startswith(f"accepted result {last} · {rounds} calls in a row, {4 * rounds} in all")
    (plan,) = events(client, prompt, "plan")
    assert plan["method"] == "secant" and "about" in plan["message"]


@in_the_newest_too
def test_a_run_to_the_end_leaves_the_decoded_pictures(frontend: Frontend, client: ComfyClient) -> None:
    panel = open_workflow(frontend)
    prompt = frontend.start()
    panel.wait_for_state("success")
    history = client.wait(prompt)
    names = [image["filename"] for image in history["outputs"][str(PREVIEW)]["images"]]
    frontend.until(lambda: len(panel.drawn()) == CORES + 1 and all(n in " ".join(panel.drawn()) for n in names), names)
    assert panel.labels == STRIP
    assert differ(panel.pixels())
    assert panel.caption.startswith("result 4 of 4 · core 1 · 30 calls · ")
    assert panel.status.startswith("accepted result 4 · 30 calls in a row, ")
    shown = "return graph.getNodeById(argument).imgs[0].src"  # when the large picture is loaded, after the thumbnails
    frontend.until(lambda: frontend.evaluate(shown, PREVIEW) == panel.drawn()[-1], "the node has the picture")
    assert panel.picture.evaluate("(i) => i.naturalWidth") == 128


def test_the_keyboard_reaches_everything(frontend: Frontend, client: ComfyClient) -> None:
    panel = open_workflow(frontend, 1)
    prompt = frontend.start()
    frontend.until(lambda: len(panel.drawn()) >= 2, "two thumbnails are drawn")
    panel.thumbs.first.focus()
    frontend.page.keyboard.press("Enter")
    assert panel.caption.startswith("draft · ")
    frontend.page.keyboard.press("ArrowRight")
    assert panel.caption.startswith("result 1 of 4 · ")
    for name in ("Save this picture", "Enlarge"):
        assert panel.element.get_by_label(name).evaluate("(e) => { e.focus(); return e === document.activeElement }")
    frontend.page.keyboard.press("Enter")
    large = frontend.page.locator("dialog.chords-enlarged[open]")
    large.wait_for()
    frontend.page.keyboard.press("Escape")
    large.wait_for(state="detached")
    panel.button.focus()
    with frontend.page.expect_response("**/chords/accept"):
        frontend.page.keyboard.press("Space")
    let_go(client)
    client.wait(prompt)
    assert events(client, prompt, "accepted")[0]["by"] == "request"


def test_cancel_of_the_frontend_and_the_next_run(frontend: Frontend, client: ComfyClient) -> None:
    panel = open_workflow(frontend, 1)
    first = frontend.start()
    frontend.until(lambda: len(panel.drawn()) >= 2, "two thumbnails are drawn")
    frontend.cancel()
    panel.wait_for_state("interrupted")
    assert panel.status.startswith("cancelled") and panel.button.is_disabled()
    assert len(panel.drawn()) >= 2  # they stay
    frontend.until(lambda: client.history(first), "the first prompt is over")
    old = set(panel.drawn())
    frontend.set_widget(SAMPLER, "steps", 30)
    let_go(client)
    frontend.run()
    panel.wait_for_state("success")
    frontend.until(lambda: len(panel.drawn()) == CORES + 1, "all thumbnails are drawn")
    assert not old & set(panel.drawn())  # the strip was cleared
    assert panel.labels == STRIP


@in_both_frontends
def test_reload_during_a_run(frontend: Frontend, client: ComfyClient) -> None:
    panel = open_workflow(frontend, 1)
    prompt = frontend.start()
    frontend.until(lambda: len(panel.drawn()) >= 2, "two thumbnails are drawn")
    frontend.page.reload()
    frontend.wait_until_ready()
    panel = frontend.panel()
    panel.element.wait_for()
    frontend.until(lambda: len(panel.drawn()) >= 2, "the strip is back")
    assert panel.labels == STRIP[:2]
    assert panel.state == "running"
    accept_in_the_middle(frontend, panel, client)
    panel.wait_for_state("success")
    assert client.wait(prompt)["outputs"]


def test_pictures_of_a_cached_run_after_a_reload(frontend: Frontend, client: ComfyClient) -> None:
    """The prompt does not run again: only the output of the node arrives."""
    open_workflow(frontend)
    frontend.set_widget(SAMPLER, "control_after_generate", "fixed")
    client.wait(frontend.start())  # a page that is opened while it runs would show it with its seconds
    frontend.page.reload()
    frontend.wait_until_ready()
    panel = frontend.panel()
    panel.element.wait_for()
    frontend.run()
    panel.wait_for_state("success")
    frontend.until(lambda: len(panel.drawn()) == CORES + 1, "all thumbnails are drawn")
    assert panel.labels == STRIP
    assert panel.caption == "result 4 of 4 · core 1 · 30 calls"


@in_both_frontends
def test_pictures_of_a_prompt_from_the_history(frontend: Frontend, client: ComfyClient) -> None:
    """The frontend opens the workflow, and gives the outputs at once and without events of a run."""
    graph = json.loads(API_WORKFLOW.read_text(encoding="utf-8"))
    graph[str(SAMPLER)]["inputs"] |= {"seed": next(SEEDS), "accept": "exact"}
    outputs = client.run(graph).outputs
    open_workflow(frontend)
    frontend.evaluate(
        """
        const tab = app.extensionManager.workflow.activeWorkflow;
        await app.loadGraphData(JSON.parse(JSON.stringify(graph.serialize())), true, true, tab);
        app.nodeOutputs = argument;
        """,
        outputs,
    )
    panel = frontend.panel()
    frontend.until(lambda: len(panel.drawn()) == CORES + 1, "all thumbnails are drawn")
    assert (panel.state, panel.labels) == ("success", STRIP)
    assert panel.button.is_disabled()


def test_a_missing_picture_is_reported(frontend: Frontend) -> None:
    panel = open_workflow(frontend)
    hits, images = [{"core": 0, "depth": 4}], [{"filename": "gone.png", "subfolder": "", "type": "temp"}]
    record = {"method": "chords", "cores": 4, "message": "", "hits": hits}
    frontend.evaluate("app.nodeOutputs = argument", {str(PREVIEW): {"chords": [record], "images": images}})
    frontend.until(lambda: "no longer on the server" in panel.element.text_content(), "the hint")
    assert panel.labels == ["draft"]


@in_both_frontends
def test_nothing_of_the_panel_is_saved_or_queued(frontend: Frontend) -> None:
    open_workflow(frontend)
    prompt = frontend.evaluate("return (await app.graphToPrompt()).output")
    assert prompt[str(PREVIEW)]["inputs"] == {"run": [str(SAMPLER), 1], "vae": ["1", 1]}
    saved = frontend.evaluate("return graph.serialize()")
    (node,) = [node for node in saved["nodes"] if node["id"] in (PREVIEW, str(PREVIEW))]
    assert not node.get("widgets_values")
    assert not frontend.evaluate("return graph.getNodeById(argument).widgets.some((w) => w.serialize)", PREVIEW)


def test_the_api_twin_is_the_same_graph(frontend: Frontend) -> None:
    frontend.open_file(WORKFLOW)
    prompt = frontend.evaluate("return (await app.graphToPrompt()).output")
    twin = json.loads(API_WORKFLOW.read_text(encoding="utf-8"))
    assert _bare(prompt) == _bare(twin)


def _bare(prompt: dict[str, Any]) -> dict[str, Any]:
    return {name: {"class_type": node["class_type"], "inputs": node["inputs"]} for name, node in prompt.items()}


@pytest.mark.parametrize(
    ("widget", "value", "labels"),
    [("cores", 1, ["draft", "result"]), ("sampler_name", "euler_ancestral", ["result"])],
    ids=["one core", "stock"],
)
def test_a_run_on_one_core_says_why(
    frontend: Frontend, client: ComfyClient, widget: str, value: object, labels: list[str]
) -> None:
    open_workflow(frontend)
    frontend.set_widget(SAMPLER, widget, value)
    panel = frontend.panel()
    prompt = frontend.start()
    panel.wait_for_state("success")
    frontend.until(lambda: len(panel.drawn()) == len(labels), "the thumbnails are drawn")
    assert panel.labels == labels
    (plan,) = events(client, prompt, "plan")
    assert plan["message"] in panel.status


def test_runs_of_two_samplers_do_not_mix(frontend: Frontend, client: ComfyClient, tmp_path) -> None:
    """Two samplers with a preview each, and a second preview of the first one behind a reroute."""
    open_workflow(frontend)
    frontend.evaluate(
        """
        const { LiteGraph } = globalThis;
        const [sampler, preview] = [graph.getNodeById(argument[0]), graph.getNodeById(argument[1])];
        const again = sampler.clone();
        const [second, third] = [preview.clone(), preview.clone()];
        const reroute = LiteGraph.createNode("Reroute");
        for (const node of [again, second, third, reroute]) graph.add(node);
        for (const [i, input] of sampler.inputs.entries()) {
          const link = graph.getLink(input.link);
          if (link) graph.getNodeById(link.origin_id).connect(link.origin_slot, again, i);
        }
        again.widgets.find((w) => w.name === "cores").value = 2;
        again.connect(1, second, "run");
        sampler.connect(1, reroute, 0);
        reroute.connect(0, third, "run");
        second.pos = [preview.pos[0], preview.pos[1] + 600];
        third.pos = [preview.pos[0] + 400, preview.pos[1] + 600];
        """,
        [SAMPLER, PREVIEW],
    )
    frontend.run()
    panels = [frontend.panel(i) for i in range(3)]
    for panel in panels:
        panel.wait_for_state("success")
        frontend.until(lambda panel=panel: len(panel.drawn()) == len(panel.labels), "the thumbnails are drawn")
    assert sorted(len(panel.labels) for panel in panels) == [3, 5, 5]
    assert panels[0].labels == STRIP
    assert {panel.caption.split(" · ")[0] for panel in panels} == {"result 4 of 4", "result 2 of 2"}


@in_both_frontends
def test_a_preview_in_a_subgraph(frontend: Frontend, client: ComfyClient) -> None:
    open_workflow(frontend)
    frontend.evaluate(
        "graph.convertToSubgraph(new Set(argument.map((id) => graph.getNodeById(id))))", [SAMPLER, PREVIEW]
    )
    prompt = frontend.start()
    client.wait(prompt)
    assert ":" in events(client, prompt, "plan")[0]["node_id"]
    frontend.evaluate(
        "const inside = graph.nodes.find((n) => n.subgraph).subgraph; app.canvas.setGraph(inside);"
        "app.canvas.ds.reset(); app.canvas.draw(true, true)"
    )
    panel = frontend.panel()
    panel.element.wait_for()
    frontend.until(lambda: len(panel.drawn()) == CORES + 1, "all thumbnails are drawn")


def test_another_workflow_on_the_screen_shows_nothing(frontend: Frontend, client: ComfyClient, tmp_path: Path) -> None:
    """The other workflow has the same node ids, but does not run. The running one, opened again, has its strip."""
    panel = open_workflow(frontend, 1)
    prompt = frontend.start()
    frontend.until(lambda: len(panel.drawn()) >= 1, "a thumbnail is drawn")
    other = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    other["id"] = "00000000-1111-4222-8333-444444444444"
    frontend.open_graph(other, tmp_path / "other.json")
    panel = frontend.panel()
    frontend.page.wait_for_timeout(500)
    assert (panel.state, panel.labels) == ("idle", [])
    let_go(client)
    client.wait(prompt)
    assert (panel.state, panel.labels) == ("idle", [])
    frontend.page.get_by_text(WORKFLOW.stem, exact=False).first.click()
    frontend.until(lambda: len(frontend.panel().drawn()) == CORES + 1, "the strip is back")


def test_a_refused_accept_is_reported(frontend: Frontend, client: ComfyClient) -> None:
    panel = open_workflow(frontend, 1)
    refusal = {"status": 409, "json": {"error": "the run is over"}}
    frontend.page.route("**/chords/accept", lambda route: route.fulfill(**refusal))
    prompt = frontend.start()
    frontend.until(lambda: len(panel.drawn()) >= 2, "two thumbnails are drawn, and nothing moves any more")
    panel.click(panel.button)
    frontend.until(lambda: "not accepted: the run is over" in panel.status, "the refusal is shown")
    assert panel.button.is_enabled()
    frontend.page.unroute("**/chords/accept")
    accept_in_the_middle(frontend, panel, client)
    client.wait(prompt)
    panel.wait_for_state("success")


@with_nodes_2
def test_there_is_no_second_picture_below_the_panel(frontend: Frontend, client: ComfyClient) -> None:
    """The frontend's newer nodes have a place for previews there."""
    panel = open_workflow(frontend, 1)
    prompt = frontend.start()
    frontend.until(lambda: len(panel.drawn()) >= 2, "two thumbnails are drawn")
    node = frontend.page.locator(".lg-node", has=panel.element)
    assert node.locator("img:visible").count() == len(panel.drawn()) + 1
    accept_in_the_middle(frontend, panel, client)
    client.wait(prompt)
    panel.wait_for_state("success")
    frontend.until(lambda: len(panel.drawn()) == len(panel.labels), "the thumbnails are drawn")
    assert node.locator("img:visible").count() == len(panel.drawn()) + 1
    assert events(client, prompt, "accepted")[0]["by"] == "request"


def test_a_failed_run_says_why(frontend: Frontend, client: ComfyClient) -> None:
    panel = open_workflow(frontend)
    frontend.evaluate(
        """
        const [sampler, failing] = [graph.getNodeById(argument), LiteGraph.createNode("TestFailingLane")];
        graph.add(failing);
        failing.widgets[0].value = "0,1,2,3";
        failing.widgets[1].value = 5;
        sampler.getInputNode(0).connect(0, failing, "model");
        failing.connect(0, sampler, "model");
        """,
        SAMPLER,
    )
    frontend.run()
    panel.wait_for_state("error")
    assert panel.status.startswith("failed: ") and "is broken on purpose" in panel.status
    assert panel.button.is_disabled()


def test_the_canvas_is_zoomed_and_panned_over_the_panel(frontend: Frontend) -> None:
    panel = open_workflow(frontend)
    box = panel.element.bounding_box()
    mouse = frontend.page.mouse
    mouse.move(box["x"] + 100, box["y"] + 100)
    view = "return [app.canvas.ds.scale, ...app.canvas.ds.offset]"
    before = frontend.evaluate(view)
    mouse.wheel(0, 240)
    frontend.until(lambda: frontend.evaluate(view)[0] != before[0], "the wheel zooms")
    scale, *offset = frontend.evaluate(view)
    mouse.down(button="middle")
    mouse.move(box["x"] + 160, box["y"] + 130, steps=5)
    mouse.up(button="middle")
    after = frontend.evaluate(view)
    assert after[0] == scale
    assert np.allclose((np.array(after[1:]) - offset) * scale, [60, 30], atol=2)


TEXTS = """async () => {
  const module = await import("/extensions/ComfyUI-CHORDS/stream/runs.js");
  const { Run, Runs } = module;
  const run = new Run("p", "1");
  const texts = [module.acceptLabel(null), module.acceptLabel(run)];
  const send = (kind, fields) => run.apply({ kind, ...fields });
  send("plan", { method: "chords", cores: 4, message: "four cores" });
  texts.push(module.acceptLabel(run));
  send("step", { depth: 3, of: 30 });
  texts.push(module.describeRun(run));
  send("hit", { index: 0, core: 0, depth: 1, seconds: 0.04, change: null });
  texts.push(module.acceptLabel(run), module.describeHit(run.newest, run).join(" · "));
  send("hit", { index: 2, core: 3, depth: 21, seconds: 1.84, change: 0.0132 });
  send("picture", { index: 1, image: {} });
  send("hit", { index: 1, core: 4, depth: 15, seconds: 12.3, change: 0.254 });
  texts.push(run.hits.map((hit) => hit.index).join(), module.describeHit(run.newest, run).join(" · "));
  texts.push(module.describeHit(run.hit(1), run).join(" · "));
  send("lane", { lane: 1, device: "cuda:1", state: "lost", error: "out of memory" });
  send("lane", { lane: 1, device: "cuda:1", state: "lost", error: "out of memory" });
  texts.push(module.describeRun(run));
  send("done", { status: "error", error: "no lanes left", seconds: 2.5, depth: 0 });
  texts.push(module.describeRun(run), module.acceptLabel(run));
  const windowed = new Run("w", "1");
  windowed.apply({ kind: "plan", method: "secant", cores: 4, accept: 2, message: "" });
  windowed.apply({ kind: "hit", index: 3, core: 0, depth: 4, seconds: 1.84, change: 0.0132 });
  texts.push(module.describeHit(windowed.newest, windowed).join(" · "));
  const runs = new Runs();
  for (let i = 0; i < 100; i++) runs.receive({ kind: "plan", prompt_id: `${i}`, node_id: "1" });
  texts.push(`${runs.all.length} ${runs.all.at(-1).promptId}`);
  const again = runs.receive({ kind: "plan", prompt_id: "99", node_id: "1" });
  runs.replay([{ kind: "plan", prompt_id: "99", node_id: "1" }]);
  texts.push(String(runs.of("99").length === 1 && runs.of("99")[0] === again));
  return texts;
}"""


def test_the_texts(frontend: Frontend) -> None:
    assert frontend.page.evaluate(TEXTS) == [
        "Accept",
        "Accept",
        "Accept the first",
        "3 of 30 calls",
        "Accept draft",
        "draft · 1 call · 0.04 s",
        "0,1,2",
        "result 2 of 4 · core 3 · 21 calls · 1.8 s · changed 1.3 %",
        "result 1 of 4 · core 4 · 15 calls · 12 s · changed 25 %",
        "3 of 30 calls · lost cuda:1: out of memory",
        "failed: no lanes left · 2.5 s · lost cuda:1: out of memory",
        "Accept",
        "result 3 · 4 calls · 1.8 s · changed 1.3 %",
        "64 99",
        "true",
    ]
