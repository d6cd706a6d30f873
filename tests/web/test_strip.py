"""The strip of CHORDS Stream Preview in the browser: Accept takes the result that is shown; the enlarged view; batches;
which pictures are of an earlier run."""

from __future__ import annotations

import numpy as np
from client import ComfyClient
from frontend import Frontend, Panel, in_both_frontends
from held_runs import (
    CORES,
    PREVIEW,
    SAMPLER,
    SAVED,
    WORKFLOW,
    accept_in_the_middle,
    events,
    latent_is_the_hit,
    let_go,
    open_workflow,
    pictures,
)
from playwright.sync_api import Locator

LATENT = 4  # the node of the workflow file
BATCH = 2


def _drawn(frontend: Frontend, panel: Panel, count: int) -> None:
    frontend.until(lambda: len(panel.drawn()) >= count, f"{count} thumbnails are drawn")


def _address(image: Locator) -> str:
    return image.evaluate("(i) => i.complete && i.naturalWidth ? i.src : ''")


@in_both_frontends
def test_accept_takes_the_result_that_is_shown(frontend: Frontend, client: ComfyClient) -> None:
    """Also an earlier one than the newest: the latent, the saved picture and the outputs are those of that result."""
    panel = open_workflow(frontend, 1)
    prompt = frontend.start()
    _drawn(frontend, panel, 2)
    panel.click(panel.thumbs.first)
    frontend.until(lambda: panel.caption.startswith("draft · "), "the draft is selected")
    panel.click(panel.thumbs.nth(1))
    frontend.until(lambda: panel.caption.startswith("result 1 "), "the newest is selected: the run is followed again")
    let_go(client, 2)
    _drawn(frontend, panel, 3)
    frontend.until(lambda: panel.button.text_content() == "Accept result 2", "it is followed")
    panel.click(panel.thumbs.nth(1))
    frontend.until(lambda: panel.button.text_content() == "Accept result 1", "the button says what it takes")
    frontend.until(lambda: _address(panel.picture) == panel.drawn()[1], "it is shown large")
    assert panel.thumbs.nth(1).get_attribute("aria-pressed") == "true"
    assert panel.button.get_attribute("title") == "End the run now with result 1"
    accept_in_the_middle(frontend, panel, client)
    history = client.wait(prompt)
    panel.wait_for_state("success")
    (accepted,) = events(client, prompt, "accepted")
    assert (accepted["index"], accepted["core"], accepted["by"]) == (1, CORES, "request")
    frontend.until(lambda: panel.button.text_content() == "Accepted result 1", "the button says what was taken")
    (saved,) = pictures(client, history, SAVED)
    shown = pictures(client, history, PREVIEW)
    assert len(shown) == 2 and np.array_equal(saved, shown[1])
    latent_is_the_hit(client, prompt, 1, saved)
    panel.click(panel.thumbs.first)
    frontend.until(lambda: "draft can no longer be accepted, but" in panel.button.get_attribute("title"), "why not")
    assert panel.button.is_disabled()
    frontend.page.route("**/view?*", lambda route: route.fulfill(status=404))
    panel.element.get_by_label("Save this picture").click()
    frontend.until(lambda: "no longer on the server" in panel.element.text_content(), "why nothing was saved")


PAGES = """async () => {
  const { Panel } = await import("/extensions/ComfyUI-CHORDS/stream/panel.js");
  const { Run } = await import("/extensions/ComfyUI-CHORDS/stream/runs.js");
  const run = new Run("p", "1");
  run.apply({ kind: "plan", method: "chords", cores: 4, message: "" });
  const files = { 0: ["a", "b", "c"], 1: ["d"], 2: ["e", "f", "g"] };
  for (const [index, names] of Object.entries(files)) {
    const images = names.map((filename) => ({ filename }));
    run.apply({ kind: "hit", index: Number(index), core: 1, depth: 1, image: images[0], images });
  }
  const panel = new Panel({ urlOf: (image) => image.filename, accept() {}, onPicture() {} });
  panel.show(run, "2");
  const shown = () => [panel.view().picture.url, panel.view().before?.url ?? null];
  const found = [shown()];
  panel.pager.next.click();
  panel.pager.next.click();
  found.push(shown());
  panel.enlarged.turnResult(-1);
  found.push(shown());
  return found;
}"""


def test_only_pictures_of_the_same_item_are_compared(frontend: Frontend) -> None:
    """Results may have different numbers of pictures: those that were not decoded have fewer."""
    assert frontend.page.evaluate(PAGES) == [["e", "d"], ["g", None], ["d", "a"]]


@in_both_frontends
def test_the_enlarged_view(frontend: Frontend, client: ComfyClient, tmp_path) -> None:
    """A batch of two: turn results and pictures, compare, save, accept."""
    panel = open_workflow(frontend, 2)
    frontend.set_widget(LATENT, "batch_size", BATCH)
    prompt = frontend.start()
    _drawn(frontend, panel, 3)
    frontend.until(lambda: "picture 1 of 2" in panel.element.text_content(), "the pager has two pages")
    first = panel.drawn()
    panel.click(panel.element.get_by_label("Next picture"))
    frontend.until(lambda: len(panel.drawn()) == 3 and not set(first) & set(panel.drawn()), "the strip shows picture 2")

    panel.click(panel.picture)
    large = frontend.page.locator("dialog.chords-enlarged[open]")
    large.wait_for()
    image = large.locator(".chords-large > img").first
    frontend.until(lambda: _address(image) == panel.drawn()[2], "the picture is large")
    assert image.bounding_box()["width"] > 1.5 * panel.picture.bounding_box()["width"]
    frontend.page.keyboard.press("ArrowLeft")
    frontend.until(lambda: _address(image) == panel.drawn()[1], "the result before")
    assert large.locator(".chords-caption").text_content().startswith("result 1 of 4 · ")
    large.get_by_role("button", name="Compare with draft").click()
    slider = large.get_by_role("slider", name="draft on the left, result 1 on the right")
    frontend.until(lambda: _address(large.locator(".chords-other")) == panel.drawn()[0], "both are there")
    slider.focus()
    frontend.page.keyboard.press("End")
    assert large.locator(".chords-other").evaluate("(i) => i.style.clipPath") == "inset(0px 0% 0px 0px)"
    box = large.locator(".chords-large").bounding_box()
    frontend.page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    assert abs(int(slider.input_value()) - 25) <= 1
    with frontend.page.expect_download() as saving:
        large.get_by_label("Save this picture").click()
    assert saving.value.suggested_filename == f"chords_{prompt[:8]}_result_1_picture_2.jpg"
    saving.value.save_as(tmp_path / "saved.jpg")
    assert (tmp_path / "saved.jpg").read_bytes().startswith(b"\xff\xd8")

    with frontend.page.expect_response("**/chords/accept"):
        large.get_by_role("button", name="Accept result 1").click()
    let_go(client)
    history = client.wait(prompt)
    frontend.page.keyboard.press("Escape")
    large.wait_for(state="detached")
    panel.wait_for_state("success")
    names = [image["filename"] for image in history["outputs"][str(PREVIEW)]["images"]]
    assert len(names) == 2 * BATCH  # of the draft and of result 1
    frontend.until(lambda: names[-1] in panel.drawn()[1] and names[1] in panel.drawn()[0], "picture 2 of each, decoded")
    assert events(client, prompt, "accepted")[0]["index"] == 1


SLOW_EXTENSION = """
window.delayed = 0; // loads of a workflow
const wait = async () => {
  await new Promise((done) => setTimeout(done, 600));
  window.delayed += 1;
};
app.registerExtension({ name: "test.slow", afterConfigureGraph: wait });
"""


@in_both_frontends
def test_a_workflow_that_is_opened_again_is_empty(frontend: Frontend, client: ComfyClient) -> None:
    """Its last run is not its own. A change that is undone, and a tab that is on the screen again, keep theirs, also
    where the extension of another pack delays the frontend."""
    frontend.evaluate(SLOW_EXTENSION)
    panel = open_workflow(frontend)
    frontend.set_widget(SAMPLER, "steps", 8)
    client.wait(frontend.start())  # else the output of the preview node comes later, into another workflow
    panel.wait_for_state("success")
    _drawn(frontend, panel, 2)
    count = len(panel.labels)
    frontend.evaluate(
        "await app.loadGraphData(graph.serialize(), false, false, app.extensionManager.workflow.activeWorkflow)"
    )
    _drawn(frontend, frontend.panel(), count)
    frontend.evaluate("await app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    frontend.page.get_by_text(WORKFLOW.stem, exact=False).first.click()
    frontend.until(lambda: len(frontend.panel().drawn()) == count, "the tab has its strip")
    delayed = frontend.page.evaluate("window.delayed")
    open_workflow(frontend)
    panel = frontend.panel()
    frontend.until(lambda: frontend.page.evaluate("window.delayed") > delayed, "the frontend goes on")
    frontend.page.wait_for_timeout(500)
    assert (panel.state, panel.labels) == ("idle", [])
    frontend.start()
    panel.wait_for_state("success")


def test_pictures_of_an_earlier_run_are_marked(frontend: Frontend, client: ComfyClient) -> None:
    """A muted preview keeps its pictures, and does not show them as new."""
    panel = open_workflow(frontend)
    frontend.set_widget(SAMPLER, "steps", 8)
    frontend.start()
    panel.wait_for_state("success")
    badge = panel.element.get_by_text("earlier run", exact=True)
    assert not badge.is_visible()
    frontend.evaluate("graph.getNodeById(argument).mode = 2", PREVIEW)
    client.wait(frontend.start())
    frontend.until(badge.is_visible, "the mark")
    frontend.evaluate("graph.getNodeById(argument).mode = 0", PREVIEW)
    old = panel.drawn()
    frontend.run()
    frontend.until(lambda: not badge.is_visible() and not set(old) & set(panel.drawn()), "the new run is shown")
    panel.wait_for_state("success")
