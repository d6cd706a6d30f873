"""Pictures of the nodes, from a real browser: those of the help pages, and sheets to look at.

    python scripts/screenshots.py pictures [NODE ...]    # web/docs/images/<node>.png: each node in a small graph
    python scripts/screenshots.py sheets                 # output/help/: every node and help page in three languages

Starts a ComfyUI of its own and a headless Chromium (with `fonts-noto-cjk` or the like for Japanese and Chinese). The
sheets are for people, to see that texts fit and read well; no test needs them.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _env import REPO, SetupError, enter_venv, say

from locales import LANGUAGES, PAGES, read_texts

PICTURES = PAGES / "images"
SHEETS = REPO / "output" / "help"
FREQUENT = 160  # of the 256 colours of a picture's palette, which keeps it small
MARGIN = 24
VIEWPORT = {"width": 1900, "height": 1500}
TALL = {"width": 1500, "height": 4400}  # for whole help pages
ORIGIN = (380, 160)  # of the graph on the screen, clear of the frontend's own bars
READY = "() => window.comfyAPI?.app?.app?.canvas?.graph && LiteGraph.registered_node_types.ChordsStreamPreview"
PROMPT = "a big red circle on the left, blue background"
AESTHETIC = "sa_0_4_vit_l_14_linear.pth"
RUN_LIMIT = 300_000  # milliseconds

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
      node.id = globalThis.nextId = (globalThis.nextId ?? 0) + 1; // values of widgets outlive their node by its id
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
LOOK = """([left, top]) => {
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
SELECT = """(type) => {
  const { app } = window.comfyAPI.app;
  const graph = app.rootGraph;
  graph.clear();
  const node = LiteGraph.createNode(type);
  node.id = globalThis.nextId = (globalThis.nextId ?? 0) + 1;
  graph.add(node);
  app.canvas.selectNode(node);
}"""


# ------------------------------------------------------------------------------------------------ the graphs


@dataclass(frozen=True)
class Node:
    """A node of a small graph: its name in links, its type, its widgets' values, and whether only its title shows."""

    name: str
    type: str
    widgets: tuple[tuple[str, Any], ...] = ()
    collapsed: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, "widgets": dict(self.widgets), "collapsed": self.collapsed}


@dataclass(frozen=True)
class Graph:
    """Nodes in columns from left to right, links such as "model.MODEL > sampler.model", and whether it is run."""

    columns: tuple[tuple[Node, ...], ...]
    links: tuple[str, ...]
    runs: bool = False

    def link_list(self) -> list[list[str]]:
        return [[part for end in link.split(" > ") for part in end.split(".")] for link in self.links]


def _node(name: str, type: str, collapsed: bool = False, **widgets: Any) -> Node:
    return Node(name, type, tuple(widgets.items()), collapsed)


MODEL = _node("model", "ChordsDemoModel")
POSITIVE = _node("positive", "ChordsDemoPrompt", text=PROMPT)
NEGATIVE = _node("negative", "ChordsDemoPrompt", text="")
LATENT = _node("latent", "EmptySD3LatentImage", width=128, height=128)
DECODE, PREVIEW = _node("decode", "VAEDecode", True), _node("preview", "PreviewImage")
LANES = _node("devices", "ChordsDevices", cpu_lanes=4)
SAMPLING = {"steps": 20, "cfg": 3.5, "sampler_name": "euler", "scheduler": "simple"}
SEED = {"seed": 7, "control_after_generate": "fixed"}
NOISE_SEED = {"noise_seed": 7, "control_after_generate": "fixed"}
CONDITIONS = ("positive.CONDITIONING > sampler.positive", "negative.CONDITIONING > sampler.negative")
WIRES = ("model.MODEL > sampler.model", *CONDITIONS, "latent.LATENT > sampler.latent_image")
DECODED = ("sampler.LATENT > decode.samples", "model.VAE > decode.vae", "decode.IMAGE > preview.images")
GIVEN = (MODEL, POSITIVE, NEGATIVE, LATENT)
FOLDED = tuple(_node(node.name, node.type, True, **dict(node.widgets)) for node in GIVEN)
ON_LANES = (*FOLDED, _node("devices", "ChordsDevices", True, cpu_lanes=4))
OPTIMIZED = ("model.MODEL > optimizer.model", "latent.LATENT > optimizer.latent") + tuple(
    link.replace("sampler", "optimizer") for link in CONDITIONS
)


def _sampled(*after: Node, links: tuple[str, ...]) -> Graph:
    """A run on four lanes, and what shows it."""
    sampler = _node("sampler", "ChordsKSampler", True, **SAMPLING, **SEED, cores=4, accept="exact")
    wires = (*WIRES, "devices.CHORDS_DEVICE_SET > sampler.devices")
    return Graph((ON_LANES, (sampler,), after), (*wires, *links), runs=True)


def _objective(type: str, *sources: tuple[str, str, str, str], **widgets: Any) -> Graph:
    """An objective with what it is fed by: (type, output, input, name)."""
    fed = tuple(_node(name, kind, True) for kind, _output, _input, name in sources)
    links = tuple(f"{name}.{output} > objective.{given}" for _kind, output, given, name in sources)
    objective, optimizer = _node("objective", type, **widgets), _node("optimizer", "SDOLatentOptimizer", True)
    columns = ((fed,) if fed else ()) + ((objective,), (optimizer,))
    return Graph(columns, (*links, "objective.objective > optimizer.objective"))


IMAGE = ("LoadImage", "IMAGE", "image", "image")
MASK = ("LoadImage", "MASK", "mask", "mask")
VISION = ("CLIPVisionLoader", "CLIP_VISION", "clip_vision", "vision")

GRAPHS = {
    "ChordsKSampler": Graph(
        (ON_LANES, (_node("sampler", "ChordsKSampler", **SAMPLING, **SEED),), (DECODE, PREVIEW)),
        (*WIRES, *DECODED, "devices.CHORDS_DEVICE_SET > sampler.devices"),
        runs=True,
    ),
    "ChordsKSamplerAdvanced": Graph(
        (ON_LANES, (_node("sampler", "ChordsKSamplerAdvanced", **SAMPLING, **NOISE_SEED),), (DECODE, PREVIEW)),
        (*WIRES, *DECODED, "devices.CHORDS_DEVICE_SET > sampler.devices"),
        runs=True,
    ),
    "ChordsSampler": Graph(
        (
            (_node("method", "ChordsSampler"), _node("sigmas", "BasicScheduler", steps=20)),
            (_node("custom", "SamplerCustom", cfg=3.5, **NOISE_SEED),),
        ),
        ("method.SAMPLER > custom.sampler", "sigmas.SIGMAS > custom.sigmas"),
    ),
    "ChordsScheduler": Graph(
        (
            (MODEL,),
            (_node("sigmas", "ChordsScheduler"), _node("method", "KSamplerSelect", sampler_name="dpmpp_2m")),
            (_node("custom", "SamplerCustom", cfg=3.5, **NOISE_SEED),),
        ),
        (
            "model.MODEL > sigmas.model",
            "model.MODEL > custom.model",
            "sigmas.SIGMAS > custom.sigmas",
            "method.SAMPLER > custom.sampler",
        ),
    ),
    "ChordsDevices": Graph(
        ((LANES,), (_node("sampler", "ChordsKSampler", **SAMPLING, **SEED),)),
        ("devices.CHORDS_DEVICE_SET > sampler.devices",),
    ),
    "ChordsStreamPreview": _sampled(
        _node("show", "ChordsStreamPreview"), links=("sampler.CHORDS_RUN > show.run", "model.VAE > show.vae")
    ),
    "ChordsReport": _sampled(_node("show", "ChordsReport"), links=("sampler.CHORDS_RUN > show.run",)),
    "ChordsBenchmark": Graph(
        (ON_LANES, (_node("sampler", "ChordsBenchmark", **SAMPLING, **SEED, cores="2, 4", repeats=1),), (PREVIEW,)),
        (
            *WIRES,
            "model.VAE > sampler.vae",
            "devices.CHORDS_DEVICE_SET > sampler.devices",
            "sampler.IMAGE > preview.images",
        ),
        runs=True,
    ),
    "ChordsDemoModel": Graph(
        ((MODEL,), (_node("sampler", "ChordsKSampler", True), DECODE)),
        ("model.MODEL > sampler.model", "model.VAE > decode.vae"),
    ),
    "ChordsDemoPrompt": Graph(((POSITIVE, NEGATIVE), (_node("sampler", "ChordsKSampler", True),)), CONDITIONS),
    "SDOLatentOptimizer": Graph(
        (
            (*FOLDED, _node("objective", "SDOObjectiveColour", colour="#0000ff")),
            (_node("optimizer", "SDOLatentOptimizer", cfg=4.0, iterations=10, **SEED),),
            (_node("preview", "PreviewImage"),),
        ),
        (
            *OPTIMIZED,
            "model.VAE > optimizer.vae",
            "objective.objective > optimizer.objective",
            "optimizer.CURVE > preview.images",
        ),
        runs=True,
    ),
    "SDOObjectiveReference": _objective("SDOObjectiveReference", IMAGE),
    "SDOObjectiveSimilarity": _objective("SDOObjectiveSimilarity", VISION, IMAGE),
    "SDOObjectiveText": _objective(
        "SDOObjectiveText", ("CLIPLoader", "CLIP", "clip", "clip"), VISION, text="a lighthouse at night"
    ),
    "SDOObjectiveStyle": _objective("SDOObjectiveStyle", IMAGE, VISION),
    "SDOObjectiveColour": _objective("SDOObjectiveColour", MASK, colour="#0000ff"),
    "SDOObjectiveBrightness": _objective("SDOObjectiveBrightness", MASK, brightness=0.2),
    "SDOObjectiveContrast": _objective("SDOObjectiveContrast"),
    "SDOObjectiveSharpness": _objective("SDOObjectiveSharpness"),
    "SDOObjectiveAesthetic": _objective("SDOObjectiveAesthetic", VISION),
    "SDOObjectiveCombine": Graph(
        (
            (
                _node("colour", "SDOObjectiveColour", colour="#0000ff"),
                _node("contrast", "SDOObjectiveContrast"),
            ),
            (_node("objective", "SDOObjectiveCombine", weight_2=0.5),),
            (_node("optimizer", "SDOLatentOptimizer", True),),
        ),
        (
            "colour.objective > objective.objective_1",
            "contrast.objective > objective.objective_2",
            "objective.objective > optimizer.objective",
        ),
    ),
}


# ------------------------------------------------------------------------------------------------ the browser


class Shown:
    """A page of the frontend in one language."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        page.set_default_timeout(30_000)
        page.goto(url)
        page.wait_for_function(READY)
        page.get_by_test_id("queue-button").wait_for()
        page.wait_for_timeout(1500)  # until the frontend's own panels lie where they stay

    def picture(self, graph: Graph) -> bytes:
        """A graph on the canvas as a PNG."""
        self.page.evaluate(
            BUILD, [[[node.as_dict() for node in column] for column in graph.columns], graph.link_list()]
        )
        if graph.runs:
            self.page.set_default_timeout(RUN_LIMIT)
            self.page.evaluate(RUN)
            self.page.wait_for_timeout(1500)  # the pictures load
        self.page.evaluate(LOOK, list(ORIGIN))
        self.page.mouse.move(2, 2)
        self.page.wait_for_timeout(400)
        width, height = self.page.evaluate(LOOK, list(ORIGIN))
        self.page.wait_for_timeout(300)
        left, top = ORIGIN
        clip = {
            "x": left - MARGIN, "y": top - MARGIN, "width": width + 2 * MARGIN, "height": height + 2 * MARGIN
        }  # fmt: skip
        return self.page.screenshot(clip=clip)

    def help(self, node: str) -> bytes:
        """A node's help page as the panel shows it, as a PNG."""
        self.page.evaluate(SELECT, node)
        content = self.page.locator(".node-help-content")
        if not content.count():
            self.page.get_by_test_id("info-button").click()
        content.locator(f'img[src$="/{node}.png"]').wait_for()
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.node-help-content img')].every((i) => i.complete && i.naturalWidth)"
        )
        self.page.wait_for_timeout(100)
        return content.screenshot()


def _models(folder: Path) -> Path:
    """Where ComfyUI finds the name of a file to choose, which nothing loads here."""
    (folder / "classifiers").mkdir()
    (folder / "classifiers" / AESTHETIC).touch()
    paths = folder / "paths.yaml"
    text = json.dumps({"models": {"base_path": str(folder), "classifiers": "classifiers"}})  # JSON is YAML
    paths.write_text(text, encoding="utf-8")
    return paths


@contextlib.contextmanager
def frontend() -> Iterator[Any]:
    """Opens pages of the frontend: by language and size of the window."""
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

        def open_page(language: str, size: dict[str, int]) -> Shown:
            settings = {
                "Comfy.TutorialCompleted": True,
                "Comfy.VueNodes.Enabled": False,
                "Comfy.Locale": language,
                "Comfy.Minimap.Visible": False,
                "Comfy.Graph.CanvasInfo": False,
                "Comfy.Canvas.SelectionToolbox": True,
            }
            for name, value in settings.items():
                client.post(f"/settings/{name}", value)
            return Shown(browser.new_context(viewport=size).new_page(), server.url)

        yield open_page
        browser.close()


# ------------------------------------------------------------------------------------------------ the commands


def make_pictures(nodes: list[str]) -> None:
    """The pictures of the help pages."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with frontend() as open_page:
        shown = open_page("en", VIEWPORT)
        for node in nodes:
            path = PICTURES / f"{node}.png"
            path.write_bytes(_small(shown.picture(GRAPHS[node])))
            say(f"{path.relative_to(REPO)}: {path.stat().st_size / 1024:.0f} KB")


def _small(png: bytes) -> bytes:
    """The same picture with a palette: its most frequent colours as they are, and some for what is in between."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    frequent = sorted(image.getcolors(image.width * image.height), reverse=True)[:FREQUENT]
    others = image.quantize(256 - FREQUENT).getpalette()[: 3 * (256 - FREQUENT)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for _count, colour in frequent for value in colour] + others)
    out = io.BytesIO()
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def make_sheets() -> None:
    """Every node, and every help page, in every language."""
    SHEETS.mkdir(parents=True, exist_ok=True)
    nodes = list(read_texts("en"))
    with frontend() as open_page:
        for language in LANGUAGES:
            shown = open_page(language, TALL)
            pages = [shown.help(node) for node in nodes]
            _sheet(pages, 4, SHEETS / f"pages_{language}.png", folder=SHEETS / language, names=nodes)
            columns = tuple(tuple(_node(name, name) for name in nodes[i::5]) for i in range(5))
            shown = open_page(language, {"width": 2600, "height": 3200})
            (SHEETS / f"nodes_{language}.png").write_bytes(shown.picture(Graph(columns, ())))
            say(f"{SHEETS}: {len(pages)} pages in {language}")


def _sheet(pngs: list[bytes], columns: int, path: Path, folder: Path, names: list[str]) -> None:
    """Pictures one by one in a folder, and side by side in one file."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pictures", "sheets"))
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="pictures of these nodes only")
    options = parser.parse_args()
    try:
        enter_venv()
        if options.what == "pictures":
            make_pictures(options.nodes or list(GRAPHS))
        else:
            make_sheets()
    except SetupError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
