"""The nodes' own choices against the sampler with all steps, by how much a prompt leaves open.

    .venv/bin/python benchmarks/prompts.py

If a prompt names places and sizes, the model has little to decide. If not, it decides by small differences early in the
run, and these grow. Depth is counted, not timed. Writes benchmarks/results/prompts.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO)]

import torch
from torch import Tensor

from benchmarks._demo import describe_scenes, differences, simple_sigmas
from benchmarks._problems import SEED, Problem, demo_problem
from benchmarks._report import RESULTS, Table, command, date, write
from chords_core import Plan, choose_calls, plan, sample

CFG = 4.0
OPEN = (
    "a yellow star, blue background",
    "a red circle",
    "a green square and a blue ring, white background",
    "a purple cross on a yellow background",
    "a white triangle",
    "an orange ring and a black cross, green background",
)
LANES = (2, 3, 4, 8)
ELSEWHERE = ((1.0, 3.0), (8.0, 3.0), (4.0, 1.0), (4.0, 12.0))  # CFG and shift of the schedule


def settings(steps: int) -> Iterator[tuple[str, Plan]]:
    """Names and plans, for the main tables."""
    yield "`calls` at auto, one device", plan(steps, 1, calls=choose_calls(steps))
    for lanes in LANES:
        yield f"{lanes} devices", plan(steps, lanes)
    for lanes in LANES:
        yield f"`calls` at auto, {lanes} devices", plan(steps, lanes, calls=choose_calls(steps))
    for cores in (4, 8):
        yield f"CHORDS, {cores} cores", plan(steps, cores, cores, method="chords")


def settings_elsewhere(steps: int) -> Iterator[tuple[str, Plan]]:
    """Names and plans, for other guidance and other schedules."""
    yield "`calls` at auto, one device", plan(steps, 1, calls=choose_calls(steps))
    for lanes in (2, 4, 8):
        yield f"{lanes} devices", plan(steps, lanes)
        yield f"{lanes} devices, `accept` second", plan(steps, lanes, accept=2)


def result_of(chosen: Plan, problem: Problem, sigmas: Tensor) -> Tensor:
    """What the plan gives."""
    return sample(problem.denoise, problem.start, sigmas, **chosen.sample_options()).x


def in_words(found: Tensor) -> str:
    """The median and the largest difference."""
    return f"{100 * found.median():.2f} % ({100 * found.max():.1f} %)"


def elsewhere(texts: list[list[str]], steps: int = 20) -> list[str]:
    """The same for other guidance and other schedules."""
    table = Table("CFG", "shift", "setting", "depth", "places and sizes named", "left open")
    for cfg, shift in ELSEWHERE:
        problems = [demo_problem(some, cfg, torch.device("cpu")) for some in texts]
        sigmas = simple_sigmas(steps, shift)
        whole = [sample(problem.denoise, problem.start, sigmas).x for problem in problems]
        fewer = 3 * steps // 4
        shorter = [sample(problem.denoise, problem.start, simple_sigmas(fewer, shift)).x for problem in problems]
        rows = [("fewer steps", fewer, shorter)]
        for name, chosen in settings_elsewhere(steps):
            rows.append((name, chosen.depth, [result_of(chosen, problem, sigmas) for problem in problems]))
        for name, depth, found in rows:
            cells = [in_words(differences(x, expected)) for x, expected in zip(found, whole, strict=True)]
            table.add(f"{cfg:g}", f"{shift:g}", name, depth, *cells)
    return [f"## {steps} steps with other guidance and other schedules", "", *table.lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12, help="pictures of each kind (default 12)")
    parser.add_argument("--out", type=Path, default=RESULTS / "prompts.md")
    arguments = parser.parse_args()
    count = arguments.samples
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    named = describe_scenes(count, SEED)
    left_open = [OPEN[i % len(OPEN)] for i in range(count)]
    problems = [demo_problem(texts, CFG, torch.device("cpu")) for texts in (named, left_open)]
    began = time.perf_counter()
    lines = [
        "# What the nodes choose, by how much a prompt leaves open",
        f"{command()}, {date()}: demo model, CFG {CFG:g}, euler, scheduler simple, shift 3; {count} pictures each. "
        "Relative RMS difference of the latent from that of all steps on one core, median (largest). Depth: model "
        "calls in a row. Fewer steps: Euler's own result with so many steps.",
        "",
    ]
    for steps in (20, 30, 50):
        lines += [f"## {steps} steps", "", *main_table(problems, steps), ""]
    write(arguments.out, [*lines, *elsewhere([named, left_open])])
    print(f"{time.perf_counter() - began:.0f} s; written to {arguments.out}")


def main_table(problems: list[Problem], steps: int) -> list[str]:
    """The nodes' choices, and fewer steps, for each kind of prompts."""
    table = Table("setting", "depth", "places and sizes named", "left open")
    sigmas = problems[0].grid("standard", steps)
    whole = [sample(problem.denoise, problem.start, sigmas).x for problem in problems]

    def add(name: str, depth: int, found: list[Tensor]) -> None:
        table.add(name, depth, *(in_words(differences(*pair)) for pair in zip(found, whole, strict=True)))

    depths = {3 * steps // 4}
    for name, chosen in settings(steps):
        add(name, chosen.depth, [result_of(chosen, problem, sigmas) for problem in problems])
        if chosen.calls and chosen.cores == 1:
            depths.add(chosen.depth)
    for depth in sorted(depths):
        shorter = [sample(problem.denoise, problem.start, problem.grid("standard", depth)).x for problem in problems]
        add("fewer steps", depth, shorter)
    return table.lines


if __name__ == "__main__":
    main()
