"""The pictures of the README and of docs/tuning.md that show results: how near pictures are, and the timeline of a run.

    .venv/bin/python benchmarks/pictures.py            both
    .venv/bin/python benchmarks/pictures.py same       docs/images/same.png only, without a ComfyUI
    .venv/bin/python benchmarks/pictures.py report     docs/images/report.png only

Needs `python scripts/test.py --setup-only` once. `same.png` shows pictures of tolerance_other_seed.md in
benchmarks/results: with usual guidance the one in the middle by its distance on one device, with strong guidance the
worst one. The timeline is that of a model that sleeps for 40 ms a call: for the host this is like a model on other
devices.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host")]

from benchmarks._cells import PROBLEMS, Cell, Pictures, prompts
from benchmarks._demo import decoder, differences, load_autoencoder
from benchmarks._report import INK, PAPER
from chords_core import SOLVERS, Hit, Window, tolerance_window

IMAGES = REPO / "docs" / "images"
SEED, COUNT = 91127, 24  # those of tolerance_other_seed.md: held out from the rules
STEPS = 20
MIDDLE, WORST = "the middle", "the worst"
ROWS = {3.5: MIDDLE, 8.0: WORST}  # by CFG: which of the pictures
NEAR, FAST = 0.01, 0.03  # the tolerances of these fidelities
TILE, GAP, CAPTION, LABEL = 168, 12, 46, 190


@dataclass(frozen=True)
class Shown:
    """A picture in the sheet: what made it, its calls in a row, its distance from KSampler's (None: it is that)."""

    title: str
    picture: Image.Image
    calls: int
    off: float | None


# --- how near


def make_same() -> Path:
    """A picture of each cell, as KSampler makes it and as ours do."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    texts = prompts(COUNT, SEED)
    cells = {cell.cfg: cell for cell in PROBLEMS["demo flow"] if cell.steps == STEPS}
    rows = [_row(cells[cfg], texts, which) for cfg, which in ROWS.items()]
    path = IMAGES / "same.png"
    _sheet(rows).save(path, optimize=True)
    return path


def _row(cell: Cell, texts: list[str], which: str) -> tuple[str, list[Shown]]:
    """The label of the row, and the same picture made in each way."""
    pictures = Pictures(cell, texts, SEED)
    exact = pictures.one_core(STEPS)
    near = _hits(pictures, 1, NEAR)
    errors = differences(torch.cat([hit.x for hit in near]), exact)
    chosen = int(errors.argsort()[COUNT // 2 if which == MIDDLE else -1])
    stock = exact[chosen : chosen + 1]
    made: list[tuple[str, Tensor, int]] = [("KSampler,\n20 steps", stock, STEPS)]
    for title, cores, tolerance in (
        ("near,\none device", 1, NEAR),
        ("near,\n4 cores", 4, NEAR),
        ("fast,\none device", 1, FAST),
    ):
        hit = near[chosen] if (cores, tolerance) == (1, NEAR) else _hits(pictures, cores, tolerance)[chosen]
        made.append((title, hit.x, hit.depth))
    fewer = made[1][2]
    made.append(("KSampler,\nfewer steps", pictures.one_core(fewer)[chosen : chosen + 1], fewer))
    decode = decoder(load_autoencoder())
    shown = []
    for index, (title, latent, calls) in enumerate(made):
        off = float(differences(latent, stock)) if index else None
        shown.append(Shown(title, _image(decode(latent)[0]), calls, off))
    label = f"CFG {cell.cfg:g}: {which} of\n{COUNT} pictures, by how\nfar near is off\non one device\n\n"
    return label + _wrapped(texts[chosen], ImageFont.load_default(13), LABEL - 2 * GAP), shown


def _hits(pictures: Pictures, cores: int, tolerance: float) -> list[Hit]:
    """The results within this tolerance on so many cores, one a picture."""
    cell = pictures.cell
    spec = tolerance_window(
        cell.sigmas(cell.steps), cores, SOLVERS[cell.solver], tolerance, flow=cell.prediction == "flow"
    )
    runs = pictures.each(lambda x: Window(x, spec))
    return [run.accepted for run in runs if isinstance(run.accepted, Hit)]


def _image(picture: Tensor) -> Image.Image:
    """A picture [H, W, 3] in 0..1 as an image."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().numpy())


def _sheet(rows: list[tuple[str, list[Shown]]]) -> Image.Image:
    """The rows with their labels, and under each picture its calls and its distance."""
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(13)
    high = TILE + 34 + GAP
    sheet = Image.new("RGB", (LABEL + len(rows[0][1]) * (TILE + GAP), CAPTION + len(rows) * high), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, shown in enumerate(rows[0][1]):
        draw.multiline_text((LABEL + number * (TILE + GAP), 6), shown.title, INK, bold)
    for number, (label, row) in enumerate(rows):
        top = CAPTION + number * high
        draw.multiline_text((GAP, top + 6), label, INK, plain)
        for position, shown in enumerate(row):
            left = LABEL + position * (TILE + GAP)
            sheet.paste(shown.picture.resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
            off = "" if shown.off is None else f", {100 * shown.off:.1f} % off"
            draw.text((left, top + TILE + 6), f"{shown.calls} calls{off}", INK, plain)
    return sheet


def _wrapped(text: str, font: Any, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


# --- the timeline


def make_report() -> Path:
    """The timeline of a run on eight lanes: the second run, since the first one prepares the lanes."""
    from graphs import Graph, demo, empty_latent, lanes, settings

    from benchmarks._live import picture_of, server_with_test_nodes

    with server_with_test_nodes() as server:
        client = server.client()
        for seed in range(2):
            graph = Graph()
            inputs = demo(graph) | settings(seed=seed, steps=50) | {"latent_image": empty_latent(graph)}
            inputs["model"] = graph.add("TestSleepingModel", model=inputs["model"], milliseconds=40.0)
            chosen = {"cores": 8, "accept": "second", "method": "CHORDS"}
            sampler = graph.add("ChordsKSampler", **inputs, **chosen, devices=lanes(graph, 8))
            report = graph.add("ChordsReport", run=sampler[1])
            run = client.run(graph.nodes)
        picture = picture_of(client, run, report.name)
    path = IMAGES / "report.png"
    small = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3), Image.Resampling.LANCZOS)
    small.save(path, optimize=True)
    return path


MAKERS = {"same": make_same, "report": make_report}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(MAKERS)}; default: both")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MAKERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MAKERS)}")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or MAKERS:
        path = MAKERS[name]()
        print(f"{path.relative_to(REPO)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
