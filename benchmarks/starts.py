"""The difference of a first hit from the sequential result on the demo model: the planner is based on it.

    .venv/bin/python benchmarks/starts.py

First hits against the sequential run of the same solver: the median over held-out prompts of the relative RMS
difference of the latents, for the lattice starts of a given number of cores, and for what the planner chooses for a
number of lanes. Writes results/starts.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

from benchmarks._demo import LATENT, describe_scenes, differences, guided, load_flow, simple_sigmas
from benchmarks._plans import planned_starts
from benchmarks._report import RESULTS, Table, command, write
from chords_core import Denoise, lattice_starts, sample

PROMPTS = 8
STEPS = (12, 20, 30)
CORES = (2, 3, 4, 6, 8)
LANES = (3, 4, 6, 8)
SETTINGS = ((3.5, "euler"), (3.5, "dpmpp_2m"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "starts.md")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    flow, prompts = load_flow(), describe_scenes(PROMPTS, seed=11)
    x = torch.randn(PROMPTS, *LATENT, generator=torch.Generator().manual_seed(3))
    lines = [
        "# First hits against the sequential result, demo model",
        "",
        f"{command()}: median over {PROMPTS} held-out prompts of the relative RMS "
        "difference of the latents, the depth, and the starts.",
    ]
    for cfg, solver in SETTINGS:
        heads = [*(f"cores = {cores}" for cores in CORES), *(f"chosen for {lanes} lanes" for lanes in LANES)]
        table = Table("steps", *heads)
        for steps in STEPS:
            table.add(steps, *cells_of(guided(flow, prompts, cfg), x, steps, solver))
        lines += ["", f"## {solver}, CFG {cfg}", "", *table.lines]
    write(arguments.out, lines)


def cells_of(denoise: Denoise, x: Tensor, steps: int, solver: str) -> list[str]:
    """A row of the table: difference, depth and starts for each number of cores, then for each number of lanes."""
    schedule = simple_sigmas(steps)
    exact = sample(denoise, x, schedule, solver=solver).x
    known: dict[tuple[int, ...], str] = {(0,): "one core"}
    cells = []
    for starts in [
        *(tuple(lattice_starts(steps, cores)) for cores in CORES),
        *(planned_starts(steps, lanes) for lanes in LANES),
    ]:
        if starts not in known:
            result = sample(denoise, x, schedule, starts=starts, solver=solver, accept=1)
            known[starts] = f"{float(differences(result.x, exact).median()):.4f} D{result.depth} {list(starts)}"
        cells.append(known[starts])
    return cells


if __name__ == "__main__":
    main()
