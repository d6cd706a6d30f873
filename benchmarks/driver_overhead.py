"""The time of the driver and the pools in addition to the model: writes benchmarks/results/driver_overhead.md.

Two figures. Overhead: the wall time of a run with a model that costs nothing, divided by its evaluations; beside it a
plain loop over the solver's steps, as in every sampler. Pace: K lanes whose evaluations sleep for 20 ms, their wall
time divided by depth x 20 ms; this is 1 if the driver never keeps a lane waiting. Beside it a plain loop of sleeps.

    python benchmarks/driver_overhead.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))

import torch
from torch import Tensor

from benchmarks._report import RESULTS, Table, machine, write
from chords_core import InlinePool, Pool, Result, ThreadPool, lattice_starts, sample
from chords_core.methods.window_spec import expected_rounds
from chords_core.solvers import SOLVERS, find_step
from chords_core.solvers.base import Past

T = TypeVar("T")

STEP_SOLVERS = tuple(name for name, solver in SOLVERS.items() if solver.step is not None)
STEPS = 50
SHAPES = ((1, 4, 8, 8), (1, 16, 128, 128))  # a tiny state, and the latent of a 1024 x 1024 picture
SLEEP = 0.02


def nothing(x: Tensor, sigma: float) -> Tensor:
    """A model that costs nothing."""
    return x


def sleeping(x: Tensor, sigma: float) -> Tensor:
    """A model that keeps its lane busy for 20 ms and the processor free."""
    time.sleep(SLEEP)
    return x


def timed(run: Callable[[], T], repeats: int) -> tuple[list[float], T]:
    """The seconds of each run after the first one, and the result of the last one."""
    result = run()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - began)
    return seconds, result


def run_on(
    pool: Pool, shape: tuple[int, ...], cores: int, solver: str = "euler", window: bool = False
) -> Callable[[], Result]:
    """A run of ``STEPS`` steps on ``pool`` until the first hit, or until a window ends, with a host's callbacks."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sigmas = torch.linspace(1.0, 0.0, STEPS + 1)
    how: dict[str, Any] = {"starts": lattice_starts(STEPS, cores)}
    if window:
        how = {"method": "secant", "cores": cores, "rounds": expected_rounds(STEPS, cores)}
    return lambda: sample(
        nothing, x, sigmas, solver=solver, pool=pool, on_event=lambda event: None, cancel=lambda: False, **how
    )


def plain_loop(shape: tuple[int, ...], solver: str) -> Callable[[], Tensor]:
    """The same steps without driver, pool, events or checks."""
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sigmas = torch.linspace(1.0, 0.0, STEPS + 1)
    step = find_step(solver)

    def run() -> Tensor:
        x, past = start, None
        for i in range(STEPS):
            denoised = nothing(x, float(sigmas[i]))
            x, past = step(x, denoised, sigmas[i], sigmas[i + 1], past), Past(sigmas[i], denoised)
        return x

    return run


def overhead(repeats: int) -> list[str]:
    """Milliseconds per evaluation for each pool, number of cores, solver and size of the state."""
    table = Table("state", "solver", "cores", "pool", "evaluations", "ms an evaluation, median", "worst run")

    def add(seconds: list[float], evaluations: int, *names: object) -> None:
        each = [1000 * value / evaluations for value in seconds]
        table.add(*names, evaluations, f"{statistics.median(each):.3f}", f"{max(each):.3f}")

    for shape in SHAPES:
        size = "x".join(map(str, shape))
        for solver in STEP_SOLVERS:
            add(timed(plain_loop(shape, solver), repeats)[0], STEPS, size, solver, 1, "none: a plain loop")
            for cores, lanes in ((1, None), (4, None), (1, 1), (4, 4), (8, 8)):
                with ThreadPool([nothing] * (lanes or 1)) as threads:
                    pool = threads if lanes else InlinePool(nothing)
                    seconds, result = timed(run_on(pool, shape, cores, solver), repeats)
                name = f"{lanes} thread{'s' * (lanes != 1)}" if lanes else "inline"
                add(seconds, result.evaluations, size, solver, cores, name)
    return table.lines


def pace(repeats: int) -> list[str]:
    """Wall time over depth x 20 ms with one lane per core."""
    table = Table(
        "cores = lanes", "depth", "evaluations", "wall, median", "wall / (depth x 20 ms), median", "best", "worst"
    )

    def add(seconds: list[float], cores: object, depth: int, evaluations: int) -> None:
        ratios = [value / (depth * SLEEP) for value in seconds]
        told = (f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f}", f"{max(ratios):.3f}")
        table.add(cores, depth, evaluations, f"{statistics.median(seconds):.3f} s", *told)

    seconds, _ = timed(lambda: [time.sleep(SLEEP) for _ in range(STEPS)], repeats)
    add(seconds, "none: a plain loop of sleeps", STEPS, STEPS)
    for shape, cores, window in (
        *((SHAPES[0], cores, False) for cores in (1, 4, 8)),
        *((shape, cores, True) for shape in SHAPES for cores in (4, 8)),
    ):
        with ThreadPool([sleeping] * cores) as pool:
            seconds, result = timed(run_on(pool, shape, cores, window=window), repeats)
        name = f"{cores}, window, {'x'.join(map(str, shape))}" if window else cores
        add(seconds, name, result.depth, result.evaluations)
    return table.lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="runs a figure (default 15)")
    parser.add_argument("--output", type=Path, default=RESULTS / "driver_overhead.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    command = "python benchmarks/driver_overhead.py"
    if arguments.repeats != 15:
        command += f" --repeats {arguments.repeats}"
    lines = [
        "# What the driver costs",
        f"`{command}`; N = {STEPS}, lattice starts, first hit, {arguments.repeats} runs a figure.",
        "",
        f"Machine: {machine(threads=1)}. If other jobs share the cores, the figures are noisy: read the medians.",
        "",
        "## Overhead: a model that costs nothing",
        "Goal: less than 1 ms per evaluation more than the plain loop, which is the solver's arithmetic on the state. "
        "The runs include this arithmetic, the corrections and the check for NaN.",
        "",
        *overhead(arguments.repeats),
        "",
        "## Pace: lanes that sleep for 20 ms an evaluation",
        "Goal: less than 1.05. A sleep takes a little more than 20 ms, which is included; the first line shows this "
        "alone. A window solves all steps again after each round, here on the CPU, while its lanes wait.",
        "",
        *pace(arguments.repeats),
        "",
    ]
    write(arguments.output, lines)


if __name__ == "__main__":
    main()
