"""Whether the default choices ever break a picture: the worst of many pictures, not only the median.

    .venv/bin/python benchmarks/trust.py               the held-out pictures, all cells
    .venv/bin/python benchmarks/trust.py --pictures 16 --only "flow"

For each cell (prediction, schedule, steps, CFG, sampler) and picture: the relative RMS difference of the latent from
that of the same sampler with every step on one core. "4 lanes" is the choice of `cores` 0 and `cores` 4 with everything
else at its default; "fewer steps" is the same sampler with at least as many steps as the mean of the rounds. The eps
model is the demo model by an exact change of variables, x_flow = x / (1 + sigma), on SDXL's sigmas. Half of the prompts
name every place and size, half leave them open. The rule was made with other prompts and seeds. Depth is counted, not
timed. Writes benchmarks/results/trust.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

import torch
from torch import Tensor

from benchmarks._cells import Cell, Pictures, prompts
from benchmarks._demo import differences
from benchmarks._report import RESULTS, command, date, table, write
from chords_core import SOLVERS, Chords, ChordsPlan, Hit, Plan, Window, WindowPlan, plan, solver_window

LANES = 4
SEED = 90210  # of prompts and noise; no rule was made with them


CELLS = (
    Cell("flow", "simple", 20, 8.0, "euler"),
    *(
        Cell("eps", schedule, steps, cfg, solver)
        for cfg in (7.5, 4.0)
        for solver in ("dpmpp_2m", "euler")
        for schedule in ("normal", "karras")
        for steps in (20, 30)
    ),
    Cell("flow", "simple", 20, 3.5, "euler"),
    Cell("flow", "simple", 20, 8.0, "dpmpp_2m"),
    Cell("flow", "simple", 20, 8.0, "res_multistep"),
    Cell("flow", "simple", 50, 8.0, "euler"),
    Cell("flow", "simple", 12, 8.0, "euler"),
    Cell("flow", "simple", 20, 8.0, "uni_pc"),
)


def method_of(chosen: Plan, cell: Cell) -> Callable[[Tensor], Window | Chords]:
    """The method of the plan, for a start."""
    sigmas, solver = cell.sigmas(cell.steps), SOLVERS[cell.solver]
    if isinstance(chosen, WindowPlan):
        flow = cell.prediction == "flow"
        window = solver_window(sigmas, chosen.cores, solver, flow=flow, calls=chosen.calls, accept=chosen.accept)
        return lambda x: Window(x, window)
    starts, accept = (chosen.starts, chosen.accept) if isinstance(chosen, ChordsPlan) else ((0,), 1)
    return lambda x: Chords(x, sigmas, starts, solver, accept)


def in_percent(found: Tensor) -> str:
    """Median, 90th percentile and worst."""
    return " / ".join(f"{100 * float(value):.2f}" for value in (found.median(), found.quantile(0.9), found.max()))


def cells_of(name: str, rounds: Sequence[int], found: Tensor) -> list[str]:
    """A row of a table: the rounds, and the differences of all pictures and of each half."""
    half, depth = len(found) // 2, f"{rounds[0]}"
    if min(rounds) < max(rounds):
        depth = f"{sum(rounds) / len(rounds):.1f} ({min(rounds)} to {max(rounds)})"
    return [name, depth, *(in_percent(part) for part in (found, found[:half], found[half:]))]


def rows_of(cell: Cell, texts: Sequence[str], seed: int) -> list[list[str]]:
    """The table of a cell."""
    pictures = Pictures(cell, texts, seed)
    exact = pictures.one_core(cell.steps)
    rows = []

    def measure(name: str, chosen: Plan) -> int:
        ends = [run.accepted for run in pictures.each(method_of(chosen, cell))]
        hits = [hit for hit in ends if isinstance(hit, Hit)]
        depths = [hit.depth for hit in hits]
        rows.append(cells_of(name, depths, differences(torch.cat([hit.x for hit in hits]), exact)))
        return math.ceil(sum(depths) / len(depths))

    chosen = plan(cell.steps, LANES, solver=cell.solver)
    if chosen.cores == 1:
        rows.append([f"{LANES} lanes: one core, {chosen.reasons[0].cause.name}", f"{cell.steps}", "0", "0", "0"])
    else:
        assert plan(cell.steps, LANES, LANES, solver=cell.solver).sample_options() == chosen.sample_options()
    named = plan(cell.steps, LANES, LANES, method="secant", solver=cell.solver)
    rounds = measure(f"{LANES} lanes" if chosen.cores > 1 else "secant window where it is named", named)
    fewer = pictures.one_core(min(rounds, cell.steps - 1))
    rows.append(cells_of("fewer steps", [min(rounds, cell.steps - 1)], differences(fewer, exact)))
    if cell.solver == "euler" and cell.cfg > 7 and cell.steps == 20:
        measure("CHORDS where it is named, `accept` auto", plan(cell.steps, LANES, LANES, method="chords"))
        measure("CHORDS where it is named, `accept` first", plan(cell.steps, LANES, LANES, accept=1, method="chords"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64, help="a cell, half of them of open prompts (default 64)")
    parser.add_argument("--only", default="", help="cells whose name contains this; the results file stays as it is")
    parser.add_argument("--seed", type=int, default=SEED, help="of prompts and noise")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    texts, began = prompts(arguments.pictures, arguments.seed), time.perf_counter()
    lines = [
        "# What can be picked by default, and its worst pictures",
        f"{command()}, {date()}: demo model, {arguments.pictures} pictures a cell, {LANES} lanes, everything else at "
        "its default. Relative RMS difference of the latent from that of every step on one core, in percent: median / "
        "90th percentile / worst. Calls: model calls in a row, mean (least to most).",
        "",
    ]
    for cell in CELLS:
        if arguments.only not in str(cell):
            continue
        rows = rows_of(cell, texts, arguments.seed)
        section = [f"## {cell}", "", *table(("", "calls", "all", "places named", "left open"), rows), ""]
        print("\n".join(section), f"{time.perf_counter() - began:.0f} s", flush=True)
        lines += section
        if not arguments.only:
            write(RESULTS / "trust.md", lines)


if __name__ == "__main__":
    main()
