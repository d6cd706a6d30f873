"""Ours beside what people use to take fewer model calls: how near each comes to KSampler's picture.

    .venv/bin/python benchmarks/peers.py                               everything: an hour or two on one core
    .venv/bin/python benchmarks/peers.py --only "flow" --ways ours     these again; others stay in the results
    .venv/bin/python benchmarks/peers.py --parts live page             the live ComfyUI, and the page and the figure
    .venv/bin/python benchmarks/peers.py --small                       two pictures, one cell: only whether it works

For each cell (prediction, schedule, steps, CFG, sampler) and way: model calls in a row, and the relative RMS difference
of the latent from that of the same sampler with every step on one core. Half of the prompts name every place and size,
half leave them open; no rule was made with them. The methods run in this process on the same latents; LazyCache and
EasyCache are the code of the installed ComfyUI. On a live ComfyUI a few pictures are sampled by the nodes, to see that
they take the same calls to the same latents, and in what time. Needs `python scripts/test.py --setup-only` once.
Writes benchmarks/results/peers.md, peers.json and peers.png; for the emoji model peers_emoji.md and so on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host"), str(REPO / "benchmarks")]

import torch

from benchmarks._cells import Cell, Pictures, prompts
from benchmarks._peer_ways import WAYS, Bench, Measured, eps_cells, flow_cells
from benchmarks._peers_report import page, percent, picture
from benchmarks._report import RESULTS, date, require_matplotlib, write
from benchmarks.frontier import start_comfy

SEED = 70707  # of prompts and noise; no rule was made with them
PARTS = ("measure", "live", "page")


@dataclass(frozen=True)
class Kept:
    """The results file: what was measured here, and what a live ComfyUI has shown."""

    measured: tuple[Measured, ...] = ()
    live: tuple[dict[str, Any], ...] = ()

    @classmethod
    def load(cls, path: Path) -> Kept:
        """What earlier runs have written there."""
        if not path.exists():
            return cls()
        stored = json.loads(path.read_text(encoding="utf-8"))
        lists = ("calls", "errors")
        measured = (
            Measured(**{key: tuple(value) if key in lists else value for key, value in each.items()})
            for each in stored["measured"]
        )
        return cls(tuple(measured), tuple(stored["live"] or ()))

    def save(self, path: Path) -> None:
        """Write the file, a line a measurement."""
        path.parent.mkdir(parents=True, exist_ok=True)
        measured, live = (
            ",\n".join(json.dumps(each) for each in some) for some in (map(asdict, self.measured), self.live)
        )
        path.write_text(f'{{"measured": [\n{measured}\n], "live": [\n{live}\n]}}\n', encoding="utf-8")

    def with_measured(self, found: Sequence[Measured]) -> Kept:
        """With these, in place of what they measure again."""
        again = {each.key for each in found}
        return replace(self, measured=(*(each for each in self.measured if each.key not in again), *found))


def measure(texts: Sequence[str], cells: Sequence[Cell], ways: Sequence[str], path: Path) -> None:
    """Measure the ways in the cells; the results file has each as soon as it is known."""
    began = time.perf_counter()
    for cell in cells:
        bench = Bench(Pictures(cell, texts, SEED), texts)
        for way in ways:
            found = bench.run(way)
            Kept.load(path).with_measured(found).save(path)
            for each in found:
                told = f"{each.way} {each.setting}, {each.cores} devices: {each.mean_calls:.1f} calls, {percent(each)}"
                print(f"{cell}: {told} ({time.perf_counter() - began:.0f} s)", flush=True)


def live_part(texts: Sequence[str], path: Path) -> None:
    """The nodes on a live ComfyUI."""
    from benchmarks._peers_live import measure as measure_live

    seen = measure_live(texts, SEED)
    replace(Kept.load(path), live=tuple(map(asdict, seen))).save(path)


def page_part(path: Path, model: str, with_picture: bool) -> None:
    """The page, and the figure, of the results in ``path``."""
    kept, figure = Kept.load(path), path.with_suffix(".png")
    pictures = len(kept.measured[0].errors)
    head = (
        f"`python benchmarks/peers.py`, {date()}: {model} model, {pictures} pictures a cell. Half of the prompts leave "
        "open what is seen where. No rule was made with these prompts and seeds. Error: relative RMS difference of the "
        "latent from that of KSampler with every step, in percent. Calls in a row are counted, not timed."
    )
    write(path.with_suffix(".md"), page(kept.measured, kept.live, head, figure.name))
    if with_picture:
        picture(kept.measured, model, figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("demo", "emoji"), default="demo", help="default demo")
    parser.add_argument("--pictures", type=int, default=16, help="a cell, half of them of open prompts (default 16)")
    parser.add_argument("--only", default="", help="cells whose name contains this; others stay in the results")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="others stay in the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to do (default all)")
    parser.add_argument("--live-pictures", type=int, default=4, help="of the demo, on the live ComfyUI (default 4)")
    parser.add_argument("--small", action="store_true", help="two pictures and one cell, without a live ComfyUI")
    parser.add_argument("--no-picture", action="store_true", help="leave out the figure")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    if not arguments.no_picture:
        require_matplotlib()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model, parts, count = arguments.model, arguments.parts, arguments.pictures
    path = arguments.out / ("peers.json" if model == "demo" else f"peers_{model}.json")
    cells = [cell for cell in (*flow_cells(model), *eps_cells(model)) if arguments.only in str(cell)]
    if arguments.small:
        cells, parts, count = cells[:1], ["measure", "page"], 2
    if parts != ["page"]:
        start_comfy(cpu=True)
    if "measure" in parts:
        measure(prompts(count, SEED, model), cells, arguments.ways, path)
    if "live" in parts and model == "demo":
        live_part(prompts(arguments.live_pictures, SEED + 1), path)
    if "page" in parts:
        page_part(path, model, not arguments.no_picture)


if __name__ == "__main__":
    main()
