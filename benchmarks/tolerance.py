"""How far results within a tolerance are from the solver's own, and how many calls in a row they take.

    .venv/bin/python benchmarks/tolerance.py                      the held-out pictures, all cells
    .venv/bin/python benchmarks/tolerance.py --pictures 16 --only "eps " --cores 1 4
    .venv/bin/python benchmarks/tolerance.py --model emoji --cores 1 4
    .venv/bin/python benchmarks/tolerance.py --small              two pictures, two cells: only whether it works

The cells of `_cells.py` on 1, 2, 4 and 8 cores: the demo model or the emoji model, as a flow model with CFG 1, 3.5
and 8, and by an exact change of variables as an eps model on SDXL's sigmas. Half of the prompts name what is seen (of
the demo model every place and size), half leave it open. The rules were made on the demo model, with other prompts.
For each cell: model calls in a row (mean), the relative RMS difference of the latent from that of the same sampler with
every step on one core, and how often the run's own estimate is within a factor of 3. Of the demo model also cells whose
prediction jumps at a step (`_jumps.py`). Calls are counted, not timed.
Writes benchmarks/results/tolerance.md and tolerance.json, or tolerance_emoji.md and tolerance_emoji.json.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

import torch
from torch import Tensor

from benchmarks._cells import PROBLEMS, Cell, Pictures, problems_of, prompts
from benchmarks._demo import differences
from benchmarks._jumps import JUMPS, JumpCell, JumpPictures
from benchmarks._report import RESULTS, command, date, table, write
from benchmarks.trust import in_percent
from chords_core import SOLVERS, Hit, Window, tolerance_window

SEED = 60601  # of prompts and noise; no rule was made with them
CORES = (1, 2, 4, 8)
FACTOR, NOTHING = 3.0, 1e-4  # within the factor an estimate counts as right; errors below the second count as this
MAX_90TH, MAX_WORST = 0.02, 0.05  # goals for tolerance 0.01

MODELS = {
    "demo": "demo model",
    "emoji": "emoji model, on which no rule was made ([its pictures](emoji.jpg): colours and backgrounds are mostly "
    "right, outlines rough; many faces and flags can be recognised, other things often cannot)",
}

FLOW_GOALS = {
    (1.0, 20): (11, 10.5, 7.5, 6.2),
    (1.0, 50): (17, 16, 11.5, 8.5),
    (3.5, 20): (13, 12, 9.5, 8.5),
    (3.5, 50): (22, 19, 14, 11),
    (8.0, 20): (15, 13.5, 11.5, 10.5),
    (8.0, 50): (26, 23, 16.5, 13.5),
}
"""For CFG and steps of Euler on a flow model, the mean of calls in a row on each number of `CORES`."""

EPS_GOALS = {20: (16, math.inf, 11.5, math.inf), 30: (20, math.inf, 14, math.inf)}
"""The same for the steps of an eps model, as the mean over its cells."""


@dataclass(frozen=True)
class Found:
    """What the pictures of a cell have shown on so many cores, one value a picture."""

    cell: str
    cores: int
    tolerance: float
    calls: tuple[int, ...]
    errors: tuple[float, ...]
    estimates: tuple[float, ...]

    @property
    def mean_calls(self) -> float:
        return sum(self.calls) / len(self.calls)

    @property
    def ninetieth(self) -> float:
        return float(torch.tensor(self.errors).quantile(0.9))

    @property
    def worst(self) -> float:
        return max(self.errors)

    @property
    def right_estimates(self) -> float:
        """The share of the pictures whose estimate is within `FACTOR` of the error."""
        pairs = [
            (max(estimate, NOTHING), max(error, NOTHING))
            for estimate, error in zip(self.estimates, self.errors, strict=True)
        ]
        return sum(error / FACTOR <= estimate <= FACTOR * error for estimate, error in pairs) / len(pairs)


def goal_of(cell: Cell, cores: int) -> float:
    """The mean of calls in a row that is to be kept, or infinity."""
    place = CORES.index(cores) if cores in CORES else -1
    if cell not in PROBLEMS["demo flow"] or place < 0:
        return math.inf
    return FLOW_GOALS.get((cell.cfg, cell.steps), (math.inf,) * len(CORES))[place]


def measure(pictures: Pictures, exact: Tensor, cores: int, tolerance: float) -> Found:
    """All pictures of a cell, each by itself, on so many cores."""
    cell = pictures.cell
    spec = tolerance_window(
        cell.sigmas(cell.steps), cores, SOLVERS[cell.solver], tolerance, flow=cell.prediction == "flow"
    )
    runs = [run for run in pictures.each(lambda x: Window(x, spec)) if isinstance(run, Window)]
    hits = [run.accepted for run in runs if isinstance(run.accepted, Hit)]
    errors = differences(torch.cat([hit.x for hit in hits]), exact).tolist()
    estimates = tuple(run.estimate() or 0.0 for run in runs)
    return Found(str(cell), cores, tolerance, tuple(hit.depth for hit in hits), tuple(errors), estimates)


def row_of(found: Found, goal: float) -> list[str]:
    """A row of a cell's table."""
    calls = f"{found.mean_calls:.1f} ({min(found.calls)} to {max(found.calls)})"
    kept = "" if goal == math.inf else f"{goal:g}: {'kept' if found.mean_calls <= goal else 'missed'}"
    limits = "kept" if found.ninetieth <= MAX_90TH and found.worst <= MAX_WORST else "missed"
    errors = torch.tensor(found.errors)
    return [str(found.cores), calls, kept, in_percent(errors), limits, f"{found.right_estimates:.0%}"]


def eps_lines(results: Sequence[Found]) -> list[str]:
    """The means over the cells of the eps model, against their goals."""
    rows = []
    for steps, goals in EPS_GOALS.items():
        for cores, goal in zip(CORES, goals, strict=True):
            of_cells = [
                f.mean_calls
                for f in results
                if f.cell in {str(c) for c in PROBLEMS["demo eps"] if c.steps == steps} and f.cores == cores
            ]
            if of_cells and goal < math.inf:
                mean = sum(of_cells) / len(of_cells)
                rows.append(
                    [steps, cores, len(of_cells), f"{mean:.1f}", f"{goal:g}", "kept" if mean <= goal else "missed"]
                )
    if not rows:
        return []
    return ["## eps model, mean over its cells", "", *table(("steps", "cores", "cells", "calls", "goal", ""), rows), ""]


def summary(results: Sequence[Found]) -> str:
    """How many of all measurements keep the limits, and how good the estimates are."""
    right = sum(found.right_estimates * len(found.errors) for found in results) / sum(len(f.errors) for f in results)
    ninetieth = sum(found.ninetieth <= MAX_90TH for found in results)
    worst = sum(found.worst <= MAX_WORST for found in results)
    return (
        f"Of {len(results)} measurements {ninetieth} have a 90th percentile of at most {MAX_90TH:.0%}, and {worst} a "
        f"worst picture of at most {MAX_WORST:.0%}. {right:.0%} of the estimates are within a factor of {FACTOR:g}."
    )


def report(results: Sequence[Found]) -> list[str]:
    """All measurements, by cell."""
    lines = ["", summary(results), "", *eps_lines(results)]
    titles = ("cores", "calls in a row", "goal", "median / 90th / worst, %", "limits", "estimates right")
    for cell in (*(cell for cells in PROBLEMS.values() for cell in cells), *JUMPS):
        of_cell = [found for found in results if found.cell == str(cell)]
        if of_cell:
            rows = [row_of(found, goal_of(cell, found.cores)) for found in of_cell]
            lines += [f"## {cell}: {len(of_cell[0].calls)} pictures", "", *table(titles, rows), ""]
    return lines


def kept_results(path: Path, tolerance: float) -> list[Found]:
    """What an earlier run with the same tolerance has written there."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    tuples = ("calls", "errors", "estimates")
    found = [
        Found(**{key: tuple(value) if key in tuples else value for key, value in each.items()}) for each in earlier
    ]
    return [each for each in found if each.tolerance == tolerance]


def save(path: Path, model: str, results: Sequence[Found], tolerance: float) -> None:
    """Write the report to ``path``, and the figures behind it beside it."""
    head = [
        "# Within a tolerance: calls and errors",
        f"{command()}, {date()}: {MODELS[model]}, tolerance {tolerance:g}. Error: relative RMS difference of the "
        "latent from that of every step on one core. Calls in a row: mean (least to most). Limits: 90th percentile at "
        f"most {MAX_90TH:.0%}, worst picture at most {MAX_WORST:.0%}. Estimates right: within a factor of {FACTOR:g} "
        f"of the error; both count as at least {NOTHING:.2%}.",
    ]
    write(path, [*head, *report(results)])
    text = json.dumps([asdict(found) for found in results])
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), default="demo", help="default demo")
    parser.add_argument("--pictures", type=int, default=32, help="a cell, half of them of open prompts (default 32)")
    parser.add_argument("--only", default="", help="cells whose name contains this; others stay in the results file")
    parser.add_argument("--cores", type=int, nargs="+", default=list(CORES), help="numbers of cores (default all)")
    parser.add_argument("--tolerance", type=float, default=0.01, help="default 0.01, to which the goals belong")
    parser.add_argument("--seed", type=int, default=SEED, help="of prompts and noise")
    parser.add_argument("--small", action="store_true", help="two pictures and two cells")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    all_cells = (*problems_of(arguments.model), *(cell for cell in JUMPS if cell.model == arguments.model))
    cells = [cell for cell in all_cells if arguments.only in str(cell)]
    count, cores = arguments.pictures, arguments.cores
    if arguments.small:
        cells = [next(cell for cell in cells if cell.prediction == kind) for kind in ("flow", "eps")]
        cores, count = [1, 4], 2
    texts, began = prompts(count, arguments.seed, arguments.model), time.perf_counter()
    path = arguments.out / ("tolerance.md" if arguments.model == "demo" else f"tolerance_{arguments.model}.md")
    results = kept_results(path.with_suffix(".json"), arguments.tolerance)
    for cell in cells:
        jumps = isinstance(cell, JumpCell)
        pictures = JumpPictures(cell, texts, arguments.seed) if jumps else Pictures(cell, texts, arguments.seed)
        exact = pictures.one_core(cell.steps)
        for number in cores:
            found = measure(pictures, exact, number, arguments.tolerance)
            results = [each for each in results if (each.cell, each.cores) != (found.cell, number)]
            results.append(found)
            print(found.cell, *row_of(found, goal_of(cell, number)), f"{time.perf_counter() - began:.0f} s", flush=True)
        save(path, arguments.model, results, arguments.tolerance)


if __name__ == "__main__":
    main()
