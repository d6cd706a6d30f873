"""Ours beside what people use to take fewer model calls: how near each comes to KSampler's picture.

    .venv/bin/python benchmarks/peers.py                                   everything: hours on a CPU
    .venv/bin/python benchmarks/peers.py --only "flow" --ways ours         these again; others stay as they were
    .venv/bin/python benchmarks/peers.py --live                            on a live ComfyUI only
    .venv/bin/python benchmarks/peers.py --report                          only the page and the figure

For each cell (prediction, schedule, steps, CFG, sampler) and way: model calls in a row, and the relative RMS difference
of the latent from that of the same sampler with every step on one core. Half of the prompts name every place and size,
half leave them open; no rule was made with them. The methods run in this process on the same latents; LazyCache and
EasyCache are the code of the installed ComfyUI. On a live ComfyUI a few pictures are sampled by the nodes, to see that
they take the same calls to the same latents, and in what time. Needs `python scripts/test.py --setup-only` once.
Writes benchmarks/results/peers.md, peers.json and peers.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "scripts"), str(REPO / "tests" / "host"), str(REPO / "benchmarks")]

import torch

from benchmarks._peer_ways import EPS_CELLS, FLOW_CELLS, WAYS, Bench, Measured
from benchmarks._report import RESULTS
from benchmarks.frontier import start_comfy
from benchmarks.trust import Cell, Pictures, prompts

SEED = 70707  # of prompts and noise; no rule was made with them


@dataclass(frozen=True)
class Bed:
    """A model to compare on. ``pictures(cell, texts, seed)`` samples; ``prompts(count, seed)``: half leave places open."""

    pictures: Callable[[Cell, Sequence[str], int], Pictures]
    prompts: Callable[[int, int], list[str]]
    cells: tuple[Cell, ...]


BEDS = {"demo": Bed(Pictures, prompts, (*FLOW_CELLS, *EPS_CELLS))}


def kept(path: Path) -> list[Measured]:
    """What earlier runs have written there."""
    if not path.exists():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))["measured"]
    return [Measured(**{**each, "calls": tuple(each["calls"]), "errors": tuple(each["errors"])}) for each in stored]


def save(path: Path, measured: Sequence[Measured], live: object = None) -> None:
    """Write the figures."""
    text = json.dumps({"measured": [asdict(each) for each in measured], "live": live})
    path.write_text(text.replace('{"bed"', '\n{"bed"') + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bed", choices=BEDS, default="demo", help="the model (default demo)")
    parser.add_argument("--pictures", type=int, default=16, help="a cell, half of them of open prompts (default 16)")
    parser.add_argument("--only", default="", help="cells whose name contains this; others stay in the results")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="others stay in the results")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    start_comfy(cpu=True)
    bed, began = BEDS[arguments.bed], time.perf_counter()
    texts = bed.prompts(arguments.pictures, SEED)
    path = arguments.out / "peers.json"
    results = kept(path)
    for cell in bed.cells:
        if arguments.only not in str(cell):
            continue
        bench = Bench(arguments.bed, bed.pictures(cell, texts, SEED), texts)
        for way in arguments.ways:
            found = bench.run(way)
            again = {each.key for each in found}
            results = [*(each for each in results if each.key not in again), *found]
            for each in found:
                told = " / ".join(f"{100 * value:.2f}" for value in each.figures)
                print(cell, way, each.setting, each.cores, f"{each.mean_calls:.1f}: {told}", f"{time.perf_counter() - began:.0f} s", flush=True)
            save(path, results)


if __name__ == "__main__":
    main()
