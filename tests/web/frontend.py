"""The ComfyUI frontend as a user sees it: buttons, nodes, and the panel on a CHORDS Stream Preview."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Response

# The frontend registers nodes, then sets up our scripts, and then opens a first workflow or that of before a reload.
# That would replace one that a test opens meanwhile. Its spinner ends after that.
READY = """() => {
  const app = window.comfyAPI?.app?.app;
  const isRegistered = globalThis.LiteGraph?.registered_node_types?.ChordsStreamPreview;
  const { workflow, spinner } = app?.extensionManager ?? {};
  return Boolean(app?.canvas?.graph && isRegistered && workflow?.activeWorkflow && !spinner);
}"""
VIEWPORT = {"width": 1680, "height": 960}
OURS = "/extensions/ComfyUI-CHORDS/"


def _frontends(*which: tuple[str, bool]) -> pytest.MarkDecorator:
    """Runs a test in each of these: the name of a frontend, and whether it shows Nodes 2.0."""
    ids = [f"{name} {'nodes 2' if nodes_2 else 'classic'}" for name, nodes_2 in which]
    return pytest.mark.parametrize(("frontend_name", "nodes_2"), which, ids=ids, indirect=True)


in_every_frontend = _frontends(("pinned", False), ("pinned", True), ("newest", False), ("newest", True))
with_nodes_2 = _frontends(("pinned", True), ("newest", True))
in_both_frontends = _frontends(("pinned", False), ("newest", True))
in_the_newest_too = _frontends(("pinned", False), ("newest", False), ("newest", True))


class Frontend:
    """One page of the frontend. ``faults``: the errors of our own script in it."""

    def __init__(self, page: Page, url: str, has_side_panel: bool = False) -> None:
        self.page = page
        self.has_side_panel = has_side_panel
        self.url = url
        self.faults: list[str] = []
        page.set_default_timeout(120_000)  # for busy machines
        page.on("pageerror", self._note)
        page.goto(url)
        self.wait_until_ready()

    def _note(self, error: Any) -> None:
        text = f"{error.message}\n{error.stack}"
        if OURS in text:
            self.faults.append(text)

    def wait_until_ready(self) -> None:
        self.page.wait_for_function(READY)
        self.page.get_by_test_id("queue-button").wait_for()

    # ---- the workflow

    def open_file(self, path: Path) -> None:
        """Open a workflow file as the menu's Open does, and wait for its stream preview."""
        self.load_file(path)
        self.panel().element.wait_for()

    def load_file(self, path: Path) -> None:
        """Open a workflow file as the menu's Open does."""
        # The page takes the file before out of the input when it has opened it, and would take out this one.
        self.page.wait_for_function("() => document.getElementById('comfy-file-input').value === ''")
        marker = "() => { window.comfyAPI.app.app.rootGraph.extra.notYetReplaced = true }"
        self.page.evaluate(marker)
        self.page.locator("#comfy-file-input").set_input_files(path)
        replaced = "() => !window.comfyAPI.app.app.rootGraph.extra.notYetReplaced"
        self.page.wait_for_function(replaced)

    def open_graph(self, workflow: dict[str, Any], path: Path) -> None:
        """Open a workflow from a file at ``path``."""
        path.write_text(json.dumps(workflow), encoding="utf-8")
        self.open_file(path)

    def evaluate(self, body: str, argument: object = None) -> Any:
        """The value of an expression over `app`, `graph` and `argument`."""
        code = f"async (argument) => {{ const {{ app }} = window.comfyAPI.app; const graph = app.rootGraph; {body} }}"
        return self.page.evaluate(code, argument)

    def set_widget(self, node: int, name: str, value: object) -> None:
        """Set a widget of a node, as the user does in its field."""
        self.evaluate(
            "const w = graph.getNodeById(argument[0]).widgets.find((w) => w.name === argument[1]);"
            "w.value = argument[2]; w.callback?.(argument[2]);",
            [node, name, value],
        )

    def boxes(self) -> list[list[float]]:
        """The place of each node with its title, when nodes no longer grow: [left, top, width, height]."""
        code = """
        const { scale, offset: [x, y] } = app.canvas.ds;
        const shown = [...document.querySelectorAll(".lg-node")].map((node) => node.getBoundingClientRect());
        return LiteGraph.vueNodesMode
          ? shown.map((box) => [box.x / scale - x, box.y / scale - y, box.width / scale, box.height / scale])
          : graph.nodes.map((node) => [node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30]);
        """
        count = self.evaluate("return graph.nodes.length")
        before: list[list[float]] = []
        repeats = 0

        def settled() -> bool:
            nonlocal before, repeats
            found = self.evaluate(code)
            repeats = repeats + 1 if found == before else 0
            before = found
            self.page.wait_for_timeout(100)
            return len(found) == count and repeats >= 2

        self.until(settled, "all nodes are there and keep their size")
        return before

    def picture_width(self, node: int) -> int:
        """The pixels of the picture that a node shows; 0 if it shows none."""
        code = """
        const shown = document.querySelector(`.lg-node[data-node-id="${argument}"] img`);
        return (graph.getNodeById(argument).imgs?.[0] ?? shown)?.naturalWidth ?? 0;
        """
        width: int = self.evaluate(code, node)
        return width

    # ---- running

    def run(self) -> None:
        """Press Run."""
        self.page.get_by_test_id("queue-button").click()

    def start(self) -> str:
        """Press Run. Returns the id of the prompt, which may be over already."""

        def queues(answer: Response) -> bool:
            return answer.request.method == "POST" and answer.url.endswith("/prompt") and answer.ok

        with self.page.expect_response(queues) as queued:
            self.run()
        prompt: str = queued.value.json()["prompt_id"]
        return prompt

    def cancel(self) -> None:
        """Press the frontend's own Cancel button."""
        self.page.get_by_role("button", name="Cancel current run").click()

    def panel(self, which: int = 0) -> Panel:
        return Panel(self, self.page.locator(".chords-stream").nth(which))

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 180.0) -> Any:
        """Wait until a condition holds, and return its value."""
        limit = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < limit, f"not within {seconds:.0f} s: {what}"
            self.page.wait_for_timeout(20)
        return value

    def screenshot(self, locator: Locator | None = None) -> np.ndarray:
        """The pixels of the page or of an element, [height, width, 3]."""
        data = locator.screenshot() if locator is not None else self.page.screenshot()
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32)


class Panel:
    """The widget of one CHORDS Stream Preview node."""

    def __init__(self, frontend: Frontend, element: Locator) -> None:
        self.frontend = frontend
        self.element = element
        self.thumbs = element.locator(".chords-thumb")
        self.picture = element.locator(".chords-picture img")
        self.button = element.locator(".chords-accept")

    @property
    def state(self) -> str:
        return self.element.get_attribute("data-state")

    @property
    def caption(self) -> str:
        return self.element.locator(".chords-caption").text_content().replace("\u00a0", " ")

    @property
    def status(self) -> str:
        return self.element.locator(".chords-status").text_content()

    @property
    def labels(self) -> list[str]:
        """The labels of the thumbnails."""
        return [text.removeprefix("✓ ") for text in self.thumbs.locator("span").all_text_contents()]

    def drawn(self) -> list[str]:
        """The addresses of the thumbnails' pictures that the browser has loaded and laid out."""
        return self.element.evaluate(
            """(panel) => [...panel.querySelectorAll(".chords-thumb img")]
              .filter((i) => i.complete && i.naturalWidth > 0 && i.getBoundingClientRect().width > 0)
              .map((i) => i.src)"""
        )

    def pixels(self) -> list[np.ndarray]:
        """The pixels of each thumbnail on the screen."""
        return [self.frontend.screenshot(thumb.locator(".chords-frame")) for thumb in self.thumbs.all()]

    def click(self, locator: Locator) -> None:
        """Move the mouse there and click."""
        box = locator.bounding_box()
        self.frontend.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def wait_for_state(self, *states: str) -> str:
        return self.frontend.until(lambda: self.state in states and self.state, f"the panel is {states}")


def call_count(text: str) -> int:
    """The number of model calls in a caption."""
    return int(re.search(r"(\d+) calls?", text)[1])
