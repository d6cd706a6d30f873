"""Makes pictures of the nodes in a real browser: for help pages and README, and sheets for people to check.

    python scripts/screenshots.py pictures [NODE ...]    # web/docs/images/<node>.png: each node in a small graph,
                                                         # and docs/images/nodes/<node>.png: the README's thumbnails
    python scripts/screenshots.py readme                 # docs/images/graph.png, stream.gif: the README's pictures
    python scripts/screenshots.py sheets                 # output/help/: every node and help page in three languages

It starts a ComfyUI and a headless Chromium (Japanese and Chinese need a font such as `fonts-noto-cjk`). The sheets show
whether texts fit and read well. No test needs them.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this is what tells the user
    sys.exit(f"Python 3.10 or newer is needed; this is {sys.version.split()[0]}.")

import argparse
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if (_SCRIPTS := str(Path(__file__).resolve().parent)) not in sys.path:  # not in front of what the tests have there
    sys.path.insert(0, _SCRIPTS)

from _env import REPO, SetupError, enter_venv, say
from _screenshot_files import SHOWN, save_thumbnail, small_png
from _screenshot_graphs import GRAPHS, HEADS, Graph, node
from _screenshot_readme import TEST_NODES, VIEWPORT, make_readme_pictures

from locales import LANGUAGES, PAGES, read_texts

PICTURES = PAGES / "images"
SHEETS = REPO / "output" / "help"
MARGIN = 24
TALL = (1500, 4400)  # for whole help pages
WIDE = (3600, 4200)  # for all nodes at once
ORIGIN = (380, 160)  # the position of the graph on the screen, beside the frontend's own bars
READY = "() => window.comfyAPI?.app?.app?.canvas?.graph && LiteGraph.registered_node_types.ChordsStreamPreview"
RUN_LIMIT_MS = 900_000

BUILD = """([columns, links]) => {
  const { app } = window.comfyAPI.app;
  const graph = app.rootGraph;
  graph.clear();
  const nodes = {};
  let x = 0;
  for (const column of columns) {
    let [y, width] = [0, 0];
    for (const { name, type, widgets, collapsed } of column) {
      const node = (nodes[name] = LiteGraph.createNode(type));
      node.id = globalThis.nextId = (globalThis.nextId ?? 0) + 1; // widget values of removed nodes stay, by id
      graph.add(node);
      for (const [key, value] of Object.entries(widgets)) {
        const widget = node.widgets.find((widget) => widget.name === key);
        if (!widget) throw new Error(`${type} has no widget ${key}`);
        widget.value = value;
        widget.callback?.(value);
      }
      if (collapsed) node.collapse(true);
      node.pos = [x, y + 30];
      const prompt = node.widgets?.length === 1 && node.widgets[0].name === "text";
      if (!collapsed) node.setSize(prompt ? [280, 120] : [Math.max(node.size[0], 250), node.size[1]]);
      const [wide, high] = collapsed ? [type === "VAEDecode" ? 120 : 190, 0] : node.size;
      y += high + 30 + 26;
      width = Math.max(width, wide);
    }
    x += width + 44;
  }
  for (const [from, output, to, input] of links) {
    const slot = nodes[from].outputs.findIndex(({ name }) => name === output);
    const place = nodes[to].inputs.findIndex(({ name }) => name === input);
    if (slot < 0 || place < 0) throw new Error(`no link ${from}.${output} > ${to}.${input}`);
    nodes[from].connect(slot, nodes[to], place);
  }
}"""
SHOW_ALL = """([left, top]) => {
  const { app } = window.comfyAPI.app;
  const { canvas } = app;
  const boxes = app.rootGraph.nodes.map(({ pos, size, flags, _collapsed_width: width }) =>
    flags.collapsed ? [pos[0], pos[1] - 30, width || 190, 30] : [pos[0], pos[1] - 30, size[0], size[1] + 30]);
  canvas.deselectAll?.();
  canvas.ds.scale = 1;
  const x = Math.min(...boxes.map(([x]) => x)), y = Math.min(...boxes.map(([, y]) => y));
  canvas.ds.offset[0] = left - x;
  canvas.ds.offset[1] = top - y;
  canvas.setDirty(true, true);
  return [Math.max(...boxes.map(([x, , w]) => x + w)) - x, Math.max(...boxes.map(([, y, , h]) => y + h)) - y];
}"""
RUN = """async () => {
  const { app } = window.comfyAPI.app;
  const { api } = window.comfyAPI.api;
  const over = new Promise((resolve, reject) => {
    api.addEventListener("execution_success", resolve, { once: true });
    const fail = ({ detail }) => reject(new Error(detail.exception_message));
    api.addEventListener("execution_error", fail, { once: true });
  });
  await app.queuePrompt(0);
  await over;
}"""
SET_WIDGET = """([type, name, value]) => {
  const node = window.comfyAPI.app.app.rootGraph.nodes.find((node) => node.type === type);
  node.widgets.find((widget) => widget.name === name).value = value;
}"""
BOX = """(type) => {
  const { nodes } = window.comfyAPI.app.app.rootGraph;
  const x = Math.min(...nodes.map(({ pos }) => pos[0])), y = Math.min(...nodes.map(({ pos }) => pos[1] - 30));
  const { pos, size } = nodes.find((node) => node.type === type);
  return [pos[0] - x, pos[1] - 30 - y, pos[0] + size[0] - x, pos[1] + size[1] - y].map(Math.round);
}"""
SELECT = """(type) => {
  const { app } = window.comfyAPI.app;
  const graph = app.rootGraph;
  graph.clear();
  const node = LiteGraph.createNode(type);
  node.id = globalThis.nextId = (globalThis.nextId ?? 0) + 1;
  graph.add(node);
  app.canvas.selectNode(node);
}"""


# ------------------------------------------------------------------------------------------------ the browser


class FrontendPage:
    """A page of the frontend in one language."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        page.set_default_timeout(30_000)
        page.goto(url)
        page.wait_for_function(READY)
        page.get_by_test_id("queue-button").wait_for()
        page.wait_for_timeout(1500)  # until the frontend's own panels have their final position

    def picture(self, graph: Graph) -> bytes:
        """A picture of a graph on the canvas, as PNG."""
        self.build(graph)
        if graph.runs:
            self.run()
        picture: bytes = self.page.screenshot(clip=self.clip())
        return picture

    def build(self, graph: Graph) -> None:
        """Put a graph on the canvas, in place of what is there."""
        self.page.evaluate(
            BUILD, [[[node.as_dict() for node in column] for column in graph.columns], graph.link_list()]
        )

    def run(self) -> None:
        """Run the graph on the canvas to its end."""
        self.page.set_default_timeout(RUN_LIMIT_MS)
        self.page.evaluate(RUN)
        self.page.wait_for_timeout(1500)  # the pictures load

    def set_widget(self, type: str, widget: str, value: Any) -> None:
        """Set a widget of the first node of this type."""
        self.page.evaluate(SET_WIDGET, [type, widget, value])

    def clip(self) -> Any:
        """Move the whole graph into view, and say where it is, with a margin."""
        self.page.evaluate(SHOW_ALL, list(ORIGIN))
        self.page.mouse.move(2, 2)
        self.page.wait_for_timeout(400)
        width, height = self.page.evaluate(SHOW_ALL, list(ORIGIN))
        self.page.wait_for_timeout(300)
        left, top = ORIGIN
        return {"x": left - MARGIN, "y": top - MARGIN, "width": width + 2 * MARGIN, "height": height + 2 * MARGIN}

    def box_of(self, type: str) -> tuple[int, int, int, int]:
        """Where the first node of this type is in the last picture: left, top, right, bottom."""
        left, top, right, bottom = self.page.evaluate(BOX, type)
        return left + MARGIN, top + MARGIN, right + MARGIN, bottom + MARGIN

    def help(self, node: str) -> bytes:
        """A picture of the help page of a node in its panel, as PNG."""
        self.page.evaluate(SELECT, node)
        content = self.page.locator(".node-help-content")
        if not content.count():
            self.page.get_by_test_id("info-button").click()
        content.locator(f'img[src$="/{node}.png"]').wait_for()
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.node-help-content img')].every((i) => i.complete && i.naturalWidth)"
        )
        self.page.wait_for_timeout(100)
        picture: bytes = content.screenshot()
        return picture


def _models(folder: Path) -> Path:
    """A paths file for ComfyUI: empty files that can be chosen and that nothing loads here, and the tests' nodes."""
    (folder / "classifiers").mkdir()
    for head in HEADS:
        (folder / "classifiers" / head).touch()
    paths = folder / "paths.yaml"
    models = {"base_path": str(folder), "classifiers": "classifiers"}
    nodes = {"base_path": str(TEST_NODES.parent), "custom_nodes": TEST_NODES.name}
    paths.write_text(json.dumps({"models": models, "nodes": nodes}), encoding="utf-8")  # JSON is YAML
    return paths


OpenPage = Callable[..., FrontendPage]  # language, window size, further settings of the frontend


@contextlib.contextmanager
def frontend() -> Iterator[OpenPage]:
    """A function that opens a page of the frontend, by language, window size and further settings."""
    from _browser import ensure_chromium
    from _server import ComfyServer
    from host import prepare
    from playwright.sync_api import sync_playwright

    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        paths = _models(Path(folder))
        server = stack.enter_context(
            ComfyServer(prepare(), cpu=True, arguments=["--extra-model-paths-config", str(paths)])
        )
        playwright = stack.enter_context(sync_playwright())
        arguments = ["--no-sandbox"] if as_root else []
        browser = playwright.chromium.launch(executable_path=str(ensure_chromium()), args=arguments)
        client = server.client()

        def open_page(language: str, size: tuple[int, int], more: dict[str, Any] | None = None) -> FrontendPage:
            settings = {
                "Comfy.TutorialCompleted": True,
                "Comfy.VueNodes.Enabled": False,
                "Comfy.Locale": language,
                "Comfy.Minimap.Visible": False,
                "Comfy.Graph.CanvasInfo": False,
                "Comfy.Canvas.SelectionToolbox": True,
                **(more or {}),
            }
            for name, value in settings.items():
                client.post(f"/settings/{name}", value)
            context = browser.new_context(viewport={"width": size[0], "height": size[1]})
            return FrontendPage(context.new_page(), server.url)

        yield open_page
        browser.close()


# ------------------------------------------------------------------------------------------------ the commands


def make_pictures(nodes: list[str]) -> None:
    """Make the pictures of the help pages of these nodes."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with frontend() as open_page:
        page = open_page("en", VIEWPORT)
        for name in nodes:
            path = PICTURES / f"{name}.png"
            picture = page.picture(GRAPHS[name])
            path.write_bytes(small_png(picture))
            if name in SHOWN:
                save_thumbnail(picture, page.box_of(name), name)
            say(f"{path.relative_to(REPO)}: {path.stat().st_size / 1024:.0f} KB")


def make_sheets() -> None:
    """Make sheets of every node and every help page in every language."""
    SHEETS.mkdir(parents=True, exist_ok=True)
    nodes = list(read_texts("en"))
    with frontend() as open_page:
        for language in LANGUAGES:
            page = open_page(language, TALL)
            pages = [page.help(each) for each in nodes]
            _sheet(pages, 4, SHEETS / f"pages_{language}.png", folder=SHEETS / language, names=nodes)
            columns = tuple(tuple(node(name, name) for name in nodes[i::5]) for i in range(5))
            page = open_page(language, WIDE)
            (SHEETS / f"nodes_{language}.png").write_bytes(page.picture(Graph(columns, ())))
            say(f"{SHEETS}: {len(pages)} pages in {language}")


def _sheet(pngs: list[bytes], columns: int, path: Path, folder: Path, names: list[str]) -> None:
    """Save pictures one by one in a folder, and side by side in one file."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    images = [Image.open(io.BytesIO(png)).convert("RGB") for png in pngs]
    for image, name in zip(images, names, strict=True):
        image.save(folder / f"{name}.png")
    heights = [sum(image.height + MARGIN for image in images[i::columns]) for i in range(columns)]
    width = max(image.width for image in images) + MARGIN
    sheet = Image.new("RGB", (width * columns, max(heights)), "#808080")
    for i in range(columns):
        y = 0
        for image in images[i::columns]:
            sheet.paste(image, (i * width, y))
            y += image.height + MARGIN
    sheet.save(path)


def main() -> int:
    """Run the command, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pictures", "readme", "sheets"))
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="pictures of these nodes only")
    options = parser.parse_args()
    try:
        enter_venv()
        if options.what == "pictures":
            make_pictures(options.nodes or list(GRAPHS))
        elif options.what == "readme":
            with frontend() as open_page:
                make_readme_pictures(open_page)
        else:
            make_sheets()
    except SetupError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
